import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki import der
from certd.pki import distinguished_name as dn

CN, O, OU, C, DC = "2.5.4.3", "2.5.4.10", "2.5.4.11", "2.5.4.6", "0.9.2342.19200300.100.1.25"  # noqa: E741  # Its name.
EMAIL = "1.2.840.113549.1.9.1"


def test_text_begins_with_the_last_of_the_encoding() -> None:
    name = dn.parse_text("CN=Example Root,O=Example")
    assert dn.decode(name) == (((O, "Example"),), ((CN, "Example Root"),))
    assert dn.to_text(name) == "CN=Example Root,O=Example" == x509.Name.from_bytes(name).rfc4514_string()
    assert [a.value for a in x509.Name.from_bytes(name)] == ["Example", "Example Root"]


def test_a_name_has_at_most_four_kibibytes() -> None:
    parts = tuple((("1.2.3.4", f"{number:03}" + "x" * 253),) for number in range(16))
    with pytest.raises(CertdError, match="4096 bytes"):
        dn.encode(parts)
    assert dn.violations(dn.encode(parts[:14]), "subject") == ()
    doubled = dn.encode(parts[:14])[4:] * 2
    assert dn.violations(der.sequence(doubled), "subject")[0].description == "has more than 4096 bytes"


def test_strings_have_the_types_of_rfc_5280() -> None:
    name = dn.encode((((C, "DE"),), ((O, "Example"),), ((DC, "example"),), ((EMAIL, "a@example.com"),)))
    tags = [attribute._type.value for attribute in x509.Name.from_bytes(name)]
    assert tags == [der.PRINTABLE_STRING, der.UTF8_STRING, der.IA5_STRING, der.IA5_STRING]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", ()),
        ("  ", ()),
        ("CN=a", (((CN, "a"),),)),
        ("cn = a , o = b c ", (((O, "b c"),), ((CN, "a"),))),
        ("CN=a+OU=b,O=c", (((O, "c"),), ((CN, "a"), (OU, "b")))),
        (r"O=Sue\, Grabbit and Runn", (((O, "Sue, Grabbit and Runn"),),)),
        (r"CN=a\+b\=c\;d\<e\>\"\\", (((CN, 'a+b=c;d<e>"\\'),),)),
        (r"CN=\ a\ ", (((CN, " a "),),)),
        (r"CN=\#a", (((CN, "#a"),),)),
        (r"CN=Lu\C4\8Di\C4\87", (((CN, "Lučić"),),)),
        ("CN=Lučić", (((CN, "Lučić"),),)),
        ("2.5.4.3=a", (((CN, "a"),),)),
        ("1.2.3.4=#0c0161", ((("1.2.3.4", "a"),),)),
        ("1.2.3.4=b", ((("1.2.3.4", "b"),),)),
        ("CN=a=b", (((CN, "a=b"),),)),
    ],
)
def test_parse(text: str, name: dn.DistinguishedName) -> None:
    assert dn.decode(dn.parse_text(text)) == name


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Example Root", "'='"),
        ("CN=a,", "'='"),
        ("CN=a,,O=b", "'='|attribute type"),
        (",CN=a", "attribute type"),
        ("XX=a", "attribute type"),
        ("3.1=a", "attribute type"),
        ("1.40=a", "attribute type"),
        ("01.2=a", "attribute type"),
        ("CN=", "1 to 64"),
        ("CN=   ", "1 to 64"),
        ("CN=" + "a" * 65, "1 to 64"),
        ("O=" + "a" * 65, "1 to 64"),
        ("L=" + "a" * 129, "1 to 128"),
        ("UID=" + "a" * 257, "1 to 256"),
        ("C=DEU", "two letters"),
        ("C=Dé", "two letters"),
        ("SERIALNUMBER=a_b", "PrintableString"),
        ("DC=exämple", "ASCII"),
        (r"CN=a\00b", "control characters"),
        ("CN=a\nb", "control characters"),
        ("CN=\ud800", "UTF-8"),
        ("CN=a\\", "backslash"),
        (r"CN=\g", "backslash"),
        (r"CN=\C4", "UTF-8"),
        ("CN=a;O=b", "without a backslash"),
        ('CN="a"', "without a backslash"),
        ("CN=#zz", "hexadecimal"),
        ("CN=#0c", "hexadecimal"),
        ("CN=#020101", "hexadecimal"),
        ("CN=#0c0161ff", "hexadecimal"),
        ("CN=a+CN=a", "twice"),
        ("1.2.840.113549.1.9.7=secret", "no attribute of names"),
        (",".join(["OU=a"] * 33), "32"),
        ("+".join(f"OU={x}" for x in range(9)), "8 attributes"),
    ],
)
def test_what_is_no_name(text: str, problem: str) -> None:
    with pytest.raises(CertdError, match=problem) as caught:
        dn.parse_text(text, field="authority.subject")
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "authority.subject"


