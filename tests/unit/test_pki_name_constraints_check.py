"""Which names constraints let pass (RFC 5280, sections 4.2.1.10, 6.1.3 and 7)."""

import time
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.pki import distinguished_name as dn
from certd.pki.name_constraints import NameConstraints, Subtrees, check
from certd.pki.names import SubjectAlternativeNames


def _names(kind: str, *values: str) -> SubjectAlternativeNames:
    return SubjectAlternativeNames(**{kind: values})


def _passes(names: SubjectAlternativeNames, *constraints: NameConstraints, subject: str = "") -> bool:
    return not check(constraints, subject=dn.parse_text(subject), names=names)


@pytest.mark.parametrize(
    ("kind", "subtree", "name", "lies_in_it"),
    [
        ("dns_names", "example.com", "example.com", True),
        ("dns_names", "example.com", "www.example.com", True),
        ("dns_names", "example.com", "a.www.example.com", True),
        ("dns_names", "example.com", "*.example.com", True),
        ("dns_names", "example.com", "myexample.com", False),
        ("dns_names", "example.com", "com", False),
        ("dns_names", "", "localhost", True),
        ("dns_names", "", "*.example.com", True),
        ("dns_names", ".example.com", "www.example.com", True),
        ("dns_names", ".example.com", "*.example.com", True),
        ("dns_names", ".example.com", "example.com", False),
        ("ip_ranges", "192.0.2.0/24", "192.0.2.255", True),
        ("ip_ranges", "192.0.2.0/24", "192.0.3.0", False),
        ("ip_ranges", "0.0.0.0/0", "192.0.3.0", True),
        ("ip_ranges", "0.0.0.0/0", "2001:db8::1", False),
        ("ip_ranges", "2001:db8::/32", "2001:db8:ffff::1", True),
        ("ip_ranges", "2001:db8::/32", "2001:db9::", False),
        ("ip_ranges", "::/0", "192.0.2.1", False),
        ("uri_hosts", "example.com", "https://example.com:8443/a:b?c", True),
        ("uri_hosts", "example.com", "https://user@example.com", True),
        ("uri_hosts", "example.com", "https://www.example.com/", False),
        ("uri_hosts", ".example.com", "https://www.example.com/", True),
        ("uri_hosts", ".example.com", "https://a.www.example.com/", True),
        ("uri_hosts", ".example.com", "https://example.com/", False),
        ("uri_hosts", ".example.com", "https://myexample.com/", False),
        ("uri_hosts", "example.com", "https://other.example/?@example.com", False),
        ("uri_hosts", "example.com", "https://example.com@other.example/", False),
        ("uri_hosts", "td", "spiffe://td/a", True),
        ("email_addresses", "ops@example.com", "ops@example.com", True),
        ("email_addresses", "ops@example.com", "Ops@example.com", False),
        ("email_addresses", "ops@example.com", "dev@example.com", False),
        ("email_addresses", "example.com", "ops@example.com", True),
        ("email_addresses", "example.com", "ops@www.example.com", False),
        ("email_addresses", ".example.com", "ops@www.example.com", True),
        ("email_addresses", ".example.com", "ops@a.www.example.com", True),
        ("email_addresses", ".example.com", "ops@example.com", False),
    ],
)
def test_subtree(kind: str, subtree: str, name: str, lies_in_it: bool) -> None:  # noqa: FBT001  # A parameter.
    of_names = {"ip_ranges": "ip_addresses", "uri_hosts": "uris"}.get(kind, kind)
    subtrees = Subtrees(**{kind: (subtree,)})  # type: ignore[arg-type]  # Strings alone are given here.
    names = _names(of_names, name)
    permitted = check([NameConstraints(permitted=subtrees)], subject=dn.EMPTY, names=names)
    excluded = check([NameConstraints(excluded=subtrees)], subject=dn.EMPTY, names=names)
    assert bool(permitted) is not lies_in_it
    assert bool(excluded) is lies_in_it
    (violation,) = permitted or excluded
    assert violation.field == f"subject_alternative_names.{of_names}[0]"
    assert repr(name) in violation.description


@pytest.mark.parametrize(
    ("subtree", "wildcard", "permitted", "excluded"),
    [
        ("example.com", "*.example.com", True, True),
        ("com", "*.example.com", True, True),
        # Some of the names that it stands for lie in the subtree: neither permitted nor free of an excluded one.
        ("www.example.com", "*.example.com", False, True),
        # It stands for one label, not for two.
        ("a.www.example.com", "*.example.com", False, False),
        (".www.example.com", "*.example.com", False, False),
        (".example.com", "*.example.com", True, True),
        ("example.org", "*.example.com", False, False),
    ],
)
def test_wildcard(subtree: str, wildcard: str, permitted: bool, excluded: bool) -> None:  # noqa: FBT001  # Parameters.
    names, subtrees = _names("dns_names", wildcard), Subtrees(dns_names=(subtree,))
    assert _passes(names, NameConstraints(permitted=subtrees)) is permitted
    assert _passes(names, NameConstraints(excluded=subtrees)) is not excluded


