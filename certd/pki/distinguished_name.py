"""Distinguished names (RFC 5280, section 4.1.2.4). The DER is the name: it is kept, copied and compared as bytes.

Text is that of RFC 4514, which begins with the last relative name of the encoding: `CN=Example Root,O=Example` is O,
then CN, in DER, as every other tool writes and reads it.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

from certd.errors import Violation, field_invalid
from certd.pki import der, names

Attribute: TypeAlias = tuple[str, str]
"""Dotted object identifier and value."""
RelativeDistinguishedName: TypeAlias = tuple[Attribute, ...]
DistinguishedName: TypeAlias = tuple[RelativeDistinguishedName, ...]
"""In the order of the encoding."""

EMPTY = der.sequence()
"""DER of the name without any attribute."""
COMMON_NAME = "2.5.4.3"
EMAIL_ADDRESS = "1.2.840.113549.1.9.1"
HIGHEST_RELATIVE_NAMES = 32
HIGHEST_ATTRIBUTES = 8
"""In one relative distinguished name."""
LONGEST_NAME = 4096
"""Bytes of the DER: an issuer's name stands in each certificate and in the policy of its key."""
LONGEST_VALUE = 256
"""Characters, for attributes without a bound of their own."""

_SHORT_NAMES = {
    COMMON_NAME: "CN",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "0.9.2342.19200300.100.1.25": "DC",
    "0.9.2342.19200300.100.1.1": "UID",
    "2.5.4.5": "SERIALNUMBER",
}
_OIDS = {short: oid for oid, short in _SHORT_NAMES.items()}
_COUNTRIES = frozenset({"2.5.4.6", "1.3.6.1.4.1.311.60.2.1.3"})
# RFC 5280, appendix A.1: upper bounds, in characters.
_LONGEST = {
    COMMON_NAME: 64,
    "2.5.4.5": 64,
    "2.5.4.7": 128,
    "2.5.4.8": 128,
    "2.5.4.9": 128,
    "2.5.4.10": 64,
    "2.5.4.11": 64,
    "2.5.4.12": 64,
    "0.9.2342.19200300.100.1.25": 63,
    EMAIL_ADDRESS: 255,
}
# RFC 5280, appendix A.1: attributes with one type of string instead of a choice.
_PRINTABLE = frozenset({*_COUNTRIES, "2.5.4.5", "2.5.4.46"})
_IA5 = frozenset({"0.9.2342.19200300.100.1.25", EMAIL_ADDRESS})
# RFC 5280, appendix A.1, and RFC 4519: attributes whose value is a DirectoryString.
_DIRECTORY_STRING_TYPES = frozenset(
    {
        *(f"2.5.4.{number}" for number in (3, 4, 7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 41, 42, 43, 44, 65, 97)),
        "0.9.2342.19200300.100.1.1",
        "1.2.840.113549.1.9.8",
    }
)
# RFC 2985, section 5.2.2: an IA5String besides.
_UNSTRUCTURED_NAME = "1.2.840.113549.1.9.2"
# What may describe somebody elsewhere and names nobody: attributes of PKCS #9 (RFC 2985, sections 5.1 to 5.5) but those
# of persons and devices, those of the extension subjectDirectoryAttributes (RFC 3739, section 3.2.2), PKCS #12 files.
_NAMES_NOBODY = re.compile(
    r"1\.2\.840\.113549\.1\.9\.(?!(1|2|8)$).*|1\.3\.6\.1\.5\.5\.7\.9\..*|2\.16\.840\.1\.113730\.3\.1\.216"
)
_PRINTABLE_VALUE = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*")
# Controls, separators of lines and paragraphs, what turns the direction of the text around it, and no characters.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_DOTTED = re.compile(r"([01]\.[1-3]?[0-9]|2\.(0|[1-9][0-9]{0,38}))(\.(0|[1-9][0-9]{0,38})){0,30}")
_DIRECTORY_STRINGS = frozenset(
    {der.UTF8_STRING, der.PRINTABLE_STRING, der.TELETEX_STRING, der.BMP_STRING, der.UNIVERSAL_STRING}
)
# A certificate with another type in a name is none to OpenSSL, whatever the attribute is.
_READ_IN_NAMES = _DIRECTORY_STRINGS | {der.NUMERIC_STRING, der.IA5_STRING, der.BIT_STRING, der.SEQUENCE}
_ENCODINGS = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.NUMERIC_STRING: "ascii",
    der.IA5_STRING: "ascii",
    der.VISIBLE_STRING: "ascii",
    # T.61 is long dead; what is found in certificates is Latin-1.
    der.TELETEX_STRING: "latin-1",
    der.BMP_STRING: "utf-16-be",
    der.UNIVERSAL_STRING: "utf-32-be",
}
_SPACES = " \t\n\v\f\r"
_ASCII_SPACES = re.compile(f"[{_SPACES}]+")
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_SPECIAL = frozenset('"+,;<>\\')
_ESCAPABLE = _SPECIAL | frozenset(" #=")
_HEX_PAIR = re.compile(r"[0-9A-Fa-f]{2}")