def test_types() -> None:
    assert dn.short_name(CN) == "CN"
    assert dn.short_name("1.2.3") == "1.2.3"
    assert dn.oid_of("serialNumber") == "2.5.4.5"
    assert dn.oid_of("1.2.3") == "1.2.3"
    with pytest.raises(CertdError, match="attribute type"):
        dn.oid_of("EMAILISH")


def test_empty_name() -> None:
    assert dn.encode(()) == dn.EMPTY == b"\x30\x00"
    assert dn.to_text(dn.EMPTY) == ""


def test_relative_name_without_attributes_is_refused() -> None:
    with pytest.raises(CertdError, match="without"):
        dn.encode(((),))


def _raw(*attributes: bytes) -> bytes:
    return der.sequence(*(der.set_of([der.sequence(der.object_identifier(CN), attribute)]) for attribute in attributes))


def test_odd_strings_are_read_and_their_bytes_kept() -> None:
    name = _raw(
        der.encode(der.TELETEX_STRING, b"caf\xe9"),
        der.encode(der.BMP_STRING, "é".encode("utf-16-be")),
        der.encode(der.UNIVERSAL_STRING, "u".encode("utf-32-be")),
        der.encode(der.PRINTABLE_STRING, b"*.example"),
        der.encode(der.VISIBLE_STRING, b"v"),
        der.encode(der.NUMERIC_STRING, b"1"),
        der.bit_string(b"\x01"),
    )
    assert dn.common_names(name) == ("café", "é", "u", "*.example", "v", "1", "#03020001")
    kept = dn.without_common_names(name, ["u", "1"])
    assert dn.common_names(kept) == ("café", "é", "*.example", "v", "#03020001")
    assert dn.without_common_names(name, []) == name
    assert der.encode(der.BMP_STRING, "é".encode("utf-16-be")) in kept


def test_dropping_from_a_multi_valued_relative_name_keeps_the_rest() -> None:
    name = dn.parse_text("CN=a+OU=b,CN=c,O=d")
    assert dn.to_text(dn.without_common_names(name, ["a", "c"])) == "OU=b,O=d"
    assert dn.without_common_names(dn.parse_text("CN=a"), ["a"]) == dn.EMPTY


@pytest.mark.parametrize(
    "name",
    [
        b"", b"\x30", b"\x31\x00", b"\x30\x00\x00", b"\x30\x02\x31\x00", b"\x30\x80\x00\x00",
        _raw(der.encode(der.UTF8_STRING, b"\xff")), _raw(b"\x0c\x05a"), b"\x30\x04\x31\x02\x30\x00",
    ],
)  # fmt: skip
def test_what_is_no_encoding(name: bytes) -> None:
    with pytest.raises(CertdError, match="not the DER") as caught:
        dn.decode(name, field="f")
    assert caught.value.violations[0].field == "f"


def test_violations_of_foreign_names() -> None:
    name = _raw(der.encode(der.UTF8_STRING, b"a" * 65), der.encode(der.UTF8_STRING, b"a\x00"), der.encode(0x0C, b"ok"))
    found = dn.violations(name, "subject")
    assert [violation.field for violation in found] == ["subject", "subject"]
    assert "1 to 64" in found[0].description
    assert "control" in found[1].description
    assert dn.violations(dn.parse_text("CN=a"), "subject") == ()