@pytest.mark.parametrize("side", ["permitted", "excluded"])
@pytest.mark.parametrize(
    "uri", ["urn:a:b", "mailto:a@example.com", "https://192.0.2.1/", "https://[2001:db8::1]/", "spiffe://192.0.2.1/a"]
)
def test_uri_without_the_name_of_a_host_is_refused_where_uris_are_constrained(side: str, uri: str) -> None:
    constraints = NameConstraints(**{side: Subtrees(uri_hosts=("other.example",))})
    assert not _passes(_names("uris", uri), constraints)
    assert _passes(_names("uris", uri), NameConstraints(**{side: Subtrees(dns_names=("a.example",))}))


@pytest.mark.parametrize(
    ("subtree", "subject", "lies_in_it"),
    [
        ("O=Example,C=DE", "O=Example,C=DE", True),
        ("O=Example,C=DE", "CN=a,O=EXAMPLE,C=de", True),
        ("O=Example", "O=Example,C=DE", False),
        ("O=Example,C=DE", "C=DE", False),
        ("OU=a+L=b", "CN=c,L=B+OU=A", True),
        ("OU=a", "OU=a+L=b", False),
        ("", "CN=a", True),
        ("O=Example", "O=Example Ltd", False),
    ],
)
def test_directory_name(subtree: str, subject: str, lies_in_it: bool) -> None:  # noqa: FBT001  # A parameter.
    subtrees = Subtrees(directory_names=(dn.parse_text(subtree),))
    nobody = SubjectAlternativeNames()
    assert _passes(nobody, NameConstraints(permitted=subtrees), subject=subject) is lies_in_it
    assert _passes(nobody, NameConstraints(excluded=subtrees), subject=subject) is not lies_in_it
    # A certificate without a subject has no directory name.
    assert _passes(nobody, NameConstraints(permitted=subtrees))


def test_directory_names_are_permitted_narrowly_and_excluded_widely() -> None:
    subtrees = Subtrees(directory_names=(dn.parse_text("O=Ärger"),))
    nobody = SubjectAlternativeNames()
    assert not _passes(nobody, NameConstraints(permitted=subtrees), subject="O=ärger")
    assert not _passes(nobody, NameConstraints(excluded=subtrees), subject="O=ärger")
    assert _passes(nobody, NameConstraints(permitted=subtrees), subject="O=Ärger")


@pytest.mark.parametrize(
    ("subject", "passes"),
    [
        ("1.2.840.113549.1.9.1=ops@example.com", True),
        ("1.2.840.113549.1.9.1=ops@example.org", False),
        ("1.2.840.113549.1.9.1=ops@EXAMPLE.com,CN=a", True),
        ("1.2.840.113549.1.9.1=nobody", False),
        ("1.2.840.113549.1.9.1=ops@example.com,1.2.840.113549.1.9.1=ops@example.org", False),
    ],
)
def test_email_attribute_counts(subject: str, passes: bool) -> None:  # noqa: FBT001  # A parameter.
    constraints = NameConstraints(permitted=Subtrees(email_addresses=("example.com",)))
    for names in (SubjectAlternativeNames(), _names("email_addresses", "ops@example.com")):
        assert _passes(names, constraints, subject=subject) is passes
    violations = check([constraints], subject=dn.parse_text(subject), names=SubjectAlternativeNames())
    assert {violation.field for violation in violations} == (set() if passes else {"subject"})


@pytest.mark.parametrize(
    ("common_name", "is_host"),
    [
        ("www.example.org", True),
        ("WWW.Example.ORG", True),
        ("*.example.org", True),
        ("a_b.example", True),
        ("192.0.2.1", True),
        ("host", False),
        ("Jane Doe", False),
        ("a..b", False),
        ("-a.b", False),
        ("Example Inc.", False),
    ],
)
def test_common_name_that_looks_like_a_host_counts_without_dns_names(common_name: str, is_host: bool) -> None:  # noqa: FBT001  # A parameter.
    constraints = NameConstraints(permitted=Subtrees(dns_names=("example.com",)))
    subject = f"CN={common_name}"
    assert _passes(SubjectAlternativeNames(), constraints, subject=subject) is not is_host
    assert _passes(_names("dns_names", "example.com"), constraints, subject=subject)
    assert _passes(SubjectAlternativeNames(), constraints, subject="CN=www.example.com")


