"""Sealing of subscriber keys under a wrapping key in the token, bound to what they are for."""

import hashlib
import secrets
from dataclasses import replace

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from certd.errors import CertdError, Reason, field_invalid
from certd.pki.key_spec import KeySpec, generate_private_key
from certd.pki.sealing import NONCE_BYTES, SealContext, associated_data, decode_blob, encode_blob
from certd.token.module import Module
from certd.token.pin import wipe


def generate(spec: KeySpec) -> tuple[bytearray, bytes]:
    """Generates a key pair in memory; returns PrivateKeyInfo (PKCS#8) and SubjectPublicKeyInfo, both DER.

    The first is the caller's to seal and to wipe. Touches no token; RSA takes up to seconds.
    """
    key = generate_private_key(spec)
    public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return bytearray(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())), public_key


def seal(
    module: Module, private_key: bytearray, *, wrapping_key_id: bytes, context: SealContext, public_key: bytes
) -> bytes:
    """Seals a private key and wipes it; returns the blob. The hash of the public key is filled into the context."""
    bound = replace(context, public_key_sha256=hashlib.sha256(public_key).digest())
    return seal_bound(module, private_key, wrapping_key_id=wrapping_key_id, context=bound)


def seal_bound(module: Module, private_key: bytearray, *, wrapping_key_id: bytes, context: SealContext) -> bytes:
    """As `seal`, with the hash of the public key in the context already."""
    try:
        nonce = secrets.token_bytes(NONCE_BYTES)
        ciphertext = module.encrypt(
            wrapping_key_id,
            nonce=nonce,
            plaintext=bytes(private_key),
            associated_data=associated_data(context, wrapping_key_id),
        )
    finally:
        wipe(private_key)
    return encode_blob(wrapping_key_id=wrapping_key_id, nonce=nonce, ciphertext_and_tag=ciphertext)


def unseal(module: Module, sealed_key: bytes, *, wrapping_key_id: bytes, context: SealContext) -> bytearray:
    """Opens a blob; returns the PrivateKeyInfo, which the caller wipes.

    TOKEN_POLICY_FORBIDS when it was sealed for another tenant, certificate, version, purpose, consumer, exportability
    or key, or has been altered. FIELD_INVALID when it is no blob or names another wrapping key.
    """
    blob = decode_blob(sealed_key)
    if blob.wrapping_key_id != wrapping_key_id:
        raise field_invalid("sealed_key", "was sealed under another wrapping key than the one named")
    opened = module.decrypt(
        wrapping_key_id,
        nonce=blob.nonce,
        ciphertext=blob.ciphertext_and_tag,
        associated_data=associated_data(context, wrapping_key_id),
    )
    if opened is None:
        message = (
            "The sealed key does not open: it was sealed for another tenant, certificate, version, purpose or key, "
            "or it was altered. Restore its row from a backup."
        )
        raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
    return bytearray(opened)
