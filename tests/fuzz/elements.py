"""ASN.1 as trees that can be bent: parsed from DER, changed at random, written back, lies included."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_CONSTRUCTED = 0x20
_UNIVERSAL_STRINGS = (0x0C, 0x12, 0x13, 0x14, 0x16, 0x1A, 0x1B, 0x1C, 0x1E)
_TAGS = (*_UNIVERSAL_STRINGS, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0A, 0x17, 0x18, 0x30, 0x31, 0x80, 0x82, 0x86, 0xA0,
         0xA1, 0xA3, 0xBF, 0x1F, 0x00)  # fmt: skip
_OIDS = (
    b"\xff" * 2500 + b"\x7f",
    *map(
        bytes.fromhex,
        (
            *("550403", "55040a", "550406", "2a864886f70d010901", "0992268993f22c640119", "550405", "551d11", "551d13"),
            *(
                "551d0f",
                "551d25",
                "551d1e",
                "551d23",
                "551d0e",
                "551d20",
                "551d12",
                "551d24",
                "551d36",
                "551d1f",
                "551d21",
            ),
            *(
                "2b06010505070101",
                "2b06010505070118",
                "2b0601050507300105",
                "2b06010401d679020403",
                "2b0601040182371402",
            ),
            *("2a864886f70d010101", "2a8648ce3d0201", "2a8648ce3d030107", "2b8104000a", "2b6570", "2b656e"),
            *(
                "2a864886f70d01010b",
                "2a864886f70d01010a",
                "2a8648ce3d040302",
                "2a864886f70d010104",
                "2a864886f70d01090e",
            ),
            *("551d2500", "2b06010505070309", "2b06010505070301", "80", "ff", "2b80", "", "ffffffffffffffffffffff7f"),
        ),
    ),
)
_INTEGERS = (b"", b"\x00", b"\x01", b"\xff", b"\x80", b"\x00\x01", b"\x7f" * 8, b"\xff" * 9, b"\x01" * 300)
_TEXTS = (
    b"",
    b"\x00",
    b"a\x00b.example",
    b"*",
    b"*.*.example.com",
    b"..",
    b".example.com",
    b"www.example.com.",
    b"\xff\xfe\xfd",
    b"\xc3\x28",
    "bücher.example".encode(),
    "\u202egpj.exe".encode(),
    b"xn--bcher-kva.example",
    b"xn--\x80",
    b"a" * 64 + b".example",
    (b"a." * 130) + b"example",
    b"%s%n%x" * 10,
    b"' OR 1=1 --",
    b"\r\nX: y",
    b"\xd8\x00\xdc",
    b"\x00\x11\xff\xff",
)


@dataclass(slots=True)
class Element:
    """A tag and what it holds."""

    tag: bytes
    """Identifier octets."""
    content: bytes = b""
    """Of a primitive one; what stands before the children of an element that only wraps them."""
    children: list["Element"] = field(default_factory=list)
    length: bytes | None = None
    """Length octets that stand there in place of the right ones."""

    def encode(self) -> bytes:
        content = self.content + b"".join(child.encode() for child in self.children)
        length = self.length if self.length is not None else length_octets(len(content))
        return self.tag + length + content


def length_octets(length: int) -> bytes:
    """Returns the shortest length octets."""
    if length < 0x80:
        return bytes([length])
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([0x80 | len(octets), *octets])


def parse(der: bytes, *, depth: int = 0) -> Element:
    """Returns what `der` says; raises ValueError when that is not one element with a tag below 31.

    What wraps DER (the octets of extensions, the bits of keys) is opened, so that it can be bent as well.
    """
    elements = _parse_all(der, depth)
    if len(elements) != 1:
        raise ValueError("is not one element")
    return elements[0]


def _parse_all(der: bytes, depth: int) -> list[Element]:
    elements = []
    at = 0
    while at < len(der):
        if len(der) - at < 2 or der[at] & 0x1F == 0x1F or depth > 40:
            raise ValueError("is no element that is read here")
        tag, first = der[at], der[at + 1]
        start = at + 2
        length = first
        if first >= 0x80:
            octets = first & 0x7F
            start += octets
            length = int.from_bytes(der[at + 2 : start])
            if not 1 <= octets <= 4:
                raise ValueError("has a length that is not read here")
        end = start + length
        if end > len(der):
            raise ValueError("ends early")
        elements.append(_element(tag, der[start:end], depth))
        at = end
    return elements


def _element(tag: int, content: bytes, depth: int) -> Element:
    if tag & _CONSTRUCTED:
        try:
            return Element(bytes([tag]), children=_parse_all(content, depth + 1))
        except ValueError:
            return Element(bytes([tag]), content)
    prefix = content[:1] if tag == 0x03 else b""
    wrapped = content[len(prefix) :]
    if tag in {0x03, 0x04} and wrapped[:1] in {b"\x30", b"\x03", b"\x04"}:
        try:
            return Element(bytes([tag]), prefix, [parse(wrapped, depth=depth + 1)])
        except ValueError:
            pass
    return Element(bytes([tag]), content)


def every(element: Element) -> Iterator[Element]:
    """Yields an element and all below it."""
    waiting = [element]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += one.children


def bend(draw: random.Random, root: Element) -> None:
    """Changes one thing somewhere in a tree."""
    elements = list(every(root))
    target = draw.choice(elements)
    draw.choice(_WAYS)(draw, target, elements)


def _drop(draw: random.Random, target: Element, _elements: list[Element]) -> None:
    if target.children:
        del target.children[draw.randrange(len(target.children))]
    else:
        target.content = b""


def _double(draw: random.Random, target: Element, _elements: list[Element]) -> None:
    if target.children:
        times = draw.choice((1, 1, 1, 2, 40))
        target.children += [draw.choice(target.children)] * times
    else:
        target.content *= draw.choice((2, 2, 3, 100))


def _swap(draw: random.Random, target: Element, _elements: list[Element]) -> None:
    draw.shuffle(target.children)


def _transplant(draw: random.Random, target: Element, elements: list[Element]) -> None:
    """Puts what stands elsewhere in place of the target; a copy, so that no tree holds itself."""
    other = draw.choice(elements).encode()
    target.tag, target.content, target.children, target.length = other[:1], other[1:], [], b""


def _nest(draw: random.Random, target: Element, _elements: list[Element]) -> None:
    depth = draw.choice((1, 1, 2, 5, 100, 3000))
    inner = target.encode()
    for _ in range(depth):
        inner = b"\x30" + length_octets(len(inner)) + inner
        if len(inner) > 30_000:
            break
    target.tag, target.content, target.children, target.length = inner[:1], inner[1:], [], b""


def _retag(draw: random.Random, target: Element, _elements: list[Element]) -> None:
    target.tag = bytes([draw.choice(_TAGS)]) if draw.random() < 0.8 else bytes([target.tag[0] ^ 1 << draw.randrange(8)])


def _lie(draw: random.Random, target: Element, _elements: list[Element]) -> None:
    length = len(target.encode()) - len(target.tag)
    target.length = draw.choice((
        length_octets(max(0, length + draw.choice((-2, -1, 1, 2, 200)))),
        b"\x80",
        b"\x81" + bytes([length & 0x7F]),
        b"\x84\xff\xff\xff\xff",
        b"\x84\x7f\xff\xff\xff",
        b"\x88" + b"\xff" * 8,
        b"\xff",
        b"\x82\x00" + bytes([length & 0xFF]),
    ))  # fmt: skip


def _content(draw: random.Random, target: Element, _elements: list[Element]) -> None:
    tag = target.tag[0]
    target.children = []
    if draw.random() < 0.2:
        target.content = draw.randbytes(draw.choice((1, 2, 16, 300, 9000)))
    elif tag == 0x06:
        target.content = draw.choice(_OIDS)
    elif tag in {0x02, 0x0A, 0x01, 0x05}:
        target.content = draw.choice(_INTEGERS)
    else:
        target.content = draw.choice(_TEXTS)


def _flip(draw: random.Random, target: Element, _elements: list[Element]) -> None:
    if target.content:
        bent = bytearray(target.content)
        bent[draw.randrange(len(bent))] ^= 1 << draw.randrange(8)
        target.content = bytes(bent)


def _cut(draw: random.Random, target: Element, _elements: list[Element]) -> None:
    target.content = target.content[: draw.randrange(len(target.content) + 1)]


def _append(draw: random.Random, target: Element, _elements: list[Element]) -> None:
    target.content += draw.choice((b"\x00", b"\x05\x00", b"\x30\x80", draw.randbytes(5)))


_WAYS: tuple[Callable[[random.Random, Element, list[Element]], None], ...] = (
    *(_drop, _double, _swap, _transplant, _nest, _retag, _retag, _lie, _content, _content, _content, _flip, _cut),
    _append,
)


def damage(draw: random.Random, data: bytes) -> bytes:
    """Changes bytes as a bad line, a bad disk or a bad program would."""
    if not data:
        return draw.randbytes(draw.randrange(40))
    bent = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5, 30))):
        at = draw.randrange(len(bent)) if bent else 0
        match draw.randrange(6):
            case 0 if bent:
                bent[at] ^= 1 << draw.randrange(8)
            case 1 if bent:
                bent[at] = draw.choice((0, 0x7F, 0x80, 0xFF, 0x30))
            case 2:
                del bent[at:]
            case 3:
                del bent[at : at + draw.randrange(1, 20)]
            case 4:
                bent[at:at] = draw.randbytes(draw.randrange(1, 20))
            case _:
                bent[at:at] = bent[at : at + draw.randrange(1, 200)]
    return bytes(bent)
