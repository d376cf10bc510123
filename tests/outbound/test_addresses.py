"""Which addresses are dialled for others."""

import ipaddress
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.outbound.addresses import Reach, SocketAddress, is_public
from certd.outbound.deadline import Deadline
from tests.webhooks import listening

_NOT_PUBLIC = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.255"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1"),
    *("198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    "255.255.255.255",
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "64:ff9b::7f00:1"),
    *("64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "2002:7f00:1::1"),
    *("2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1"),
]
_PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"),
    *("198.17.255.255", "198.20.0.0", "223.255.255.255"),
    *("2001:200::1", "2001:4860:4860::8888", "2606:4700::1111", "2a00:1450::1", "3ffe::1"),
]


def _reach(*networks: str, resolve: Sequence[str] = ()) -> Reach:
    def resolved(_host: str, port: int) -> list[SocketAddress]:
        return [(each, port) if "." in each and ":" not in each else (each, port, 0, 0) for each in resolve]

    return Reach(networks=tuple(map(ipaddress.ip_network, networks)), resolve=resolved)


@pytest.mark.parametrize("address", _NOT_PUBLIC)
def test_what_is_not_public_is_not_dialled(address: str) -> None:
    parsed = ipaddress.ip_address(address)
    assert not is_public(parsed)
    assert not Reach().allows(parsed)
    assert Reach(everything=True).allows(parsed)


@pytest.mark.parametrize("address", _PUBLIC)
def test_what_is_public_is_dialled(address: str) -> None:
    assert Reach().allows(ipaddress.ip_address(address))


@given(st.ip_addresses())
def test_nothing_is_dialled_that_python_takes_for_special(address: ipaddress.IPv4Address) -> None:
    """The library's table, which is not the one here, agrees: what it takes for special is never public."""
    special = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    assert not (is_public(address) and (special or address.is_unspecified or address.is_reserved))


@given(st.ip_addresses(v=4))
def test_no_public_address_stands_for_one_of_version_4(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for stands in (
        number,
        0xFFFF << 32 | number,
        int(ipaddress.IPv6Address("64:ff9b::")) | number,
        int(ipaddress.IPv6Address("64:ff9b:1::")) | number,
        0x2002 << 112 | number << 80 | 1,
        0x20010000 << 96 | number << 64 | (number ^ 0xFFFFFFFF),
    ):
        assert not is_public(ipaddress.IPv6Address(stands))


@given(st.ip_addresses(), st.integers(0, 128))
def test_allowed_networks_are_dialled_and_nothing_beside_them(address: ipaddress.IPv6Address, length: int) -> None:
    network = ipaddress.ip_network((address, min(length, address.max_prefixlen)), strict=False)
    reach = Reach(networks=(network,))
    assert reach.allows(address)
    assert reach.allows(network[-1])
    if network.prefixlen:
        # The last bit of the prefix the other way round.
        other = type(address)(int(address) ^ 1 << (address.max_prefixlen - network.prefixlen))
        assert reach.allows(other) == is_public(other)


def test_one_address_that_may_not_be_dialled_is_enough() -> None:
    reach = _reach(resolve=["8.8.8.8", "2606:4700::1111", "10.0.0.1"])
    with pytest.raises(CertdError) as raised:
        reach.addresses("example.org", 443, Deadline(5))
    assert raised.value.reason is Reason.TARGET_NOT_ALLOWED
    assert "10.0.0.1" not in raised.value.message
    allowed = _reach("10.0.0.0/8", resolve=["8.8.8.8", "10.0.0.1", "8.8.8.8"])
    assert allowed.addresses("example.org", 443, Deadline(5)) == [("8.8.8.8", 443), ("10.0.0.1", 443)]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "0", "::1", "localhost", "localhost."])
def test_no_spelling_of_an_address_gets_by(host: str) -> None:
    try:
        with pytest.raises(CertdError, match="does not deliver"):
            Reach().addresses(host, 443, Deadline(5))
    except socket.gaierror:
        # A resolver that knows no such spelling is as good.
        assert host not in {"127.0.0.1", "::1", "localhost"}


def test_a_name_without_an_address_is_no_target() -> None:
    with pytest.raises(socket.gaierror):
        _reach().addresses("example.org", 443, Deadline(5))
    with pytest.raises(OSError, match="more than"):
        _reach(resolve=[f"8.8.8.{number}" for number in range(65)]).addresses("example.org", 443, Deadline(5))
    with pytest.raises(socket.gaierror):
        Reach().addresses(f"{'x' * 64}.example", 443, Deadline(5))


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with listening() as listener, listening() as gone:
        port = gone.getsockname()[1]
        gone.close()

        def resolve(_host: str, _port: int) -> list[SocketAddress]:
            return [("127.0.0.1", port), listener.getsockname()]

        reach = Reach(everything=True, resolve=resolve)
        with reach.connect("example.org", 443, Deadline(5)) as connection:
            assert connection.getpeername() == listener.getsockname()


def test_a_resolver_that_takes_long_is_left() -> None:
    import threading

    went = threading.Event()

    def resolve(_host: str, _port: int) -> list[SocketAddress]:
        went.wait(20)
        return []

    with pytest.raises(TimeoutError):
        Reach(resolve=resolve).addresses("example.org", 443, Deadline(0.05))
    went.set()


def test_a_deadline_ends_waits_and_then_everything() -> None:
    now = [0.0]
    deadline = Deadline(10, patience=3, clock=lambda: now[0])
    assert deadline.left() == 3
    assert deadline.left(20) == 10
    now[0] = 8
    assert deadline.left() == 2
    now[0] = 10
    with pytest.raises(TimeoutError, match="10 seconds"):
        deadline.left()
