"""What a consumer signs to lease a key, and the signature: by the key of its identity certificate.

The statement names whose key it is, of which version, for whom, to which key it is to be encrypted, and when. It is the
HPKE info too, so that the answer opens as an answer to this request alone.
"""

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from certd.errors import CertdError, field_invalid
from certd.pki.key_spec import (
    KeySpec,
    default_signature_algorithm,
    hash_of,
    key_spec_of,
    load_public_key_der,
    verify_signature,
)
from certd.pki.sealing import RECIPIENT_PUBLIC_KEY_BYTES, canonical

LONGEST_DEVIATION = timedelta(minutes=5)
"""How far the time of a statement may be from that of the token process."""

_DOMAIN = b"certd.lease.v1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_KEYS = frozenset({KeySpec.RSA_2048, KeySpec.RSA_3072, KeySpec.RSA_4096, KeySpec.EC_P256, KeySpec.EC_P384})
"""Those of identities. Each signs in one way: ECDSA with the hash of the curve, RSA PKCS#1 v1.5 with SHA-256."""


def lease_statement(
    *, tenant: str, certificate: str, version: int, consumer: str, public_key: bytes, sign_time: datetime
) -> bytes:
    """Returns the statement.

    Args:
        tenant: opaque uid of the tenant.
        certificate: opaque uid of the managed certificate.
        version: its number, from 1.
        consumer: SPIFFE id.
        public_key: raw X25519, 32 bytes, to which the private key is to be encrypted.
        sign_time: aware; to the microsecond.

    Raises FIELD_INVALID when one of them is out of its bounds.
    """
    if not 0 < version < 1 << 64:
        raise field_invalid("version", "must be a positive number of at most 64 bits")
    if len(public_key) != RECIPIENT_PUBLIC_KEY_BYTES:
        raise field_invalid("public_key", f"must be a raw X25519 key of {RECIPIENT_PUBLIC_KEY_BYTES} bytes")
    microseconds = microseconds_of(sign_time)
    if microseconds < 0:
        raise field_invalid("sign_time", "must not be before 1970")
    return canonical(
        _DOMAIN,
        tenant.encode(),
        certificate.encode(),
        version.to_bytes(8),
        consumer.encode(),
        public_key,
        microseconds.to_bytes(8),
    )


def microseconds_of(moment: datetime) -> int:
    """Returns a time as frames and statements have it: microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def time_of(microseconds: int) -> datetime | None:
    """Returns the time, in UTC; None for one that Python cannot hold."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return None


def sign_lease(private_key: PrivateKeyTypes, statement: bytes) -> bytes:
    """Signs a statement; FIELD_INVALID for a key of a kind that identities do not have."""
    if isinstance(private_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        spec = key_spec_of(private_key.public_key())
        digest = hash_of(default_signature_algorithm(spec)) if spec in _KEYS and spec is not None else None
        if digest is not None and isinstance(private_key, ec.EllipticCurvePrivateKey):
            return private_key.sign(statement, ec.ECDSA(digest))
        if digest is not None and isinstance(private_key, rsa.RSAPrivateKey):
            return private_key.sign(statement, padding.PKCS1v15(), digest)
    raise field_invalid("private_key", f"must be one of {', '.join(sorted(_KEYS))}")


def verify_lease_signature(public_key: bytes, *, statement: bytes, signature: bytes) -> bool:
    """Returns whether the key (DER of its SubjectPublicKeyInfo) signed the statement; False for one of another kind."""
    try:
        spec = key_spec_of(load_public_key_der(public_key))
    except CertdError:
        return False
    if spec is None or spec not in _KEYS:
        return False
    return verify_signature(public_key, default_signature_algorithm(spec), signature=signature, data=statement)
