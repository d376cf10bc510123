import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki import names
from certd.pki.names import SpiffeId, SubjectAlternativeNames, normalise, parse_spiffe_id


def _dns(*dns_names: str) -> tuple[str, ...]:
    return normalise(SubjectAlternativeNames(dns_names=dns_names), field="names").dns_names


@pytest.mark.parametrize(
    ("given_name", "normal"),
    [
        ("www.example.com", "www.example.com"),
        ("WWW.Example.COM", "www.example.com"),
        ("localhost", "localhost"),
        ("*.example.com", "*.example.com"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("XN--MNCHEN-3YA.example", "xn--mnchen-3ya.example"),
        ("r3---sn-a.example", "r3---sn-a.example"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        (".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61]), ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])),
    ],
)
def test_dns_name_has_a_normal_form(given_name: str, normal: str) -> None:
    assert _dns(given_name) == (normal,)
    assert names.normalise_dns_name(given_name) == normal


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "1 to 253"),
        ("a" * 64, "63 octets"),
        (".".join(["a" * 63] * 4), "1 to 253"),
        ("example.com.", "empty label"),
        (".example.com", "empty label"),
        ("a..b", "empty label"),
        ("-a.example", "other characters"),
        ("a-.example", "other characters"),
        ("a_b.example", "other characters"),
        ("a b.example", "other characters"),
        ("a\x00.example", "other characters"),
        ("example.com\n", "other characters"),
        ("*", "fewer than two labels"),
        ("*.com", "fewer than two labels"),
        ("*.*.example.com", "wildcard"),
        ("w*.example.com", "wildcard"),
        ("www.*.example.com", "wildcard"),
        ("192.0.2.1", "IP address"),
        ("münchen.example", "A-label"),
        ("xn--zzzzzzzzz.example", "A-label"),
        ("xn--a.example", "A-label"),
        ("xn--.example", "other characters"),
    ],
)
def test_what_is_no_dns_name(name: str, problem: str) -> None:
    with pytest.raises(CertdError, match=problem) as caught:
        _dns("ok.example", name)
    assert caught.value.reason is Reason.NAME_NOT_ALLOWED
    assert [violation.field for violation in caught.value.violations] == ["names.dns_names[1]"]
    assert names.normalise_dns_name(name) is None


@pytest.mark.parametrize(
    ("given_address", "normal"),
    [("192.0.2.1", "192.0.2.1"), ("2001:DB8:0:0::1", "2001:db8::1"), ("::1", "::1")],
)
def test_ip_address_has_a_normal_form(given_address: str, normal: str) -> None:
    assert normalise(SubjectAlternativeNames(ip_addresses=(given_address,)), field="n").ip_addresses == (normal,)


@pytest.mark.parametrize("address", ["192.0.2.256", "192.0.2.01", "192.0.2.0/24", "fe80::1%eth0", "", "localhost"])
def test_what_is_no_ip_address(address: str) -> None:
    with pytest.raises(CertdError) as caught:
        normalise(SubjectAlternativeNames(ip_addresses=(address,)), field="n")
    assert caught.value.violations[0].field == "n.ip_addresses[0]"
    assert names.normalise_ip_address(address) is None


@pytest.mark.parametrize(
    ("uri", "normal"),
    [
        ("HTTPS://WWW.Example.com/Path?q=A#f", "https://www.example.com/Path?q=A#f"),
        ("https://user@Example.com:8443", "https://user@example.com:8443"),
        ("https://[2001:DB8::1]:1/", "https://[2001:db8::1]:1/"),
        ("http://192.0.2.1/", "http://192.0.2.1/"),
        ("urn:uuid:12345678-1234-1234-1234-123456789abc", "urn:uuid:12345678-1234-1234-1234-123456789abc"),
        ("SPIFFE://td.example/A", "spiffe://td.example/A"),
        ("tag:a%20b", "tag:a%20b"),
        ("https://%c3%a4:p@a.example/%c3%a4?%7e", "https://%C3%A4:p@a.example/%C3%A4?%7E"),
        ("https://a.example:65535/a:b@c", "https://a.example:65535/a:b@c"),
        ("https://XN--MNCHEN-3YA.example", "https://xn--mnchen-3ya.example"),
    ],
)
def test_uri_has_a_normal_form(uri: str, normal: str) -> None:
    assert normalise(SubjectAlternativeNames(uris=(uri,)), field="n").uris == (normal,)


