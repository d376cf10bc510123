"""Events listed and watched: each once and in order, from wherever a reader stands, on both engines."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from certd.clock import SystemClock
from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Caller, Grant, Role
from certd.model.event import EventType, NumberedEvent
from certd.model.event_filter import EventFilter
from certd.model.names import GrantName, TenantName
from certd.services import event_streams
from certd.services.access import Access
from certd.services.event_cursors import cursor_of
from certd.services.event_feed import EventFeed
from certd.services.event_streams import EventQuery, EventStreams, WatchedEvent
from certd.services.paging import Page, PageRequest
from certd.services.system import SystemAuthority
from certd.store import events, grants
from certd.store.event_chain import CHAIN_START, ChainHead
from certd.store.store import Store, Transaction
from tests.databases import migrated
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN
from tests.services.watching import CallBehind, Reader
from tests.store.samples import NOW, add_tenant, event
from tests.store.waiting import run_together
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

ALL = EventQuery(parent=None, filter=EventFilter())
ONE = EventQuery(parent=TenantName("one"), filter=EventFilter())
on_both_engines = pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
_NUMBERS = itertools.count(1)


class Books:
    """A store with two tenants, and those who read its events."""

    def __init__(self, store: Store, *, quiet: float = 30.0, queue: int = 1000) -> None:
        self.store = store
        self.clock = FakeClock(NOW)
        self.access = Access(
            store,
            self.clock,
            system_authority=SystemAuthority(store, self.clock),
            trust_domain=TRUST_DOMAIN,
        )
        self.feed = EventFeed(store, queue=queue)
        self.streams = EventStreams(store=store, clock=self.clock, access=self.access, feed=self.feed, quiet=quiet)
        self.readers: list[Reader[WatchedEvent]] = []

    def record(self, *resources: str, tenant: str | None = "one", **changes: object) -> None:
        """Commits an event for each resource, and waits until they are numbered."""
        last = self.head().seq
        for resource in resources:
            self.store.write("test", lambda tx, resource=resource: tx.event(event(resource, tenant=tenant, **changes)))  # type: ignore[misc]
        eventually(lambda: self.head().seq >= last + len(resources))

    def head(self) -> ChainHead:
        with self.store.read("test") as tx:
            return events.head(tx)

    def give(self, who: Caller, role: Role, scope: str) -> str:
        grant = Grant(
            grant_id=f"given-{next(_NUMBERS)}", principal=who.principal, role=role, scope=scope, profiles=None
        )
        self.store.write("test.grant", lambda tx: grants.insert(tx, grant))
        return grant.grant_id

    def watch(
        self,
        query: EventQuery = ALL,
        *,
        cursor: str = "",
        from_beginning: bool = False,
        who: Caller = ADMINISTRATOR,
        behind: CallBehind | None = None,
    ) -> Reader[WatchedEvent]:
        behind = behind or CallBehind()
        answers = self.streams.watch(who, query, cursor=cursor, from_beginning=from_beginning, stream=behind)
        self.readers.append(Reader(answers, behind))
        return self.readers[-1]

    def page(
        self, query: EventQuery = ALL, size: int = 100, token: str = "", *, descending: bool = False
    ) -> Page[NumberedEvent]:
        return self.streams.page(ADMINISTRATOR, query, PageRequest(size, token), descending=descending)

    def every(self, query: EventQuery = ALL, size: int = 100, *, descending: bool = False) -> list[str]:
        """The resources of all pages."""
        found: list[NumberedEvent] = []
        token = ""
        while True:
            page = self.page(query, size, token, descending=descending)
            assert len(page.items) <= size
            found += page.items
            token = page.next_page_token
            if not token:
                return resources(found)


def resources(rows: Sequence[NumberedEvent]) -> list[str]:
    return [row.event.resource for row in rows]


def told(answers: Sequence[WatchedEvent]) -> list[str]:
    return [answer.event.event.resource for answer in answers if answer.event is not None]


@pytest.fixture
def engine() -> str:
    """What a test runs on that does not say it."""
    return "sqlite"


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path, engine: str) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/certd.db" if engine == "sqlite" else request.getfixturevalue("postgres_url")
    migrated(url)
    opened = Store.open(url, clock=SystemClock())
    yield opened
    opened.close()


@pytest.fixture
def make(store: Store) -> Iterator[Callable[..., Books]]:
    made: list[Books] = []

    def books(**how: float) -> Books:
        one = Books(store, **how)  # type: ignore[arg-type]  # Numbers both.
        if not made:
            for name in ("one", "two"):
                add_tenant(store, name)
            one.give(ADMINISTRATOR, Role.AUDITOR, EVERYTHING)
        made.append(one)
        return one

    yield books
    for one in made:
        one.feed.close()
        for reader in one.readers:
            reader.ended()


@pytest.fixture
def books(make: Callable[..., Books]) -> Books:
    return make()


@on_both_engines
def test_a_reader_without_a_cursor_is_told_where_now_is_and_then_what_happens(books: Books) -> None:
    books.record("before")
    reader = books.watch()
    (first,) = reader.until(1)
    assert (first.event, first.head) == (None, books.head())
    books.record("a", "b")
    answers = reader.until(3)
    assert told(answers) == ["a", "b"]
    assert answers[-1].cursor == cursor_of(books.head())
    assert answers[-1].event is not None
    assert answers[-1].event.chain_hash == books.head().chain_hash


def test_from_the_beginning_come_all_and_then_what_happens(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "_PAGE", 3)
    names = [f"r{number}" for number in range(10)]
    books.record(*names)
    reader = books.watch(from_beginning=True)
    assert told(reader.until(10)) == names
    books.record("later")
    assert told(reader.until(11)) == [*names, "later"]


@on_both_engines
def test_a_cursor_goes_on_where_it_was_also_in_another_daemon(make: Callable[..., Books]) -> None:
    books = make()
    books.record("a", "b", "c")
    reader = books.watch(from_beginning=True)
    answers = reader.until(3)
    reader.go()
    books.record("d")
    # Another feed, which has read nothing yet.
    again = make().watch(cursor=answers[1].cursor)
    assert told(again.until(2)) == ["c", "d"]
    books.record("e")
    assert told(again.until(3)) == ["c", "d", "e"]


@on_both_engines
def test_every_event_comes_once_in_order_while_many_write_and_readers_come_and_go(
    make: Callable[..., Books], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_streams, "_PAGE", 5)
    books, writers, each = make(), 4, 40
    seen: dict[str, list[int]] = {"stays": [], "comes and goes": []}

    def write(name: int) -> None:
        for number in range(each):
            books.store.write("test", lambda tx, number=number: tx.event(event(f"{name}-{number}", tenant="one")))  # type: ignore[misc]

    def read(name: str, at_once: int) -> None:
        cursor, from_beginning = "", True
        while len(seen[name]) < writers * each:
            reader = books.watch(ONE, cursor=cursor, from_beginning=from_beginning)
            wanted = min(at_once, writers * each - len(seen[name]))
            eventually(lambda reader=reader, wanted=wanted: len([1 for one in reader.told if one.event]) >= wanted)  # type: ignore[misc]
            reader.go()
            for answer in reader.told:
                cursor, from_beginning = answer.cursor, False
                if answer.event is not None:
                    seen[name].append(answer.event.seq)

    run_together(
        [
            *(partial(write, name) for name in range(writers)),
            partial(read, "stays", 10_000),
            partial(read, "comes and goes", 7),
        ]
    )
    with books.store.read("test") as tx:
        numbers = [row.seq for row in events.page(tx, after_seq=0, limit=1000, tenant="one")]
    assert len(numbers) == writers * each
    assert seen == {"stays": numbers, "comes and goes": numbers}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (ONE, ["a", "a/b", "ab", "late"]),
        (EventQuery(parent=None, filter=EventFilter(resource="a")), ["a", "a/b"]),
        (EventQuery(parent=None, filter=EventFilter(types=("certificate.*",))), ["late"]),
        (EventQuery(parent=None, filter=EventFilter(types=("certificate.issued", "tenant.updated"))), ["late"]),
        (EventQuery(parent=None, filter=EventFilter(types=("grant.created",))), []),
        (EventQuery(parent=None, filter=EventFilter(principal="spiffe://x/y")), ["ab"]),
        (EventQuery(parent=None, filter=EventFilter(start_time=NOW + timedelta(hours=2))), ["late"]),
    ],
)
def test_filters_hold_for_pages_and_streams_alike(books: Books, query: EventQuery, expected: list[str]) -> None:
    def record_all() -> None:
        books.record("a", "a/b")
        books.record("ab", principal="spiffe://x/y")
        books.record("other", tenant="two")
        books.record("server", tenant=None)
        books.record("late", type=EventType.CERTIFICATE_ISSUED, time=NOW + timedelta(hours=2))

    live = books.watch(query)
    live.until(1)
    record_all()
    # The last of all tells that nothing is on its way any more.
    last = {"resource": query.filter.resource or "end", "principal": query.filter.principal or "certd"}
    types = query.filter.types
    books.record(
        last["resource"],
        principal=last["principal"],
        type=EventType.GRANT_CREATED if "grant.created" in types else EventType.CERTIFICATE_ISSUED,
        time=NOW + timedelta(hours=2),
    )
    assert told(live.until(len(expected) + 2)) == [*expected, last["resource"]]
    from_books = books.watch(query, from_beginning=True)
    assert told(from_books.until(len(expected) + 1)) == [*expected, last["resource"]]
    assert books.every(query, size=2) == [*expected, last["resource"]]
    assert books.every(query, size=2, descending=True) == [last["resource"], *reversed(expected)]


@on_both_engines
def test_pages_look_through_so_many_events_and_end_where_times_end(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_streams, "_PAGE", 4)
    monkeypatch.setattr(event_streams, "LOOKED_THROUGH", 8)
    for hour in range(30):
        books.record(f"r{hour}", time=NOW + timedelta(hours=hour))
    rare = EventQuery(parent=None, filter=EventFilter(resource="r29"))
    first = books.page(rare)
    assert first.items == ()
    assert first.next_page_token
    assert books.every(rare) == ["r29"]
    assert books.every(rare, descending=True) == ["r29"]
    between = EventQuery(
        parent=None,
        filter=EventFilter(start_time=NOW + timedelta(hours=10), end_time=NOW + timedelta(hours=13)),
    )
    assert books.every(between) == ["r10", "r11", "r12"]
    assert books.every(between, size=1, descending=True) == ["r12", "r11", "r10"]
    # What is far from the times is not even looked through.
    assert books.page(between).next_page_token == books.page(between, descending=True).next_page_token == ""


def test_a_page_token_of_another_query_is_refused(books: Books) -> None:
    books.record("a", "b", "c")
    token = books.page(size=1).next_page_token
    for wrong in (
        partial(books.page, ONE, token=token),
        partial(books.page, token=token, descending=True),
        partial(books.page, token="WyJ4IiwgIngiXQ=="),
    ):
        with pytest.raises(CertdError) as refused:
            wrong()
        assert refused.value.reason is Reason.FIELD_INVALID


@pytest.mark.parametrize(
    "cursor",
    ["x", "AQ", "é", "A" * 65, "AAAAAAAAAAAVjhkul0Kpfxw", "Af____________8AAAAAAAAAAA", "AQAAAAAAAAABAAAAAAAAAAA"],
)
def test_a_cursor_of_nobody_is_refused(books: Books, cursor: str) -> None:
    books.record("a")
    with pytest.raises(CertdError) as refused:
        books.watch(cursor=cursor)
    assert refused.value.reason is Reason.CURSOR_INVALID


def test_a_cursor_ahead_of_the_books_is_refused_and_that_of_the_start_is_not(books: Books) -> None:
    books.record("a")
    ahead = cursor_of(ChainHead(books.head().seq + 1, books.head().chain_hash))
    with pytest.raises(CertdError) as refused:
        books.watch(cursor=ahead)
    assert refused.value.reason is Reason.CURSOR_INVALID
    assert told(books.watch(cursor=cursor_of(CHAIN_START)).until(1)) == ["a"]


def test_a_reader_that_falls_behind_is_told_where_to_go_on(make: Callable[..., Books]) -> None:
    books = make(queue=5)
    reader = books.watch()
    reader.until(1)
    reader.hold()
    books.record("a")
    reader.until(2)
    books.record(*(f"r{number}" for number in range(7)))
    eventually(lambda: books.feed._position == books.head())
    refusal = reader.refusal()
    assert refusal.reason is Reason.WATCHER_TOO_SLOW
    again = books.watch(cursor=refusal.metadata["cursor"])
    names = told([*reader.told, *again.until(7 - (len(reader.told) - 2))])
    assert names == ["a", *(f"r{number}" for number in range(7))]


def test_a_quiet_stream_brings_a_new_cursor_now_and_then(make: Callable[..., Books]) -> None:
    books = make(quiet=0.05)
    reader = books.watch(ONE)
    reader.until(1)
    books.record("other", tenant="two")
    moved = cursor_of(books.head())
    eventually(lambda: reader.told[-1].cursor == moved)
    assert told(reader.told) == []
    assert told(books.watch(ONE, cursor=moved).until(1)) == []


def test_who_may_not_read_events_is_refused_before_anything_is_read(books: Books) -> None:
    for query in (ALL, ONE, EventQuery(parent=TenantName("nowhere"), filter=EventFilter())):
        for call in (
            partial(books.streams.page, STRANGER, query, PageRequest(1, "broken"), descending=False),
            partial(books.watch, query, who=STRANGER, cursor="broken"),
        ):
            with pytest.raises(CertdError) as refused:
                call()
            assert refused.value.reason is Reason.PERMISSION_MISSING
    books.give(STRANGER, Role.AUDITOR, "tenants/one")
    books.record("a")
    assert told(books.watch(ONE, who=STRANGER, from_beginning=True).until(1)) == ["a"]
    with pytest.raises(CertdError, match="PERMISSION_MISSING"):
        books.watch(ALL, who=STRANGER)
    with pytest.raises(CertdError, match="TENANT_NOT_FOUND"):
        books.watch(EventQuery(parent=TenantName("nowhere"), filter=EventFilter()))


@on_both_engines
def test_a_withdrawn_grant_ends_the_stream_within_a_second(books: Books) -> None:
    given = books.give(STRANGER, Role.AUDITOR, "tenants/one")
    reader = books.watch(ONE, who=STRANGER)
    reader.until(1)

    def withdraw() -> None:
        def work(tx: Transaction) -> None:
            grants.delete(tx, GrantName(None, given))
            tx.event(event(f"grants/{given}", tenant=None, type=EventType.GRANT_DELETED))

        books.store.write("test", work)

    withdraw()
    assert reader.refusal(within=2.0).reason is Reason.PERMISSION_MISSING


def test_the_end_of_the_server_ends_every_stream_and_refuses_new_ones(books: Books) -> None:
    readers = [books.watch() for _ in range(5)]
    for reader in readers:
        reader.until(1)
    books.feed.close()
    assert {reader.refusal(within=5.0).reason for reader in readers} == {Reason.SHUTTING_DOWN}
    assert books.watch().refusal().reason is Reason.SHUTTING_DOWN


def test_nothing_is_read_while_nobody_watches(books: Books) -> None:
    read: list[str] = []
    page = events.page

    def noted(*args: object, **how: object) -> list[NumberedEvent]:
        read.append(threading.current_thread().name)
        return page(*args, **how)  # type: ignore[arg-type]

    reader = books.watch()
    reader.until(1)
    reader.go()
    assert books.feed._end_listening is None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("certd.services.event_feed.events.page", noted)
        books.record("a", "b")
        assert not read
        assert told(books.watch(cursor=cursor_of(CHAIN_START)).until(2)) == ["a", "b"]
        assert read


def test_whoever_went_away_has_nothing_looked_through_for_them(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "_PAGE", 2)
    books.record(*(f"r{number}" for number in range(6)))
    rare = EventQuery(parent=None, filter=EventFilter(resource="nothing"))
    behind, read = CallBehind(), []
    page = events.page

    def goes(*args: object, **how: object) -> list[NumberedEvent]:
        read.append(args)
        behind.go()
        return page(*args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr("certd.services.event_streams.events.page", goes)
    reader = books.watch(rare, from_beginning=True, behind=behind)
    assert reader.ended() is None
    assert len(read) == 1
    assert told(reader.told) == []


def test_a_caller_is_looked_at_anew_when_what_they_showed_ends() -> None:
    def wait(seconds: float | None) -> float:
        end = None if seconds is None else NOW + timedelta(seconds=seconds)
        return event_streams.wait_of(Caller(principal="x", serial="", not_after=end), NOW, 30.0)

    assert [wait(seconds) for seconds in (None, 100, 10, 0, -10)] == [30.0, 30.0, 10.5, 0.5, 0.5]
