"""Kinds and sizes of keys, and the signature algorithms that fit them.

Sources: RFC 3279, RFC 4055, RFC 5480, RFC 5758, RFC 8410.
"""

import enum
import hashlib
from functools import lru_cache
from typing import assert_never

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from certd.errors import field_invalid
from certd.pki import der

RSA_PUBLIC_EXPONENT = 65537
"""Of every RSA key that certd generates."""
ACCEPTED_KEYS = "RSA of 2048, 3072 or 4096 bits, EC P-256, P-384 or P-521, or Ed25519"
"""Every `KeySpec`, for people."""


class KeySpec(enum.StrEnum):
    """The kind and size of a key. The same names as the proto's `KeySpec`."""

    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    EC_P256 = "EC_P256"
    EC_P384 = "EC_P384"
    EC_P521 = "EC_P521"
    ED25519 = "ED25519"


class SignatureAlgorithm(enum.StrEnum):
    """The algorithm of a signature. The same names as the proto's `SignatureAlgorithm`."""

    SHA256_WITH_RSA = "SHA256_WITH_RSA"
    SHA384_WITH_RSA = "SHA384_WITH_RSA"
    SHA512_WITH_RSA = "SHA512_WITH_RSA"
    ECDSA_WITH_SHA256 = "ECDSA_WITH_SHA256"
    ECDSA_WITH_SHA384 = "ECDSA_WITH_SHA384"
    ECDSA_WITH_SHA512 = "ECDSA_WITH_SHA512"
    PURE_ED25519 = "PURE_ED25519"


class KeyFamily(enum.StrEnum):
    """What a signature algorithm needs of a key, whatever the key's size."""

    RSA = "RSA"
    EC = "EC"
    ED25519 = "ED25519"


_RSA_SIZES = {2048: KeySpec.RSA_2048, 3072: KeySpec.RSA_3072, 4096: KeySpec.RSA_4096}
_RSA_BITS = {spec: bits for bits, spec in _RSA_SIZES.items()}
_CURVES: dict[str, KeySpec] = {
    "secp256r1": KeySpec.EC_P256,
    "secp384r1": KeySpec.EC_P384,
    "secp521r1": KeySpec.EC_P521,
}
_EC_CURVES: dict[KeySpec, ec.EllipticCurve] = {
    KeySpec.EC_P256: ec.SECP256R1(),
    KeySpec.EC_P384: ec.SECP384R1(),
    KeySpec.EC_P521: ec.SECP521R1(),
}
_DEFAULTS = {
    KeySpec.RSA_2048: SignatureAlgorithm.SHA256_WITH_RSA,
    KeySpec.RSA_3072: SignatureAlgorithm.SHA256_WITH_RSA,
    KeySpec.RSA_4096: SignatureAlgorithm.SHA256_WITH_RSA,
    KeySpec.EC_P256: SignatureAlgorithm.ECDSA_WITH_SHA256,
    KeySpec.EC_P384: SignatureAlgorithm.ECDSA_WITH_SHA384,
    KeySpec.EC_P521: SignatureAlgorithm.ECDSA_WITH_SHA512,
    KeySpec.ED25519: SignatureAlgorithm.PURE_ED25519,
}
_FAMILIES = {
    SignatureAlgorithm.SHA256_WITH_RSA: KeyFamily.RSA,
    SignatureAlgorithm.SHA384_WITH_RSA: KeyFamily.RSA,
    SignatureAlgorithm.SHA512_WITH_RSA: KeyFamily.RSA,
    SignatureAlgorithm.ECDSA_WITH_SHA256: KeyFamily.EC,
    SignatureAlgorithm.ECDSA_WITH_SHA384: KeyFamily.EC,
    SignatureAlgorithm.ECDSA_WITH_SHA512: KeyFamily.EC,
    SignatureAlgorithm.PURE_ED25519: KeyFamily.ED25519,
}
Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
_HASHES: dict[SignatureAlgorithm, Hash | None] = {
    SignatureAlgorithm.SHA256_WITH_RSA: hashes.SHA256(),
    SignatureAlgorithm.SHA384_WITH_RSA: hashes.SHA384(),
    SignatureAlgorithm.SHA512_WITH_RSA: hashes.SHA512(),
    SignatureAlgorithm.ECDSA_WITH_SHA256: hashes.SHA256(),
    SignatureAlgorithm.ECDSA_WITH_SHA384: hashes.SHA384(),
    SignatureAlgorithm.ECDSA_WITH_SHA512: hashes.SHA512(),
    SignatureAlgorithm.PURE_ED25519: None,
}
_NULL = b"\x05\x00"
_ALGORITHM_IDENTIFIERS: dict[SignatureAlgorithm, bytes] = {
    # RFC 4055, section 5: the parameters of RSA with SHA-2 are NULL.
    SignatureAlgorithm.SHA256_WITH_RSA: der.sequence(der.object_identifier("1.2.840.113549.1.1.11"), _NULL),
    SignatureAlgorithm.SHA384_WITH_RSA: der.sequence(der.object_identifier("1.2.840.113549.1.1.12"), _NULL),
    SignatureAlgorithm.SHA512_WITH_RSA: der.sequence(der.object_identifier("1.2.840.113549.1.1.13"), _NULL),
    # RFC 5758, section 3.2, and RFC 8410, section 3: there are no parameters.
    SignatureAlgorithm.ECDSA_WITH_SHA256: der.sequence(der.object_identifier("1.2.840.10045.4.3.2")),
    SignatureAlgorithm.ECDSA_WITH_SHA384: der.sequence(der.object_identifier("1.2.840.10045.4.3.3")),
    SignatureAlgorithm.ECDSA_WITH_SHA512: der.sequence(der.object_identifier("1.2.840.10045.4.3.4")),
    SignatureAlgorithm.PURE_ED25519: der.sequence(der.object_identifier("1.3.101.112")),
}
_BY_IDENTIFIER = {identifier: algorithm for algorithm, identifier in _ALGORITHM_IDENTIFIERS.items()}