def short_name(oid: str) -> str:
    """Returns the short name of an attribute type (RFC 4514, section 3), or the dotted identifier when it has none."""
    return _SHORT_NAMES.get(oid, oid)


def oid_of(attribute_type: str, *, field: str = "subject") -> str:
    """Returns the dotted identifier of an attribute type; FIELD_INVALID when it is neither a short name nor dotted."""
    oid = _OIDS.get(attribute_type.upper())
    if oid is not None:
        return oid
    if not _DOTTED.fullmatch(attribute_type):
        raise field_invalid(
            field,
            f"{names.excerpt(attribute_type)} is no attribute type; use {', '.join(_OIDS)} or a dotted OID, and write "
            "a comma within a value as \\,",
        )
    return attribute_type


def encode(name: DistinguishedName, *, field: str = "subject") -> bytes:
    """Returns the DER of a name: PrintableString or IA5String where RFC 5280 wants it, UTF8String elsewhere.

    FIELD_INVALID with `field` when an attribute breaks a bound of RFC 5280, appendix A.1, or has control characters, or
    the name has more than 32 relative names, 8 attributes in one, or 4 KiB.
    """
    if len(name) > HIGHEST_RELATIVE_NAMES:
        raise field_invalid(field, f"has more than {HIGHEST_RELATIVE_NAMES} relative distinguished names")
    encoded = der.sequence(*(_encode_relative(relative, field) for relative in name))
    if len(encoded) > LONGEST_NAME:
        raise field_invalid(field, f"has more than {LONGEST_NAME} bytes")
    return encoded


def _encode_relative(relative: RelativeDistinguishedName, field: str) -> bytes:
    if not 0 < len(relative) <= HIGHEST_ATTRIBUTES:
        raise field_invalid(
            field, f"has a relative distinguished name without or with over {HIGHEST_ATTRIBUTES} attributes"
        )
    elements = {_encode_attribute(oid, value, field) for oid, value in relative}
    if len(elements) < len(relative):
        raise field_invalid(field, "has an attribute twice in one relative distinguished name")
    return der.set_of(elements)


def _encode_attribute(oid: str, value: str, field: str) -> bytes:
    problem = _value_problem(oid, value)
    if problem is not None:
        raise field_invalid(field, f"{short_name(oid)} {problem}")
    identifier = der.object_identifier(oid_of(oid, field=field))
    if oid in _PRINTABLE:
        return der.sequence(identifier, der.encode(der.PRINTABLE_STRING, value.encode("ascii")))
    if oid in _IA5:
        return der.sequence(identifier, der.encode(der.IA5_STRING, value.encode("ascii")))
    return der.sequence(identifier, der.encode(der.UTF8_STRING, value.encode()))


