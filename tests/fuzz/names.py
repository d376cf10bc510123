"""Subjects and alternative names that people ask for, from the usual to what no name is, as DER."""

import random
from ipaddress import IPv4Address, IPv6Address

from certd.pki import der

_GENERAL_STRING, _GRAPHIC_STRING = 0x1B, 0x19
_LABELS = ("www", "shop", "a", "x-1", "db07", "mail", "intranet", "xn--bcher-kva", "0x", "example")
_ZONES = ("example.internal", "example.internal", "corp.internal", "example.com", "test", "xn--p1ai")
_ODD_DNS_NAMES = (
    *("", ".", "*", "*.", "*.com", "a..b", ".a.example", "a.example.", "*.*.example.com", "w*.example.com", "a.*.com"),
    *("-a.example", "a-.example", "a_b.example", "a b.example", "A.EXAMPLE", "a\0b.example", "1.2.3.4", "::1"),
    *("xn--", "xn--a", "xn--zzzzzzzz99999.example", "xn--80ak6aa92e.com", "ab--cd.example", "localhost", "bücher.de"),
    *("a" * 63 + ".example", "a" * 64 + ".example", ".".join(["abcdefgh"] * 28), "\u202ea.example", "a.example\n"),
    *(
        "a.example,DNS:b.example",
        "a.example/../b",
        "\u0440\u0430\u0443\u0440\u0430l.example",
        "*.xn--bcher-kva.example",
        "a.123",
    ),
)
_URIS = (
    *("https://www.example.internal/a?b=c#d", "spiffe://example.org/web", "spiffe://certd.internal/identities/admin"),
    *("urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "ldap://ldap.example.com/cn=a", "https://[2001:db8::7]/"),
    *("", "a", "//x/y", "http://", "http:", "https://user:pass@host.example/", "https://a b/", "spiffe://"),
    *("SPIFFE://example.org/x", "spiffe://A/b", "spiffe://example.org:8/x", "spiffe://example.org/%41"),
    *("https://bücher.example/", "https://example.com\0.evil", "javascript:alert(1)", "https://x:99999999/"),
    *("https://[::1", "https://[v1.x]/", "spiffe://example.org/a/../b", "https://%00/", "https://例え/", "x:" * 3000),
)  # fmt: skip
_MAILBOXES = (
    *("anna@example.internal", "o.k+x@mail.example.com", "A_B@EXAMPLE.com", "a@b", "@", "a@"),
    *('"a b"@example.com', "a..b@example.com", ".a@example.com", "a@[1.2.3.4]", "ä@example.com", "a@b@c.example"),
    *("a@example.com.", "a" * 65 + "@example.com", "a\0@example.com", "Anna <anna@example.com>", "a@-x.example"),
)  # fmt: skip
_VALUES = (
    *("www.example.internal", "Example", "Müller & Söhne", "東京", "*.shop.example", "192.0.2.7", "DE", "de"),
    *("", " ", "  two  spaces ", 'A "quoted" one', "a,b=c+d;e<f>#g\\h", "#0401", "\0", "a\0b", "\x07", "\u202eabc"),
    *("B" * 64, "B" * 65, "B" * 256, "B" * 257, "C" * 5000, "anna@example.com", "e\u0301", "\uffff", "😀"),
    *("\x7f", "\x85", "line\nbreak", "https://example.com/", "07-15", "*", "_", "@", "&"),
)  # fmt: skip
_TYPES = (
    *("2.5.4.3",) * 5,
    *("2.5.4.10", "2.5.4.11", "2.5.4.6", "2.5.4.7", "2.5.4.8", "2.5.4.9", "2.5.4.5", "2.5.4.12", "2.5.4.46"),
    *("0.9.2342.19200300.100.1.25", "0.9.2342.19200300.100.1.1", "1.2.840.113549.1.9.1", "2.5.4.97", "2.5.4.45"),
    *("1.3.6.1.4.1.99999.1", "2.999.1", "1.3.6.1.4.1.311.60.2.1.3", "2.5.4.65", "2.5.4.17", "2.23.140.3.1"),
)  # fmt: skip


def subject(draw: random.Random, *, odd: float) -> bytes:
    """Returns a distinguished name; `odd` is how likely something in it is strange."""
    kind = draw.random()
    if kind < 0.35:
        return der.sequence()
    if kind > odd:
        attributes = [_attribute("2.5.4.10", der.UTF8_STRING, draw.choice(("Example", "Müller & Söhne")).encode())]
        if draw.random() < 0.6:
            attributes.append(_attribute("2.5.4.3", der.UTF8_STRING, dns_name(draw).encode()))
        if draw.random() < 0.3:
            attributes.insert(0, _attribute("2.5.4.6", der.PRINTABLE_STRING, b"DE"))
        return der.sequence(*(der.encode(der.SET, one) for one in attributes))
    relatives = []
    for _ in range(draw.choice((1, 1, 2, 3, 5, 40))):
        members = [
            _attribute(draw.choice(_TYPES), *_odd_value(draw)) for _ in range(draw.choice((1, 1, 1, 1, 2, 3, 0, 9)))
        ]
        # Sorted as DER wants it, mostly.
        relatives.append(der.set_of(members) if draw.random() < 0.9 else der.encode(der.SET, b"".join(members)))
    return der.sequence(*relatives)


def _attribute(oid: str, tag: int, content: bytes) -> bytes:
    return der.sequence(der.object_identifier(oid), der.encode(tag, content))


def _odd_value(draw: random.Random) -> tuple[int, bytes]:
    """Returns tag and content of a value."""
    text = draw.choice(_VALUES)
    plain = draw.choice((der.NUMERIC_STRING, der.VISIBLE_STRING, _GENERAL_STRING, _GRAPHIC_STRING))
    no_string = draw.choice((der.INTEGER, der.OCTET_STRING, der.BOOLEAN, der.NULL, der.SEQUENCE))
    broken = draw.choice((b"\xff\xfe", b"\xd8\x00", b"\x00\x11\x00\x00", b"\xc0\x80", b"\xed\xa0\x80", b""))
    return draw.choice((
        *[(der.UTF8_STRING, text.encode())] * 4,
        (der.PRINTABLE_STRING, text.encode("ascii", "replace")),
        (der.TELETEX_STRING, text.encode("latin-1", "replace")),
        (der.BMP_STRING, text.encode("utf-16-be")),
        (der.UNIVERSAL_STRING, text.encode("utf-32-be")),
        (der.IA5_STRING, text.encode()),
        (plain, text.encode("latin-1", "replace")),
        (draw.choice((der.UTF8_STRING, der.BMP_STRING, der.UNIVERSAL_STRING)), broken),
        (no_string, text.encode()[:9]),
    ))  # fmt: skip


def dns_name(draw: random.Random) -> str:
    """Returns a DNS name as they should be."""
    name = ".".join([draw.choice(_LABELS) for _ in range(draw.randint(1, 3))] + [draw.choice(_ZONES)])
    return f"*.{name}" if draw.random() < 0.1 else name


def odd_text(draw: random.Random) -> str:
    """Returns a text that some field would take for a name, and others should not."""
    return draw.choice(draw.choice((_ODD_DNS_NAMES, _URIS, _MAILBOXES, _VALUES)))


def alternative_names(draw: random.Random, *, odd: float) -> bytes:
    """Returns the value of the extension."""
    count = draw.choice((1, 1, 1, 2, 3, 8))
    if draw.random() < odd * 0.1:
        count = draw.choice((0, 100, 101, 400))
    names = [_odd_general_name(draw) if draw.random() < odd else _good_general_name(draw) for _ in range(count)]
    return der.sequence(*names)


def _good_general_name(draw: random.Random) -> bytes:
    kind = draw.random()
    if kind < 0.75:
        return der.encode(0x82, dns_name(draw).encode())
    if kind < 0.85:
        return der.encode(0x87, address(draw).packed)
    if kind < 0.93:
        return der.encode(0x86, draw.choice(_URIS[:6]).encode())
    return der.encode(0x81, draw.choice(_MAILBOXES[:3]).encode())


def address(draw: random.Random) -> IPv4Address | IPv6Address:
    """Returns any address."""
    return IPv4Address(draw.getrandbits(32)) if draw.random() < 0.5 else IPv6Address(draw.getrandbits(128))


def _odd_general_name(draw: random.Random) -> bytes:
    # A user principal name; an internationalised mailbox (RFC 8398).
    oid, text = draw.choice((("1.3.6.1.4.1.311.20.2.3", "a@corp"), ("1.3.6.1.5.5.7.8.9", "ä@example.com")))
    other = der.object_identifier(oid) + der.encode(0xA0, der.encode(der.UTF8_STRING, text.encode()))
    return draw.choice((
        *[der.encode(0x82, draw.choice(_ODD_DNS_NAMES).encode())] * 2,
        der.encode(0x86, draw.choice(_URIS).encode()),
        der.encode(0x81, draw.choice(_MAILBOXES).encode()),
        der.encode(0x87, draw.randbytes(draw.choice((0, 3, 4, 5, 8, 16, 17, 32)))),
        der.encode(0xA4, subject(draw, odd=0.5)),
        der.encode(0xA0, other),
        der.encode(0x88, b"\x2a\x03\x04"),
        der.encode(draw.choice((0xA3, 0xA5, 0x80, 0x89, 0x8F, 0x30)), draw.randbytes(5)),
    ))  # fmt: skip
