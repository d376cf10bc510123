"""Where OpenSSL and GnuTLS read name constraints in another way than certd: the one table of all of them, with reasons.

A reading turns a case into one that certd judges as the tool judges the original. Each has a small example, so that the
table shows when a tool no longer differs.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal, TypeAlias

from certd.pki import distinguished_name
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.pki.names import SubjectAlternativeNames
from tests.interop.constrained_chains import Case, name_of

Tool = Literal["OpenSSL", "GnuTLS"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A difference between a tool and certd."""

    tool: Tool
    reason: str
    read: Callable[[Case], Case]
    example: Case


def example(
    *,
    permitted: Subtrees | None = None,
    excluded: Subtrees | None = None,
    subject: str = "O=Example",
    names: SubjectAlternativeNames | None = None,
) -> Case:
    """Returns a case with one constrained authority."""
    constraints = NameConstraints(permitted=permitted or Subtrees(), excluded=excluded or Subtrees())
    return Case(
        number=0,
        constraints=(constraints, NameConstraints()),
        authority="CN=Lower Authority,O=Example",
        subject=subject,
        names=names or SubjectAlternativeNames(),
    )


def _on_subtrees(case: Case, change: Callable[[Subtrees], Subtrees], side: str) -> Case:
    upper, lower = (replace(one, **{side: change(getattr(one, side))}) for one in case.constraints)
    return replace(case, constraints=(upper, lower))


def _literal_wildcards(case: Case) -> Case:
    dns_names = tuple(name.replace("*.", "no-such-label.") for name in case.names.dns_names)
    return replace(case, names=replace(case.names, dns_names=dns_names))


def _no_wildcard_in_common_name(case: Case) -> Case:
    return replace(case, subject="O=Example") if case.subject.startswith("CN=*.") else case


def _case_of_ascii(case: Case) -> Case:
    return replace(case, subject=case.subject.replace("ä", "another"))


def _host_up_to_colon_or_slash(case: Case) -> Case:
    return replace(case, names=replace(case.names, uris=tuple(map(_as_openssl_reads, case.names.uris))))


