"""Recovery keys: X25519 keys in PEM, of which the machine has the public half alone."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from certd.errors import field_invalid
from certd.pki.sealing import check_recipient


def parse_recovery_public_key(pem: bytes, *, field: str) -> bytes:
    """Returns the raw X25519 key of a SubjectPublicKeyInfo in PEM (RFC 8410); FIELD_INVALID with `field`."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, X25519PublicKey):
        raise field_invalid(
            field,
            "is no X25519 public key in PEM; make one elsewhere: openssl genpkey -algorithm X25519 -out recovery.key; "
            "openssl pkey -in recovery.key -pubout -out recovery.pem",
        )
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    check_recipient(raw, field)
    return raw


def parse_recovery_key(pem: bytes, *, field: str) -> X25519PrivateKey:
    """Returns the X25519 key of an unencrypted PKCS#8 in PEM (RFC 8410); FIELD_INVALID with `field`."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, X25519PrivateKey):
        raise field_invalid(field, "is no unencrypted X25519 private key in PEM")
    return key
