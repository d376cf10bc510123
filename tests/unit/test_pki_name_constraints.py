"""What is a constraint, its extension, and what a certificate says of it."""

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki import der, name_constraints
from certd.pki import distinguished_name as dn
from certd.pki.name_constraints import NameConstraints, Subtrees, decode, encode, normalise

EXAMPLE = dn.parse_text("O=Example,C=DE")


def permitted(**subtrees: tuple[str, ...]) -> NameConstraints:
    return NameConstraints(permitted=Subtrees(**subtrees))  # type: ignore[arg-type]  # Strings alone are drawn here.


def test_every_kind_has_a_normal_form() -> None:
    given_subtrees = Subtrees(
        dns_names=("Example.COM", "", "example.com", "xn--MNCHEN-3YA.example", "com"),
        ip_ranges=("192.0.2.0/24", "192.0.2.7", "2001:DB8:0::/32", "0.0.0.0/0", "::/0"),
        uri_hosts=("WWW.example.com", ".Example.com", "localhost"),
        email_addresses=("Ops@Example.com", "Example.com", ".EXAMPLE.com"),
        directory_names=(EXAMPLE, dn.EMPTY, EXAMPLE),
    )
    normal = Subtrees(
        dns_names=("example.com", "", "xn--mnchen-3ya.example", "com"),
        ip_ranges=("192.0.2.0/24", "192.0.2.7/32", "2001:db8::/32", "0.0.0.0/0", "::/0"),
        uri_hosts=("www.example.com", ".example.com", "localhost"),
        email_addresses=("Ops@example.com", "example.com", ".example.com"),
        directory_names=(EXAMPLE, dn.EMPTY),
    )
    both = normalise(NameConstraints(permitted=given_subtrees, excluded=given_subtrees), field="f")
    assert both == NameConstraints(permitted=normal, excluded=normal)
    assert normalise(both, field="f") == both
    assert decode(encode(both)) == both


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        ("dns_names", ".example.com", "begins with a dot"),
        ("dns_names", "*.example.com", "wildcard"),
        ("dns_names", "example.com.", "empty label"),
        ("dns_names", "münchen.example", "A-label"),
        ("dns_names", "xn--a.example", "A-label"),
        ("dns_names", "192.0.2.1", "IP address"),
        ("dns_names", "a\x00b", "other characters"),
        ("ip_ranges", "", "range of addresses such as"),
        ("ip_ranges", "192.0.2.1/24", "without bits past"),
        ("ip_ranges", "192.0.2.0/33", "without bits past"),
        ("ip_ranges", "192.0.2.0/", "range of addresses such as"),
        ("ip_ranges", "192.0.2.0/255.255.255.0", "range of addresses such as"),
        ("ip_ranges", "192.0.2.0/0.0.0.255", "range of addresses such as"),
        ("ip_ranges", "192.0.2.0/²4", "range of addresses such as"),
        ("ip_ranges", "fe80::%1/64", "range of addresses such as"),
        ("ip_ranges", "example.com", "range of addresses such as"),
        ("uri_hosts", "", "1 to 253"),
        ("uri_hosts", ".", "1 to 253"),
        ("uri_hosts", "https://example.com", "other characters"),
        ("uri_hosts", "*.example.com", "wildcard"),
        ("uri_hosts", "192.0.2.1", "IP address"),
        ("uri_hosts", "..example.com", "empty label"),
        ("email_addresses", "", "1 to 253"),
        ("email_addresses", "@example.com", "mailbox"),
        ("email_addresses", "ops@", "1 to 253"),
        ("email_addresses", "ops@.example.com", "empty label"),
        ("email_addresses", "*@example.com.", "empty label"),
        ("email_addresses", "a@b@c", "mailbox"),
    ],
)
def test_what_is_no_subtree(kind: str, value: str, problem: str) -> None:
    with pytest.raises(CertdError, match=problem) as caught:
        normalise(NameConstraints(excluded=Subtrees(**{kind: (value,)})), field="a.name_constraints")  # type: ignore[arg-type]  # As above.
    assert caught.value.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in caught.value.violations] == [f"a.name_constraints.excluded.{kind}[0]"]


