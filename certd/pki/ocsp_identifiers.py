"""How OCSP names issuers, keys and certificates (RFC 6960, section 4.1.1)."""

import enum
import hashlib
from functools import lru_cache
from typing import Final, NamedTuple

from certd.errors import field_invalid
from certd.pki import der

NONCE: Final = "1.3.6.1.5.5.7.48.1.2"


class HashAlgorithm(enum.Enum):
    """By which a CertID names an issuer. SHA-1 is what RFC 5019 prescribes; it guards nothing."""

    SHA1 = "sha1"
    SHA256 = "sha256"


class CertId(NamedTuple):
    """A certificate, as a request names it."""

    algorithm: HashAlgorithm
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int


_NULL: Final = b"\x05\x00"
_OIDS: Final = {HashAlgorithm.SHA1: "1.3.14.3.2.26", HashAlgorithm.SHA256: "2.16.840.1.101.3.4.2.1"}
_IDENTIFIERS: Final = {one: der.sequence(der.object_identifier(oid), _NULL) for one, oid in _OIDS.items()}
# RFC 5754, section 2, has readers accept absent parameters too.
_BY_IDENTIFIER: Final = {
    **{identifier: one for one, identifier in _IDENTIFIERS.items()},
    **{der.sequence(der.object_identifier(oid)): one for one, oid in _OIDS.items()},
}


def hash_of_identifier(identifier: bytes) -> HashAlgorithm | None:
    """Returns the hash with an AlgorithmIdentifier (DER); None for one that is not in use."""
    return _BY_IDENTIFIER.get(identifier)


def digest(algorithm: HashAlgorithm, data: bytes) -> bytes:
    """Returns the hash of `data`."""
    return hashlib.new(algorithm.value, data, usedforsecurity=False).digest()


@lru_cache(maxsize=1024)
def key_bits(public_key: bytes) -> bytes:
    """Returns what stands in the BIT STRING of a SubjectPublicKeyInfo (DER). FIELD_INVALID when it is none."""
    try:
        outer = der.Reader(public_key)
        reader = outer.enter(der.SEQUENCE)
        outer.finish()
        reader.read(der.SEQUENCE)
        bits = reader.read(der.BIT_STRING)
        reader.finish()
    except der.MalformedError as error:
        raise field_invalid("public_key", "is not the DER of a SubjectPublicKeyInfo") from error
    return bits[1:]


@lru_cache(maxsize=4096)
def key_hash(algorithm: HashAlgorithm, public_key: bytes) -> bytes:
    """Returns the hash by which a CertID and a ResponderID name a key, given its SubjectPublicKeyInfo (DER)."""
    return digest(algorithm, key_bits(public_key))


@lru_cache(maxsize=4096)
def name_hash(algorithm: HashAlgorithm, name: bytes) -> bytes:
    """Returns the hash by which a CertID names an issuer, given the DER of its name."""
    return digest(algorithm, name)


@lru_cache(maxsize=4096)
def cert_id_head(algorithm: HashAlgorithm, name: bytes, public_key: bytes) -> bytes:
    """Returns the content of a CertID up to the serial number."""
    return b"".join(
        (
            _IDENTIFIERS[algorithm],
            der.octet_string(name_hash(algorithm, name)),
            der.octet_string(key_hash(algorithm, public_key)),
        )
    )
