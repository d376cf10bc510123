"""Networks from which a code may be used."""

import ipaddress
from collections.abc import Sequence
from typing import Final

from certd.errors import Violation

MOST_NETWORKS: Final = 16
_LONGEST_NETWORK: Final = 64


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
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    # As a socket for both protocols tells addresses of IPv4.
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return any((mapped or parsed) in ipaddress.ip_network(network) for network in networks)
