"""How much comes in and goes out, how long it may take, and how it ends."""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certd.api.fields import LARGEST_PAGE_BYTES
from certd.api.server import Limits, serve
from certd.errors import CertdError
from certd.metrics import CALLS
from certd.v1 import (
    authority_service_pb2,
    authority_service_pb2_grpc,
    certificate_service_pb2,
    certificate_service_pb2_grpc,
)
from tests.api.edge_failure import failure_of
from tests.api.edge_server import CREDENTIALS, Edge, running_edge

_NAME = "tenants/default/authorities/web-ca"
_GET = authority_service_pb2.GetAuthorityRequest(name=_NAME)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    waiting = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        waiting.wait(0.005)


def test_a_message_that_is_too_large_is_refused(edge: Edge) -> None:
    stub = edge.stub(certificate_service_pb2_grpc.CertificateServiceStub, max_send_message_length=-1)
    request = certificate_service_pb2.IssueCertificateRequest(parent=_NAME, csr=bytes(17 * 1024 * 1024))
    with pytest.raises(grpc.RpcError) as raised:
        stub.IssueCertificate(request, timeout=20)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert edge.told.calls == []


def test_a_message_of_fifteen_mebibytes_is_read(edge: Edge) -> None:
    stub = edge.stub(certificate_service_pb2_grpc.CertificateServiceStub, max_send_message_length=-1)
    request = certificate_service_pb2.IssueCertificateRequest(parent=_NAME, csr=bytes(15 * 1024 * 1024))
    with pytest.raises(grpc.RpcError) as raised:
        stub.IssueCertificate(request, timeout=20)
    assert failure_of(raised.value).reason == "CSR_MALFORMED"
    assert edge.told.calls == []


def test_a_page_is_no_larger_than_what_every_client_receives(edge: Edge) -> None:
    edge.authorities.many = 4000
    stub = edge.stub(authority_service_pb2_grpc.AuthorityServiceStub)
    one = stub.ListAuthorities(authority_service_pb2.ListAuthoritiesRequest(parent="tenants/default", page_size=1))
    per_entry = one.ByteSize()
    edge.authorities.view.authority.labels["filler"] = "x" * (8192 - per_entry)  # type: ignore[index]
    try:
        request = authority_service_pb2.ListAuthoritiesRequest(parent="tenants/default", page_size=1000)
        answer = stub.ListAuthorities(request, timeout=60)
    finally:
        del edge.authorities.view.authority.labels["filler"]  # type: ignore[attr-defined]
    assert 300 < len(answer.authorities) < 1000
    assert answer.ByteSize() <= LARGEST_PAGE_BYTES
    asked = [arguments[2] for arguments in edge.told.calls[1:]]
    assert asked[0].size == 1000
    assert len(asked) == 2


def test_a_call_whose_deadline_has_passed_is_told_so_and_does_nothing() -> None:
    with running_edge(limits=Limits(unary_workers=1)) as edge:
        busy, release = threading.Event(), threading.Event()

        def hold() -> None:
            busy.set()
            assert release.wait(20)

        edge.told.before = hold
        stub = edge.stub(authority_service_pb2_grpc.AuthorityServiceStub)
        first = stub.GetAuthority.future(_GET, timeout=20)
        assert busy.wait(20)
        second = stub.GetAuthority.future(_GET, timeout=0.05)
        with pytest.raises(grpc.RpcError) as raised:
            second.result()
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        edge.told.before = None
        release.set()
        first.result()
        # The one thread has passed over the second call when a third one is answered.
        stub.GetAuthority(_GET, timeout=20)
        assert len(edge.told.calls) == 2


def test_past_the_last_stream_slot_a_watcher_is_refused_at_once_and_calls_go_on() -> None:
    with running_edge(limits=Limits(unary_workers=1, streams=2)) as edge:
        stub = edge.stub(health_pb2_grpc.HealthStub)
        watchers = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(2)]
        for watcher in watchers:
            next(watcher)
        for _ in range(10):
            with pytest.raises(grpc.RpcError) as raised:
                next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20))
            failure = failure_of(raised.value)
            assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHERS")
            assert failure.retry_after == 10
        edge.stub(authority_service_pb2_grpc.AuthorityServiceStub).GetAuthority(_GET, timeout=20)
        watchers[0].cancel()

        def free() -> bool:
            try:
                next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20))
            except grpc.RpcError:
                return False
            return True

        _until(free)


