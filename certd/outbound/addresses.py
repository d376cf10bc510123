"""Which addresses are dialled for others: public ones, and those of networks that the operator allows.

A name is resolved once, every address that it has is looked at, and what is connected to is one of these: a name that
means something else a moment later (DNS rebinding) gains nothing.
"""

import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeAlias

from certd.errors import CertdError, Reason
from certd.outbound.deadline import Deadline

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
Resolve: TypeAlias = Callable[[str, int], Sequence[SocketAddress]]
"""Returns what a name and a port stand for; OSError when that is nothing."""

CONNECT_PATIENCE: Final = 3.0
"""Seconds that one of several addresses may take to connect."""
_MOST_ADDRESSES: Final = 64
_MOST_TRIED: Final = 8

# IANA's registries of special-purpose addresses, and what is no unicast.
_SPECIAL_V4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
"""Global unicast. Outside of it are loopback, mapped and translated IPv4 (::ffff:0:0/96, 64:ff9b::/96), local and link-
local addresses, multicast."""
_SPECIAL_V6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        # Protocols with Teredo and ORCHID, documentation, 6to4, AS112.
        ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
    )
)

_log = logging.getLogger("certd.outbound.addresses")


def is_public(address: Address) -> bool:
    """Returns whether an address is one of the public Internet, and not one that stands for another."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def system_resolve(host: str, port: int) -> Sequence[SocketAddress]:
    """Returns what the machine's resolver says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # Without IPv6 it has others.
    return [address for _, _, _, _, address in found if isinstance(address[0], str)]


@dataclass(frozen=True, slots=True)
class Reach:
    """What may be dialled."""

    networks: tuple[Network, ...] = ()
    """Beside the public addresses."""
    everything: bool = False
    """For what the operator wrote down."""
    resolve: Resolve = system_resolve

    def allows(self, address: Address) -> bool:
        """Returns whether an address may be dialled."""
        return self.everything or is_public(address) or any(address in network for network in self.networks)

    def addresses(self, host: str, port: int, deadline: Deadline) -> list[SocketAddress]:
        """Returns what a host stands for.

        TARGET_NOT_ALLOWED when one of its addresses may not be dialled, whatever listens there; OSError when it has
        none.
        """
        found = _resolved(self.resolve, host, port, deadline)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        if len(found) > _MOST_ADDRESSES:
            raise OSError(f"the name has more than {_MOST_ADDRESSES} addresses")
        for address in found:
            if not self.allows(ipaddress.ip_address(address[0])):
                # The address would tell the caller of names that only the inside knows.
                _log.warning("%s is not delivered to: %s is neither public nor in allowed_networks", host, address[0])
                raise CertdError(
                    Reason.TARGET_NOT_ALLOWED,
                    f"{host} stands for an address to which this server does not deliver: only public ones are, and "
                    "those in notify.allowed_networks of its configuration",
                )
        return list(dict.fromkeys(found))

    def connect(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        """Returns a connection to an address of a host; errors are those of `addresses`, and OSError: none answers."""
        failure: OSError | None = None
        for address in self.addresses(host, port, deadline)[:_MOST_TRIED]:
            connection = socket.socket(socket.AF_INET if len(address) == 2 else socket.AF_INET6)
            try:
                connection.settimeout(deadline.left(CONNECT_PATIENCE))
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
            except BaseException:
                connection.close()
                raise
            else:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
        raise failure or OSError("no address")


def _resolved(resolve: Resolve, host: str, port: int, deadline: Deadline) -> Sequence[SocketAddress]:
    """Returns what `resolve` does, within the time that is left: resolvers of systems take what they take."""
    answer: Future[Sequence[SocketAddress]] = Future()

    def ask() -> None:
        try:
            answer.set_result(resolve(host, port))
        except Exception as error:  # noqa: BLE001  # Whoever waits raises it.
            answer.set_exception(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        return answer.result(deadline.left())
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "the name is none") from error