@pytest.mark.parametrize(
    "uri",
    [
        "", "/path", "//host/path", "www.example.com", "http:", "http://", "http://host name/", "http://a/%zz", "http://a/é",
        "http://-a/", "http://[::g]/", "http://a:b/", "http://*.a.b/", "1http://a/", "spiffe://TD/a", "spiffe://td/", "spiffe://td:1/a",
        "http://a/" + "b" * 2048, "http://a/\n", "http://a/\x00", "http://a:65536/", "http://a@b@c/", "http://[a]@b/",
        "http://[192.0.2.1]/", "http://[fe80::1%25eth0]/", "http://a/[b]", "http://a/#b#c", "urn:a[b]", "http://@/", "http://a./",
        "http://xn--a.example/", "http://1.2.3/", "https:/+www.example.internal/a", "http:a", "HTTPS:/a", "ftp:/a",
    ],
)  # fmt: skip
def test_what_is_no_uri(uri: str) -> None:
    with pytest.raises(CertdError) as caught:
        normalise(SubjectAlternativeNames(uris=(uri,)), field="n")
    assert caught.value.violations[0].field == "n.uris[0]"


@pytest.mark.parametrize(
    ("address", "normal"),
    [("Ops@Example.COM", "Ops@example.com"), ("a.b+c@localhost", "a.b+c@localhost")],
)
def test_email_address_has_a_normal_form(address: str, normal: str) -> None:
    assert normalise(SubjectAlternativeNames(email_addresses=(address,)), field="n").email_addresses == (normal,)


@pytest.mark.parametrize(
    "address",
    [
        "", "a", "@example.com", "a@", "a b@example.com", ".a@example.com", "a..b@example.com", '"a"@example.com',
        "a@b@example.com", "ö@example.com", "a@exämple.com", "a" * 65 + "@example.com", "a@*.example.com",
        "a@[192.0.2.1]", "abcd@" + ".".join(["b" * 62] * 4),
    ],
)  # fmt: skip
def test_what_is_no_email_address(address: str) -> None:
    with pytest.raises(CertdError) as caught:
        normalise(SubjectAlternativeNames(email_addresses=(address,)), field="n")
    assert caught.value.violations[0].field == "n.email_addresses[0]"


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("https://user:word@a.example:1/b@c", "a.example"),
        ("https://a.example?b@c", "a.example"),
        ("https://a.example#b@c", "a.example"),
        ("https://a.example", "a.example"),
        ("https://[2001:db8::1]:1/", "[2001:db8::1]"),
        ("spiffe://td_1/a", "td_1"),
        ("urn:a", None),
        ("mailto:a@b.example", None),
    ],
)
def test_host_of_a_uri(uri: str, host: str | None) -> None:
    assert normalise(SubjectAlternativeNames(uris=(uri,)), field="n").uris == (uri,)
    assert names.host_of_uri(uri) == host


def test_every_violation_is_told_and_none_unquoted() -> None:
    wrong = SubjectAlternativeNames(dns_names=("a_b", "ok"), ip_addresses=("x",), uris=("\x1b[31m",))
    with pytest.raises(CertdError) as caught:
        normalise(wrong, field="csr.names")
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["csr.names.dns_names[0]", "csr.names.ip_addresses[0]", "csr.names.uris[0]"]
    assert "and 2 more" in caught.value.message
    assert all("\x1b" not in violation.description for violation in caught.value.violations)


def test_long_name_is_shortened_in_the_message() -> None:
    with pytest.raises(CertdError) as caught:
        _dns("_" * 30_000)
    assert len(caught.value.message) < 200


def test_names_are_kept_once_and_in_order() -> None:
    assert _dns("b.example", "a.example", "B.example") == ("b.example", "a.example")


def test_hundred_names_and_no_more() -> None:
    hundred = tuple(f"h{index}.example" for index in range(100))
    assert _dns(*hundred) == hundred
    with pytest.raises(CertdError, match="at most 100") as caught:
        normalise(SubjectAlternativeNames(dns_names=hundred, ip_addresses=("192.0.2.1",)), field="n")
    assert caught.value.reason is Reason.NAME_NOT_ALLOWED
    assert caught.value.violations[0].field == "n"


def test_emptiness() -> None:
    assert not SubjectAlternativeNames()
    assert (
        len(SubjectAlternativeNames(dns_names=("a",), uris=("b:c",), ip_addresses=("d",), email_addresses=("e",))) == 4
    )


def test_spiffe_id() -> None:
    parsed = parse_spiffe_id("spiffe://certd.internal/identities/Admin_1")
    assert parsed == SpiffeId("certd.internal", "/identities/Admin_1")
    assert str(parsed) == "spiffe://certd.internal/identities/Admin_1"
    assert parse_spiffe_id("spiffe://td") == SpiffeId("td", "")
    assert names.is_spiffe_id("spiffe://td")
    assert not names.is_spiffe_id("https://td")


