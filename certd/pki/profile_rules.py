"""How a name is held against the rules of a profile.

A rule is written once and used for every certificate, so each has a compiled form, kept as long as the rule is in use.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from certd.pki import distinguished_name, names
from certd.pki.names import InvalidNameError
from certd.pki.profile import DnsNameRules, EmailAddressRules, IpAddressRules, UriRules

SPIFFE_PREFIX = "spiffe://"
"""As a prefix it allows every SPIFFE id; for certd's own profiles alone."""

# RFC 3986, section 3: scheme, host, perhaps a port, and the slash that ends them. No user: whoever reads a URI in haste
# takes that for the host.
_PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#@\\]+)(/.*)", re.DOTALL)
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:[/?#]|\Z)", re.IGNORECASE)


# Holding a name, in its normal form, against the rules of its kind: the problem, or None.


def dns_name_problem(name: str, rules: DnsNameRules) -> str | None:
    """Returns why a DNS name is not allowed, or None."""
    if names.is_wildcard(name):
        return _wildcard_problem(name, name.removeprefix("*."), rules)
    if rules.allow_any or _compiled_dns_names(rules).allows(name):
        return None
    return "is neither one of the DNS names that it allows nor below one of its domains"


def _wildcard_problem(name: str, remaining: str, rules: DnsNameRules) -> str | None:
    compiled = _compiled_dns_names(rules)
    if name in compiled.names:
        return None
    if not rules.allow_wildcards:
        return "is a wildcard, and it allows none"
    if remaining.count(".") + 1 < rules.fewest_wildcard_labels:
        return f"is a wildcard with fewer than {rules.fewest_wildcard_labels} labels after it"
    if rules.allow_any or remaining in compiled.suffixes or compiled.allows(remaining):
        return None
    return "is a wildcard of a domain that it does not allow"


@dataclass(frozen=True, slots=True)
class _CompiledDnsNames:
    names: frozenset[str]
    suffixes: frozenset[str]

    def allows(self, name: str) -> bool:
        """Returns whether `name`, which is no wildcard, is one of the names or below one of the domains."""
        if name in self.names:
            return True
        if self.suffixes:
            at = name.find(".")
            while at >= 0:
                if name[at + 1 :] in self.suffixes:
                    return True
                at = name.find(".", at + 1)
        return False


@lru_cache(maxsize=256)
def _compiled_dns_names(rules: DnsNameRules) -> _CompiledDnsNames:
    normal = frozenset(name for text in rules.names if (name := names.normalise_dns_name(text)) is not None)
    suffixes = frozenset(name for text in rules.suffixes if (name := names.normalise_dns_name(text)) is not None)
    return _CompiledDnsNames(normal, suffixes)


def ip_address_problem(address: str, rules: IpAddressRules) -> str | None:
    """Returns why an IP address is not allowed, or None."""
    if rules.allow_any:
        return None
    parsed = ip_address(address)
    value, bits = int(parsed), parsed.max_prefixlen
    for (version, length), networks in _compiled_ranges(rules).items():
        if version == parsed.version and value >> (bits - length) in networks:
            return None
    return "is in none of the IP ranges that it allows"


@lru_cache(maxsize=256)
def _compiled_ranges(rules: IpAddressRules) -> Mapping[tuple[int, int], frozenset[int]]:
    """Returns the leading bits of the networks by IP version and length, so that a thousand cost no more than a few."""
    found: dict[tuple[int, int], set[int]] = {}
    for text in rules.ranges:
        network = parse_range(text)
        if network is not None:
            leading = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            found.setdefault((network.version, network.prefixlen), set()).add(leading)
    return {key: frozenset(value) for key, value in found.items()}


def parse_range(text: str) -> IPv4Network | IPv6Network | None:
    """Returns a range in CIDR notation; None when it is none, or has host bits."""
    address, slash, length = text.partition("/")
    if not slash or not length.isascii() or not length.isdigit() or names.normalise_ip_address(address) is None:
        return None
    try:
        return ip_network(text)
    except ValueError:
        return None


def uri_problem(uri: str, rules: UriRules) -> str | None:
    """Returns why a URI is not allowed, or None."""
    is_spiffe_id = names.is_spiffe_id(uri)
    if rules.allow_any and not is_spiffe_id:
        return None
    if not uri.startswith(_compiled_prefixes(rules)):
        if is_spiffe_id:
            return "begins with none of the SPIFFE prefixes that it allows"
        return "begins with none of the URI prefixes that it allows"
    # A reader that resolves them (RFC 3986, section 6.2.2.3) leaves what the prefix seemed to hold it in.
    return "has dot segments, which lead out of the prefix" if _DOT_SEGMENT.search(uri) else None


@lru_cache(maxsize=256)
def _compiled_prefixes(rules: UriRules) -> tuple[str, ...]:
    """Returns the prefixes in their normal form. One that could match another host is none and matches nothing."""
    normal = (text if text == SPIFFE_PREFIX else normalise_prefix(text) for text in rules.prefixes)
    return tuple(prefix for prefix in normal if prefix is not None)


def normalise_prefix(text: str) -> str | None:
    """Returns a URI prefix in the normal form of the URIs that it allows; None when it is none.

    It has scheme, host and the slash after it, no user and no dot segments, so that it never allows another host.
    """
    match = _PREFIX.fullmatch(text)
    if match is None or _DOT_SEGMENT.search(text):
        return None
    try:
        origin = names.parse_uri(match[1] + match[2])
        # A SPIFFE id does not end in a slash, but its prefix may.
        whole = names.parse_uri(text.removesuffix("/") if origin.startswith(SPIFFE_PREFIX) else text)
    except InvalidNameError:
        return None
    return whole + "/" if text.endswith("/") and not whole.endswith("/") else whole


def email_address_problem(address: str, rules: EmailAddressRules) -> str | None:
    """Returns why an e-mail address is not allowed, or None."""
    if rules.allow_any:
        return None
    domains, addresses = _compiled_email_addresses(rules)
    if address in addresses or address.rpartition("@")[2] in domains:
        return None
    return "is neither one of the e-mail addresses that it allows nor at one of its hosts"


@lru_cache(maxsize=256)
def _compiled_email_addresses(rules: EmailAddressRules) -> tuple[frozenset[str], frozenset[str]]:
    domains = frozenset(name for text in rules.domains if (name := names.normalise_dns_name(text)) is not None)
    addresses = frozenset(address for text in rules.addresses if (address := normalise_email_address(text)) is not None)
    return domains, addresses


def normalise_email_address(text: str) -> str | None:
    """Returns an e-mail address in its normal form; None when it is none."""
    try:
        return names.parse_email_address(text)
    except InvalidNameError:
        return None


def is_in_subtrees(subject: bytes, subtrees: tuple[bytes, ...]) -> bool:
    """Returns whether a subject (DER) begins with the relative distinguished names of one of `subtrees`.

    Compared as a relying party does (RFC 5280, section 7.1): types of strings, case and runs of spaces do not count.
    """
    comparable = distinguished_name.comparable(subject)
    return any(comparable[: len(base)] == base for base in map(distinguished_name.comparable, subtrees))
