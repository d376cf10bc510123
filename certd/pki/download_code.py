"""Codes for one download each: a secret of 160 random bits, written `certddl1-SECRET` in base32.

Case does not matter, nor do blanks at the ends.
"""

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Final

from certd.errors import CertdError, Reason

LONGEST: Final = 64
"""Characters that are looked at; a code has 41."""
_FORM: Final = "certddl1"
_SECRET_BYTES: Final = 20
_SECRET_LENGTH: Final = 32


@dataclass(frozen=True, slots=True)
class DownloadCode:
    """A code, taken apart."""

    secret: bytes = field(repr=False)
    """20 random bytes."""

    @property
    def secret_sha256(self) -> bytes:
        """What the server keeps of the secret."""
        return hashlib.sha256(self.secret).digest()

    def text(self) -> str:
        """Returns the code as people and devices carry it."""
        return f"{_FORM}-{base64.b32encode(self.secret).decode('ascii').lower()}"


def new_download_code() -> DownloadCode:
    """Returns a code that nobody has."""
    return DownloadCode(secrets.token_bytes(_SECRET_BYTES))


def parse_download_code(text: str) -> DownloadCode:
    """Parses a code; raises DOWNLOAD_CODE_INVALID, which says nothing of the text."""
    form, _, secret = text[: LONGEST + 1].strip().lower().partition("-")
    if form != _FORM or len(secret) != _SECRET_LENGTH or not secret.isascii():
        raise download_code_invalid()
    try:
        # 160 bits are whole groups of base32, so that one code is written in one way.
        return DownloadCode(base64.b32decode(secret.upper()))
    except binascii.Error:
        raise download_code_invalid() from None


def download_code_invalid() -> CertdError:
    """Returns the one error for a code that opens nothing, whatever the cause."""
    return CertdError(
        Reason.DOWNLOAD_CODE_INVALID,
        "the download code does not open this: it is unknown, expired or used, or of another certificate or network; "
        "ask for a new one",
    )
