"""What people compare about a root certificate."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from certd.pki import distinguished_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A root certificate, for people."""

    subject: str
    """Text of RFC 4514 in the order of the encoding."""
    not_after: datetime
    sha256_fingerprint: str
    """Lower-case hexadecimal."""


def describe_root(der: bytes) -> Root:
    """Returns what people compare about a root, from its DER; ValueError when it is no certificate."""
    certificate = x509.load_der_x509_certificate(der)
    return Root(
        subject=distinguished_name.to_text(certificate.subject.public_bytes()),
        not_after=certificate.not_valid_after_utc,
        sha256_fingerprint=hashlib.sha256(der).hexdigest(),
    )