@pytest.mark.parametrize(
    "text",
    [
        "", "spiffe:td", "SPIFFE://td/a", "http://td/a", "spiffe://", "spiffe:///a", "spiffe://TD/a", "spiffe://td/",
        "spiffe://td/a/", "spiffe://td//a", "spiffe://td/./a", "spiffe://td/../a", "spiffe://td/a%20b", "spiffe://td/a?b",
        "spiffe://td/a#b", "spiffe://u@td/a", "spiffe://td:8/a", "spiffe://td/é", "spiffe://" + "t" * 256, "spiffe://td/a\n",
        "spiffe://td/" + "a" * 2048,
    ],
)  # fmt: skip
def test_what_is_no_spiffe_id(text: str) -> None:
    with pytest.raises(CertdError) as caught:
        parse_spiffe_id(text)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "spiffe_id"


_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(lambda x: not x.startswith("xn--"))


@given(st.lists(_LABEL, min_size=1, max_size=5), st.booleans())
def test_normal_form_is_stable(labels: list[str], wildcard: bool) -> None:  # noqa: FBT001  # Drawn by hypothesis.
    name = ".".join([*labels, "example"])
    name = f"*.{name}" if wildcard else name
    assert _dns(name.upper()) == (name,)
    assert _dns(*_dns(name)) == (name,)


@given(st.text(max_size=80))
def test_text_is_normal_or_refused_and_never_anything_else(text: str) -> None:
    for kind in ("dns_names", "ip_addresses", "uris", "email_addresses"):
        reason = Reason.NAME_NOT_ALLOWED
        try:
            once = normalise(SubjectAlternativeNames(**{kind: (text,)}), field="n")
        except CertdError as error:
            reason = error.reason
        else:
            assert normalise(once, field="n") == once
        assert reason is Reason.NAME_NOT_ALLOWED


_DOMAIN = st.lists(_LABEL, min_size=1, max_size=4).map(lambda labels: ".".join([*labels, "example"]))
_ALTERNATIVE_NAMES = st.builds(
    SubjectAlternativeNames,
    dns_names=st.lists(st.one_of(_DOMAIN, _DOMAIN.map("*.{}".format)), min_size=1, max_size=5).map(tuple),
    ip_addresses=st.lists(
        st.ip_addresses()
        # IPv4 written as IPv6 is no name.
        .filter(lambda address: address.version == 4 or address.ipv4_mapped is None)
        .map(lambda address: address.exploded),
        max_size=5,
    ).map(tuple),
    uris=st.lists(st.builds("https://{}/%c3%A4{}".format, _DOMAIN, _LABEL), max_size=5).map(tuple),
    email_addresses=st.lists(st.builds("{}@{}".format, _LABEL, _DOMAIN), max_size=5).map(tuple),
)


@given(_ALTERNATIVE_NAMES)
def test_normal_form_survives_a_certificate(alternative: SubjectAlternativeNames) -> None:
    normal = normalise(alternative, field="n")
    extension = x509.SubjectAlternativeName(
        [
            *map(x509.DNSName, normal.dns_names),
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in normal.ip_addresses),
            *map(x509.UniformResourceIdentifier, normal.uris),
            *map(x509.RFC822Name, normal.email_addresses),
        ]
    )
    name = x509.Name([])
    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=1))
    signed = builder.add_extension(extension, critical=True).sign(key, hashes.SHA256())
    read = x509.load_der_x509_certificate(signed.public_bytes(Encoding.DER)).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    again = SubjectAlternativeNames(
        dns_names=tuple(read.value.get_values_for_type(x509.DNSName)),
        ip_addresses=tuple(map(str, read.value.get_values_for_type(x509.IPAddress))),
        uris=tuple(read.value.get_values_for_type(x509.UniformResourceIdentifier)),
        email_addresses=tuple(read.value.get_values_for_type(x509.RFC822Name)),
    )
    assert again == normal == normalise(again, field="n")


@given(st.ip_addresses())
def test_every_address_is_a_name(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    is_other_form = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    assert names.normalise_ip_address(address.exploded) == (None if is_other_form else str(address))


@pytest.mark.parametrize("text", ["::ffff:10.0.0.1", "::FFFF:a00:1", "0:0:0:0:0:ffff:a00:1"])
def test_an_address_has_one_form(text: str) -> None:
    """Otherwise it would pass by the ranges of IPv4 that are excluded."""
    with pytest.raises(CertdError) as refused:
        normalise(SubjectAlternativeNames(ip_addresses=(text,), uris=(f"https://[{text}]/",)), field="n")
    fields = [violation.field for violation in refused.value.violations]
    assert fields == ["n.ip_addresses[0]", "n.uris[0]"]
    assert "10.0.0.1" in refused.value.violations[0].description
