"""PEM and DER of certificates and keys (RFC 7468)."""

import base64
import binascii
import re

from certd.errors import field_invalid
from certd.pki import der
from certd.pki.key_spec import load_public_key_der

LONGEST_CHAIN = 2 << 20
"""Bytes."""

_LINE = 64
_CERTIFICATE = re.compile(
    rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([^-]*)-----END (?:X509 |TRUSTED )?CERTIFICATE-----"
)
_BEGIN = b"-----BEGIN "

__all__ = ["LONGEST_CHAIN", "certificate_pem", "is_pem", "load_public_key_der", "parse_certificates", "pem"]


def is_pem(data: bytes) -> bool:
    """Returns whether the content is PEM rather than DER, which begins with the tag of a SEQUENCE."""
    return not data.startswith(b"\x30") and _BEGIN in data


def pem(label: str, encoded: bytes) -> str:
    """Returns the PEM of a DER element, with one trailing newline."""
    text = base64.b64encode(encoded).decode("ascii")
    lines = (text[at : at + _LINE] for at in range(0, len(text), _LINE))
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def certificate_pem(certificate: bytes) -> str:
    """Returns the PEM of a certificate, with one trailing newline."""
    return pem("CERTIFICATE", certificate)


def parse_certificates(data: bytes, *, field: str = "certificates") -> list[bytes]:
    """Returns the DER of every certificate in a PEM bundle, in its order, or of the one that `data` itself is.

    Text between PEM blocks is ignored, as OpenSSL writes some. FIELD_INVALID with `field` when there is no certificate,
    a block is not base64 of one DER element, there is a private key, or past 2 MiB. Only the outer form is checked.
    """
    if len(data) > LONGEST_CHAIN:
        raise field_invalid(field, f"is longer than {LONGEST_CHAIN} bytes")
    if not is_pem(data):
        return [_checked(data, field)]
    if b"PRIVATE KEY-----" in data:
        raise field_invalid(field, "contains a private key, which belongs elsewhere; send certificates alone")
    try:
        found = [base64.b64decode(b"".join(block.split()), validate=True) for block in _CERTIFICATE.findall(data)]
    except binascii.Error as error:
        raise field_invalid(field, "has a PEM block that is not base64") from error
    if len(found) != data.count(_BEGIN) or not found:
        raise field_invalid(field, "has a PEM block that is not a whole certificate")
    return [_checked(certificate, field) for certificate in found]


def _checked(certificate: bytes, field: str) -> bytes:
    """Returns `certificate` when it has the outer form of one (RFC 5280, section 4.1)."""
    try:
        outer = der.Reader(certificate)
        reader = outer.enter(der.SEQUENCE)
        outer.finish()
        reader.read(der.SEQUENCE)
        reader.read(der.SEQUENCE)
        reader.read(der.BIT_STRING)
        reader.finish()
    except der.MalformedError as error:
        raise field_invalid(field, "is neither PEM nor DER of a certificate") from error
    return certificate