def test_what_finds_no_room_is_told_so_at_once_and_when_to_come_again_and_is_let_in_later() -> None:
    with running_edge(limits=Limits(unary_workers=2, waiting_calls=1)) as edge:
        release = threading.Event()
        edge.told.before = lambda: release.wait(20)
        stub = edge.stub(authority_service_pb2_grpc.AuthorityServiceStub)
        held = [stub.GetAuthority.future(_GET, timeout=20) for _ in range(3)]
        _until(lambda: len(edge.told.calls) == 2 and edge.server._pool.is_full)
        for _ in range(20):
            with pytest.raises(grpc.RpcError) as raised:
                stub.GetAuthority(_GET, timeout=20)
            failure = failure_of(raised.value)
            assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")
            assert failure.retry_after is not None
            assert 0.5 <= failure.retry_after <= 1.5
        # Watchers have threads of their own.
        next(edge.stub(health_pb2_grpc.HealthStub).Watch(health_pb2.HealthCheckRequest(), timeout=20))
        edge.told.before = None
        release.set()
        for call in held:
            call.result()
        _until(lambda: not edge.server._pool.is_full)
        stub.GetAuthority(_GET, timeout=20)
        # What was refused was not even read, and nobody was asked who called.
        assert len(edge.told.calls) == 4


def test_calls_whose_caller_went_away_leave_their_places() -> None:
    with running_edge(limits=Limits(unary_workers=1, waiting_calls=4)) as edge:
        release = threading.Event()
        edge.told.before = lambda: release.wait(20)
        stub = edge.stub(authority_service_pb2_grpc.AuthorityServiceStub)
        calls = [stub.GetAuthority.future(_GET, timeout=20) for _ in range(5)]
        _until(lambda: edge.server._pool.is_full)
        for call in calls:
            call.cancel()
        edge.told.before = None
        release.set()
        _until(lambda: not edge.server._pool.is_full)
        stub.GetAuthority(_GET, timeout=20)


def test_many_callers_at_once(edge: Edge) -> None:
    stub = edge.stub(authority_service_pb2_grpc.AuthorityServiceStub)
    with ThreadPoolExecutor(16) as pool:
        names = list(pool.map(lambda _: stub.GetAuthority(_GET, timeout=60).name, range(200)))
    assert names == [_NAME] * 200


def test_a_call_that_runs_is_answered_before_the_server_stops_and_watchers_do_not_hold_it_up() -> None:
    with running_edge() as edge:
        busy, release = threading.Event(), threading.Event()

        def hold() -> None:
            busy.set()
            assert release.wait(20)

        edge.told.before = hold
        watcher = edge.stub(health_pb2_grpc.HealthStub).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        next(watcher)
        call = edge.stub(authority_service_pb2_grpc.AuthorityServiceStub).GetAuthority.future(_GET, timeout=20)
        assert busy.wait(20)
        stopping = threading.Thread(target=edge.server.stop, args=(60,))
        started = time.monotonic()
        stopping.start()
        with pytest.raises(grpc.RpcError) as raised:
            for _ in watcher:
                pass
        # Whichever is faster: the end of the stream, or that of the connection.
        assert raised.value.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
        assert stopping.is_alive()
        release.set()
        assert call.result().name == _NAME
        stopping.join(20)
        assert not stopping.is_alive()
        assert time.monotonic() - started < 30, "the grace was not waited for"


def test_a_call_that_comes_while_the_server_stops_is_told_so(edge: Edge) -> None:
    stub = edge.stub(authority_service_pb2_grpc.AuthorityServiceStub)
    stub.GetAuthority(_GET, timeout=20)
    edge.server._gate.stop()
    with pytest.raises(grpc.RpcError) as raised:
        stub.GetAuthority(_GET, timeout=20)
    failure = failure_of(raised.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert failure.retry_after is not None


def test_a_stream_that_comes_while_the_server_stops_is_told_so(edge: Edge) -> None:
    edge.server._slots.close()
    with pytest.raises(grpc.RpcError) as raised:
        next(edge.stub(health_pb2_grpc.HealthStub).Watch(health_pb2.HealthCheckRequest(), timeout=20))
    assert failure_of(raised.value).reason == "SHUTTING_DOWN"


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "no such host"])
def test_an_address_that_cannot_be_bound_is_named(edge: Edge, host: str) -> None:
    with pytest.raises(CertdError) as raised:
        serve(host=host, port=edge.server.port, credentials=CREDENTIALS, services=edge.services)
    assert [violation.field for violation in raised.value.violations] == ["listen.grpc"]
    assert f"{host}:{edge.server.port}" in raised.value.message


def test_a_port_is_free_after_the_stop() -> None:
    with running_edge() as edge:
        port = edge.server.port
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_calls_are_counted_by_method_and_code(edge: Edge) -> None:
    method = "/certd.v1.AuthorityService/GetAuthority"

    def counted(code: str) -> float:
        return float(CALLS.labels(method, code)._value.get())

    stub = edge.stub(authority_service_pb2_grpc.AuthorityServiceStub)
    well, badly = counted("OK"), counted("INVALID_ARGUMENT")
    stub.GetAuthority(_GET, timeout=20)
    with pytest.raises(grpc.RpcError):
        stub.GetAuthority(authority_service_pb2.GetAuthorityRequest(), timeout=20)
    _until(lambda: (counted("OK"), counted("INVALID_ARGUMENT")) == (well + 1, badly + 1))
