"""Import keys: to which clients seal the private keys that they import. The token process made them and can open."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from certd.model.names import ImportKeyName
from certd.pki.key_spec import SignatureAlgorithm

LIFETIME: Final = timedelta(days=30)
"""How long one may be sealed to."""
LEAST_LEFT: Final = timedelta(days=15)
"""Of its lifetime, for it to be given to a client, which may keep it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportKey:
    """A key pair of X25519, the private half sealed under the tenant's wrapping key, with what vouches for it."""

    tenant: str
    import_key_id: str
    public_key: bytes
    """Raw, 32 bytes."""
    wrapping_key_number: int
    sealed_key: bytes = field(repr=False)
    statement: bytes
    """What the signature is about, and a part of the HPKE info to seal with; see `pki.import_key`."""
    signature: bytes
    """By the key of the system authority."""
    signature_algorithm: SignatureAlgorithm
    authority_certificate: bytes
    """DER of the system authority's."""
    create_time: datetime
    expire_time: datetime

    @property
    def name(self) -> ImportKeyName:
        """The resource name."""
        return ImportKeyName(self.tenant, self.import_key_id)
