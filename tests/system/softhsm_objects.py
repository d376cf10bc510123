"""Reads the private parts of keys from the files of a SoftHSM token, which PKCS#11 itself refuses to give.

For one purpose: to know the scalars that must not be found in the daemon. Format and key derivation are those of
SoftHSM 2 (`ObjectFile`, `SecureDataManager`, `RFC4880.cpp` in its source): an object is a list of attributes; private
byte strings are AES-256-CBC under a key of the token, which is itself encrypted under one derived from the PIN.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_BOOLEAN, _NUMBER, _BYTES = 1, 2, 3
_WIDTH = 8
_BLOCK = 16
_SALT = 8
_MAGIC = b"RJR"
_ITERATIONS = 1500

_CLASS = 0x0
_VALUE = 0x11
_ID = 0x102
_PRIVATE_EXPONENT, _PRIME_1, _PRIME_2 = 0x123, 0x124, 0x125
_PRIVATE_KEY, _SECRET_KEY = 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretObject:
    """A private or secret key in a token."""

    key_id: bytes
    """CKA_ID."""
    wrapping: bool
    """A secret key, by which others are sealed; otherwise a private one, which signs."""
    parts: dict[str, bytes]
    """The secret numbers by name."""


def secret_objects(tokens: Path, pin: bytes) -> list[SecretObject]:
    """Returns every private and secret key of the one token below a directory, decrypted."""
    (token,) = tokens.glob("*/token.object")
    key = _token_key(dict(_attributes(token.read_bytes())), pin)
    found = []
    for file in sorted(token.parent.glob("*.object")):
        attributes = dict(_attributes(file.read_bytes()))
        kind = attributes.get(_CLASS)
        if file == token or kind not in {_PRIVATE_KEY, _SECRET_KEY}:
            continue
        names = {_VALUE: "value", _PRIVATE_EXPONENT: "d", _PRIME_1: "p", _PRIME_2: "q"}
        parts = {name: _decrypt(key, _bytes(attributes, code)) for code, name in names.items() if attributes.get(code)}
        key_id = _decrypt(key, _bytes(attributes, _ID))
        found.append(SecretObject(key_id=key_id, wrapping=kind == _SECRET_KEY, parts=parts))
    return found


def _bytes(attributes: dict[int, int | bytes], code: int) -> bytes:
    value = attributes[code]
    assert isinstance(value, bytes)
    return value


def _attributes(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    def number(at: int) -> int:
        return int.from_bytes(data[at : at + _WIDTH])

    at = _WIDTH  # Behind the number of the generation.
    while at < len(data):
        code, kind = number(at), number(at + _WIDTH)
        at += 2 * _WIDTH
        if kind == _BOOLEAN:
            yield code, data[at]
            at += 1
        elif kind == _NUMBER:
            yield code, number(at)
            at += _WIDTH
        else:
            # Byte strings and arrays give their length in bytes, sets of mechanisms the number of their members.
            length = number(at) * (1 if kind <= 4 else _WIDTH)
            at += _WIDTH
            if kind == _BYTES:
                yield code, data[at : at + length]
            at += length


def _token_key(attributes: dict[int, int | bytes], pin: bytes) -> bytes:
    """Returns the key of the token, from whichever of its attributes the PIN opens."""
    for value in attributes.values():
        if not isinstance(value, bytes) or len(value) <= _SALT + 2 * _BLOCK or (len(value) - _SALT) % _BLOCK:
            continue
        derived = hashlib.sha256(value[:_SALT] + pin).digest()
        for _ in range(_ITERATIONS + value[_SALT - 1] - 1):
            derived = hashlib.sha256(derived).digest()
        try:
            opened = _decrypt(derived, value[_SALT:])
        except ValueError:
            continue
        if opened.startswith(_MAGIC):
            return opened[len(_MAGIC) :]
    raise AssertionError("no attribute of the token opens with this PIN")


def _decrypt(key: bytes, data: bytes) -> bytes:
    decryptor = Cipher(algorithms.AES(key), modes.CBC(data[:_BLOCK])).decryptor()
    padded = decryptor.update(data[_BLOCK:]) + decryptor.finalize()
    unpadder = padding.PKCS7(128).unpadder()
    return unpadder.update(padded) + unpadder.finalize()