def _value_problem(oid: str, value: str) -> str | None:
    """Returns how a value breaks the bounds of its attribute, or None."""
    longest = _LONGEST.get(oid, LONGEST_VALUE)
    if _NAMES_NOBODY.fullmatch(oid):
        return "is no attribute of names; leave it out"
    if oid in _COUNTRIES and not re.fullmatch(r"[A-Za-z]{2}", value):
        return "must be the two letters of a country"
    if not 0 < len(value) <= longest:
        return f"must have 1 to {longest} characters, and has {len(value)}"
    if _CONTROL.search(value):
        return "has control characters"
    if oid in _PRINTABLE and not _PRINTABLE_VALUE.fullmatch(value):
        return "has characters outside PrintableString"
    return "has characters outside ASCII" if oid in _IA5 and not value.isascii() else None


def decode(name: bytes, *, field: str = "subject") -> DistinguishedName:
    """Parses the DER of a name. A value that is no string becomes `#` and the hexadecimal of its DER, for display.

    FIELD_INVALID with `field` when it is not the DER of a name. The types of strings are lost: keep the bytes.
    """
    return tuple(tuple((oid, value) for oid, value, *_ in attributes) for _, attributes in _relative_names(name, field))


_RawAttribute: TypeAlias = tuple[str, str, int, bytes]
"""Identifier, value, tag of the value, and the DER of the whole attribute."""
_RawRelative: TypeAlias = tuple[bytes, tuple[_RawAttribute, ...]]
"""DER of the whole relative distinguished name, and its attributes."""


def _relative_names(name: bytes, field: str) -> tuple[_RawRelative, ...]:
    try:
        return _parsed(name)
    except (der.MalformedError, UnicodeDecodeError) as error:
        raise field_invalid(field, "is not the DER of a distinguished name") from error


@lru_cache(maxsize=256)
def _parsed(name: bytes) -> tuple[_RawRelative, ...]:
    """Parses a name; cached, because issuing looks at the same subject from several sides."""
    outer = der.Reader(name)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    relatives: list[_RawRelative] = []
    while reader.more:
        whole = reader.read_whole(der.SET)
        relatives.append((whole, tuple(_attributes(whole))))
    return tuple(relatives)


def _attributes(relative: bytes) -> list[_RawAttribute]:
    reader = der.Reader(relative).enter(der.SET)
    attributes: list[_RawAttribute] = []
    while reader.more:
        whole = reader.read_whole(der.SEQUENCE)
        attribute = der.Reader(whole).enter(der.SEQUENCE)
        oid = der.dotted(attribute.read_object_identifier())
        tag, content = attribute.read_any()
        attribute.finish()
        encoding = _ENCODINGS.get(tag)
        value = content.decode(encoding) if encoding else f"#{der.encode(tag, content).hex()}"
        attributes.append((oid, value, tag, whole))
    if not attributes:
        raise der.MalformedError("has an empty relative distinguished name")
    return attributes


def violations(name: bytes, field: str) -> tuple[Violation, ...]:
    """Returns how a name breaks the bounds or the types of strings of RFC 5280, appendix A.1, or those of `encode`.

    What does not is copied byte for byte, also in the old types that RFC 5280 advises against. FIELD_INVALID when it is
    no name at all.
    """
    if len(name) > LONGEST_NAME:
        return (Violation(field, f"has more than {LONGEST_NAME} bytes"),)
    relatives = _relative_names(name, field)
    return tuple(Violation(field, problem) for problem in _problems(relatives))


@lru_cache(maxsize=256)
def _problems(relatives: tuple[_RawRelative, ...]) -> tuple[str, ...]:
    found: list[str] = []
    if len(relatives) > HIGHEST_RELATIVE_NAMES:
        found.append(f"has more than {HIGHEST_RELATIVE_NAMES} relative distinguished names")
    for whole, attributes in relatives:
        elements = [element for *_, element in attributes]
        if len(elements) > HIGHEST_ATTRIBUTES:
            found.append(f"has a relative distinguished name with over {HIGHEST_ATTRIBUTES} attributes")
        if whole != der.set_of(set(elements)):
            found.append("has a relative distinguished name with an attribute twice, or in another order than DER's")
        for oid, value, tag, _ in attributes:
            problem = _value_problem(oid, value) or _type_problem(oid, value, tag)
            if problem is not None:
                found.append(f"{short_name(oid)} {problem}")
    return tuple(found)