def _attribute(oid: str, tag: int, content: bytes) -> bytes:
    return der.sequence(der.object_identifier(oid), der.encode(tag, content))


@pytest.mark.parametrize(
    ("oid", "tag", "content", "problem"),
    [
        (CN, der.TELETEX_STRING, b"caf\xe9", None),
        (CN, der.BMP_STRING, "é".encode("utf-16-be"), None),
        (CN, der.UNIVERSAL_STRING, "é".encode("utf-32-be"), None),
        (CN, der.PRINTABLE_STRING, b"a b", None),
        (CN, der.PRINTABLE_STRING, b"*.example", "outside PrintableString"),
        (CN, der.PRINTABLE_STRING, b"a@example.com", "outside PrintableString"),
        (CN, der.IA5_STRING, b"a", "UTF8String"),
        (CN, der.NUMERIC_STRING, b"1", "UTF8String"),
        (CN, der.BIT_STRING, b"\x00a", "UTF8String"),
        (CN, der.UTF8_STRING, b"", "1 to 64"),
        (CN, der.BMP_STRING, b"", "1 to 64"),
        (CN, der.BMP_STRING, "a\u202eb".encode("utf-16-be"), "control characters"),
        (CN, der.UNIVERSAL_STRING, "a\u2066b".encode("utf-32-be"), "control characters"),
        (CN, der.UTF8_STRING, "a\u2028b".encode(), "control characters"),
        (CN, der.UTF8_STRING, "a\uffff".encode(), "control characters"),
        (CN, der.TELETEX_STRING, b"a\x00b", "control characters"),
        (EMAIL, der.IA5_STRING, b"a@example.com", None),
        (EMAIL, der.UTF8_STRING, b"a@example.com", "IA5String"),
        (DC, der.IA5_STRING, b"example", None),
        (DC, der.UTF8_STRING, b"example", "IA5String"),
        (DC, der.PRINTABLE_STRING, b"example", "IA5String"),
        (C, der.PRINTABLE_STRING, b"DE", None),
        (C, der.UTF8_STRING, b"DE", "PrintableString"),
        ("2.5.4.5", der.UTF8_STRING, b"1", "PrintableString"),
        ("2.5.4.46", der.IA5_STRING, b"1", "PrintableString"),
        ("2.5.4.46", der.PRINTABLE_STRING, b"1", None),
        ("1.2.3", der.IA5_STRING, b"a", None),
        ("1.2.3", der.BIT_STRING, b"\x00a", None),
        ("2.5.4.45", der.BIT_STRING, b"\x00a", None),
        ("1.2.840.113549.1.9.2", der.IA5_STRING, b"router", None),
        ("1.2.840.113549.1.9.2", der.UTF8_STRING, b"router", None),
        ("1.2.840.113549.1.9.2", der.NUMERIC_STRING, b"1", "IA5String"),
        ("1.2.840.113549.1.9.8", der.UTF8_STRING, b"192.0.2.1", None),
        ("1.2.840.113549.1.9.8", der.IA5_STRING, b"192.0.2.1", "UTF8String"),
        ("1.2.840.113549.1.9.7", der.UTF8_STRING, b"secret", "no attribute of names"),
        ("1.2.840.113549.1.9.14", der.SEQUENCE, b"", "no attribute of names"),
        ("1.2.840.113549.1.9.25.2", der.SEQUENCE, b"", "no attribute of names"),
        ("1.3.6.1.5.5.7.9.3", der.PRINTABLE_STRING, b"F", "no attribute of names"),
        ("2.16.840.1.113730.3.1.216", der.SEQUENCE, b"", "no attribute of names"),
        ("1.2.840.113549.1.91", der.UTF8_STRING, b"a", None),
    ],
)
def test_type_of_a_string(oid: str, tag: int, content: bytes, problem: str | None) -> None:
    name = der.sequence(der.set_of([_attribute(oid, tag, content)]))
    found = dn.violations(name, "subject")
    assert [problem in violation.description for violation in found if problem] == ([True] if problem else [])
    assert bool(found) == bool(problem)


