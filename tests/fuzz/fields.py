"""Messages bent field by field, by what their descriptors say, and bytes that are no messages."""

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.fuzz import elements, names
from tests.fuzz.world import World

_TEXTS = (
    *("", " ", "\0", "a\0b", "\n", "\u202e", "\ufeff", "\U0010ffff", "é" * 300, "x" * 70_000, "-", "*", "/"),
    *("tenants/", "tenants/-", "tenants/default/", "tenants/default/authorities/-", "tenants/other"),
    *("tenants/default/authorities/fuzz-ec/certificates/", "tenants/default/authorities/fuzz-ec/certificates/00"),
    *("tenants/default/authorities/fuzz-ec/certificates/" + "0" * 5000, "tenants/default/authorities/system"),
    *("tenants/default/authorities/fuzz-ec/certificates/zz", "tenants/default/authorities/fuzz-ec/certificates/::"),
    *("tenants/default/authorities/fuzz-ec/certificates/1", "tenants/default/profiles/nobody"),
    *("00000000-0000-0000-0000-000000000000", "1F6E5B0A-6f0e-4d3b-9f55-2f0c6f1f8a11", "{uuid}", "2.5.4.3"),
    *("1.2", "3.1", "2.5.29.17", "2.5.29.37.0", "1." + "9" * 5000, "1.2." + "1." * 2000 + "1", "-1.2", "1..2", "CN"),
    *("10.0.0.0/8", "10.0.0.1/8", "::/0", "0.0.0.0/0", "10.0.0.0/33", "1.2.3.4/255.255.255.0", "\u0661.1.1.1"),
)  # fmt: skip
_WHOLE = (0, 1, -1, 2, 7, 99, 1000, 1001, 2**31 - 1, -(2**31))
_LONG = (
    *_WHOLE,
    2**63 - 1,
    -(2**63),
    253402300799,
    253402300800,
    -62135596801,
    86400,
    315576000000,
    10**17,
    1800000000,
)
_NUMBERS: dict[int, tuple[int, ...]] = {
    FieldDescriptor.CPPTYPE_BOOL: (False, True),
    FieldDescriptor.CPPTYPE_ENUM: (*range(11), 99, -1, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT32: _WHOLE,
}
_MOST_VALUES = 50_000
_COUNTS = (1, 1, 1, 2, 5, 33, 101, 1001, 20_000)


def bend(draw: random.Random, message: Message, world: World) -> None:
    """Changes one field somewhere in a message."""
    parent = draw.choice(_messages(message))
    fields: Any = parent.DESCRIPTOR.fields
    if not fields:
        return
    field = draw.choice(fields)
    if draw.random() < 0.12:
        parent.ClearField(field.name)
    elif field.is_repeated:
        _repeated(draw, parent, field, world)
    elif field.message_type is not None:
        _message(draw, parent, field, world)
    else:
        setattr(parent, field.name, _scalar(draw, field, world))


def _messages(message: Message) -> list[Message]:
    """Returns a message and all that stand in it, but for what is beyond counting."""
    found = [message]
    for one in found:
        if len(found) > 300:
            break
        for field, value in one.ListFields():
            if field.message_type is None or field.message_type.GetOptions().map_entry:
                continue
            found += list(value)[:20] if field.is_repeated else [value]
    return found


def _repeated(draw: random.Random, parent: Any, field: Any, world: World) -> None:
    values = getattr(parent, field.name)
    count = draw.choice(_COUNTS)
    if field.message_type is None:
        one = _scalar(draw, field, world)
        size = len(one) + 8 if isinstance(one, str | bytes) else 8
        count = max(1, min(count, _budget(draw) // size))
        same = draw.random() < 0.5 or not isinstance(one, str)
        values.extend([one] * count if same else [f"{one}{number}" for number in range(count)])
        del values[_MOST_VALUES:]
    elif field.message_type.GetOptions().map_entry:
        for number in range(count):
            values[draw.choice(_TEXTS[:8]) if number < 3 else f"k{number}"] = draw.choice(_TEXTS[:8])
    elif values and draw.random() < 0.5:
        one = values[draw.randrange(len(values))]
        values.extend([one] * min(count, 1001, 1 + _budget(draw) // (one.ByteSize() + 1)))
    else:
        for _ in range(min(count, 1001)):
            values.add()
        if draw.random() < 0.7:
            bend(draw, values[-1], world)


def _budget(draw: random.Random) -> int:
    """Returns how many bytes a list may take: a few megabytes now and then, for which all have to wait."""
    return draw.choice((20_000, 200_000, 1_000_000)) if draw.random() < 0.95 else 6_000_000


def _message(draw: random.Random, parent: Any, field: Any, world: World) -> None:
    inner = getattr(parent, field.name)
    if field.message_type.full_name == "google.protobuf.FieldMask":
        inner.paths.extend(
            draw.sample(("*", "labels", "description", "name", "etag", "", "a.b", "names.most", "\0"), 2)
        )
    elif field.message_type.full_name in {"google.protobuf.Duration", "google.protobuf.Timestamp"}:
        inner.seconds = draw.choice(_LONG)
        inner.nanos = draw.choice((0, 0, 1, -1, 999_999_999, 10**9, -(10**9), 2**31 - 1))
    elif field.message_type is parent.DESCRIPTOR and draw.random() < 0.3:
        # A chain of itself, to where the parser gives up.
        for _ in range(draw.choice((3, 9, 40, 98, 110))):
            inner.SetInParent()
            inner = getattr(inner, field.name)
    else:
        inner.SetInParent()
        if draw.random() < 0.7:
            bend(draw, inner, world)


def _scalar(draw: random.Random, field: Any, world: World) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw.choice((b"", b"\0", b"0", bytes(32), draw.randbytes(32), draw.randbytes(4097), bytes(40_000)))
    if field.type == FieldDescriptor.TYPE_STRING:
        return _text(draw, world)
    return draw.choice(_NUMBERS.get(field.cpp_type, _LONG))


def _text(draw: random.Random, world: World) -> str:
    kind = draw.randrange(6)
    if kind < 4:
        return draw.choice(_TEXTS) if kind < 2 else names.odd_text(draw)
    if kind < 5:
        known = draw.choice((world.certificates, world.profiles, world.etags, world.page_tokens, world.request_ids))
        text = world.pick(draw, known, "a")
        cut = text[: draw.randrange(len(text) + 1)] + chr(draw.choice((0x41, 0, 0x3B1)))
        return text if draw.random() < 0.6 else cut
    signs = [draw.randrange(0x20, 0x7F) if draw.random() < 0.5 else draw.randrange(0xD800) for _ in range(30)]
    return "".join(map(chr, signs))


def wire(draw: random.Random, data: bytes) -> bytes:
    """Returns bytes in place of those of a message: damaged, doubled, of fields and nesting that nobody expects."""
    nested = b""
    for _ in range(draw.choice((50, 99, 101, 2000))):
        nested = draw.choice((b"\x12", b"\x1a", b"\x0a")) + _varint(len(nested)) + nested
    # Fields that the message does not have, wrong wire types, numbers and groups without an end.
    unknown = (b"\xfa\x7f\x03abc", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b\x0c", b"\x0d\x01")
    return draw.choice((
        draw.randbytes(draw.choice((1, 5, 50, 5000))),
        data + data,
        data + draw.choice(unknown),
        data + b"\x0a\xff\xff\xff\xff\x07",
        nested,
        data.replace(b"tenants", b"t\xff\xfents", 1),
        *[elements.damage(draw, data)] * 2,
    ))  # fmt: skip


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*octets, number])