def test_constraints_of_every_authority_apply() -> None:
    upper = NameConstraints(permitted=Subtrees(dns_names=("example.com", "example.org")))
    lower = NameConstraints(permitted=Subtrees(dns_names=("www.example.com", "example.net")))
    assert _passes(_names("dns_names", "www.example.com"), upper, lower)
    for name in ("example.com", "example.org", "example.net"):
        assert not _passes(_names("dns_names", name), upper, lower)
    assert _passes(_names("dns_names", "a.b"))


def test_kinds_without_subtrees_pass_and_every_other_name_is_told() -> None:
    constraints = NameConstraints(permitted=Subtrees(dns_names=("example.com",)))
    names = SubjectAlternativeNames(
        dns_names=("a.example.com", "b.example.org", "c.example.org"), ip_addresses=("192.0.2.1",), uris=("urn:a",)
    )
    found = check([constraints, constraints], subject=dn.parse_text("O=a"), names=names)
    fields_told = [violation.field for violation in found]
    assert fields_told == [f"subject_alternative_names.dns_names[{at}]" for at in (1, 2)]


def test_a_thousand_subtrees_and_a_hundred_names_take_no_time() -> None:
    domains = tuple(f"h{number}.example" for number in range(1000))
    names = _names("dns_names", *(f"www.h{number}.example" for number in range(100)))
    constraints = NameConstraints(permitted=Subtrees(dns_names=domains))
    assert _passes(names, constraints)
    start = time.process_time()
    for _ in range(10):
        assert _passes(names, constraints)
    # A comparison of each with each would take a second.
    assert time.process_time() - start < 0.5


_HOSTS = st.sampled_from(["a.b", "c.a.b", "d.c.a.b", "b", "x.b", "c.x.b"])
_SUBTREES = st.builds(
    Subtrees,
    dns_names=st.lists(st.one_of(st.just(""), _HOSTS), max_size=2).map(tuple),
    ip_ranges=st.lists(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "::/0"]), max_size=2).map(tuple),
    uri_hosts=st.lists(st.one_of(_HOSTS, _HOSTS.map(".{}".format)), max_size=2).map(tuple),
    email_addresses=st.lists(st.one_of(_HOSTS, _HOSTS.map("a@{}".format)), max_size=2).map(tuple),
    directory_names=st.lists(st.sampled_from(["", "O=a", "CN=b,O=a"]).map(dn.parse_text), max_size=2).map(tuple),
)
_CONSTRAINTS = st.builds(NameConstraints, permitted=_SUBTREES, excluded=_SUBTREES)
_NAMES = st.builds(
    SubjectAlternativeNames,
    dns_names=st.lists(st.one_of(_HOSTS, st.just("*.a.b")), max_size=2).map(tuple),
    ip_addresses=st.lists(st.sampled_from(["10.1.0.1", "10.2.0.1", "::1"]), max_size=2).map(tuple),
    uris=st.lists(st.one_of(_HOSTS.map("https://{}/".format), st.just("urn:a")), max_size=2).map(tuple),
    email_addresses=st.lists(_HOSTS.map("a@{}".format), max_size=2).map(tuple),
)
_SUBJECTS = st.sampled_from(["", "O=a", "CN=b,O=a", "CN=c.a.b"])


@given(_CONSTRAINTS, _CONSTRAINTS, _NAMES, _SUBJECTS)
def test_more_exclusions_and_more_authorities_never_permit_more(
    one: NameConstraints, other: NameConstraints, names: SubjectAlternativeNames, subject: str
) -> None:
    both = replace(one, excluded=_union(one.excluded, other.excluded))
    if not _passes(names, one, subject=subject):
        assert not _passes(names, both, subject=subject)
        assert not _passes(names, one, other, subject=subject)
        assert not _passes(names, other, one, subject=subject)


@given(_CONSTRAINTS, _SUBTREES, _NAMES, _SUBJECTS)
def test_more_of_a_permitted_kind_never_permits_less(
    one: NameConstraints, more: Subtrees, names: SubjectAlternativeNames, subject: str
) -> None:
    wider = Subtrees(
        **{
            field.name: (*old, *getattr(more, field.name)) if (old := getattr(one.permitted, field.name)) else ()
            for field in fields(Subtrees)
        }
    )
    if _passes(names, one, subject=subject):
        assert _passes(names, replace(one, permitted=wider), subject=subject)


@given(_CONSTRAINTS, _NAMES, _SUBJECTS)
def test_fewer_names_never_break_more(one: NameConstraints, names: SubjectAlternativeNames, subject: str) -> None:
    if _passes(names, one, subject=subject):
        for kind in ("ip_addresses", "uris", "email_addresses"):
            assert _passes(replace(names, **{kind: ()}), one, subject=subject)


def _union(one: Subtrees, other: Subtrees) -> Subtrees:
    return Subtrees(
        **{field.name: (*getattr(one, field.name), *getattr(other, field.name)) for field in fields(Subtrees)}
    )