def _as_openssl_reads(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    host = rest.partition(":")[0] if ":" in rest else rest.partition("/")[0]
    odd = "/" in host or "?" in host or "[" in host or host.replace(".", "").isdigit()
    return f"{scheme}://{'no-such-host.invalid' if odd else host.replace('@', '-')}/"


def _attribute_ignored(case: Case) -> Case:
    is_attribute = case.subject.startswith(distinguished_name.EMAIL_ADDRESS)
    return replace(case, subject="O=Example") if is_attribute and case.names.email_addresses else case


def _families_apart(case: Case) -> Case:
    """A family of which no range is left is taken for one without constraints, while the other has one left."""
    upper, lower = (tuple(map(ip_network, one.permitted.ip_ranges)) for one in case.constraints)
    left = {one for one, other in _pairs(upper, lower) if one.overlaps(other)} if upper and lower else {*upper, *lower}
    families = {network.version for network in left}
    kept = tuple(address for address in case.names.ip_addresses if ip_address(address).version in families)
    return replace(case, names=replace(case.names, ip_addresses=kept)) if left else case


def _last_pair_decides(case: Case) -> Case:
    upper, lower = (tuple(map(ip_network, one.permitted.ip_ranges)) for one in case.constraints)
    apart = any(not one.overlaps(other) for one, other in _pairs(upper, lower))
    return replace(case, hopeless=case.hopeless or (apart and bool(case.names.ip_addresses)))


_Network: TypeAlias = IPv4Network | IPv6Network


def _pairs(upper: Iterable[_Network], lower: Iterable[_Network]) -> list[tuple[_Network, _Network]]:
    return [(one, other) for one in upper for other in lower if one.version == other.version]


def _unknown_kinds(case: Case) -> Case:
    def without(subtrees: Subtrees) -> Subtrees:
        return replace(subtrees, uri_hosts=(), directory_names=())

    hopeless = any(one.excluded.uri_hosts or one.excluded.directory_names for one in case.constraints)
    known = _on_subtrees(_on_subtrees(case, without, "permitted"), without, "excluded")
    return replace(known, hopeless=case.hopeless or hopeless)


def _nothing_is_no_domain(case: Case) -> Case:
    others = any(any(one.permitted.dns_names) for one in case.constraints)

    def read(subtrees: Subtrees) -> Subtrees:
        dns_names = (name or "no-such-domain.invalid" for name in subtrees.dns_names if name or others)
        return replace(subtrees, dns_names=tuple(dns_names))

    return _on_subtrees(case, read, "permitted")


def _any_common_name(case: Case) -> Case:
    common_names = distinguished_name.common_names(name_of(case.subject))
    if case.names.dns_names or not common_names:
        return case
    return replace(case, names=replace(case.names, dns_names=common_names))


_WILDCARD = SubjectAlternativeNames(dns_names=("*.example.test",))
_WWW = Subtrees(dns_names=("www.example.test",))

READINGS: tuple[Reading, ...] = (
    Reading(
        tool="OpenSSL",
        reason="certd is stricter: a wildcard stands for the excluded name too, and OpenSSL compares letters",
        read=_literal_wildcards,
        example=example(excluded=_WWW, names=_WILDCARD),
    ),
    Reading(
        tool="OpenSSL",
        reason="certd is stricter: readers still take a wildcard from a CN, where OpenSSL constrains none",
        read=_no_wildcard_in_common_name,
        example=example(excluded=_WWW, subject="CN=*.www.example.test,O=Example"),
    ),
    Reading(
        tool="OpenSSL",
        reason="OpenSSL is wrong: user, query, and a path up to a colon are no part of a URI's host, and an address "
        "for a host has to be refused",
        read=_host_up_to_colon_or_slash,
        example=example(
            permitted=Subtrees(uri_hosts=("example.test",)),
            names=SubjectAlternativeNames(uris=("https://example.test/a:b",)),
        ),
    ),
    Reading(
        tool="OpenSSL",
        reason="certd is stricter, as section 7.1 of RFC 5280 has it: OpenSSL knows the case of ASCII letters alone",
        read=_case_of_ascii,
        example=example(
            excluded=Subtrees(directory_names=(name_of("O=Ärger"),)),
            subject="O=ärger",
        ),
    ),
    Reading(
        tool="GnuTLS",
        reason="certd is stricter: a wildcard stands for the excluded name too, and GnuTLS compares letters",
        read=_literal_wildcards,
        example=example(excluded=_WWW, names=_WILDCARD),
    ),
    Reading(
        tool="GnuTLS",
        reason="certd is stricter, as OpenSSL is: emailAddress counts beside alternative names of that kind",
        read=_attribute_ignored,
        example=example(
            permitted=Subtrees(email_addresses=("example.test",)),
            subject=f"{distinguished_name.EMAIL_ADDRESS}=ops@example.org,O=Example",
            names=SubjectAlternativeNames(email_addresses=("ops@example.test",)),
        ),
    ),
    Reading(
        tool="GnuTLS",
        reason="GnuTLS is wrong: both families are one kind, so that permitted ones of one leave none of the other",
        read=_families_apart,
        example=example(
            permitted=Subtrees(ip_ranges=("192.0.2.0/24",)),
            names=SubjectAlternativeNames(ip_addresses=("2001:db8::7",)),
        ),
    ),
    Reading(
        tool="GnuTLS",
        reason="GnuTLS is wrong: the last ranges of two authorities may be apart while others have much in common",
        read=_last_pair_decides,
        example=replace(
            example(names=SubjectAlternativeNames(ip_addresses=("192.0.2.7",))),
            constraints=(
                NameConstraints(permitted=Subtrees(ip_ranges=("0.0.0.0/0", "192.0.2.128/25"))),
                NameConstraints(permitted=Subtrees(ip_ranges=("192.0.2.7/32",))),
            ),
        ),
    ),
    Reading(
        tool="GnuTLS",
        reason="GnuTLS knows neither URI nor directory names: it ignores permitted ones, and gives up on excluded ones",
        read=_unknown_kinds,
        example=example(
            permitted=Subtrees(uri_hosts=("example.test",)),
            names=SubjectAlternativeNames(uris=("https://example.org/",)),
        ),
    ),
    Reading(
        tool="GnuTLS",
        reason="GnuTLS is wrong: the empty domain permits every DNS name, also beside other domains",
        read=_nothing_is_no_domain,
        example=example(
            permitted=Subtrees(dns_names=("example.test", "")),
            names=SubjectAlternativeNames(dns_names=("example.org",)),
        ),
    ),
    Reading(
        tool="GnuTLS",
        reason="RFC 5280 constrains no CN: GnuTLS takes any of a server for a DNS name, certd as OpenSSL one with dots",
        read=_any_common_name,
        example=example(permitted=_WWW, subject="CN=host,O=Example"),
    ),
)
