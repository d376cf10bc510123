"""A certificate that was made elsewhere and is imported with its chain: whether both will do."""

from dataclasses import dataclass
from datetime import datetime

from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedCertificate:
    """A certificate and its chain that will do."""

    certificate: bytes
    """DER."""
    chain: tuple[bytes, ...]
    """DER, from the issuer upwards; empty for a self-signed certificate."""
    subject: bytes
    """DER of the name, as it stands there."""
    public_key: bytes
    """DER of the SubjectPublicKeyInfo, in the one encoding that certd writes."""
    key_spec: KeySpec
    names: SubjectAlternativeNames
    """As they stand there; the CN alone makes a DNS name when there are none."""
    not_before: datetime
    not_after: datetime
    warnings: tuple[Warning, ...]


def check(certificate: bytes, chain: bytes, *, now: datetime) -> ImportedCertificate:
    """Checks a certificate and its chain, both as PEM or DER."""
    raise NotImplementedError


def check_reimport(old: bytes, new: ImportedCertificate) -> tuple[Warning, ...]:
    """Checks what takes the place of the certificate `old` (DER)."""
    raise NotImplementedError
