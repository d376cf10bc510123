"""Streams behind the edge that do as they are told."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from certd.model.access import Caller
from certd.model.event import Event, EventType, NumberedEvent
from certd.services.event_streams import EventQuery, EventStreams, Stream, WatchedEvent
from certd.services.managed_watch import ManagedWatch, ManagedWatchRequest
from certd.services.managed_watch_scopes import ChangeKind, ManagedChange
from certd.services.paging import Page, PageRequest
from certd.store.event_chain import ChainHead
from tests.api.edge_profiles import Takes

RENEWED = NumberedEvent(
    seq=7,
    event=Event(
        time=datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        type=EventType.MANAGED_CERTIFICATE_RENEWED,
        tenant="default",
        principal="certd",
        resource="tenants/default/managedCertificates/web/versions/2",
        details={"uid": "77aa"},
    ),
    chain_hash=bytes(range(32)),
)
RECOVERED = NumberedEvent(
    seq=8,
    event=Event(
        time=datetime(2030, 1, 2, tzinfo=UTC),
        type=EventType.ADMINISTRATOR_RECOVERED,
        tenant=None,
        principal="certd",
        resource="identities/admin",
    ),
    chain_hash=bytes(32),
)


class FakeEventStreams(EventStreams):
    def __init__(self, told: Takes) -> None:
        self._told = told
        self.answers: Iterable[WatchedEvent] = (
            WatchedEvent(RENEWED, ChainHead(7, RENEWED.chain_hash)),
            WatchedEvent(None, ChainHead(9, bytes(32))),
        )
        self.make: Callable[[Stream], Iterator[WatchedEvent]] | None = None
        """Makes the answers instead."""

    def page(self, caller: Caller, query: EventQuery, request: PageRequest, *, descending: bool) -> Page[NumberedEvent]:
        self._told.take(caller, query, request, descending)
        return Page((RENEWED, RECOVERED), "next")

    def watch(
        self, caller: Caller, query: EventQuery, *, cursor: str, from_beginning: bool, stream: Stream
    ) -> Iterator[WatchedEvent]:
        self._told.take(caller, query, cursor, from_beginning)
        stream.authenticate()
        return iter(self.answers) if self.make is None else self.make(stream)


class FakeManagedWatch(ManagedWatch):
    def __init__(self, told: Takes) -> None:
        self._told = told
        self.answers: Iterable[ManagedChange] = (
            ManagedChange(kind=ChangeKind.SYNCED, cursor="c1"),
            ManagedChange(
                kind=ChangeKind.REMOVED, name="tenants/default/managedCertificates/web", event=RENEWED, cursor="c2"
            ),
        )

    def watch(self, caller: Caller, request: ManagedWatchRequest, stream: Stream) -> Iterator[ManagedChange]:
        self._told.take(caller, request)
        stream.authenticate()
        return iter(self.answers)
