"""Strangers who are slow, silent or many: what they hold ends, and others are answered meanwhile."""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certd.api.arrivals import Patience
from certd.api.server import Limits
from certd.v1 import authority_service_pb2, authority_service_pb2_grpc
from tests.api.edge_failure import failure_of
from tests.api.edge_server import CLIENT, SYSTEM_ROOT, UNKNOWN_CLIENT, Edge, running_edge
from tests.waiting import eventually

_METHOD = "/certd.v1.AuthorityService/GetAuthority"
_WATCH = "/grpc.health.v1.Health/Watch"
_GET = authority_service_pb2.GetAuthorityRequest(name="tenants/default/authorities/web-ca")
_HANDSHAKE = Limits(handshake_seconds=1)
_IMPATIENT = Patience(seconds=60, when_others_wait=0.2)


def _connected(edge: Edge) -> socket.socket:
    return socket.create_connection(("127.0.0.1", edge.server.port), timeout=20)


def _answer(edge: Edge) -> None:
    edge.stub(authority_service_pb2_grpc.AuthorityServiceStub).GetAuthority(_GET, timeout=20)


def _is_closed(connection: socket.socket) -> bool:
    """Reads to the end, which must come; an alert or the server's settings may come before it."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def _tls(edge: Edge, tmp_path: Path) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=SYSTEM_ROOT.pem.decode())
    (tmp_path / "client.pem").write_bytes(CLIENT.key_pem + CLIENT.pem)
    context.load_cert_chain(tmp_path / "client.pem")
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(_connected(edge), server_hostname="localhost")


class _Silence:
    """Messages of a caller who sends none until they are told to end."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._ended.wait()
        raise StopIteration

    def end(self) -> None:
        self._ended.set()


@pytest.fixture
def silence() -> Iterator[_Silence]:
    made = _Silence()
    yield made
    made.end()


def test_a_connection_that_says_nothing_is_closed_and_others_are_answered_meanwhile() -> None:
    with running_edge(limits=_HANDSHAKE) as edge:
        silent = [_connected(edge) for _ in range(50)]
        started = time.monotonic()
        _answer(edge)
        assert all(_is_closed(connection) for connection in silent)
        assert time.monotonic() - started < 10
        for connection in silent:
            connection.close()


def test_a_handshake_that_trickles_is_closed() -> None:
    with running_edge(limits=_HANDSHAKE) as edge, _connected(edge) as connection:
        # The head of a record of 512 bytes, and its bytes one by one; each comes well within any pause.
        bytes_left = bytes.fromhex("1603010200") + b"\x01\x00\x01\xfc\x03\x03" + bytes(500)
        sent = 0
        for byte in bytes_left:
            try:
                connection.send(bytes([byte]))
            except ConnectionError:
                break
            sent += 1
            if select.select([connection], [], [], 0.05)[0]:
                break
        assert sent < len(bytes_left)
        assert _is_closed(connection)
        _answer(edge)


def test_a_caller_who_says_nothing_after_the_handshake_of_tls_is_closed(tmp_path: Path) -> None:
    with running_edge(limits=_HANDSHAKE) as edge, _tls(edge, tmp_path) as connection:
        assert connection.selected_alpn_protocol() == "h2"
        assert _is_closed(connection)
        _answer(edge)


def test_what_is_no_tls_is_closed(edge: Edge) -> None:
    with _connected(edge) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: certd\r\n\r\n" * 100)
        assert _is_closed(connection)
    _answer(edge)


def test_connections_past_the_last_are_closed_at_once_and_let_in_when_others_end() -> None:
    with running_edge(limits=Limits(connections=3, handshake_seconds=60)) as edge:
        silent = [_connected(edge) for _ in range(3)]
        started = time.monotonic()
        with _connected(edge) as one_more:
            assert _is_closed(one_more)
        assert time.monotonic() - started < 10, "it was not the handshake that ended"
        for connection in silent:
            connection.close()

        def let_in() -> bool:
            try:
                _answer(edge)
            except grpc.RpcError:
                return False
            return True

        eventually(let_in)


def test_an_idle_connection_is_closed_and_the_next_call_opens_another() -> None:
    with running_edge(limits=Limits(connection_idle=0.2)) as edge:
        channel = edge.channel()
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append)
        call = channel.unary_unary(_METHOD, bytes, bytes)
        for round_ in range(1, 3):
            call(_GET.SerializeToString(), timeout=20)
            eventually(lambda round_=round_: states.count(grpc.ChannelConnectivity.IDLE) > round_)  # type: ignore[misc]


