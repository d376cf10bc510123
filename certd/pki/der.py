"""A strict reader and a small writer of DER (ITU-T X.690), for what has to be byte for byte.

The token process judges strangers' bytes with it, so it accepts exactly one encoding of each value: definite lengths in
their shortest form and single-octet tags. Anything else is `MalformedError`.
"""

from collections.abc import Iterable
from functools import lru_cache

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
NUMERIC_STRING = 0x12
PRINTABLE_STRING = 0x13
TELETEX_STRING = 0x14
IA5_STRING = 0x16
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
VISIBLE_STRING = 0x1A
UNIVERSAL_STRING = 0x1C
BMP_STRING = 0x1E
SEQUENCE = 0x30
SET = 0x31

_LONG_TAG = 0x1F
_LONG_LENGTH = 0x80
_HIGHEST_LENGTH_OCTETS = 4
"""Enough for 4 GiB; nothing that certd reads comes near."""


class MalformedError(ValueError):
    """The bytes are not the DER that was expected; the message says what was, never what the bytes are."""


def context(number: int) -> int:
    """Returns the tag of a constructed, context-specific element, as EXPLICIT tagging writes it."""
    return 0xA0 | number


class Reader:
    """Reads the elements that stand between two offsets, one after the other."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    def _header(self, expected: int) -> tuple[int, int]:
        """Returns the offsets of the next element's content and of its end; it must have the tag `expected`."""
        data, at, end = self._data, self._at, self._end
        if at + 2 > end:
            raise MalformedError("ends too early")
        tag = data[at]
        if tag != expected:
            raise MalformedError(f"has tag 0x{tag:02x} where 0x{expected:02x} is expected")
        length = data[at + 1]
        content = at + 2
        if length >= _LONG_LENGTH:
            octets = length & 0x7F
            content += octets
            if not 1 <= octets <= _HIGHEST_LENGTH_OCTETS or content > end:
                raise MalformedError("has a length that is indefinite, huge or cut off")
            length = int.from_bytes(data[at + 2 : content])
            if length < _LONG_LENGTH or length >> (8 * (octets - 1)) == 0:
                raise MalformedError("has a length that is not in its shortest form")
        stop = content + length
        if stop > end:
            raise MalformedError("ends too early")
        return content, stop

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < self._end

    def peek(self) -> int | None:
        """Returns the tag of the next element; None at the end."""
        return self._data[self._at] if self._at < self._end else None

    def read(self, tag: int) -> bytes:
        """Returns the content of the next element, which must have `tag`."""
        content, stop = self._header(tag)
        self._at = stop
        return self._data[content:stop]

    def read_whole(self, tag: int) -> bytes:
        """Returns the next element, which must have `tag`, with its header."""
        start = self._at
        _, stop = self._header(tag)
        self._at = stop
        return self._data[start:stop]

    def enter(self, tag: int) -> "Reader":
        """Returns a reader of the content of the next element, which must have `tag`."""
        content, stop = self._header(tag)
        self._at = stop
        return Reader(self._data, content, stop)

    def read_any(self) -> tuple[int, bytes]:
        """Returns tag and content of the next element, whatever it is."""
        tag = self.peek()
        if tag is None:
            raise MalformedError("ends too early")
        if tag & _LONG_TAG == _LONG_TAG:
            raise MalformedError("has a tag of more than one octet")
        return tag, self.read(tag)

    def read_integer(self) -> int:
        """Returns the next element, an INTEGER in its shortest form."""
        content = self.read(INTEGER)
        if not content:
            raise MalformedError("has an empty INTEGER")
        value = int.from_bytes(content, signed=True)
        if len(content) > 1 and (content[0], content[1] >> 7) in {(0x00, 0), (0xFF, 1)}:
            raise MalformedError("has an INTEGER that is not in its shortest form")
        return value

    def read_true(self) -> bool:
        """Returns whether the next element is a BOOLEAN, which must be TRUE: DER omits a default FALSE."""
        if self.peek() != BOOLEAN:
            return False
        if self.read(BOOLEAN) != b"\xff":
            raise MalformedError("has a BOOLEAN that is neither TRUE nor omitted")
        return True

    def read_object_identifier(self) -> bytes:
        """Returns the content of the next element, an OBJECT IDENTIFIER in its shortest form."""
        content = self.read(OBJECT_IDENTIFIER)
        _check_object_identifier(content)
        return content

    def finish(self) -> None:
        """Checks that nothing is left."""
        if self._at != self._end:
            raise MalformedError("has something after its end")


@lru_cache(maxsize=1024)
def _check_object_identifier(content: bytes) -> None:
    """Checks an OBJECT IDENTIFIER's content; cached, for every certificate has the same few."""
    begins = True
    for octet in content:
        if begins and octet == _LONG_LENGTH:
            raise MalformedError("has an OBJECT IDENTIFIER that is not in its shortest form")
        begins = octet < _LONG_LENGTH
    if not content or not begins:
        raise MalformedError("has an OBJECT IDENTIFIER that is cut off")


@lru_cache(maxsize=1024)
def dotted(content: bytes) -> str:
    """Returns the dotted text of an OBJECT IDENTIFIER's content."""
    numbers: list[int] = []
    value = 0
    for octet in content:
        value = value << 7 | octet & 0x7F
        if octet < _LONG_LENGTH:
            if not numbers:
                first = min(value // 40, 2)
                numbers = [first, value - 40 * first]
            else:
                numbers.append(value)
            value = 0
    return ".".join(map(str, numbers))


def header(tag: int, length: int) -> bytes:
    """Returns what precedes a content of so many octets."""
    if length < _LONG_LENGTH:
        return bytes((tag, length))
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, _LONG_LENGTH | len(octets))) + octets


def encode(tag: int, content: bytes) -> bytes:
    """Returns an element."""
    return header(tag, len(content)) + content


def sequence(*elements: bytes) -> bytes:
    """Returns a SEQUENCE of elements."""
    return encode(SEQUENCE, b"".join(elements))


def set_of(elements: Iterable[bytes]) -> bytes:
    """Returns a SET OF elements, which DER sorts by their encoding (X.690, section 11.6)."""
    return encode(SET, b"".join(sorted(elements)))


def integer(value: int) -> bytes:
    """Returns an INTEGER."""
    magnitude = value if value >= 0 else ~value
    return encode(INTEGER, value.to_bytes(magnitude.bit_length() // 8 + 1, signed=True))


def octet_string(content: bytes) -> bytes:
    """Returns an OCTET STRING."""
    return encode(OCTET_STRING, content)


def bit_string(content: bytes) -> bytes:
    """Returns a BIT STRING of whole octets."""
    return encode(BIT_STRING, b"\x00" + content)


@lru_cache(maxsize=1024)
def object_identifier(text: str) -> bytes:
    """Returns an OBJECT IDENTIFIER; ValueError when `text` is not the dotted form of one."""
    numbers = [int(part) for part in text.split(".")]
    if len(numbers) < 2 or numbers[0] > 2 or (numbers[0] < 2 and numbers[1] > 39) or min(numbers) < 0:
        raise ValueError("not a dotted object identifier")
    content = bytearray()
    for number in (40 * numbers[0] + numbers[1], *numbers[2:]):
        octets = [number & 0x7F]
        rest = number >> 7
        while rest:
            octets.append(rest & 0x7F | _LONG_LENGTH)
            rest >>= 7
        content += bytes(reversed(octets))
    return encode(OBJECT_IDENTIFIER, bytes(content))
