"""Events read and watched: in their order, each once, from wherever a reader stands."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.event import NumberedEvent
from certd.model.event_filter import EventFilter
from certd.model.names import TenantName
from certd.services.access import Access
from certd.services.event_cursors import cursor_of, place_of
from certd.services.event_feed import EventFeed
from certd.services.paging import Page, PageRequest, page_until
from certd.services.tenants import existing_tenant
from certd.services.watchers import TooSlowError, Watcher
from certd.store import events
from certd.store.event_chain import CHAIN_START, ChainHead
from certd.store.store import Store, Transaction

QUIET: Final = 30.0
"""Seconds without an answer after which one comes that brings a cursor alone."""
LOOKED_THROUGH: Final = 4000
"""Events, at most, for one page of a list."""
_PAGE: Final = 500
_UNCERTAIN: Final = timedelta(minutes=15)
"""By which an event may be numbered later than it happened."""
_ALL_EVENTS: Final = "events"
"""The resource on which a caller needs what belongs to more than one tenant; only the scope of everything holds it."""
_SHORTEST_WAIT: Final = 0.5


class Stream(Protocol):
    """The call behind a stream: `api.streams.OpenStream`."""

    def authenticate(self) -> None:
        """Raises CREDENTIAL_INVALID or CREDENTIAL_REVOKED once the caller is no longer who they were."""

    def is_open(self) -> bool:
        """Returns whether anybody reads the stream."""

    def when_over(self, told: Callable[[], None]) -> None:
        """Has `told` called when nobody reads the stream any more, at once when that is so already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Which events somebody reads."""

    parent: TenantName | None
    """None: those of the whole server."""
    filter: EventFilter

    @property
    def tenant(self) -> str | None:
        """Id of the tenant; None for the whole server."""
        return None if self.parent is None else self.parent.tenant


@dataclass(frozen=True, slots=True)
class WatchedEvent:
    """What a stream tells: an event, or a cursor alone."""

    event: NumberedEvent | None
    head: ChainHead

    @property
    def cursor(self) -> str:
        """Where to go on."""
        return cursor_of(self.head)


class EventStreams:
    """The use cases of reading events."""

    def __init__(self, *, store: Store, clock: Clock, access: Access, feed: EventFeed, quiet: float = QUIET) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._feed = feed
        self._quiet = quiet

    def page(self, caller: Caller, query: EventQuery, request: PageRequest, *, descending: bool) -> Page[NumberedEvent]:
        """Returns a page of events; it may have fewer than asked for and not be the last. Raises TENANT_NOT_FOUND."""
        self._require(caller, query.parent)
        text = f"events {query.parent or ''} {query.filter} {descending}"
        after = request.after(text)
        with self._store.read("events.page") as tx:
            if query.parent is not None:
                existing_tenant(tx, query.parent.tenant)
            start = _seq_in(after) if after is not None else _start(tx, query.filter, descending=descending)
            found, next_seq = _looked_through(tx, query, request.size, start, descending=descending)
        return page_until(found, text, after=None if next_seq is None else [str(next_seq)])

    def watch(
        self, caller: Caller, query: EventQuery, *, cursor: str, from_beginning: bool, stream: Stream
    ) -> Iterator[WatchedEvent]:
        """Returns the events behind a cursor, or from the first on, or from now on, and goes on as they happen.

        When it has come to what happens now, and after a while without events, comes a cursor alone.
        Raises CURSOR_INVALID, TENANT_NOT_FOUND; and at any time PERMISSION_MISSING, what `Access.authenticate` raises,
        WATCHER_TOO_SLOW with a `cursor` in its metadata, SHUTTING_DOWN.
        """
        self._require(caller, query.parent)
        with self._store.read("events.watch") as tx:
            if query.parent is not None:
                existing_tenant(tx, query.parent.tenant)
            if cursor:
                begin = place_of(tx, cursor)
            elif from_beginning:
                begin = CHAIN_START
            else:
                begin = events.head(tx)

        def check() -> None:
            stream.authenticate()
            self._require(caller, query.parent)

        return _EventReader(self._store, self._feed, query, begin, self._quiet).read(
            check, stream, lambda: wait_of(caller, self._clock.now(), self._quiet)
        )

    def _require(self, caller: Caller, parent: TenantName | None) -> None:
        self._access.require(caller, Permission.EVENT_READ, _ALL_EVENTS if parent is None else str(parent))


class _EventReader:
    """One stream of events: what is in the books first, then what the feed hands it."""

    def __init__(self, store: Store, feed: EventFeed, query: EventQuery, begin: ChainHead, quiet: float) -> None:
        self._store = store
        self._feed = feed
        self._query = query
        self._at = begin
        """Up to where all that is wanted was told."""
        self._told: ChainHead | None = None
        """What the reader knows of that."""
        self._quiet = quiet
        self._last_time = time.monotonic()

    def read(
        self, check: Callable[[], None], stream: Stream, longest_wait: Callable[[], float]
    ) -> Iterator[WatchedEvent]:
        # Without a place in the feed at first: there may be more in the books than ever should wait for one watcher.
        yield from self._from_books(check, stream, until=None)
        if not stream.is_open():
            return
        query = self._query
        with self._feed.watch_events(query.tenant or "", query.filter.types, wants=query.filter.fits) as watcher:
            stream.when_over(watcher.end)
            yield from self._from_books(check, stream, until=watcher.position)
            if not stream.is_open():
                # What lies before the position was perhaps not told.
                return
            self._at = latest(self._at, watcher.position)
            if self._told != self._at:
                check()
                yield self._cursor_alone()
            yield from self._from_feed(check, watcher, longest_wait)

    def _from_books(self, check: Callable[[], None], stream: Stream, until: ChainHead | None) -> Iterator[WatchedEvent]:
        """Reads to a place, or until there is nothing more."""
        while (until is None or self._at.seq < until.seq) and stream.is_open():
            # Little of what there is may be wanted, and nobody would notice otherwise that nobody waits for it.
            self._feed.check_open()
            with self._store.read("events.watch.page") as tx:
                rows = events.page(tx, after_seq=self._at.seq, limit=_PAGE, tenant=self._query.tenant)
            for row in rows:
                if until is not None and row.seq > until.seq:
                    return
                if self._query.filter.fits(row.event):
                    check()
                    yield self._event(row)
                self._at = ChainHead(row.seq, row.chain_hash)
            if self._is_quiet():
                check()
                yield self._cursor_alone()
            if len(rows) < _PAGE:
                return

    def _from_feed(
        self, check: Callable[[], None], watcher: Watcher, longest_wait: Callable[[], float]
    ) -> Iterator[WatchedEvent]:
        while True:
            rows = self._take(watcher, min(longest_wait(), self._last_time + self._quiet - time.monotonic()))
            if rows is None:
                return
            check()
            for row in rows:
                # The books were ahead of the feed.
                if row.seq > self._at.seq:
                    told = self._event(row)
                    watcher.rest()
                    yield told
                    check()
            if self._is_quiet():
                self._at = latest(self._at, self._feed.position(watcher))
                yield self._cursor_alone()

    def _take(self, watcher: Watcher, timeout: float) -> list[NumberedEvent] | None:
        try:
            return watcher.take(max(0.0, timeout))
        except TooSlowError as error:
            raise too_slow(cursor_of(self._at)) from error

    def _event(self, row: NumberedEvent) -> WatchedEvent:
        self._at = self._told = ChainHead(row.seq, row.chain_hash)
        self._last_time = time.monotonic()
        return WatchedEvent(row, self._at)

    def _cursor_alone(self) -> WatchedEvent:
        self._told = self._at
        self._last_time = time.monotonic()
        return WatchedEvent(None, self._at)

    def _is_quiet(self) -> bool:
        return time.monotonic() - self._last_time >= self._quiet


def latest(one: ChainHead, other: ChainHead | None) -> ChainHead:
    """Returns the one that is further."""
    return one if other is None or other.seq <= one.seq else other


def too_slow(cursor: str) -> CertdError:
    """Returns the error of a reader that fell behind; one that was told no cursor yet has none to go on from."""
    return CertdError(
        Reason.WATCHER_TOO_SLOW,
        "the reader of this stream takes less than happens; connect again and go on from the last cursor, and watch"
        " less or read faster",
        metadata={"cursor": cursor},
    )


def wait_of(caller: Caller, now: datetime, longest: float) -> float:
    """Returns the seconds after which a caller is to be looked at anew: when what they showed ends, at the latest."""
    if caller.not_after is None:
        return longest
    left = (caller.not_after - now).total_seconds()
    return min(longest, max(left + _SHORTEST_WAIT, _SHORTEST_WAIT))


def _start(tx: Transaction, wanted: EventFilter, *, descending: bool) -> int:
    """Returns the number behind which the first page begins; before which, when it goes back."""
    if descending:
        return events.first_from(tx, wanted.end_time + _UNCERTAIN) if wanted.end_time else events.head(tx).seq + 1
    return events.first_from(tx, wanted.start_time - _UNCERTAIN) - 1 if wanted.start_time else 0


def _seq_in(after: list[str]) -> int:
    if len(after) != 1 or not after[0].isdigit() or int(after[0]) >= 1 << 63:
        raise field_invalid("page_token", "is not a token that this server gave")
    return int(after[0])


def _looked_through(
    tx: Transaction, query: EventQuery, most: int, start: int, *, descending: bool
) -> tuple[list[NumberedEvent], int | None]:
    """Returns the events that fit of the next ones, and the number to go on from; None at the end."""
    found: list[NumberedEvent] = []
    seq, looked = start, 0
    while looked < LOOKED_THROUGH:
        if descending:
            rows = events.page_back(tx, before_seq=seq, limit=_PAGE, tenant=query.tenant)
        else:
            rows = events.page(tx, after_seq=seq, limit=_PAGE, tenant=query.tenant)
        for row in rows:
            if _is_past(row, query.filter, descending=descending):
                return found, None
            if query.filter.fits(row.event):
                if len(found) == most:
                    return found, seq
                found.append(row)
            seq = row.seq
        if len(rows) < _PAGE:
            return found, None
        looked += len(rows)
    return found, seq


def _is_past(row: NumberedEvent, wanted: EventFilter, *, descending: bool) -> bool:
    """Returns whether neither this event nor any after it, in the direction of reading, is of the time wanted."""
    if descending:
        return wanted.start_time is not None and row.event.time < wanted.start_time - _UNCERTAIN
    return wanted.end_time is not None and row.event.time >= wanted.end_time + _UNCERTAIN
