"""The feed: reads events as they are numbered, once for all who watch, and hands each to those whom it concerns.

Nobody is asked whether an event is theirs: watchers are found by topic, so that what happens a thousand times a second
costs those nothing who watch something else. While nobody watches, nothing is read.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from certd.errors import CertdError, Reason
from certd.model.event import Event, NumberedEvent
from certd.model.subscription import ANYTHING, type_fits
from certd.services.event_topics import ACCESS_CHANGES, RememberedEvents, event_topic, remembered_topics
from certd.services.watchers import Waking, Wants, Watcher
from certd.store import events
from certd.store.event_chain import CHAIN_START, ChainHead
from certd.store.store import Store

LONGEST_QUEUE: Final = 1000
"""Events that may wait for one watcher."""
REMEMBERED: Final = 10_000
"""Events about managed certificates that are kept, for those who come back."""
_LOOK_BACK: Final = 5000
"""Events that are read again, at most, when the first watcher comes."""
_PAGE: Final = 1000
_MOST_KINDS: Final = 4096
"""Tenants and types whose topics are kept."""
_PAUSE: Final = 0.02
"""Seconds between two reads, so that a busy daemon reads many events at once."""
_PAUSE_AFTER_FAILURE: Final = 1.0

_log = logging.getLogger("certd.services")


class EventFeed:
    """Those who watch, and the thread that reads for them.

    Args:
        store: whose events.
        remembered: how many are kept for those who come back.
        queue: how many may wait for one watcher.
    """

    def __init__(self, store: Store, *, remembered: int = REMEMBERED, queue: int = LONGEST_QUEUE) -> None:
        self._store = store
        self._queue = queue
        # Whoever reads holds the first; watchers, topics, position and memory change under the second.
        self._reading = threading.Lock()
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._waking: Waking | None = None
        self._end_listening: Callable[[], None] | None = None
        self._watchers: dict[Watcher, set[str]] = {}
        self._by_topic: dict[str, set[Watcher]] = {}
        self._wanted: Counter[tuple[str, str]] = Counter()
        """Tenants and types of those who watch events."""
        self._topics_of_type: dict[tuple[str | None, str], tuple[str, ...]] = {}
        self._position = CHAIN_START
        self._memory = RememberedEvents(remembered)

    @contextmanager
    def watch(self, topics: Iterable[str] = (), *, wants: Wants | None = None) -> Iterator[Watcher]:
        """Yields a watcher, which is handed every event of its topics behind its position.

        Raises SHUTTING_DOWN, STORE_UNAVAILABLE.
        """
        with self._entered(topics, wants, ()) as watcher:
            yield watcher

    @contextmanager
    def watch_events(self, tenant: str, types: Iterable[str], *, wants: Wants) -> Iterator[Watcher]:
        """As `watch`, of events of types, which may end in `*`; of the whole server for no tenant."""
        wanted = [(tenant, each) for each in types] or [(tenant, ANYTHING)]
        with self._entered((event_topic(*each) for each in wanted), wants, wanted) as watcher:
            yield watcher

    def follow(self, watcher: Watcher, topics: Iterable[str]) -> None:
        """Gives a watcher further topics; what is read after the return holds what it was not handed."""
        with self._lock:
            self._follow(watcher, topics)

    def leave(self, watcher: Watcher, topics: Iterable[str]) -> None:
        """Takes topics from a watcher."""
        with self._lock:
            self._forget(watcher, topics)

    def position(self, watcher: Watcher) -> ChainHead | None:
        """Returns the last event that was handed out, when the watcher has taken all that was its own."""
        with self._lock:
            return self._position if watcher.has_nothing else None

    def since(self, topics: Iterable[str], seq: int) -> list[NumberedEvent] | None:
        """Returns the events of topics of managed certificates after a number; None when not all are remembered."""
        with self._lock:
            return self._memory.since(topics, seq)

    def check_open(self) -> None:
        """Raises SHUTTING_DOWN after `close`."""
        if self._closing.is_set():
            raise _shutting_down()

    def close(self) -> None:
        """Ends all watchers with SHUTTING_DOWN; later ones are refused."""
        with self._lock:
            self._closing.set()
            watchers = tuple(self._watchers)
        self._news.set()
        for watcher in watchers:
            watcher.end(_shutting_down())
        with self._reading:
            thread, waking = self._thread, self._waking
        if thread is not None:
            thread.join()
        if waking is not None:
            waking.stop()

    @contextmanager
    def _entered(
        self, topics: Iterable[str], wants: Wants | None, wanted: Sequence[tuple[str, str]]
    ) -> Iterator[Watcher]:
        watcher = self._enter(set(topics), wants, wanted)
        try:
            yield watcher
        finally:
            self._go(watcher, wanted)

    def _enter(self, topics: set[str], wants: Wants | None, wanted: Iterable[tuple[str, str]]) -> Watcher:
        with self._reading:
            self.check_open()
            if self._end_listening is None:
                self._begin()
            waking = self._waking = self._waking or Waking()
            with self._lock:
                watcher = Watcher(self._position, wants, self._queue, waking)
                self._watchers[watcher] = set()
                self._follow(watcher, topics)
                self._wanted.update(wanted)
                self._topics_of_type.clear()
        if self._closing.is_set():
            # Whoever closes has perhaps not seen this one.
            watcher.end(_shutting_down())
        return watcher

    def _go(self, watcher: Watcher, wanted: Iterable[tuple[str, str]]) -> None:
        watcher.rest()
        with self._reading, self._lock:
            self._forget(watcher, tuple(self._watchers[watcher]))
            del self._watchers[watcher]
            self._wanted.subtract(wanted)
            self._wanted += Counter()
            self._topics_of_type.clear()
            if not self._watchers and self._end_listening is not None:
                self._end_listening()
                self._end_listening = None

    def _follow(self, watcher: Watcher, topics: Iterable[str]) -> None:
        own = self._watchers[watcher]
        for topic in topics:
            own.add(topic)
            self._by_topic.setdefault(topic, set()).add(watcher)

    def _forget(self, watcher: Watcher, topics: Iterable[str]) -> None:
        own = self._watchers[watcher]
        for topic in topics:
            own.discard(topic)
            others = self._by_topic.get(topic, set())
            others.discard(watcher)
            if not others:
                self._by_topic.pop(topic, None)

    def _begin(self) -> None:
        """Listens, and reads what happened while nobody did, or the last part of that."""
        end = self._store.when_events(self._news.set)
        try:
            with self._store.read("event-feed.begin") as tx:
                head = events.head(tx)
                begin = events.head_at(tx, max(self._position.seq, head.seq - _LOOK_BACK)) or head
            if begin.seq > self._position.seq:
                self._memory.begin_after(begin.seq)
                self._position = begin
            self._read_all()
        except BaseException:
            end()
            raise
        self._end_listening = end
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="event-feed", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._news.wait()
            if self._closing.is_set():
                return
            self._news.clear()
            pause = _PAUSE
            try:
                with self._reading:
                    if self._end_listening is not None:
                        self._read_all()
            except Exception as error:  # noqa: BLE001  # The thread survives everything.
                expected = isinstance(error, CertdError)
                _log.warning("events could not be read, trying again: %s", error, exc_info=not expected)
                self._news.set()
                pause = _PAUSE_AFTER_FAILURE
            self._closing.wait(pause)

    def _read_all(self) -> None:
        full = True
        while full and not self._closing.is_set():
            with self._store.read("event-feed.read") as tx:
                rows = events.page(tx, after_seq=self._position.seq, limit=_PAGE)
                goes_on = events.goes_on(tx, self._position)
                head = self._position if goes_on else events.head(tx)
            if not goes_on:
                self._begin_anew(head)
                return
            if rows:
                self._hand_out(rows)
            full = len(rows) == _PAGE

    def _begin_anew(self, head: ChainHead) -> None:
        """Ends all watchers, for some of the events that they were handed are none any more.

        Who comes back with the cursor of such an event is told so.
        """
        _log.error("the database was replaced by an older copy: event %d is not what it was", self._position.seq)
        with self._lock:
            self._position = head
            self._memory.begin_after(head.seq)
            watchers = tuple(self._watchers)
        for watcher in watchers:
            watcher.end(_replaced())

    def _hand_out(self, rows: list[NumberedEvent]) -> None:
        access_changes = False
        with self._lock:
            for row in rows:
                topics = remembered_topics(row.event)
                if topics:
                    self._memory.add(row, topics)
                for watcher in self._concerned(row.event, topics):
                    if watcher.wants is None or watcher.wants(row.event):
                        watcher.put(row)
                access_changes |= row.event.type in ACCESS_CHANGES
            self._position = ChainHead(rows[-1].seq, rows[-1].chain_hash)
            watchers = tuple(self._watchers) if access_changes else ()
        if access_changes:
            # Another daemon may have made the change, and nobody shall be told by what holds no more.
            self._store.forget_configuration_version()
        for watcher in watchers:
            watcher.wake()

    def _concerned(self, event: Event, topics: tuple[str, ...]) -> set[Watcher]:
        found: set[Watcher] = set()
        for topic in (*topics, *self._event_topics(event)):
            found |= self._by_topic.get(topic, set())
        return found

    def _event_topics(self, event: Event) -> tuple[str, ...]:
        """Returns the topics of an event among those that anybody of `_wanted` has."""
        if not self._wanted:
            return ()
        key = (event.tenant, event.type.value)
        known = self._topics_of_type.get(key)
        if known is None:
            if len(self._topics_of_type) >= _MOST_KINDS:
                self._topics_of_type.clear()
            known = self._topics_of_type[key] = tuple(
                event_topic(tenant, wanted)
                for tenant, wanted in self._wanted
                if tenant in {"", event.tenant} and type_fits(wanted, event.type.value)
            )
        return known


def _replaced() -> CertdError:
    return CertdError(
        Reason.STORE_UNAVAILABLE,
        "the database was replaced by an older copy of it; connect again and go on from the last cursor",
    )


def _shutting_down() -> CertdError:
    return CertdError(Reason.SHUTTING_DOWN, "the server is stopping; connect again and go on from the last cursor")