def test_every_violation_is_told() -> None:
    wrong = NameConstraints(
        permitted=Subtrees(dns_names=("ok.example", "a_b"), directory_names=(EXAMPLE, b"\x30", dn.EMPTY[:1])),
        excluded=Subtrees(email_addresses=("@",), directory_names=(der.sequence(der.set_of([])),)),
    )
    with pytest.raises(CertdError, match="and 4 more") as caught:
        normalise(wrong, field="f")
    assert {violation.field for violation in caught.value.violations} == {
        "f.permitted.dns_names[1]", "f.permitted.directory_names[1]", "f.permitted.directory_names[2]",
        "f.excluded.email_addresses[0]", "f.excluded.directory_names[0]",
    }  # fmt: skip


def test_one_to_a_thousand_subtrees() -> None:
    many = tuple(f"h{number}.example" for number in range(1000))
    assert normalise(permitted(dns_names=many), field="f") == permitted(dns_names=many)
    assert decode(encode(permitted(dns_names=many))) == permitted(dns_names=many)
    for wrong in (NameConstraints(), replace(permitted(dns_names=many), excluded=Subtrees(uri_hosts=("a",)))):
        with pytest.raises(CertdError, match="1 to 1000 subtrees") as caught:
            normalise(wrong, field="f")
        assert caught.value.violations[0].field == "f"


def _subtree(tag: int, base: bytes, *more: bytes) -> bytes:
    return der.sequence(der.encode(tag, base), *more)


def _extension(*subtrees: bytes, side: int = 0) -> bytes:
    return der.sequence(der.encode(der.context(side), b"".join(subtrees)))


def test_a_dns_name_with_a_leading_dot_is_read_though_it_is_not_written() -> None:
    assert decode(_extension(_subtree(0x82, b".Example.com"))) == permitted(dns_names=(".example.com",))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"", "ends too early"),
        (b"\x30\x00", "no subtrees"),
        (_extension(), "no subtrees"),
        (_extension(_subtree(0x82, b"a")) + b"\x00", "after its end"),
        (_extension(_subtree(0x82, b"a"), side=2), "after its end"),
        (_extension(_subtree(0x82, b"a", der.encode(0x80, b"\x00"))), "minimum or a maximum"),
        (_extension(_subtree(0x82, b"a", der.encode(0x81, b"\x01"))), "minimum or a maximum"),
        (_extension(_subtree(0xA0, b"\x06\x01\x2a\xa0\x02\x05\x00")), "kind of names other than"),
        (_extension(_subtree(0xA3, b"")), "kind of names other than"),
        (_extension(_subtree(0xA5, b"")), "kind of names other than"),
        (_extension(_subtree(0x88, b"\x2a")), "kind of names other than"),
        (_extension(_subtree(0x82, b"a.")), "empty label"),
        (_extension(_subtree(0x82, b"*.a.b")), "wildcard"),
        (_extension(_subtree(0x82, b"\xc3\xa4")), "ascii"),
        (_extension(_subtree(0x86, b"https://a.example")), "other characters"),
        (_extension(_subtree(0x86, b"")), "1 to 253"),
        (_extension(_subtree(0x81, b"@a.example")), "mailbox"),
        (_extension(_subtree(0x87, b"\xc0\x00\x02\x00")), "neither of IPv4 nor of IPv6"),
        (_extension(_subtree(0x87, b"\xc0\x00\x02\x00\xff\xff\x00\xff")), "gaps"),
        (_extension(_subtree(0x87, b"\xc0\x00\x02\x01\xff\xff\xff\x00")), "bits past its length"),
        (_extension(_subtree(0xA4, b"")), "not the DER of a distinguished name"),
        (_extension(_subtree(0xA4, b"\x30\x02\x31\x00")), "not the DER of a distinguished name"),
        (_extension(b"\x30\x00"), "ends too early"),
    ],
)
def test_what_cannot_be_applied_is_refused(value: bytes, problem: str) -> None:
    with pytest.raises(CertdError, match=problem) as caught:
        decode(value)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "name_constraints"


