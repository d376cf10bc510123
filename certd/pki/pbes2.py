"""Encryption under a passphrase: PBES2 with PBKDF2 and AES-256-CBC (RFC 8018).

The cryptographic library writes what uses it with rounds of its own choice, or holds the interpreter for as long as it
hashes; so the DER is assembled here and the library computes.
"""

import secrets
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.padding import PKCS7

from certd.pki import der

_KEY_BYTES: Final = 32
_BLOCK_BYTES: Final = 16
_PBES2: Final = der.object_identifier("1.2.840.113549.1.5.13")
_PBKDF2: Final = der.object_identifier("1.2.840.113549.1.5.12")
_HMAC_WITH_SHA256: Final = der.object_identifier("1.2.840.113549.2.9")
_AES256_CBC: Final = der.object_identifier("2.16.840.1.101.3.4.1.42")


def encrypt(plaintext: bytes, passphrase: bytes, *, rounds: int) -> tuple[bytes, bytes]:
    """Encrypts with HMAC-SHA256 and a random salt of 16 bytes; returns the AlgorithmIdentifier and the ciphertext."""
    salt = secrets.token_bytes(16)
    key = PBKDF2HMAC(SHA256(), _KEY_BYTES, salt, rounds).derive(passphrase)
    # RFC 8018, appendix A.2.
    pseudorandom_function = der.sequence(_HMAC_WITH_SHA256, der.encode(der.NULL, b""))
    return _encrypt(plaintext, key, der.octet_string(salt), der.integer(rounds), pseudorandom_function)


def encrypt_with_sha1(plaintext: bytes, passphrase: bytes, *, rounds: int, salt_bytes: int) -> tuple[bytes, bytes]:
    """Does the same with HMAC-SHA1, which is the default of the format and therefore left out of it."""
    salt = secrets.token_bytes(salt_bytes)
    # The hash is weak; as the function inside PBKDF2 it is no worse than the few rounds that come with it.
    key = PBKDF2HMAC(SHA1(), _KEY_BYTES, salt, rounds).derive(passphrase)  # noqa: S303  # As above.
    return _encrypt(plaintext, key, der.octet_string(salt), der.integer(rounds))


def _encrypt(plaintext: bytes, key: bytes, *derivation: bytes) -> tuple[bytes, bytes]:
    initialisation_vector = secrets.token_bytes(_BLOCK_BYTES)
    padder = PKCS7(8 * _BLOCK_BYTES).padder()
    padded = padder.update(plaintext) + padder.finalize()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(initialisation_vector)).encryptor()
    encrypted = encryptor.update(padded) + encryptor.finalize()
    parameters = der.sequence(
        der.sequence(_PBKDF2, der.sequence(*derivation)),
        der.sequence(_AES256_CBC, der.octet_string(initialisation_vector)),
    )
    return der.sequence(_PBES2, parameters), encrypted
