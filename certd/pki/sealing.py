"""Encodings of sealed keys: associated data, the blob, and what HPKE (RFC 9180) is used for.

Nothing here holds a key for longer than a call. What a blob is bound to is encoded canonically: every field with its
length before it, behind the name of the domain, so that no two contexts share an encoding.
"""

import enum
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from certd.errors import field_invalid

WRAPPING_KEY_ID_BYTES = 16
NONCE_BYTES = 12
"""96 bits, the nonce of AES-GCM (NIST SP 800-38D, section 8.2)."""
TAG_BYTES = 16
PUBLIC_KEY_HASH_BYTES = 32
LONGEST_SECRET = 256
"""Bytes of a sealed secret."""
RECIPIENT_PUBLIC_KEY_BYTES = 32
"""Raw X25519 (RFC 7748)."""

_MAGIC = b"CDK1"
_HEADER_BYTES = len(_MAGIC) + WRAPPING_KEY_ID_BYTES + NONCE_BYTES
_SEALED_KEY_DOMAIN = b"certd.sealed-key.v1"
_SECRET_DOMAIN = b"certd.secret.v1"
_EXPORT_DOMAIN = b"certd.export.v1"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Purpose(enum.StrEnum):
    """Why a sealed key exists."""

    CUSTODY = "custody"
    """The one that certd keeps."""
    ASSOCIATION = "association"
    """A copy that one consumer may lease."""
    IMPORT = "import"
    """A key to which clients seal what they import; `certificate` is its own id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealContext:
    """What a sealed key is bound to."""

    tenant: str
    """Opaque id of the tenant."""
    certificate: str
    """Opaque id of the managed certificate."""
    version: int
    """Number of the version, from 1."""
    purpose: Purpose
    consumer: str = ""
    """Identity that may lease it; empty for custody."""
    exportable: bool
    public_key_sha256: bytes
    """SHA-256 of the DER of the SubjectPublicKeyInfo, 32 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretContext:
    """What a sealed secret is bound to, which is no private key and never opens as one."""

    tenant: str
    """Opaque id of the tenant."""
    subscription: str
    """Opaque id of the subscription."""
    number: int
    """Among the secrets of the subscription, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBlob:
    """A sealed key as it lies in its row."""

    wrapping_key_id: bytes
    """CKA_ID of the wrapping key, 16 bytes."""
    nonce: bytes
    """12 bytes."""
    ciphertext_and_tag: bytes
    """AES-256-GCM over the PKCS#8 PrivateKeyInfo or over the secret, the tag of 16 bytes last."""


def canonical(domain: bytes, *fields: bytes) -> bytes:
    """Returns the fields behind the name of their domain, each preceded by its length in four bytes."""
    return b"".join(len(field).to_bytes(4) + field for field in (domain, *fields))


def _check_context(context: SealContext) -> None:
    if len(context.public_key_sha256) != PUBLIC_KEY_HASH_BYTES:
        raise field_invalid("context.public_key_sha256", f"must be {PUBLIC_KEY_HASH_BYTES} bytes")
    _check_number("context.version", context.version)


def _check_number(field: str, number: int) -> None:
    if not 0 < number < 1 << 64:
        raise field_invalid(field, "must be a positive number of at most 64 bits")


def associated_data(context: SealContext, wrapping_key_id: bytes) -> bytes:
    """Returns the associated data under which a key is sealed (AES-GCM).

    FIELD_INVALID when the hash, the version or the wrapping key's id (16 bytes) is out of its bounds.
    """
    _check_context(context)
    _check_length("wrapping_key_id", wrapping_key_id, WRAPPING_KEY_ID_BYTES)
    return canonical(
        _SEALED_KEY_DOMAIN,
        context.tenant.encode(),
        context.certificate.encode(),
        context.version.to_bytes(8),
        context.purpose.value.encode(),
        context.consumer.encode(),
        b"\x01" if context.exportable else b"\x00",
        context.public_key_sha256,
        wrapping_key_id,
    )