def default_signature_algorithm(spec: KeySpec) -> SignatureAlgorithm:
    """Returns the algorithm that a key of `spec` signs with unless told otherwise: the hash is as strong as the key."""
    return _DEFAULTS[spec]


def family_of(algorithm: SignatureAlgorithm) -> KeyFamily:
    """Returns the family of the keys that can sign with `algorithm`."""
    return _FAMILIES[algorithm]


def fits(algorithm: SignatureAlgorithm, spec: KeySpec) -> bool:
    """Returns whether a key of `spec` can sign with `algorithm`."""
    return _FAMILIES[algorithm] is _FAMILIES[_DEFAULTS[spec]]


def hash_of(algorithm: SignatureAlgorithm) -> Hash | None:
    """Returns the hash of `algorithm` as pyca's builders want it; None for Ed25519, which has none of its own."""
    return _HASHES[algorithm]


def algorithm_identifier(algorithm: SignatureAlgorithm) -> bytes:
    """Returns the DER of the AlgorithmIdentifier (RFC 5280, section 4.1.1.2)."""
    return _ALGORITHM_IDENTIFIERS[algorithm]


def algorithm_of_identifier(identifier: bytes) -> SignatureAlgorithm | None:
    """Returns the algorithm with the AlgorithmIdentifier `identifier`, byte for byte; None for one not in use."""
    return _BY_IDENTIFIER.get(identifier)


def key_spec_of(public_key: PublicKeyTypes) -> KeySpec | None:
    """Returns the spec of a key; None for a kind or size that certd does not issue for."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return _CURVES.get(public_key.curve.name)
    if isinstance(public_key, rsa.RSAPublicKey):
        return _RSA_SIZES.get(public_key.key_size)
    return KeySpec.ED25519 if isinstance(public_key, ed25519.Ed25519PublicKey) else None


def generate_private_key(spec: KeySpec) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    """Generates a key in memory: a subscriber's in the token process, or one that something is tried with."""
    match spec:
        case KeySpec.RSA_2048 | KeySpec.RSA_3072 | KeySpec.RSA_4096:
            return rsa.generate_private_key(RSA_PUBLIC_EXPONENT, _RSA_BITS[spec])
        case KeySpec.EC_P256 | KeySpec.EC_P384 | KeySpec.EC_P521:
            return ec.generate_private_key(_EC_CURVES[spec])
        case KeySpec.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            assert_never(spec)


def load_public_key_der(public_key: bytes, *, field: str = "public_key") -> PublicKeyTypes:
    """Parses the DER of a SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7).

    FIELD_INVALID with `field` when it is none, or of an algorithm that the cryptographic library does not know.
    """
    try:
        return _load(public_key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise field_invalid(field, "is not the DER of a SubjectPublicKeyInfo of a known kind") from error


@lru_cache(maxsize=256)
def _load(public_key: bytes) -> PublicKeyTypes:
    """Parses a key; cached, because issuing looks at the same keys from several sides, and a point costs 10 µs."""
    return load_der_public_key(public_key)


def public_key_der(public_key: PublicKeyTypes) -> bytes:
    """Returns the DER of a key's SubjectPublicKeyInfo, in the one encoding that certd writes into certificates."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def verify_signature(public_key_der: bytes, algorithm: SignatureAlgorithm, *, signature: bytes, data: bytes) -> bool:
    """Returns whether `signature` is one over `data` under the key whose SubjectPublicKeyInfo is `public_key_der`.

    A key of another family than the algorithm's verifies nothing. FIELD_INVALID when the key cannot be parsed.
    """
    public_key = _verifying_key(public_key_der)
    digest = _HASHES[algorithm]
    family = _FAMILIES[algorithm]
    try:
        if isinstance(public_key, ec.EllipticCurvePublicKey) and family is KeyFamily.EC and digest is not None:
            public_key.verify(signature, data, ec.ECDSA(digest))
        elif isinstance(public_key, rsa.RSAPublicKey) and family is KeyFamily.RSA and digest is not None:
            public_key.verify(signature, data, padding.PKCS1v15(), digest)
        elif isinstance(public_key, ed25519.Ed25519PublicKey) and family is KeyFamily.ED25519:
            public_key.verify(signature, data)
        else:
            return False
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=64)
def _verifying_key(public_key_der: bytes) -> PublicKeyTypes:
    return load_public_key_der(public_key_der)


@lru_cache(maxsize=256)
def key_identifier(public_key_der: bytes) -> bytes:
    """Returns the identifier of a key: 160 bits of the SHA-256 of its BIT STRING (RFC 7093, section 2, method 1).

    RFC 7093 rather than the SHA-1 of RFC 5280, section 4.2.1.2: the length is the same, nobody recomputes the value,
    and no SHA-1 is left anywhere, which a FIPS provider may not offer. FIELD_INVALID when the key is malformed.
    """
    try:
        reader = der.Reader(public_key_der).enter(der.SEQUENCE)
        reader.read(der.SEQUENCE)
        bits = reader.read(der.BIT_STRING)
        reader.finish()
    except der.MalformedError as error:
        raise field_invalid("public_key", "is not the DER of a SubjectPublicKeyInfo") from error
    if bits[:1] != b"\x00":
        raise field_invalid("public_key", "has a key that does not fill whole octets")
    return hashlib.sha256(bits[1:]).digest()[:20]
