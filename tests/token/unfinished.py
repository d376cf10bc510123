"""Keys as a process leaves them in SoftHSM that is killed while it has them made.

SoftHSM writes an object with what the caller wants of it first, and its value, with CKA_LOCAL, in a second step.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from certd.token.settings import TokenSettings

_CLASS, _VALUE, _LOCAL = 0x0, 0x11, 0x163
_BOOLEAN, _NUMBER, _BYTES = 1, 2, 3
_LENGTHS = {_BOOLEAN: 1, _NUMBER: 8}
PRIVATE_KEY, SECRET_KEY = 3, 4
"""Object classes (PKCS#11)."""


def leave_unfinished(settings: TokenSettings, object_class: int) -> None:
    """Takes the value from every object of a class in a token that nobody has open."""
    assert settings.softhsm_conf is not None
    changed = 0
    for file in settings.softhsm_conf.parent.glob("tokens/*/*.object"):
        changed += _rewrite(file, object_class)
    assert changed


def _rewrite(file: Path, object_class: int) -> bool:
    content = file.read_bytes()
    attributes = dict(_attributes(content[8:]))
    if attributes.get(_CLASS, b"")[8:] != struct.pack(">Q", object_class):
        return False
    assert attributes.pop(_VALUE)
    attributes[_LOCAL] = struct.pack(">QB", _BOOLEAN, 0)
    body = b"".join(struct.pack(">Q", number) + value for number, value in attributes.items())
    file.write_bytes(content[:8] + body)
    return True


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Returns number, and kind with value as they stand there."""
    position = 0
    while position < len(data):
        number, kind = struct.unpack_from(">QQ", data, position)
        start = position + 8
        if kind in _LENGTHS:
            end = start + 8 + _LENGTHS[kind]
        else:
            # Bytes, and maps and sets of attributes, say how long they are.
            (length,) = struct.unpack_from(">Q", data, start + 8)
            end = start + 16 + length * (1 if kind == _BYTES else 8)
        yield number, data[start:end]
        position = end
