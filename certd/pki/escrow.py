"""Wrapping keys that are encrypted to a recovery key."""

from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from certd.errors import CertdError, field_invalid
from certd.pki.sealing import canonical, hpke_decrypt, hpke_encrypt

WRAPPING_KEY_BYTES: Final = 32
_DOMAIN: Final = b"certd.wrapping-key-escrow.v1"


def escrow_of(value: bytes, *, recovery_public_key: bytes, tenant: str, wrapping_key_id: bytes) -> bytes:
    """Returns a wrapping key encrypted to a raw X25519 key, by `sealing.hpke_encrypt`.

    The info binds it to its tenant and its CKA_ID: it opens as no other.
    """
    return hpke_encrypt(value, recipient_public_key=recovery_public_key, info=_info(tenant, wrapping_key_id))


def recovered(escrow: bytes, *, recovery_key: X25519PrivateKey, tenant: str, wrapping_key_id: bytes) -> bytes:
    """Returns the value of a wrapping key in escrow; FIELD_INVALID when the key or the tenant is another."""
    try:
        value = hpke_decrypt(escrow, private_key=recovery_key, info=_info(tenant, wrapping_key_id))
    except CertdError:
        value = b""
    if len(value) != WRAPPING_KEY_BYTES:
        raise field_invalid(
            "recovery_key",
            f"does not open the wrapping key {wrapping_key_id.hex()} of the tenant {tenant}: it was put in escrow under"
            " another recovery key, or its row was changed",
        )
    return value


def _info(tenant: str, wrapping_key_id: bytes) -> bytes:
    return canonical(_DOMAIN, tenant.encode(), wrapping_key_id)
