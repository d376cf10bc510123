"""How much one request may hold."""

from dataclasses import dataclass

from certd.pki.csr import LONGEST_CSR
from certd.pki.names import HIGHEST_COUNT
from certd.pki.pkcs8 import PASSPHRASE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """The most that one request may hold. The defaults are what certd can work with; a server may allow less."""

    csr_bytes: int = LONGEST_CSR
    """As it is sent, PEM or DER."""
    names: int = HIGHEST_COUNT
    """Alternative names in one certificate, whether the call, the CSR or its CN asks for them."""
    labels: int = 50
    batch_items: int = 1000
    page_size: int = 1000
    passphrase_bytes: int = PASSPHRASE_BYTES.stop - 1
    """Of an export."""
