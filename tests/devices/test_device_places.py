"""The port for devices when all its connections are taken: who says nothing gives way to who comes, by real sockets."""

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from certd.web import device_places
from certd.web.device_places import Places
from certd.web.device_server import serve_devices, tls_context
from tests.devices.site import Site
from tests.waiting import eventually

_HOG, _OTHER_HOG, _DEVICE = "127.0.1.1", "127.0.2.1", "127.0.9.9"
_GET = b"GET /quick HTTP/1.1\r\nHost: certd\r\n\r\n"
_SLOW = b"GET /slow HTTP/1.1\r\nHost: certd\r\n\r\n"
_ANSWER = re.compile(rb"HTTP/1\.1 200 .*\r\n\r\n(quick|slow)", re.DOTALL)


@dataclass(frozen=True)
class Port:
    """A listener with few places, and an application that waits when it is told to."""

    port: int
    context: ssl.SSLContext
    go_on: threading.Event
    inside: threading.Semaphore
    stack: ExitStack = field(default_factory=ExitStack)

    def plain(self, address: str) -> socket.socket:
        """A connection that says nothing, from an address of the loopback network."""
        return self.stack.enter_context(
            socket.create_connection(("127.0.0.1", self.port), timeout=60, source_address=(address, 0))
        )

    def tls(self, address: str) -> ssl.SSLSocket:
        """A connection with its handshake done."""
        return self.stack.enter_context(self.context.wrap_socket(self.plain(address), server_hostname="127.0.0.1"))

    def served(self, address: str) -> bool:
        """Whether somebody from an address gets an answer."""
        with suppress(OSError):
            return answered(self.tls(address))
        return False


