r"""Files that are encrypted as a stream: the outer form of a backup.

    "certd encrypted file 1\n"
    length of the header, four octets, big-endian
    header: a JSON object (RFC 8259)
    parts, each of 1 MiB before its encryption; the last one may be shorter, or empty

A random key of 32 octets is the file's. The header holds it encrypted, in one of two ways:

* `{"to":"passphrase","n":131072,"r":8,"p":1,"salt":HEX,"key":HEX}`: AES-256-GCM under scrypt(passphrase, salt, n, r, p)
  (RFC 7914), with a nonce of 12 zero octets, for each salt makes another key; nothing is associated.
* `{"to":"recipient","public_key":HEX,"key":HEX}`: HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256),
  HKDF-SHA256 and AES-256-GCM: the encapsulated key of 32 octets, then the ciphertext; the info is the text
  `certd encrypted file 1`.

Each part is AES-256-GCM under the file's key, its tag of 16 octets last, in the manner of STREAM (Hoang, Reyhanitabar,
Rogaway and Vizár, 2015): the nonce is the number of the part from 0 in 11 octets, big-endian, and 01 for the last part,
00 for the others; associated is SHA-256 of everything before the first part. So no part can be changed, moved, left out
or come from another file, and an end that is missing shows.

A recipient's key tells nothing of who wrote the file: everybody may have the public one. Whoever opens it still judges
what it says.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.errors import CertdError, field_invalid
from certd.pki.sealing import TAG_BYTES, check_recipient, hpke_decrypt, hpke_encrypt

PART_BYTES: Final = 1 << 20
SHORTEST_PASSPHRASE: Final = 12
"""In bytes of UTF-8; whoever has the file can try as many as they like."""
LONGEST_PASSPHRASE: Final = 1024

_MAGIC: Final = b"certd encrypted file 1\n"
_INFO: Final = b"certd encrypted file 1"
_LONGEST_HEADER: Final = 4096
_KEY_BYTES: Final = 32
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
# 128 MiB and some tenths of a second for each passphrase that is tried.
_COST: Final = {"n": 1 << 17, "r": 8, "p": 1}
_HIGHEST_COST: Final = {"n": 1 << 20, "r": 8, "p": 4}
_FIELD: Final = "file"


class Readable(Protocol):
    """What is read from: a file in binary mode."""

    def read(self, size: int, /) -> bytes:
        """Returns up to `size` bytes; none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Passphrase:
    """Who knows it opens the file."""

    text: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not SHORTEST_PASSPHRASE <= len(self.text) <= LONGEST_PASSPHRASE:
            limits = f"{SHORTEST_PASSPHRASE} to {LONGEST_PASSPHRASE} bytes"
            raise field_invalid("passphrase", f"must have {limits}: whoever finds the file may try all shorter ones")


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who has the private key opens the file; the machine that writes it need not."""

    public_key: bytes
    """Raw X25519 (RFC 7748)."""

    def __post_init__(self) -> None:
        check_recipient(self.public_key, "recipient")


class Encrypting:
    """Encrypts what is written to it; `finish` ends the file.

    Args:
        write: takes the bytes of the file.
        to: who can open it.
    """

    def __init__(self, write: Callable[[bytes], object], to: Passphrase | Recipient) -> None:
        key = secrets.token_bytes(_KEY_BYTES)
        head = _head(key, to)
        write(head)
        self._write = write
        self._cipher = AESGCM(key)
        self._associated = hashlib.sha256(head).digest()
        self._number = 0
        self._waiting = bytearray()

    def write(self, data: bytes) -> int:
        """Adds data; returns its length, as files do."""
        self._waiting += data
        # A full part is the last one if nothing follows, so one is kept back.
        while len(self._waiting) > PART_BYTES:
            self._put(bytes(self._waiting[:PART_BYTES]), last=False)
            del self._waiting[:PART_BYTES]
        return len(data)

    def finish(self) -> None:
        """Writes what is left, as the end."""
        self._put(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _put(self, part: bytes, *, last: bool) -> None:
        self._write(self._cipher.encrypt(_nonce(self._number, last=last), part, self._associated))
        self._number += 1


class Decrypting:
    """Reads a file that `Encrypting` wrote; every byte that it returns is authentic.

    FIELD_INVALID with the field `file` for what is no such file, is opened by another secret, was changed, or ends
    early; after a failure nothing more is returned.

    Args:
        file: the file, at its beginning.
        secret: the passphrase, or the recipient's private key.
    """

    def __init__(self, file: Readable, secret: Passphrase | X25519PrivateKey) -> None:
        self._file = file
        head, header = _read_head(file)
        self._cipher = AESGCM(_key_of(header, secret))
        self._associated = hashlib.sha256(head).digest()
        self._parts = self._decrypted()
        self._part = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        """Returns up to `size` bytes, all of them when it is negative; none at the end."""
        if size < 0:
            return bytes(self._part) + b"".join(self._parts)
        while not self._part:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._part = memoryview(part)
        found, self._part = bytes(self._part[:size]), self._part[size:]
        return found

    def _decrypted(self) -> Iterator[bytes]:
        number, waiting = 0, _read_whole(self._file, PART_BYTES + TAG_BYTES)
        while True:
            following = _read_whole(self._file, PART_BYTES + TAG_BYTES)
            last = not following
            try:
                part = self._cipher.decrypt(_nonce(number, last=last), waiting, self._associated)
            except InvalidTag:
                where = f"part {number + 1}, which begins {number} MiB after the header"
                raise field_invalid(
                    _FIELD, f"is damaged or cut off in {where}: nothing of it can be trusted; use another backup"
                ) from None
            yield part
            if last:
                return
            number, waiting = number + 1, following


def is_for_recipient(file: Readable) -> bool:
    """Returns whether a private key opens a file, which is read from its beginning, and no passphrase."""
    return bool(_read_head(file)[1].get("to") == "recipient")


def _head(key: bytes, to: Passphrase | Recipient) -> bytes:
    header: dict[str, object]
    if isinstance(to, Recipient):
        encrypted = hpke_encrypt(key, recipient_public_key=to.public_key, info=_INFO)
        header = {"to": "recipient", "public_key": to.public_key.hex(), "key": encrypted.hex()}
    else:
        salt = secrets.token_bytes(_SALT_BYTES)
        sealed = AESGCM(_stretched(to, salt, _COST)).encrypt(bytes(_NONCE_BYTES), key, None)
        header = {"to": "passphrase", **_COST, "salt": salt.hex(), "key": sealed.hex()}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return _MAGIC + len(encoded).to_bytes(4) + encoded


def _read_head(file: Readable) -> tuple[bytes, dict[str, Any]]:
    begin = _read_whole(file, len(_MAGIC) + 4)
    length = int.from_bytes(begin[len(_MAGIC) :])
    if not begin.startswith(_MAGIC) or len(begin) < len(_MAGIC) + 4 or length > _LONGEST_HEADER:
        raise field_invalid(_FIELD, "is no backup of certd, or its beginning is damaged; name another file")
    encoded = _read_whole(file, length)
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _damaged()
    return begin + encoded, header


def _key_of(header: dict[str, Any], secret: Passphrase | X25519PrivateKey) -> bytes:
    """Returns the key of a file. FIELD_INVALID."""
    match header.get("to"):
        case "recipient":
            key = _key_of_recipient(header, secret)
        case "passphrase":
            key = _key_of_passphrase(header, secret)
        case _:
            raise _damaged()
    if len(key) != _KEY_BYTES:
        raise _damaged()
    return key


def _key_of_passphrase(header: dict[str, Any], secret: Passphrase | X25519PrivateKey) -> bytes:
    if not isinstance(secret, Passphrase):
        raise field_invalid(_FIELD, "is encrypted under a passphrase: name its file with --passphrase-file")
    cost = {name: header.get(name) for name in _COST}
    # Whoever wrote the file must not choose how much memory it takes to try it.
    if any(not isinstance(value, int) or not 0 < value <= _HIGHEST_COST[name] for name, value in cost.items()):
        raise _damaged()
    try:
        stretched = _stretched(secret, _octets(header, "salt"), cost)
        return AESGCM(stretched).decrypt(bytes(_NONCE_BYTES), _octets(header, "key"), None)
    except InvalidTag:
        raise field_invalid(_FIELD, "does not open with this passphrase; try another, or another backup") from None
    except ValueError:
        raise _damaged() from None


def _key_of_recipient(header: dict[str, Any], secret: Passphrase | X25519PrivateKey) -> bytes:
    if not isinstance(secret, X25519PrivateKey):
        raise field_invalid(
            _FIELD, "is encrypted to a recovery key: name the file of its private half with --recovery-key"
        )
    own = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    named = _octets(header, "public_key")
    if named != own:
        raise field_invalid(_FIELD, f"is encrypted to the recovery key {named.hex()}, and the one given is {own.hex()}")
    try:
        return hpke_decrypt(_octets(header, "key"), private_key=secret, info=_INFO)
    except CertdError:
        raise _damaged() from None


def _octets(header: dict[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(header[name])
    except (KeyError, ValueError, TypeError):
        raise _damaged() from None


def _damaged() -> CertdError:
    return field_invalid(_FIELD, "has a header that is damaged; use another backup")


def _stretched(passphrase: Passphrase, salt: bytes, cost: Mapping[str, Any]) -> bytes:
    return Scrypt(salt=salt, length=_KEY_BYTES, **cost).derive(passphrase.text)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(_NONCE_BYTES - 1) + (b"\x01" if last else b"\x00")


def _read_whole(file: Readable, size: int) -> bytes:
    """Returns `size` bytes, fewer at the end alone."""
    found = bytearray()
    while len(found) < size and (data := file.read(size - len(found))):
        found += data
    return bytes(found)
