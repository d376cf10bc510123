"""Names held against the rules of a profile, and against a second opinion that shares no code with them."""

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.pki import distinguished_name as dn
from certd.pki import names
from certd.pki.profile_rules import (
    dns_name_problem,
    email_address_problem,
    ip_address_problem,
    is_in_subtrees,
    normalise_prefix,
    uri_problem,
)
from certd.pki.profiles import DnsNameRules, EmailAddressRules, IpAddressRules, UriRules

_BELOW = DnsNameRules(names=("www.example.org",), suffixes=("example.internal",))
_WILD = DnsNameRules(names=("www.example.org",), suffixes=("example.internal", "internal"), allow_wildcards=True)


@pytest.mark.parametrize(
    ("name", "rules", "allowed"),
    [
        ("www.example.org", _BELOW, True),
        ("example.org", _BELOW, False),
        ("a.www.example.org", _BELOW, False),
        ("a.example.internal", _BELOW, True),
        ("a.b.c.example.internal", _BELOW, True),
        ("example.internal", _BELOW, False),
        ("badexample.internal", _BELOW, False),
        ("a.example.internal.evil.example", _BELOW, False),
        ("*.example.internal", _BELOW, False),
        ("*.example.internal", _WILD, True),
        ("*.a.example.internal", _WILD, True),
        ("*.www.example.org", _WILD, True),
        ("*.example.org", _WILD, False),
        ("*.b.internal", _WILD, True),
        ("*.example.internal", DnsNameRules(allow_any=True), False),
        ("*.example.internal", DnsNameRules(allow_any=True, allow_wildcards=True), True),
        ("*.b.internal", DnsNameRules(allow_any=True, allow_wildcards=True, fewest_wildcard_labels=3), False),
        ("*.a.b.internal", DnsNameRules(allow_any=True, allow_wildcards=True, fewest_wildcard_labels=3), True),
        ("*.b.internal", DnsNameRules(names=("*.b.internal",)), True),
        ("a.b.internal", DnsNameRules(names=("*.b.internal",)), False),
        ("www.example.org", DnsNameRules(names=("WWW.Example.ORG",)), True),
        ("a.example.internal", DnsNameRules(suffixes=("EXAMPLE.internal",)), True),
        ("anything", DnsNameRules(), False),
    ],
)
def test_dns_names(name: str, rules: DnsNameRules, allowed: bool) -> None:  # noqa: FBT001  # A column of the table.
    assert (dns_name_problem(name, rules) is None) is allowed


@pytest.mark.parametrize(
    ("address", "ranges", "allowed"),
    [
        ("192.0.2.1", ("192.0.2.0/24",), True),
        ("192.0.3.1", ("192.0.2.0/24",), False),
        ("192.0.2.1", ("192.0.2.1/32",), True),
        ("192.0.2.1", ("0.0.0.0/0",), True),
        ("::ffff:192.0.2.1", ("192.0.2.0/24", "0.0.0.0/0"), False),
        ("2001:db8::1", ("192.0.2.0/24", "2001:db8::/32"), True),
        ("2001:db9::1", ("2001:db8::/32",), False),
        ("2001:db9::1", ("::/0",), True),
        ("192.0.2.1", ("192.0.2.1/24", "nonsense", "192.0.2.1"), False),
    ],
)
def test_ip_addresses(address: str, ranges: tuple[str, ...], allowed: bool) -> None:  # noqa: FBT001  # As above.
    assert (ip_address_problem(address, IpAddressRules(ranges=ranges)) is None) is allowed


