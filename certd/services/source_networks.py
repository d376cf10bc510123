"""Networks that somebody comes from: those from which a code may be used, and those that count as one."""

import ipaddress
from collections.abc import Sequence
from typing import Final

from certd.errors import Violation

MOST_NETWORKS: Final = 16
UNKNOWN: Final = "unknown"
"""Stands for a peer whose address is not told."""
_LONGEST_NETWORK: Final = 64
_NETWORK_OF_IPV4: Final = 24
_NETWORK_OF_IPV6: Final = 64
"""Bits that tell one network from another; the rest its owner chooses."""
_SITE_OF_IPV6: Final = 48
"""Bits that tell one site from another (RFC 6177); few sites have more."""


def parse_networks(given: Sequence[str], violations: list[Violation]) -> tuple[str, ...]:
    """Returns networks in one form; adds what is wrong with them to the violations of `source_networks`."""
    if len(given) > MOST_NETWORKS:
        violations.append(Violation("source_networks", f"must be {MOST_NETWORKS} at most"))
    networks = []
    for at, text in enumerate(given[:MOST_NETWORKS]):
        try:
            networks.append(str(ipaddress.ip_network(text[: _LONGEST_NETWORK + 1])))
        except ValueError:
            described = "must be a network in CIDR notation, as 192.0.2.0/24, with no bits set behind its prefix"
            violations.append(Violation(f"source_networks[{at}]", described))
    return tuple(networks)


def comes_from(networks: tuple[str, ...], address: str) -> bool:
    """Whether an address is of one of the networks; every one is when there are none."""
    if not networks:
        return True
    parsed = _parsed(address)
    return parsed is not None and any(parsed in ipaddress.ip_network(network) for network in networks)


def network_of(address: str) -> str:
    """Returns what counts as one where strangers share something: a /24 of IPv4, a /64 of IPv6."""
    return _network(address, ipv6=_NETWORK_OF_IPV6)


def site_of(address: str) -> str:
    """Returns what one owner may have all of: a /24 of IPv4, a /48 of IPv6."""
    return _network(address, ipv6=_SITE_OF_IPV6)


def source_of(address: str) -> str:
    """Returns by what a stranger is told in events: an address of IPv4, a /64 of IPv6."""
    parsed = _parsed(address)
    return str(parsed) if isinstance(parsed, ipaddress.IPv4Address) else network_of(address)


def _network(address: str, *, ipv6: int) -> str:
    parsed = _parsed(address)
    if parsed is None:
        return UNKNOWN
    bits = _NETWORK_OF_IPV4 if isinstance(parsed, ipaddress.IPv4Address) else ipv6
    return str(ipaddress.ip_network((int(parsed), bits), strict=False))


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    # As a socket for both protocols tells addresses of IPv4.
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