@pytest.mark.parametrize(("size", "fits"), [(12 << 10, True), (20 << 10, False)])
def test_headers_have_a_size_and_are_not_refused_at_random(edge: Edge, size: int, *, fits: bool) -> None:
    call = edge.method(_METHOD)
    for _ in range(10):
        metadata = (("authorization", "x" * size),)
        if fits:
            call(_GET.SerializeToString(), timeout=20, metadata=metadata)
        else:
            with pytest.raises(grpc.RpcError) as raised:
                call(_GET.SerializeToString(), timeout=20, metadata=metadata)
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(edge.told.calls) == (10 if fits else 0)


def test_a_caller_who_is_not_known_is_refused_without_being_waited_for(edge: Edge, silence: _Silence) -> None:
    call = edge.channel(UNKNOWN_CLIENT).stream_unary(_METHOD, bytes, bytes)
    with pytest.raises(grpc.RpcError) as raised:
        call(silence, timeout=20)
    assert failure_of(raised.value).reason == "CREDENTIAL_INVALID"


@pytest.mark.parametrize("workers", [1, 4])
def test_who_sends_headers_and_no_message_holds_no_thread_that_others_wait_for(silence: _Silence, workers: int) -> None:
    with running_edge(limits=Limits(unary_workers=workers, patience=_IMPATIENT)) as edge:
        call = edge.channel().stream_unary(_METHOD, bytes, bytes)
        held = [call.future(silence, timeout=300) for _ in range(workers)]
        eventually(lambda: len(edge.server._pool.arrivals._waiting) == workers)
        _answer(edge)
        # The stranger hears of it a moment later.
        eventually(lambda: any(one.done() and one.code() is grpc.StatusCode.CANCELLED for one in held))
        assert len(edge.told.calls) == 1


def test_who_sends_headers_and_no_message_is_waited_for_while_nobody_else_waits_and_then_no_longer(
    silence: _Silence,
) -> None:
    with running_edge(limits=Limits(patience=Patience(seconds=0.5, when_others_wait=0.2))) as edge:
        held = edge.channel().stream_unary(_METHOD, bytes, bytes).future(silence, timeout=300)
        with pytest.raises(grpc.RpcError) as raised:
            held.result(timeout=20)
        assert raised.value.code() is grpc.StatusCode.CANCELLED
        # The caller hears of it before the thread that waited does.
        eventually(lambda: not edge.server._pool.arrivals._waiting)


def test_a_watcher_who_sends_no_message_is_not_waited_for_either(silence: _Silence) -> None:
    with running_edge(limits=Limits(streams=1, patience=_IMPATIENT)) as edge:
        watching: list[Any] = [
            edge.channel().stream_stream(_WATCH, bytes, bytes)(silence, timeout=300) for _ in range(8)
        ]
        eventually(lambda: len(edge.server._slots.arrivals._waiting) == 5)
        health = edge.stub(health_pb2_grpc.HealthStub)
        next(health.Watch(health_pb2.HealthCheckRequest(), timeout=20))
        eventually(lambda: any(stream.done() and stream.code() is grpc.StatusCode.CANCELLED for stream in watching))


def test_a_call_that_ends_without_a_message_is_told_so(edge: Edge, silence: _Silence) -> None:
    silence.end()
    with pytest.raises(grpc.RpcError) as raised:
        edge.channel().stream_unary(_METHOD, bytes, bytes)(silence, timeout=20)
    failure = failure_of(raised.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")


def test_of_two_messages_the_first_counts(edge: Edge) -> None:
    messages: Callable[[], Iterator[bytes]] = lambda: iter([_GET.SerializeToString(), b"\xff\xff"])  # noqa: E731  # Short.
    edge.channel().stream_unary(_METHOD, bytes, bytes)(messages(), timeout=20)
    assert len(edge.told.calls) == 1


def test_silence_does_not_hold_up_those_who_are_refused_for_want_of_room(silence: _Silence) -> None:
    with running_edge(limits=Limits(unary_workers=1, waiting_calls=1)) as edge:
        release = threading.Event()
        edge.told.before = lambda: release.wait(20)
        stub = edge.stub(authority_service_pb2_grpc.AuthorityServiceStub)
        held = [stub.GetAuthority.future(_GET, timeout=60) for _ in range(2)]
        eventually(lambda: edge.server._pool.is_full)
        for _ in range(4):
            with pytest.raises(grpc.RpcError) as raised:
                edge.channel().stream_unary(_METHOD, bytes, bytes)(silence, timeout=20)
            assert failure_of(raised.value).reason == "SERVER_BUSY"
        release.set()
        for call in held:
            call.result()