@pytest.mark.parametrize(
    ("uri", "prefix", "allowed"),
    [
        ("https://a.example/x/y", "https://a.example/x/", True),
        ("https://a.example/x/y", "HTTPS://A.Example/x/", True),
        ("https://a.example/X/y", "https://a.example/x/", False),
        ("https://a.example:8443/x", "https://a.example/", False),
        ("https://a.example:8443/x", "https://a.example:8443/", True),
        ("https://a.example@evil.example/", "https://a.example/", False),
        ("https://user@a.example/", "https://a.example/", False),
        ("https://a.example.evil.example/", "https://a.example/", False),
        ("http://a.example/", "https://a.example/", False),
        ("https://a.example/x/../y", "https://a.example/x/", False),
        ("https://a.example/x/%2E%2e/y", "https://a.example/x/", False),
        ("https://a.example/x/.%2e", "https://a.example/x/", False),
        ("https://a.example/x/..a/y", "https://a.example/x/", True),
        ("spiffe://td/workloads/a", "spiffe://td/workloads/", True),
        ("spiffe://td/workloads", "spiffe://td/workloads/", False),
        ("spiffe://td/workloads2", "spiffe://td/workloads", True),
        ("spiffe://td", "spiffe://td/", False),
        ("spiffe://td.evil/a", "spiffe://td/", False),
        ("spiffe://tde/a", "spiffe://td", False),
        ("spiffe://td/a", "spiffe://", True),
        ("https://[2001:db8::1]/a", "https://[2001:DB8:0::1]/", True),
    ],
)
def test_uris(uri: str, prefix: str, allowed: bool) -> None:  # noqa: FBT001  # As above.
    assert (uri_problem(uri, UriRules(prefixes=(prefix,))) is None) is allowed


def test_any_uri_is_none_of_spiffe() -> None:
    rules = UriRules(allow_any=True)
    assert uri_problem("https://a.example/", rules) is None
    assert uri_problem("urn:example:a", rules) is None
    assert "SPIFFE" in str(uri_problem("spiffe://td/a", rules))
    assert uri_problem("spiffe://td/a", UriRules(allow_any=True, prefixes=("spiffe://td/",))) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "https", "https://", "https:///", "https://a.example", "spiffe://td", "https://user@a.example/",
        "//a.example/", "https://a.example?/", "https://a.example#/", "https://a b/", "https://*.example.org/", "https://a.example/%2",
        "https://a.example/../", "https://a.example/a/%2e%2E/", "https://a.example/é", "https://a.example/a\n",
        "urn:a:b/",
        "spiffe://TD/", "spiffe://td//", "spiffe://td:80/", "spiffe://td/a/../b", "spiffe://td/a?x", "spiffe:///a",
        "https://a.example\\@evil.example/", "mailto:a@b/", "https://evil.example\t/",
    ],
)  # fmt: skip
def test_what_is_no_prefix(text: str) -> None:
    assert normalise_prefix(text) is None
    assert uri_problem(text if text.isascii() else "https://a.example/", UriRules(prefixes=(text,))) is not None


@pytest.mark.parametrize(
    ("address", "rules", "allowed"),
    [
        ("jane@example.org", EmailAddressRules(domains=("example.org",)), True),
        ("jane@a.example.org", EmailAddressRules(domains=("example.org",)), False),
        ("jane@badexample.org", EmailAddressRules(domains=("example.org",)), False),
        ("jane@example.org", EmailAddressRules(domains=("Example.ORG",)), True),
        ("jane@example.org", EmailAddressRules(addresses=("jane@EXAMPLE.org",)), True),
        ("Jane@example.org", EmailAddressRules(addresses=("jane@example.org",)), False),
        ("joe@example.org", EmailAddressRules(addresses=("jane@example.org",)), False),
        ("joe@example.org", EmailAddressRules(allow_any=True), True),
        ("joe@example.org", EmailAddressRules(), False),
    ],
)
def test_email_addresses(address: str, rules: EmailAddressRules, allowed: bool) -> None:  # noqa: FBT001  # As above.
    assert (email_address_problem(address, rules) is None) is allowed


@pytest.mark.parametrize(
    ("subject", "allowed"),
    [
        ("CN=a,O=Example,C=DE", True),
        ("O=EXAMPLE,C=de", True),
        ("CN=a,O=  Example ,C=DE", True),
        ("CN=a,O=Other,C=DE", True),
        ("O=Example", False),
        ("C=DE,O=Example", False),
        ("CN=a,O=Example Two,C=DE", False),
        ("CN=a,OU=Example,C=DE", False),
        ("C=DE", False),
    ],
)
def test_subtrees(subject: str, allowed: bool) -> None:  # noqa: FBT001  # As above.
    subtrees = (dn.parse_text("O=Example,C=DE"), dn.parse_text("O=Other,C=DE"))
    assert is_in_subtrees(dn.parse_text(subject), subtrees) is allowed


# Second opinions.