def secret_associated_data(context: SecretContext, wrapping_key_id: bytes) -> bytes:
    """Returns the associated data under which a secret is sealed (AES-GCM), in a domain that keys have not.

    FIELD_INVALID when the number or the wrapping key's id (16 bytes) is out of its bounds.
    """
    _check_number("context.number", context.number)
    _check_length("wrapping_key_id", wrapping_key_id, WRAPPING_KEY_ID_BYTES)
    return canonical(
        _SECRET_DOMAIN,
        context.tenant.encode(),
        context.subscription.encode(),
        context.number.to_bytes(8),
        wrapping_key_id,
    )


def _check_length(field: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise field_invalid(field, f"must be {length} bytes")


def encode_blob(*, wrapping_key_id: bytes, nonce: bytes, ciphertext_and_tag: bytes) -> bytes:
    """Returns the blob: `CDK1`, id of the wrapping key, nonce, ciphertext and tag. FIELD_INVALID on their lengths."""
    _check_length("wrapping_key_id", wrapping_key_id, WRAPPING_KEY_ID_BYTES)
    _check_length("nonce", nonce, NONCE_BYTES)
    if len(ciphertext_and_tag) <= TAG_BYTES:
        raise field_invalid("ciphertext_and_tag", f"must be longer than the tag of {TAG_BYTES} bytes")
    return _MAGIC + wrapping_key_id + nonce + ciphertext_and_tag


def decode_blob(blob: bytes, *, field: str = "sealed_key") -> SealedBlob:
    """Parses a blob. FIELD_INVALID with `field` when it is none; whether it opens is for the token to find out."""
    if not blob.startswith(_MAGIC) or len(blob) <= _HEADER_BYTES + TAG_BYTES:
        raise field_invalid(field, "is not a sealed key or secret of certd; restore its row from a backup")
    nonce_at = len(_MAGIC) + WRAPPING_KEY_ID_BYTES
    return SealedBlob(
        wrapping_key_id=blob[len(_MAGIC) : nonce_at],
        nonce=blob[nonce_at:_HEADER_BYTES],
        ciphertext_and_tag=blob[_HEADER_BYTES:],
    )


def export_info(context: SealContext) -> bytes:
    """Returns the HPKE info of an export: it opens only as this tenant's, certificate's, version's and key's."""
    _check_context(context)
    return canonical(
        _EXPORT_DOMAIN,
        context.tenant.encode(),
        context.certificate.encode(),
        context.version.to_bytes(8),
        context.public_key_sha256,
    )


def hpke_encrypt(plaintext: bytes, *, recipient_public_key: bytes, info: bytes) -> bytes:
    """Encrypts to a raw X25519 key with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM in base mode.

    Returns the encapsulated key (32 bytes) followed by the ciphertext. FIELD_INVALID when the key is none or of low
    order.
    """
    _check_length("recipient_public_key", recipient_public_key, RECIPIENT_PUBLIC_KEY_BYTES)
    try:
        return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(recipient_public_key), info)
    except ValueError as error:
        raise field_invalid("recipient_public_key", "is not an X25519 public key that can receive") from error


def check_recipient(public_key: bytes, field: str) -> None:
    """FIELD_INVALID with `field` for what is no raw X25519 key, or one of low order, to which nothing is encrypted."""
    _check_length(field, public_key, RECIPIENT_PUBLIC_KEY_BYTES)
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError as error:
        raise field_invalid(field, "is not an X25519 public key that can receive") from error


def hpke_decrypt(message: bytes, *, private_key: X25519PrivateKey, info: bytes) -> bytes:
    """Opens what `hpke_encrypt` made; FIELD_INVALID when the key or the info is another, or a bit has changed."""
    try:
        return _SUITE.decrypt(message, private_key, info)
    except (InvalidTag, ValueError) as error:
        raise field_invalid("encrypted_key", "does not open with this key and in this context") from error