def test_relative_names_of_strangers_have_one_order() -> None:
    first, second = sorted((_attribute(CN, der.UTF8_STRING, b"a"), _attribute(O, der.UTF8_STRING, b"b")))
    assert dn.violations(der.sequence(der.encode(der.SET, first + second)), "s") == ()
    for odd in (second + first, first + first):
        (found,) = dn.violations(der.sequence(der.encode(der.SET, odd)), "s")
        assert "order" in found.description
    nine = der.set_of([_attribute(OU, der.UTF8_STRING, b"%d" % number) for number in range(9)])
    assert "8 attributes" in dn.violations(der.sequence(nine), "s")[0].description
    assert "32" in dn.violations(der.sequence(*[der.encode(der.SET, first)] * 33), "s")[0].description


def test_comparable_ignores_case_spaces_and_types() -> None:
    printable = _raw(der.encode(der.PRINTABLE_STRING, b"Example  Root"))
    assert dn.comparable(printable) == dn.comparable(dn.parse_text("CN=example root"))
    assert dn.comparable(dn.parse_text("CN=a,O=b")) != dn.comparable(dn.parse_text("O=b,CN=a"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("O=Ärger", "O=ärger"), ("O=Straße", "O=STRASSE"),
        ("O=caf\u00e9", "O=cafe\u0301"), ("O=ab", "O=a\u00adb"), ("O=\uff21", "O=a"),
    ],
)  # fmt: skip
def test_comparable_is_wider_outside_ascii_than_every_reader(one: str, other: str) -> None:
    assert dn.comparable(dn.parse_text(one)) == dn.comparable(dn.parse_text(other))
    assert dn.narrowly_comparable(dn.parse_text(one)) != dn.narrowly_comparable(dn.parse_text(other))


def test_narrowly_comparable_ignores_case_of_ascii_spaces_and_types() -> None:
    printable = _raw(der.encode(der.PRINTABLE_STRING, b" Example  Root "))
    assert dn.narrowly_comparable(printable) == dn.narrowly_comparable(dn.parse_text("CN=example root"))
    assert dn.narrowly_comparable(dn.parse_text("CN=a")) != dn.narrowly_comparable(dn.parse_text("O=a"))


def test_values_by_type() -> None:
    name = dn.encode((((EMAIL, "a@example.com"),), ((O, "x"),), ((EMAIL, "b@example.com"),)))
    assert dn.values(name, dn.EMAIL_ADDRESS) == ("a@example.com", "b@example.com")
    assert dn.values(name, CN) == ()


def test_unknown_types_are_shown_as_hexadecimal() -> None:
    assert dn.to_text(dn.parse_text("1.2.3.4=b")) == "1.2.3.4=#0c0162"
    odd = der.sequence(der.set_of([der.sequence(der.object_identifier("1.2.3"), der.integer(5))]))
    assert dn.to_text(odd) == "1.2.3=#020105"


_VALUES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp", "Cn")), min_size=1, max_size=64)
_ATTRIBUTES = st.one_of(
    st.tuples(st.sampled_from([CN, O, OU, "2.5.4.7", "1.2.3.4.5"]), _VALUES),
    st.tuples(st.just(C), st.sampled_from(["DE", "fr"])),
)
_NAMES = st.lists(st.lists(_ATTRIBUTES, min_size=1, max_size=4, unique=True).map(tuple), max_size=6).map(tuple)


@given(_NAMES)
def test_round_trips(name: dn.DistinguishedName) -> None:
    encoded = dn.encode(name)
    decoded = dn.decode(encoded)
    assert [sorted(relative) for relative in decoded] == [sorted(relative) for relative in name]
    assert dn.encode(decoded) == encoded
    assert dn.parse_text(dn.to_text(encoded)) == encoded