def _type_problem(oid: str, value: str, tag: int) -> str | None:
    """Returns how the type of a string is not that of its attribute, or its characters not those of the type."""
    if tag == der.PRINTABLE_STRING and not _PRINTABLE_VALUE.fullmatch(value):
        return "has characters outside PrintableString, which it claims to be; write it as UTF8String"
    if oid in _PRINTABLE:
        return None if tag == der.PRINTABLE_STRING else "must be a PrintableString"
    if oid in _IA5:
        return None if tag == der.IA5_STRING else "must be an IA5String"
    if oid in _DIRECTORY_STRING_TYPES and tag not in _DIRECTORY_STRINGS:
        return "must be a UTF8String or a PrintableString"
    if oid == _UNSTRUCTURED_NAME and tag not in _DIRECTORY_STRINGS | {der.IA5_STRING}:
        return "must be a UTF8String, a PrintableString or an IA5String"
    return None if tag in _READ_IN_NAMES else "has a type that OpenSSL does not read in names; write a UTF8String"


def common_names(name: bytes) -> tuple[str, ...]:
    """Returns the values of its CN attributes."""
    return values(name, COMMON_NAME)


def values(name: bytes, attribute_type: str) -> tuple[str, ...]:
    """Returns the values of its attributes of a type, given as a dotted identifier."""
    return tuple(value for relative in decode(name) for oid, value in relative if oid == attribute_type)


def without_common_names(name: bytes, dropped: Sequence[str]) -> bytes:
    """Returns the name without the CN attributes of the `dropped` values; the rest is kept byte for byte."""
    return without_attributes(name, lambda oid, value: oid == COMMON_NAME and value in dropped)


def without_attributes(name: bytes, is_dropped: Callable[[str, str], bool]) -> bytes:
    """Returns the name without the attributes that `is_dropped` says yes to, given the dotted identifier and the value.

    The rest is kept byte for byte.
    """
    kept: list[bytes] = []
    for whole, attributes in _relative_names(name, "subject"):
        rest = [raw for oid, value, _, raw in attributes if not is_dropped(oid, value)]
        if len(rest) == len(attributes):
            kept.append(whole)
        elif rest:
            kept.append(der.encode(der.SET, b"".join(rest)))
    return der.sequence(*kept)


ComparableName: TypeAlias = tuple[frozenset[Attribute], ...]


@lru_cache(maxsize=256)
def comparable(name: bytes) -> ComparableName:
    """Returns a form that is equal for names that any relying party takes for the same (RFC 5280, section 7.1).

    Types of strings, case, runs of spaces, characters that do not show, and composition do not count (RFC 4518,
    section 2).
    """
    return tuple(frozenset((oid, _prepared(value)) for oid, value in relative) for relative in decode(name))


def _prepared(value: str) -> str:
    if not value.isascii():
        visible = "".join(c for c in value if unicodedata.category(c) != "Cf")
        value = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
    return " ".join(value.lower().split())


@lru_cache(maxsize=256)
def narrowly_comparable(name: bytes) -> ComparableName:
    """Returns a form that is equal only for names that every relying party takes for the same.

    Types of strings, case of ASCII letters and runs of spaces do not count: OpenSSL prepares no more than that.
    """
    return tuple(
        frozenset((oid, _ASCII_SPACES.sub(" ", value.strip(_SPACES)).translate(_LOWER)) for oid, value in relative)
        for relative in decode(name)
    )


def to_text(name: bytes) -> str:
    """Returns the text of a name (RFC 4514, section 2); FIELD_INVALID when it is not the DER of a name."""
    if name == EMPTY:
        return ""
    return ",".join(
        "+".join(_attribute_text(*attribute) for attribute in relative) for relative in reversed(decode(name))
    )


