"""Enrollment codes: a secret of 160 random bits, and the pin of the root that vouches for the server.

Written `certd1-SECRET-PIN`, both in base32 without padding. Case does not matter, nor do blanks at the ends.
"""

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.errors import CertdError, Reason

LONGEST: Final = 128
"""Characters that are looked at; a code has 92."""
_FORM: Final = "certd1"
_SECRET_BYTES: Final = 20
_PIN_BYTES: Final = 32
_SECRET_LENGTH: Final = 32
_PIN_LENGTH: Final = 52


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentCode:
    """A code, taken apart."""

    secret: bytes = field(repr=False)
    """20 random bytes."""
    root_sha256: bytes
    """SHA-256 of the SubjectPublicKeyInfo of the root (RFC 7469, section 2.4)."""

    @property
    def secret_sha256(self) -> bytes:
        """What the server keeps of the secret."""
        return hashlib.sha256(self.secret).digest()

    def text(self) -> str:
        """Returns the code as people carry it."""
        return f"{_FORM}-{_encoded(self.secret)}-{_encoded(self.root_sha256)}"


def new_code(root_sha256: bytes) -> EnrollmentCode:
    """Returns a code that nobody has, with the pin of a root."""
    return EnrollmentCode(secret=secrets.token_bytes(_SECRET_BYTES), root_sha256=root_sha256)


def parse_code(text: str) -> EnrollmentCode:
    """Parses a code; raises ENROLLMENT_CODE_INVALID, which says nothing of the text."""
    form, _, rest = text[: LONGEST + 1].strip().lower().partition("-")
    secret, _, pin = rest.partition("-")
    if (form, len(secret), len(pin)) != (_FORM, _SECRET_LENGTH, _PIN_LENGTH) or not rest.isascii():
        raise code_invalid()
    try:
        parsed = EnrollmentCode(secret=_decoded(secret), root_sha256=_decoded(pin))
    except binascii.Error:
        raise code_invalid() from None
    # Base32 leaves bits over, in which one code could be written in several ways.
    if parsed.text() != f"{form}-{rest}" or len(parsed.root_sha256) != _PIN_BYTES:
        raise code_invalid()
    return parsed


def code_invalid() -> CertdError:
    """Returns the one error for a code that does not let in, whatever the cause."""
    return CertdError(
        Reason.ENROLLMENT_CODE_INVALID,
        "the enrollment code does not let this caller in: it is unknown, expired or used, or bound to another key or "
        "network; ask an administrator for a new one",
    )


def key_sha256(certificate: bytes) -> bytes:
    """Returns the SHA-256 of the SubjectPublicKeyInfo of a certificate, given in DER; ValueError when it is none."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _encoded(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def _decoded(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