@pytest.fixture
def few(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    """Four places, and no patience that ends while a test runs."""
    monkeypatch.setattr(device_places, "CONNECTIONS", 4)
    monkeypatch.setattr(device_places, "CONNECTIONS_OF_A_SITE", 3)
    monkeypatch.setattr(device_places, "CONNECTIONS_OF_AN_ADDRESS", 2)
    monkeypatch.setattr(device_places, "PATIENCE_SECONDS", 600.0)
    with _port(site) as port:
        yield port


@contextmanager
def _port(site: Site) -> Iterator[Port]:
    go_on, inside = threading.Event(), threading.Semaphore(0)

    def slow(_request: Request) -> PlainTextResponse:
        inside.release()
        assert go_on.wait(60)
        return PlainTextResponse("slow")

    def quick(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("quick")

    files = site.installed.core.config.tls
    served = serve_devices(
        Starlette(routes=[Route("/quick", quick), Route("/slow", slow)]),
        host="127.0.0.1",
        port=0,
        context=tls_context(files.certificate, files.private_key, client_roots=site.installed.system_root),
    )
    port = Port(port=served.listener.port, context=site.context(), go_on=go_on, inside=inside)
    try:
        with port.stack:
            yield port
    finally:
        go_on.set()
        served.listener.stop()


def answered(connection: ssl.SSLSocket, request: bytes = _GET) -> bool:
    connection.sendall(request)
    return has_answer(connection)


def has_answer(connection: ssl.SSLSocket) -> bool:
    received = b""
    while not _ANSWER.match(received):
        part = connection.recv(65536)
        if not part:
            return False
        received += part
    return True


def is_closed(connection: socket.socket) -> bool:
    """Waits for the server's end of a connection; a timeout fails the test."""
    try:
        return connection.recv(65536) == b""
    except (ConnectionResetError, ssl.SSLError):
        return True


def is_open(connection: socket.socket) -> bool:
    """Whether the server has not closed a connection up to now."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(60)


def test_addresses_that_say_nothing_keep_nobody_out(few: Port) -> None:
    silent = [few.plain(address) for address in (_HOG, _HOG, _OTHER_HOG, _OTHER_HOG)]
    # Each of them has two, so that whoever has none gets a place: that of who waits longest.
    first = few.tls(_DEVICE)
    assert answered(first)
    assert is_closed(silent[0])
    assert all(map(is_open, silent[1:]))


def test_whoever_has_few_loses_none_to_who_has_many(few: Port) -> None:
    hogs = [few.tls(_HOG), few.tls(_HOG), few.tls(_OTHER_HOG)]
    device = few.tls(_DEVICE)
    for _ in range(5):
        assert not few.served(_HOG)
        assert not few.served(_OTHER_HOG)
    assert all(map(is_open, (*hogs, device)))
    assert answered(device)


@pytest.mark.parametrize("beginning", [b"", b"GET /qui", _GET[:-2], _GET])
def test_who_is_slow_or_idle_gives_way(few: Port, beginning: bytes) -> None:
    """By a request that never ends, or by one that was answered before."""
    slow = [few.tls(address) for address in (_HOG, _HOG, _OTHER_HOG)]
    for connection in slow:
        connection.sendall(beginning)
        assert beginning != _GET or has_answer(connection)
    few.plain(_OTHER_HOG)
    assert few.served(_DEVICE)
    assert is_closed(slow[0])


def test_what_is_being_answered_is_not_cut_off(few: Port) -> None:
    busy = [few.tls(address) for address in (_HOG, _HOG, _OTHER_HOG, _OTHER_HOG)]
    for connection in busy:
        # The second is asked at once, and gets no answer where there is no room for others.
        connection.sendall(_SLOW + _GET)
        assert few.inside.acquire(timeout=60)
    assert is_closed(few.plain(_DEVICE))
    few.go_on.set()
    assert all(map(has_answer, busy))
    assert all(map(is_closed, busy[:1]))
    assert eventually(lambda: few.served(_DEVICE))


def test_where_there_is_room_a_connection_stays_for_the_next_request(few: Port) -> None:
    device = few.tls(_DEVICE)
    assert [answered(device) for _ in range(3)] == [True] * 3


def test_one_address_and_one_site_have_so_many(few: Port) -> None:
    held = [few.plain(_HOG), few.plain(_HOG)]
    assert is_closed(few.plain(_HOG))
    # A neighbour has one; the next neighbour gets one of those of who has more.
    held.append(few.plain("127.0.1.2"))
    assert few.served("127.0.1.3")
    assert is_closed(held[0])
    assert all(map(is_open, held[1:]))


def test_who_leaves_makes_room_without_a_handshake_too(few: Port) -> None:
    held = [few.plain(_HOG), few.plain(_HOG)]
    assert is_closed(few.plain(_HOG))
    held[0].close()
    assert eventually(lambda: few.served(_HOG))


def test_who_waits_for_long_gives_way_to_who_has_as_many(few: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    hogs = [few.plain(f"127.0.{number}.1") for number in range(1, 5)]
    # Each has one, and who would have one as well has no more right to it than they.
    assert is_closed(few.plain(_DEVICE))
    assert all(map(is_open, hogs))
    monkeypatch.setattr(device_places, "PATIENCE_SECONDS", 0.0)
    assert [few.served(f"127.0.{number}.1") for number in range(10, 20)] == [True] * 10


def test_the_whole_port_of_silent_addresses_serves_a_device(site: Site) -> None:
    """As it is: four addresses, each with as many connections as it may have."""
    with _port(site) as port:
        held = [
            port.plain(f"127.0.{number}.1")
            for number in range(1, 5)
            for _ in range(device_places.CONNECTIONS_OF_AN_ADDRESS)
        ]
        assert len(held) == device_places.CONNECTIONS
        assert [port.served(f"127.0.{number}.9") for number in range(10, 20)] == [True] * 10


def test_a_site_of_one_owner_does_not_take_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_places, "CONNECTIONS_OF_A_SITE", 4)
    monkeypatch.setattr(device_places, "CONNECTIONS_OF_AN_ADDRESS", 3)
    places = Places()
    # Its owner chooses the last 64 bits, and many networks of as many.
    taken = [places.take(f"2001:db8::{number:x}", number / 10) for number in range(1, 5)]
    assert [place is not None for place in taken] == [True, True, True, False]
    assert places.take("2001:db8:0:1::1", 0.0) is not None
    closed: list[int] = []
    for number, place in enumerate(taken[:3]):
        assert place is not None
        place.close = lambda number=number: closed.append(number)  # type: ignore[misc]  # The number of now.
    # The site has as many as it may: one of its own gives way, of the network that has most.
    assert places.take("2001:db8:0:2::1", 0.0) is not None
    assert closed == [0]
    assert places.take("2001:db8:1::1", 0.0) is not None
    assert places.take("::ffff:192.0.2.1", 0.0) is not None
    assert places.take("fe80::1%eth0", 0.0) is not None
    assert places.take("", 0.0) is not None


def test_a_place_is_given_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_places, "CONNECTIONS_OF_AN_ADDRESS", 1)
    places = Places()
    first = places.take("192.0.2.1", 0.0)
    assert first is not None
    assert places.take("192.0.2.1", 0.0) is None
    first.leave()
    first.leave()
    second = places.take("192.0.2.1", 0.0)
    assert second is not None
    assert places.take("192.0.2.1", 0.0) is None
    # One that comes late for a place that is another's by now takes nothing away.
    first.leave()
    assert places.take("192.0.2.1", 0.0) is None
    assert places.take("192.0.2.1", device_places.PATIENCE_SECONDS) is not None


def test_the_end_of_a_handshake_that_gave_way_is_no_defect(few: Port, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(30):
        few.plain(f"127.0.{number % 5 + 1}.{number + 1}")
    assert eventually(lambda: few.served(_DEVICE))
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}]