_LABELS = st.sampled_from(["a", "b", "www", "example", "internal", "org"])
_DNS_NAMES = st.lists(_LABELS, min_size=1, max_size=4).map(".".join)
_ANY_DNS_NAMES = st.one_of(
    _DNS_NAMES, st.lists(_LABELS, min_size=2, max_size=4).map(lambda labels: ".".join(["*", *labels]))
)


@given(
    name=_ANY_DNS_NAMES,
    rules=st.builds(
        DnsNameRules,
        allow_any=st.booleans(),
        names=st.lists(_ANY_DNS_NAMES, max_size=3).map(tuple),
        suffixes=st.lists(_DNS_NAMES, max_size=3).map(tuple),
        allow_wildcards=st.booleans(),
        fewest_wildcard_labels=st.integers(2, 4),
    ),
)
def test_dns_names_by_labels(name: str, rules: DnsNameRules) -> None:
    labels = name.split(".")
    rest = labels[1:] if labels[0] == "*" else labels

    def is_below(wanted: list[str], base: list[str]) -> bool:
        return len(wanted) > len(base) and wanted[len(wanted) - len(base) :] == base

    def is_allowed(wanted: list[str]) -> bool:
        suffixes = [suffix.split(".") for suffix in rules.suffixes]
        return rules.allow_any or ".".join(wanted) in rules.names or any(is_below(wanted, base) for base in suffixes)

    expected = is_allowed(rest)
    if labels[0] == "*":
        expected = rules.allow_wildcards and (expected or ".".join(rest) in rules.suffixes)
        expected = (expected and len(rest) >= rules.fewest_wildcard_labels) or name in rules.names
    assert (dns_name_problem(name, rules) is None) is expected


_NETWORKS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)),
    st.tuples(
        st.ip_addresses(v=6).filter(lambda address: names.normalise_ip_address(str(address)) is not None),
        st.integers(0, 128),
    ),
).map(lambda pair: str(ip_network(f"{pair[0]}/{pair[1]}", strict=False)))


@given(st.data(), st.lists(_NETWORKS, min_size=1, max_size=4))
def test_ip_addresses_by_networks(data: st.DataObject, ranges: list[str]) -> None:
    network = ip_network(data.draw(st.sampled_from(ranges)))
    near = st.integers(-2, 2).map(lambda by: int(network.network_address) + by)
    last = st.integers(-2, 2).map(lambda by: int(network.broadcast_address) + by)
    number = data.draw(st.one_of(near, last).filter(lambda value: 0 <= value < 1 << network.max_prefixlen))
    address = ip_address(number.to_bytes(network.max_prefixlen // 8))
    expected = any(address in each for each in map(ip_network, ranges) if each.version == address.version)
    assert (ip_address_problem(str(address), IpAddressRules(ranges=tuple(ranges))) is None) is expected


_PIECES = st.sampled_from(
    ["https://", "spiffe://", "a.example", "evil.example", "td", "/", "//", "@", ":", "8443", ".", "..", "%2e", "%2F",
     "?", "#", "\\", "a", "x/", "workloads", "[::1]"]
)  # fmt: skip
_URIS = st.lists(_PIECES, min_size=2, max_size=9).map("".join)


_PREFIXES = st.builds(
    "{}{}{}/{}".format,
    st.sampled_from(["https://", "spiffe://", "HTTPS://"]),
    st.sampled_from(["a.example", "td", "A.example:8443", "[::1]", "u@a.example", ""]),
    st.sampled_from(["", "", ":80", "."]),
    st.lists(_PIECES, max_size=3).map("".join),
)


@given(st.one_of(_PREFIXES, _URIS), _URIS)
def test_no_prefix_allows_another_host(text: str, tail: str) -> None:
    prefix = normalise_prefix(text)
    if prefix is None:
        return
    meant = urlsplit(prefix)
    assert meant.netloc
    assert "@" not in meant.netloc
    for uri in (prefix + tail, tail, prefix[:-1] + tail, prefix.rstrip("/") + tail):
        if uri_problem(uri, UriRules(prefixes=(text,))) is None:
            found = urlsplit(uri)
            assert (found.scheme, found.netloc) == (meant.scheme, meant.netloc)
            assert not {".", ".."} & set(found.path.replace("%2e", ".").split("/"))
