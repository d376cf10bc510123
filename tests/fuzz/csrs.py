"""Certification requests: whole ones with odd contents, and bent, damaged or wrongly signed ones."""

import base64
import random
from collections.abc import Callable

from certd.pki import der
from tests.fuzz import elements, keys, names
from tests.fuzz.keys import Key

_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_PURPOSES = (*tuple(f"1.3.6.1.5.5.7.3.{number}" for number in (1, 2, 3, 4, 8, 9, 17, 21)), "2.5.29.37.0")
_UTF8 = der.encode(der.UTF8_STRING, "für Freunde".encode())


def csr(draw: random.Random) -> tuple[bytes, bool]:
    """Returns what might be a CSR, and whether its key may be reported as compromised later."""
    odd = draw.choice((0.0, 0.0, 0.0, 0.0, 0.05, 0.2, 0.5))
    key = keys.bad_key(draw) if draw.random() < 0.12 else keys.good_key(draw)
    info = _info(draw, key, odd=odd)
    kind = draw.random()
    if kind < 0.22:
        # Bent, and signed by who bent it: only what the contents are stands against it.
        tree = elements.parse(info)
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            elements.bend(draw, tree)
        info = tree.encode()
    request = (
        signed(info, key) if kind < 0.97 else der.sequence(info, key.algorithm, der.bit_string(draw.randbytes(70)))
    )
    if 0.80 < kind < 0.86:
        tree = elements.parse(request)
        elements.bend(draw, tree)
        request = tree.encode()
    elif 0.86 < kind < 0.91:
        request = elements.damage(draw, request)
    if draw.random() < 0.3:
        request = pem(draw, request)
        if draw.random() < 0.1:
            request = elements.damage(draw, request)
    return request, not key.lasting


def plain(draw: random.Random) -> bytes:
    """Returns a CSR that every profile for servers certifies."""
    key = keys.good_key(draw)
    return signed(_info(draw, key, odd=0.0), key)


def signed(info: bytes, key: Key) -> bytes:
    """Returns the request with what it asks for."""
    return der.sequence(info, key.algorithm, der.bit_string(key.sign(info)))


def pem(draw: random.Random, request: bytes) -> bytes:
    """Returns PEM, mostly as it should be."""
    label = b"CERTIFICATE REQUEST"
    text = base64.encodebytes(request)
    if draw.random() < 0.8:
        return b"-----BEGIN " + label + b"-----\n" + text + b"-----END " + label + b"-----\n"
    label = draw.choice((b"NEW CERTIFICATE REQUEST", b"CERTIFICATE", b"PRIVATE KEY", b"X", label.lower(), label, label))
    end = draw.choice((label, label, b"CERTIFICATE REQUEST", b""))
    text = draw.choice(
        (text, text.replace(b"\n", b"\r\n"), text.replace(b"\n", b""), b"\n" + text, text + b"=", text[:-5])
    )
    block = b"-----BEGIN " + label + b"-----\n" + text + b"-----END " + end + b"-----\n"
    before = draw.choice((b"", b"", b"Subject: CN=x\n", b"\xef\xbb\xbf", b"\0", block))
    return before + block + draw.choice((b"", b"", b"\n\n", b"trailing", b"\0"))


def _info(draw: random.Random, key: Key, *, odd: float) -> bytes:
    version = der.integer(0 if draw.random() > odd * 0.1 else draw.choice((1, 2, -1, 1 << 70)))
    attributes = []
    if draw.random() < 0.93:
        attributes.append(_attribute(_EXTENSION_REQUEST, _extensions(draw, odd=odd)))
    if draw.random() < 0.1:
        attributes.append(_attribute("1.2.840.113549.1.9.7", der.encode(der.PRINTABLE_STRING, b"secret")))
    if draw.random() < 0.05:
        attributes.append(_attribute("1.3.6.1.4.1.311.13.2.3", der.encode(der.IA5_STRING, b"10.0.1.2")))
    if draw.random() < odd * 0.2:
        attributes.append(
            draw.choice((_attribute("1.3.6.1.4.1.99999.5"), der.sequence(), attributes[-1] if attributes else b""))
        )
    return der.sequence(
        version, names.subject(draw, odd=odd), key.public_key, der.encode(0xA0, b"".join(sorted(attributes)))
    )


def _attribute(oid: str, *values: bytes) -> bytes:
    return der.sequence(der.object_identifier(oid), der.encode(der.SET, b"".join(values)))


def _extensions(draw: random.Random, *, odd: float) -> bytes:
    found = [("2.5.29.17", names.alternative_names(draw, odd=odd))] if draw.random() < 0.95 else []
    if draw.random() < 0.25:
        offered = draw.sample(_OFFERED, draw.choice((1, 1, 2, 3, len(_OFFERED))))
        found += [(oid, make(draw)) for oid, make in offered]
    if found and draw.random() < odd * 0.1:
        found.append(draw.choice(found))
    encoded = []
    for oid, value in found:
        critical = der.encode(der.BOOLEAN, b"\xff") if draw.random() < 0.15 else b""
        if draw.random() < odd * 0.05:
            critical = der.encode(der.BOOLEAN, draw.choice((b"\x00", b"\x01", b"")))
        encoded.append(der.sequence(der.object_identifier(oid), critical, der.octet_string(value)))
    return der.sequence(*encoded)


