"""Certificates in one file without a key: PKCS#7 certs-only (RFC 5652, section 5; RFC 7030, section 4.1.3)."""

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates

from certd.errors import field_invalid


def certificates_only(certificates: Sequence[bytes]) -> bytes:
    """Returns the DER of a SignedData that nobody signed, with certificates (DER), which it holds as a set: sorted.

    FIELD_INVALID when there is none, or one of them is none.
    """
    if not certificates:
        raise field_invalid("certificates", "must be one at least")
    try:
        return serialize_certificates([x509.load_der_x509_certificate(each) for each in certificates], Encoding.DER)
    except ValueError as error:
        raise field_invalid("certificates", "has something that is no certificate") from error
