"""Managed certificates watched: as they are, and then every change of them as it happens."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Final

from certd.clock import Clock
from certd.model.access import Caller
from certd.model.event import NumberedEvent
from certd.model.names import ManagedCertificateName, TenantName
from certd.services.access import Access
from certd.services.event_cursors import cursor_of, place_of
from certd.services.event_feed import EventFeed
from certd.services.event_streams import QUIET, Stream, latest, too_slow, wait_of
from certd.services.event_topics import ASSOCIATED, managed_name_in
from certd.services.managed_watch_scopes import ChangeKind, ConsumerScope, ManagedChange, Scope, TenantScope
from certd.services.tenants import existing_tenant
from certd.services.watchers import TooSlowError, Watcher
from certd.store.event_chain import ChainHead
from certd.store.store import Store

_TURNS: Final = 4
"""Watchers that read at once what there is: a thousand that come back together must not keep calls waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedWatchRequest:
    """What somebody watches."""

    parent: TenantName | None
    """None: what the caller is associated with, in every tenant."""
    names: frozenset[ManagedCertificateName] = frozenset()
    """Empty: all."""
    cursor: str = ""
    """Empty: what there is now comes first."""


class ManagedWatch:
    """The use case of watching managed certificates."""

    def __init__(self, *, store: Store, clock: Clock, access: Access, feed: EventFeed, quiet: float = QUIET) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._feed = feed
        self._quiet = quiet
        self._turns = threading.BoundedSemaphore(_TURNS)

    def watch(self, caller: Caller, request: ManagedWatchRequest, stream: Stream) -> Iterator[ManagedChange]:
        """Returns what there is, and goes on with what changes.

        Behind a cursor it is what changed since, as far as that is remembered; all that there is otherwise.
        Raises CURSOR_INVALID, TENANT_NOT_FOUND; and at any time PERMISSION_MISSING, what `Access.authenticate` raises,
        WATCHER_TOO_SLOW with a `cursor` in its metadata, SHUTTING_DOWN.
        """
        scope: Scope
        if request.parent is None:
            scope = ConsumerScope(self._store, self._access, self._clock, self._feed, caller, request.names)
        else:
            scope = TenantScope(self._store, self._access, self._clock, caller, request.parent, request.names)
        scope.require()
        with self._store.read("managed-watch.begin") as tx:
            if request.parent is not None:
                existing_tenant(tx, request.parent.tenant)
            begin = place_of(tx, request.cursor) if request.cursor else None
        reader = _Reader(self._feed, scope, begin, self._quiet, self._turns)
        return reader.read(stream, lambda: wait_of(caller, self._clock.now(), self._quiet))


class _Reader:
    """One stream."""

    def __init__(
        self, feed: EventFeed, scope: Scope, begin: ChainHead | None, quiet: float, turns: threading.BoundedSemaphore
    ) -> None:
        self._feed = feed
        self._scope = scope
        self._begin = begin
        self._quiet = quiet
        self._turns = turns
        self._at: ChainHead | None = None
        """Up to where all was told; None before SYNCED."""
        self._watcher: Watcher | None = None
        self._last_time = time.monotonic()

    def read(self, stream: Stream, longest_wait: Callable[[], float]) -> Iterator[ManagedChange]:
        with self._feed.watch(self._scope.topics, wants=self._scope.wants) as watcher:
            self._watcher = watcher
            stream.when_over(watcher.end)
            with self._turns:
                self._scope.begin(watcher)
                missed = self._missed(watcher)
            waiting: list[NumberedEvent] = []
            if missed is None:
                self._at = None
                waiting = yield from self._all_that_is_there(watcher, stream)
                self._at = watcher.position
            else:
                yield from self._changes(missed, stream)
                self._at = latest(watcher.position, self._at)
            self._check(stream)
            yield self._told(ManagedChange(kind=ChangeKind.SYNCED, cursor=cursor_of(self._at)))
            yield from self._changes(waiting, stream)
            yield from self._from_feed(watcher, stream, longest_wait)

    def _missed(self, watcher: Watcher) -> list[NumberedEvent] | None:
        """Returns what happened since the cursor; None when everything has to be told."""
        if self._begin is None or not self._scope.is_as_it_was(self._begin.seq):
            return None
        self._at = self._begin
        self._scope.resume(self._begin.seq)
        return self._feed.since(self._scope.all_topics(watcher), self._begin.seq)

    def _all_that_is_there(
        self, watcher: Watcher, stream: Stream
    ) -> Generator[ManagedChange, None, list[NumberedEvent]]:
        """Tells what there is; returns what happened meanwhile, of each managed certificate the last event.

        The last one of its associations besides, for what ended is in no other.
        """
        waiting: dict[tuple[str, bool], NumberedEvent] = {}
        pages = self._scope.pages()
        while True:
            with self._turns:
                page = next(pages, None)
            if page is None:
                break
            for change in page:
                self._check(stream)
                yield self._told(change)
            # Or a long beginning would fill its queue.
            for row in self._take(watcher, 0) or ():
                kind = (managed_name_in(row.event.resource), row.event.type in ASSOCIATED)
                waiting.pop(kind, None)
                waiting[kind] = row
        return list(waiting.values())

    def _from_feed(
        self, watcher: Watcher, stream: Stream, longest_wait: Callable[[], float]
    ) -> Iterator[ManagedChange]:
        while True:
            timeout = min(longest_wait(), self._last_time + self._quiet - time.monotonic())
            rows = self._take(watcher, max(0.0, timeout))
            if rows is None:
                return
            self._check(stream)
            for change in self._scope.rechecked(cursor_of(self._place)):
                yield self._told(change)
            yield from self._changes(rows, stream)
            if time.monotonic() - self._last_time >= self._quiet:
                self._at = latest(self._place, self._feed.position(watcher))
                yield self._told(ManagedChange(kind=ChangeKind.ALIVE, cursor=cursor_of(self._at)))

    def _changes(self, rows: list[NumberedEvent], stream: Stream) -> Iterator[ManagedChange]:
        for row in rows:
            # What was remembered may have been handed to the watcher as well.
            if row.seq <= self._place.seq:
                continue
            self._check(stream)
            self._at = ChainHead(row.seq, row.chain_hash)
            change = self._scope.change(row, cursor_of(self._at))
            if change is not None:
                yield self._told(change)

    def _take(self, watcher: Watcher, timeout: float) -> list[NumberedEvent] | None:
        try:
            return watcher.take(timeout)
        except TooSlowError as error:
            raise too_slow("" if self._at is None else cursor_of(self._at)) from error

    def _check(self, stream: Stream) -> None:
        stream.authenticate()
        self._scope.require()

    def _told(self, change: ManagedChange) -> ManagedChange:
        # What follows is sent, which takes as long as the reader likes.
        if self._watcher is not None:
            self._watcher.rest()
        self._last_time = time.monotonic()
        return change

    @property
    def _place(self) -> ChainHead:
        if self._at is None:
            raise RuntimeError("nothing was told yet")
        return self._at
