"""Private keys that an outsider made, in every encoding that tools write, not encrypted."""

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certd.pki.key_spec import KeySpec

LONGEST_PRIVATE_KEY = 16 << 10
"""Bytes, of PEM or DER."""

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def parse_private_key(data: bytes, *, field: str = "private_key") -> PrivateKey:
    """Parses a private key."""
    raise NotImplementedError


def private_key_info(data: bytes, *, field: str = "private_key") -> tuple[bytearray, bytes, KeySpec]:
    """Parses a private key; returns PrivateKeyInfo and SubjectPublicKeyInfo, both DER, and the kind and size.

    The first is the caller's to wipe.
    """
    raise NotImplementedError