def _attribute_text(oid: str, value: str) -> str:
    short = _SHORT_NAMES.get(oid)
    if short is not None:
        return f"{short}={_escape(value)}"
    # RFC 4514, section 2.4: a type without a short name has the hexadecimal of its value's DER.
    encoded = value.removeprefix("#") if _is_hexadecimal(value) else der.encode(der.UTF8_STRING, value.encode()).hex()
    return f"{oid}=#{encoded}"


def _is_hexadecimal(value: str) -> bool:
    return value.startswith("#") and re.fullmatch(r"#([0-9a-f]{2})+", value) is not None


def _escape(value: str) -> str:
    escaped = [f"\\{c}" if c in _SPECIAL else f"\\{ord(c):02x}" if c < " " or c == "\x7f" else c for c in value]
    if value[:1] in {" ", "#"}:
        escaped[0] = f"\\{value[0]}"
    if len(value) > 1 and value.endswith(" "):
        escaped[-1] = "\\ "
    return "".join(escaped)


def parse_text(text: str, *, field: str = "subject") -> bytes:
    r"""Returns the DER of a name in text form, the last relative name first; an empty text is the empty name.

    RFC 4514: `+` between the attributes of one relative name, `\` before special characters or two hexadecimal digits,
    `#` before the hexadecimal DER of a string. Spaces around separators are ignored. FIELD_INVALID with `field`.
    """
    if not text.strip():
        return EMPTY
    name: list[RelativeDistinguishedName] = []
    relative: list[Attribute] = []
    at = 0
    while True:
        attribute, at = _parse_attribute(text, at, field)
        relative.append(attribute)
        separator = text[at : at + 1]
        if separator != "+":
            name.append(tuple(relative))
            relative = []
        if not separator:
            return encode(tuple(reversed(name)), field=field)
        at += 1


def _parse_attribute(text: str, start: int, field: str) -> tuple[Attribute, int]:
    """Parses one `type=value` and returns it with the offset of the separator after it."""
    equals = text.find("=", start)
    if equals < 0:
        raise field_invalid(field, "must have the form CN=Example Root,O=Example: an attribute has no '='")
    oid = oid_of(text[start:equals].strip(), field=field)
    value, at = _parse_value(text, equals + 1, field)
    if value.startswith("#") and text[equals + 1 :].lstrip().startswith("#"):
        value = _decode_hexadecimal(value, field)
    return (oid, value), at


def _parse_value(text: str, start: int, field: str) -> tuple[str, int]:
    """Parses a value up to an unescaped separator and returns it with the separator's offset."""
    value = bytearray()
    kept = 0
    at = start
    while at < len(text) and text[at] not in {",", "+"}:
        character = text[at]
        if character == "\\":
            unescaped, at = _parse_escape(text, at + 1, field)
            value += unescaped
            kept = len(value)
            continue
        if character in _SPECIAL:
            raise field_invalid(field, f"has {character} without a backslash before it")
        if character != " " or value:
            # Characters that no encoding has become bytes that no text has, and are refused below.
            value += character.encode(errors="surrogatepass")
        if character != " ":
            kept = len(value)
        at += 1
    try:
        return value[:kept].decode(), at
    except UnicodeDecodeError as error:
        raise field_invalid(field, "has a value that is not UTF-8") from error


def _parse_escape(text: str, at: int, field: str) -> tuple[bytes, int]:
    pair = text[at : at + 2]
    if _HEX_PAIR.fullmatch(pair):
        return bytes.fromhex(pair), at + 2
    if pair[:1] in _ESCAPABLE and pair:
        return pair[:1].encode(), at + 1
    raise field_invalid(field, "has a backslash before neither a special character nor two hexadecimal digits")


def _decode_hexadecimal(value: str, field: str) -> str:
    try:
        reader = der.Reader(bytes.fromhex(value[1:]))
        tag, content = reader.read_any()
        reader.finish()
        return content.decode(_ENCODINGS[tag])
    except (ValueError, KeyError) as error:
        raise field_invalid(field, "has # before what is not the hexadecimal DER of a string") from error