def _certificate(*extensions: bytes) -> bytes:
    explicit = [der.encode(der.context(3), der.sequence(*extensions))] if extensions else []
    return der.sequence(der.sequence(der.integer(1), der.sequence(), *explicit), der.sequence(), der.bit_string(b""))


def test_constraints_of_a_certificate() -> None:
    value = encode(permitted(dns_names=("example.com",)))
    identifier = der.object_identifier(name_constraints.OBJECT_IDENTIFIER)
    other = der.sequence(der.object_identifier("2.5.29.19"), der.octet_string(b"\x30\x00"))
    for critical in (b"", b"\x01\x01\xff", b"\x01\x01\x00"):
        constrained = _certificate(other, der.sequence(identifier, critical, der.octet_string(value)))
        assert name_constraints.of_certificate(constrained) == permitted(dns_names=("example.com",))
    assert name_constraints.of_certificate(_certificate(other)) is None
    assert name_constraints.of_certificate(_certificate()) is None
    with pytest.raises(CertdError, match="no subtrees"):
        name_constraints.of_certificate(_certificate(der.sequence(identifier, der.octet_string(b"\x30\x00"))))
    with pytest.raises(CertdError, match="not the DER of a certificate"):
        name_constraints.of_certificate(b"\x30\x00")


_LABEL = st.from_regex(r"[A-Za-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda label: not label.lower().startswith("xn--")
)
_HOST = st.lists(_LABEL, min_size=1, max_size=4).map(lambda labels: ".".join([*labels, "example"]))
_DOTTED_HOST = st.one_of(_HOST, _HOST.map(".{}".format))
_NETWORK = st.builds(
    lambda address, length: ipaddress.ip_network((address, min(length, address.max_prefixlen)), strict=False),
    st.ip_addresses().filter(lambda address: address.version == 4 or address.ipv4_mapped is None),
    st.integers(0, 128),
)
_SUBTREES = st.builds(
    Subtrees,
    dns_names=st.lists(st.one_of(_HOST, st.just("")), max_size=4).map(tuple),
    ip_ranges=st.lists(_NETWORK.map(str), max_size=4).map(tuple),
    uri_hosts=st.lists(_DOTTED_HOST, max_size=4).map(tuple),
    email_addresses=st.lists(st.one_of(_DOTTED_HOST, _HOST.map("a.b@{}".format)), max_size=4).map(tuple),
    directory_names=st.lists(st.sampled_from(["", "O=a", "CN=b,O=a", "O=Ä"]).map(dn.parse_text), max_size=4).map(tuple),
)


@given(_SUBTREES, _SUBTREES)
def test_normal_form_round_trips(one: Subtrees, other: Subtrees) -> None:
    constraints = NameConstraints(permitted=one, excluded=other)
    if not one and not other:
        return
    normal = normalise(constraints, field="f")
    assert normalise(normal, field="f") == normal
    assert decode(encode(normal)) == normal


@given(st.text(max_size=40), st.sampled_from(["dns_names", "ip_ranges", "uri_hosts", "email_addresses"]))
def test_text_is_normal_or_refused(text: str, kind: str) -> None:
    reason = Reason.FIELD_INVALID
    try:
        once = normalise(permitted(**{kind: (text,)}), field="f")
    except CertdError as error:
        reason = error.reason
    else:
        assert normalise(once, field="f") == once == decode(encode(once))
    assert reason is Reason.FIELD_INVALID


@given(st.one_of(st.binary(max_size=60), st.binary(max_size=30).map(lambda data: _extension(_subtree(0x82, data)))))
def test_bytes_decode_or_are_refused(data: bytes) -> None:
    reason = Reason.FIELD_INVALID
    for read in (decode, name_constraints.of_certificate):
        try:
            read(data)
        except CertdError as error:
            reason = error.reason
        assert reason is Reason.FIELD_INVALID
