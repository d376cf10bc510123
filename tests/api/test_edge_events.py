"""Streams at the edge: converted whole in both directions, and no reader holds what it does not use."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from certd.api.server import Limits, serve
from certd.api.streams import FEW_STREAMS, OpenStream, StreamSlots
from certd.errors import CertdError, Reason
from certd.model.access import Caller
from certd.model.event_filter import EventFilter
from certd.model.names import ManagedCertificateName, TenantName
from certd.services.bearer import Bearer
from certd.services.event_streams import EventQuery, Stream, WatchedEvent
from certd.services.managed_watch import ManagedWatchRequest
from certd.services.paging import PageRequest
from certd.services.rates import Rates
from certd.store.event_chain import ChainHead
from certd.v1 import (
    event_pb2,
    event_service_pb2,
    event_service_pb2_grpc,
    managed_certificate_service_pb2,
    managed_certificate_service_pb2_grpc,
)
from tests.api.edge_events import RENEWED, FakeEventStreams
from tests.api.edge_failure import Failure, failure_of
from tests.api.edge_server import ALICE, CLIENT, CREDENTIALS, SYSTEM_ROOT, Edge, running_edge
from tests.waiting import eventually

WEB = "tenants/default/managedCertificates/web"
EVENT = event_pb2.Event(
    name="events/7",
    seq=7,
    time=Timestamp(seconds=1_893_553_445, nanos=678_901_000),
    type="managed-certificate.renewed",
    tenant="tenants/default",
    principal="certd",
    resource=f"{WEB}/versions/2",
    details={"uid": "77aa"},
    chain_hash=bytes(range(32)),
)


def watch(edge: Edge, request: Message) -> Any:
    if isinstance(request, event_service_pb2.WatchEventsRequest):
        return edge.stub(event_service_pb2_grpc.EventServiceStub).WatchEvents(request, timeout=60)
    stub = edge.stub(managed_certificate_service_pb2_grpc.ManagedCertificateServiceStub)
    return stub.WatchManagedCertificates(request, timeout=60)


def refused(call: Any) -> Failure:
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    return failure_of(raised.value)


def test_events_are_listed_as_they_were_asked_for(edge: Edge) -> None:
    stub = edge.stub(event_service_pb2_grpc.EventServiceStub)
    wanted = event_service_pb2.EventFilter(
        types=["managed-certificate.*", "*"],
        resource=WEB,
        principal="certd",
        start_time=Timestamp(seconds=1_893_553_445, nanos=1),
        end_time=Timestamp(seconds=1_893_553_446),
    )
    request = event_service_pb2.ListEventsRequest(
        parent="tenants/default", filter=wanted, descending=True, page_size=7, page_token="t"
    )
    answer = stub.ListEvents(request)
    assert answer.events[0] == EVENT
    assert (answer.events[1].tenant, answer.next_page_token) == ("", "next")
    caller, query, page, descending = edge.told.last
    assert (caller.principal, page, descending) == (ALICE, PageRequest(7, "t"), True)
    assert query == EventQuery(
        parent=TenantName("default"),
        filter=EventFilter(
            types=("managed-certificate.*", "*"),
            resource=WEB,
            principal="certd",
            start_time=datetime(2030, 1, 2, 3, 4, 5, 1, tzinfo=UTC),
            end_time=datetime(2030, 1, 2, 3, 4, 6, tzinfo=UTC),
        ),
    )
    stub.ListEvents(event_service_pb2.ListEventsRequest())
    assert edge.told.last[1:] == (EventQuery(parent=None, filter=EventFilter()), PageRequest(100, ""), False)


def test_events_are_streamed_with_their_cursors(edge: Edge) -> None:
    request = event_service_pb2.WatchEventsRequest(parent="tenants/default", cursor="c")
    first, second = watch(edge, request)
    assert first.event == EVENT
    assert first.cursor
    assert not second.HasField("event")
    assert second.cursor not in {"", first.cursor}
    caller, query, cursor, from_beginning = edge.told.last
    assert (caller.principal, query.tenant, cursor, from_beginning) == (ALICE, "default", "c", False)


def test_changes_of_managed_certificates_are_streamed(edge: Edge) -> None:
    kind = managed_certificate_service_pb2.WatchManagedCertificatesResponse
    request = managed_certificate_service_pb2.WatchManagedCertificatesRequest(
        parent="tenants/default", names=[WEB, WEB], cursor="c"
    )
    first, second = watch(edge, request)
    assert first == kind(kind=kind.SYNCED, cursor="c1")
    assert second == kind(kind=kind.REMOVED, name=WEB, event=EVENT, cursor="c2")
    _, asked = edge.told.last
    assert asked == ManagedWatchRequest(
        parent=TenantName("default"), names=frozenset({ManagedCertificateName("default", "web")}), cursor="c"
    )
    list(watch(edge, managed_certificate_service_pb2.WatchManagedCertificatesRequest()))
    assert edge.told.last[1] == ManagedWatchRequest(parent=None)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (
            event_service_pb2.WatchEventsRequest(
                parent="tenant",
                filter=event_service_pb2.EventFilter(types=["a*b", "", "x" * 65], end_time=Timestamp(seconds=1)),
                cursor="c" * 257,
                from_beginning=True,
            ),
            {
                "parent",
                "filter.types[0]",
                "filter.types[1]",
                "filter.types[2]",
                "filter.end_time",
                "cursor",
                "from_beginning",
            },
        ),
        (
            event_service_pb2.WatchEventsRequest(
                filter=event_service_pb2.EventFilter(
                    types=["a"] * 101, resource="r" * 513, principal="p\n", start_time=Timestamp(seconds=-1)
                )
            ),
            {"filter.types", "filter.resource", "filter.principal", "filter.start_time"},
        ),
        (
            managed_certificate_service_pb2.WatchManagedCertificatesRequest(
                parent="tenants/default",
                names=[WEB, "web", "tenants/other/managedCertificates/web"],
                cursor="c\x00",
            ),
            {"names[1]", "names[2]", "cursor"},
        ),
        (
            managed_certificate_service_pb2.WatchManagedCertificatesRequest(names=[WEB] * 1001),
            {"names"},
        ),
    ],
)
def test_every_wrong_field_is_named(edge: Edge, request_: Message, fields: set[str]) -> None:
    failure = refused(watch(edge, request_))
    assert failure.reason == "FIELD_INVALID"
    assert {field for field, _ in failure.violations} == fields
    assert edge.told.calls == []


def test_a_time_that_ends_before_it_begins_is_refused(edge: Edge) -> None:
    time_ = Timestamp(seconds=10)
    wanted = event_service_pb2.EventFilter(start_time=time_, end_time=time_)
    request = event_service_pb2.ListEventsRequest(filter=wanted)
    with pytest.raises(grpc.RpcError) as raised:
        edge.stub(event_service_pb2_grpc.EventServiceStub).ListEvents(request)
    assert failure_of(raised.value).violations[0][0] == "filter.end_time"


class Endless:
    """Answers without end; each has so many octets, and its caller is looked at before it."""

    def __init__(self, edge: Edge, *, octets: int = 0) -> None:
        fake = edge.services.event_streams
        assert isinstance(fake, FakeEventStreams)
        fake.make = self._made
        self._details = {"more": "x" * octets}
        self.sent = 0
        self.over = threading.Event()

    def _made(self, stream: Stream) -> Iterator[WatchedEvent]:
        stream.when_over(self.over.set)
        for seq in itertools.count(1):
            stream.authenticate()
            self.sent = seq
            event = replace(RENEWED.event, details=self._details)
            yield WatchedEvent(replace(RENEWED, seq=seq, event=event), ChainHead(seq, bytes(32)))


_EVERYTHING = event_service_pb2.WatchEventsRequest(from_beginning=True)


def test_a_reader_that_takes_nothing_gives_its_slot_up() -> None:
    with running_edge(limits=Limits(streams=1, longest_send=0.3)) as edge:
        endless = Endless(edge, octets=100_000)
        slow = watch(edge, _EVERYTHING)
        next(slow)

        def stands() -> bool:
            before = endless.sent
            return not threading.Event().wait(0.05) and endless.sent == before

        eventually(stands)
        assert refused(watch(edge, _EVERYTHING)).reason == "TOO_MANY_WATCHERS"
        assert endless.over.wait(10)
        eventually(lambda: not edge.server._slots._open)
        assert next(watch(edge, _EVERYTHING)).event.seq == 1
        # What was on its way comes still, and then the end.
        assert refused(slow).code is grpc.StatusCode.CANCELLED


def test_a_reader_that_takes_what_comes_keeps_its_slot_however_long() -> None:
    with running_edge(limits=Limits(streams=1, longest_send=0.2)) as edge:
        endless = Endless(edge, octets=1000)
        reader = watch(edge, _EVERYTHING)
        began = time.monotonic()
        while time.monotonic() - began < 0.6:
            next(reader)
        assert not endless.over.is_set()
        reader.cancel()
        assert endless.over.wait(10)
        eventually(lambda: not edge.server._slots._open)


def test_a_stream_counts_as_one_call_and_ends_when_its_caller_is_revoked() -> None:
    rates = Rates(calls_per_second=1, burst=2)
    with running_edge(rates=rates) as edge:
        Endless(edge)
        reader = watch(edge, _EVERYTHING)
        for _ in range(20):
            next(reader)
        edge.access.callers[CLIENT.der] = CertdError(Reason.CREDENTIAL_REVOKED, "the client certificate was revoked")
        failure = refused(reader)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REVOKED")


def test_a_reader_that_fell_behind_is_told_its_cursor(edge: Edge) -> None:
    def made(_stream: Stream) -> Iterator[WatchedEvent]:
        yield WatchedEvent(RENEWED, ChainHead(7, bytes(32)))
        raise CertdError(Reason.WATCHER_TOO_SLOW, "too slow; go on", metadata={"cursor": "c7"})

    fake = edge.services.event_streams
    assert isinstance(fake, FakeEventStreams)
    fake.make = made
    reader = watch(edge, _EVERYTHING)
    assert next(reader).event.seq == 7
    failure = refused(reader)
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "WATCHER_TOO_SLOW")
    assert failure.metadata == {"cursor": "c7"}


def stream_of() -> OpenStream:
    return OpenStream(cast("Any", object()), lambda: None, ends_by_itself=True)


def test_one_caller_does_not_take_every_slot() -> None:
    slots = StreamSlots(40)
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(slots.slot(stream_of(), "greedy"))
        with pytest.raises(CertdError, match="30 of 40") as refused_one, slots.slot(stream_of(), "greedy"):
            pass
        assert (refused_one.value.reason, refused_one.value.retry_after) == (Reason.TOO_MANY_WATCHERS, 10.0)
        for number in range(10):
            stack.enter_context(slots.slot(stream_of(), f"other-{number % 2}"))
        with pytest.raises(CertdError, match="all 40"), slots.slot(stream_of(), "another"):
            pass
    with slots.slot(stream_of(), "greedy"):
        pass
    slots.close()
    with pytest.raises(CertdError, match="SHUTTING_DOWN"), slots.slot(stream_of(), "another"):
        pass


def test_those_who_are_nobody_leave_slots_to_those_who_are_somebody() -> None:
    slots = StreamSlots(40)
    with contextlib.ExitStack() as stack:
        for _ in range(FEW_STREAMS):
            stack.enter_context(slots.slot(stream_of(), ""))
        with pytest.raises(CertdError, match="TOO_MANY_WATCHERS"), slots.slot(stream_of(), ""):
            pass
        stack.enter_context(slots.slot(stream_of(), ALICE))
    with slots.slot(stream_of(), ""):
        pass
    slots.close()


class OneToken(Bearer):
    """Takes every token until the test says that they have ended."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.has_ended = False

    def authenticate(self, token: str) -> Caller:
        self.seen.append(token)
        if self.has_ended:
            raise CertdError(Reason.CREDENTIAL_INVALID, "the bearer token is refused: it ended")
        return Caller(principal=ALICE, serial="")


def test_a_stream_ends_with_the_token_of_its_caller(edge: Edge) -> None:
    Endless(edge)
    tokens = OneToken()
    server = serve(host="127.0.0.1", port=0, credentials=CREDENTIALS, services=edge.services, bearer=tokens)
    trust = grpc.ssl_channel_credentials(SYSTEM_ROOT.pem)
    try:
        with grpc.secure_channel(f"localhost:{server.port}", trust) as channel:
            stub: Any = event_service_pb2_grpc.EventServiceStub(channel)  # type: ignore[no-untyped-call]
            reader = stub.WatchEvents(_EVERYTHING, timeout=60, metadata=(("authorization", "Bearer mine"),))
            next(reader)
            tokens.has_ended = True
            failure = refused(reader)
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")
            assert set(tokens.seen) == {"mine"}
    finally:
        server.stop(0)