# RFC 5280 bounds a CN in characters, and so does certd; the library counts octets, warns, and goes on.
@pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning")
@given(_NAMES)
def test_library_keeps_the_bytes(name: dn.DistinguishedName) -> None:
    encoded = dn.encode(name)
    assert x509.Name.from_bytes(encoded).public_bytes() == encoded


@given(st.text(max_size=60))
def test_text_parses_or_is_refused(text: str) -> None:
    reason = Reason.FIELD_INVALID
    try:
        encoded = dn.parse_text(text)
    except CertdError as error:
        reason = error.reason
    else:
        assert dn.parse_text(dn.to_text(encoded)) == encoded
    assert reason is Reason.FIELD_INVALID


@given(_NAMES)
def test_equal_in_the_narrow_form_is_equal_in_the_wide_one(name: dn.DistinguishedName) -> None:
    upper = tuple(tuple((oid, value.upper() if value.isascii() else value) for oid, value in rdn) for rdn in name)
    encoded, other = dn.encode(name), dn.encode(tuple(tuple(dict.fromkeys(rdn)) for rdn in upper))
    assert dn.narrowly_comparable(encoded) == dn.narrowly_comparable(other)
    assert dn.comparable(encoded) == dn.comparable(other)
    assert dn.violations(encoded, "s") == ()


_STRINGS = st.tuples(
    st.sampled_from([CN, C, DC, EMAIL, "2.5.4.5", "1.2.3"]),
    st.sampled_from(range(1, 31)),
    st.one_of(st.binary(max_size=8), st.text(max_size=8).map(lambda text: text.encode("utf-16-be", "surrogatepass"))),
)


@given(st.lists(st.lists(_STRINGS, max_size=3), max_size=3))
def test_odd_strings_are_judged_or_refused(strings: list[list[tuple[str, int, bytes]]]) -> None:
    name = der.sequence(*(der.encode(der.SET, b"".join(_attribute(*string) for string in rdn)) for rdn in strings))
    reason = Reason.FIELD_INVALID
    try:
        found = dn.violations(name, "subject")
        assert len(dn.comparable(name)) == len(dn.narrowly_comparable(name)) == len(dn.decode(name))
        if not found:
            assert dn.without_common_names(name, ()) == name
            dn.to_text(name).encode()
    except CertdError as error:
        reason = error.reason
    assert reason is Reason.FIELD_INVALID


@given(st.binary(max_size=60))
def test_bytes_decode_or_are_refused(data: bytes) -> None:
    reason = Reason.FIELD_INVALID
    try:
        dn.to_text(data)
    except CertdError as error:
        reason = error.reason
    assert reason is Reason.FIELD_INVALID


def test_openssl_reads_the_name_the_same(tmp_path: Path) -> None:
    name = dn.parse_text(r"CN=Exämple\, Root+OU=x,O=Example,C=DE,DC=internal")
    certificate = tmp_path / "name.der"
    certificate.write_bytes(name)
    run = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER", "-in", certificate], capture_output=True, text=True, check=True
    )
    for word in ("Ex", "PRINTABLESTRING   :DE", "IA5STRING         :internal", "commonName", "organizationalUnitName"):
        assert word in run.stdout


@pytest.mark.parametrize(
    ("value", "is_read"),
    [
        (der.encode(der.UTF8_STRING, b"a"), True),
        (der.encode(der.IA5_STRING, b"a"), True),
        (der.encode(der.NUMERIC_STRING, b"1"), True),
        (der.bit_string(b"a"), True),
        (der.encode(der.VISIBLE_STRING, b"a"), False),
        (der.encode(0x1B, b"a"), False),
        (der.integer(1), False),
        (der.octet_string(b"a"), False),
        (der.encode(der.NULL, b""), False),
    ],
)
def test_a_value_of_a_type_that_openssl_does_not_read_is_refused(value: bytes, *, is_read: bool) -> None:
    name = der.sequence(der.set_of([der.sequence(der.object_identifier("1.3.6.1.4.1.99999.1"), value)]))
    problems = [violation.description for violation in dn.violations(name, "subject")]
    assert (problems == []) is is_read
    assert is_read or "UTF8String" in problems[0]