def _key_usage(draw: random.Random) -> bytes:
    usual = (b"\x07\x80", b"\x05\xa0", b"\x01\x06", b"\x07\x08")
    odd = (b"\x00\x00", b"\x00", b"\x07\x00\x80", draw.randbytes(3))
    return der.encode(der.BIT_STRING, draw.choice(usual + odd))


def _extended_key_usage(draw: random.Random) -> bytes:
    return der.sequence(*map(der.object_identifier, draw.sample(_PURPOSES, draw.choice((0, 1, 1, 2, 3)))))


def _basic_constraints(draw: random.Random) -> bytes:
    true = der.encode(der.BOOLEAN, b"\xff")
    return draw.choice((
        der.sequence(),
        der.sequence(),
        der.sequence(true),
        der.sequence(true, der.integer(0)),
        der.sequence(true, der.integer(draw.choice((1, 7, 255, -1, 1 << 40)))),
        der.sequence(der.integer(0)),
        der.sequence(der.encode(der.BOOLEAN, b"\x00")),
    ))  # fmt: skip


def _name_constraints(draw: random.Random) -> bytes:
    subtree = draw.choice((
        der.encode(0x82, b"example.internal"),
        der.encode(0x82, b""),
        der.encode(0x87, bytes(8)),
        der.encode(0x87, b"\xff" * 5),
        der.encode(0x81, b".example.com"),
        der.encode(0x86, b".example.com"),
        der.encode(0xA4, der.sequence()),
        der.encode(0x88, b"\x2a\x03"),
    ))  # fmt: skip
    general = der.sequence(subtree, der.encode(0x80, b"\x01") if draw.random() < 0.1 else b"")
    return der.sequence(der.encode(draw.choice((0xA0, 0xA1)), general))


def _policies(draw: random.Random) -> bytes:
    qualifier = der.sequence(
        der.object_identifier("1.3.6.1.5.5.7.2.2"),
        der.sequence(
            draw.choice((_UTF8, der.encode(der.VISIBLE_STRING, b"x" * 201), der.encode(der.BMP_STRING, b"\0a")))
        ),
    )
    place = der.sequence(
        der.object_identifier("1.3.6.1.5.5.7.2.1"),
        der.encode(der.IA5_STRING, draw.choice((b"https://a.example/", b"\xff"))),
    )
    qualifiers = draw.choice((b"", b"", der.sequence(qualifier), der.sequence(place, qualifier), der.sequence()))
    oid = der.object_identifier(draw.choice(("2.23.140.1.2.1", "1.3.6.1.4.1.99999.7", "2.5.29.32.0", "2.999")))
    information = der.sequence(oid, qualifiers)
    return der.sequence(*[information] * draw.choice((1, 1, 1, 2, 0)))


def _odd_value(draw: random.Random) -> bytes:
    return draw.choice(
        (_UTF8, der.encode(der.NULL, b""), b"", b"\x30\x80\x00\x00", draw.randbytes(20), der.sequence(_UTF8) + b"\0")
    )


_OFFERED: tuple[tuple[str, Callable[[random.Random], bytes]], ...] = (
    ("2.5.29.15", _key_usage),
    ("2.5.29.37", _extended_key_usage),
    ("2.5.29.19", _basic_constraints),
    ("2.5.29.30", _name_constraints),
    ("2.5.29.32", _policies),
    ("1.3.6.1.5.5.7.1.24", lambda draw: der.sequence(*map(der.integer, draw.choice(((5,), (5, 17), (99,), ()))))),
    ("2.5.29.14", lambda draw: der.octet_string(draw.randbytes(20))),
    ("2.5.29.35", lambda draw: der.sequence(der.encode(0x80, draw.randbytes(20)))),
    ("1.3.6.1.5.5.7.48.1.5", lambda _draw: der.encode(der.NULL, b"")),
    ("1.3.6.1.4.1.11129.2.4.3", lambda _draw: der.encode(der.NULL, b"")),
    ("1.3.6.1.4.1.311.20.2", lambda _draw: der.encode(der.BMP_STRING, "WebServer".encode("utf-16-be"))),
    ("1.3.6.1.4.1.99999.3", _odd_value),
    ("2.5.29.99", _odd_value),
    ("2.5.29.36", lambda _draw: der.sequence(der.encode(0x80, b"\x00"))),
    ("2.5.29.54", lambda _draw: der.integer(0)),
    ("2.5.29.33", lambda _draw: der.sequence(der.sequence(*[der.object_identifier("2.999")] * 2))),
    ("2.5.29.31", lambda draw: draw.choice((der.sequence(), draw.randbytes(9)))),
    ("1.3.6.1.5.5.7.1.1", lambda draw: draw.choice((der.sequence(), draw.randbytes(9)))),
)
