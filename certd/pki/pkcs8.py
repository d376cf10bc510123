"""Private keys under a passphrase: EncryptedPrivateKeyInfo (RFC 5958) with PBES2 (RFC 8018)."""

import base64
from typing import Final

from certd.errors import field_invalid
from certd.pki import der, pbes2

PBKDF2_ROUNDS = 600_000
PASSPHRASE_BYTES = range(8, 1025)
ACM_PASSPHRASE_BYTES = range(4, 129)
_ACM_ROUNDS: Final = 2048
_ACM_SALT_BYTES: Final = 20
_ACM_REFUSES: Final = b"#$%"
_PEM_LINE = 64


def check_passphrase(
    passphrase: bytes, field: str, *, longest: int = PASSPHRASE_BYTES.stop - 1, shortest: int = PASSPHRASE_BYTES.start
) -> None:
    """Checks the length of a passphrase; FIELD_INVALID with `field`. The message has its bounds, never its bytes."""
    if not shortest <= len(passphrase) <= longest:
        raise field_invalid(field, f"must be {shortest} to {longest} bytes long, and has {len(passphrase)}")


def check_acm_passphrase(passphrase: bytes, field: str, *, longest: int = ACM_PASSPHRASE_BYTES.stop - 1) -> None:
    """Checks a passphrase by the rules of AWS Certificate Manager; FIELD_INVALID as `check_passphrase`."""
    check_passphrase(passphrase, field, longest=longest, shortest=ACM_PASSPHRASE_BYTES.start)
    if not passphrase.isascii() or set(passphrase) & set(_ACM_REFUSES):
        raise field_invalid(field, "must be ASCII without #, $ and %, as AWS Certificate Manager has it")


def encrypt(private_key_info_der: bytes, passphrase: bytes) -> bytes:
    """Returns the DER of an EncryptedPrivateKeyInfo around a PrivateKeyInfo.

    PBES2 with PBKDF2-HMAC-SHA256, 600,000 rounds, a random salt of 16 bytes, and AES-256-CBC: what OpenSSL, GnuTLS
    and Java read. Takes about 0.2 s. FIELD_INVALID when the passphrase is out of its bounds.
    """
    check_passphrase(passphrase, "passphrase")
    algorithm, encrypted = pbes2.encrypt(private_key_info_der, passphrase, rounds=PBKDF2_ROUNDS)
    return der.sequence(algorithm, der.octet_string(encrypted))


def encrypt_acm_compatible(private_key_info_der: bytes, passphrase: bytes) -> bytes:
    """Returns the same as AWS Certificate Manager writes it: HMAC-SHA1, 2,048 rounds, a salt of 20 bytes.

    Weak: who has the file tries passphrases three hundred times as fast. FIELD_INVALID when the passphrase is none of
    theirs.
    """
    check_acm_passphrase(passphrase, "passphrase")
    algorithm, encrypted = pbes2.encrypt_with_sha1(
        private_key_info_der, passphrase, rounds=_ACM_ROUNDS, salt_bytes=_ACM_SALT_BYTES
    )
    return der.sequence(algorithm, der.octet_string(encrypted))


def to_pem(encrypted: bytes) -> bytes:
    """Returns the PEM of an EncryptedPrivateKeyInfo, labelled `ENCRYPTED PRIVATE KEY` (RFC 7468, section 11)."""
    text = base64.b64encode(encrypted)
    lines = [text[at : at + _PEM_LINE] for at in range(0, len(text), _PEM_LINE)]
    return b"\n".join([b"-----BEGIN ENCRYPTED PRIVATE KEY-----", *lines, b"-----END ENCRYPTED PRIVATE KEY-----", b""])
