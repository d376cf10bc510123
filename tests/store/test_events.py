"""Events: one order without gaps, a chain that shows every change, and readers that miss none."""

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import text

from certd.clock import SystemClock
from certd.model.event import EventType
from certd.store import dialect, events
from certd.store.event_chain import CHAIN_START, ChainHead
from certd.store.sequencer import Sequencer
from certd.store.store import Store, Transaction
from tests.store.event_records import execute, numbered, record
from tests.store.samples import NOW, event
from tests.store.waiting import run_together, wait_until

WRITERS = 8


def test_events_are_numbered_in_order_and_read_back_whole(store: Store) -> None:
    samples = [
        event("a"),
        event("b", tenant=None, details={}),
        event("c", type=EventType.CERTIFICATE_ISSUED, time=NOW + timedelta(microseconds=1), principal="spiffe://x/y"),
    ]

    def work(tx: Transaction) -> None:
        for sample in samples:
            tx.event(sample)

    store.write("test", work)
    rows = numbered(store, 3)
    assert [row.event for row in rows] == samples
    assert [row.seq for row in rows] == [1, 2, 3]
    with store.read("test") as tx:
        assert events.last(tx) == rows[-1]
        assert events.head(tx) == ChainHead(3, rows[-1].chain_hash)
        assert events.verify_all(tx) == []


def test_there_is_no_last_event_before_the_first(store: Store) -> None:
    with store.read("test") as tx:
        assert events.last(tx) is None
        assert events.head(tx) == CHAIN_START
        assert events.verify_all(tx) == []


def test_pages_go_on_behind_a_number_and_show_a_tenant_its_part(store: Store) -> None:
    for number in range(10):
        record(store, f"r{number}", [None, "one", "two"][number % 3])
    numbered(store, 10)
    with store.read("test") as tx:
        assert [row.seq for row in events.page(tx, after_seq=3, limit=4)] == [4, 5, 6, 7]
        assert events.page(tx, after_seq=10, limit=4) == []
        ones = events.page(tx, after_seq=0, limit=2, tenant="one")
        assert [row.event.resource for row in ones] == ["r1", "r4"]
        assert [row.event.resource for row in events.page(tx, after_seq=ones[-1].seq, limit=9, tenant="one")] == ["r7"]


def test_the_numbers_go_on_after_a_restart(database_url: str, open_store: Callable[[str], Store]) -> None:
    for number in range(3):
        store = open_store(database_url)
        record(store, f"r{number}")
        assert [row.seq for row in numbered(store, number + 1)] == list(range(1, number + 2))
        with store.read("test") as tx:
            assert events.verify_all(tx) == []
        store.close()


def test_closing_numbers_what_was_committed(postgres_url: str, open_store: Callable[[str], Store]) -> None:
    store = open_store(postgres_url)
    for number in range(20):
        record(store, f"r{number}")
    store.close()
    reopened = open_store(postgres_url)
    with reopened.read("test") as tx:
        assert events.head(tx).seq == 20


def test_a_reader_with_a_cursor_misses_none_of_concurrent_writers(store: Store) -> None:
    each = 40
    running = threading.Event()
    running.set()

    def writer(name: int) -> Callable[[], list[str]]:
        def run() -> list[str]:
            for number in range(each):
                record(store, f"{name}-{number}")
            return []

        return run

    def reader() -> list[str]:
        seen: list[str] = []
        cursor = 0

        def read_on() -> bool:
            nonlocal cursor
            with store.read("test") as tx:
                rows = events.page(tx, after_seq=cursor, limit=7)
            if rows:
                cursor = rows[-1].seq
            seen.extend(row.event.resource for row in rows)
            return len(seen) >= each * WRITERS

        wait_until(read_on, "the reader has as many events as were written")
        return seen

    seen = run_together([reader, *(writer(name) for name in range(WRITERS))])[0]
    assert sorted(seen) == sorted(f"{name}-{number}" for name in range(WRITERS) for number in range(each))
    with store.read("test") as tx:
        assert events.verify_all(tx) == []


def test_a_work_that_commits_late_gets_a_late_number(postgres_store: Store) -> None:
    began, may_commit = threading.Event(), threading.Event()

    def late(tx: Transaction) -> None:
        tx.event(event("late"))
        began.set()
        assert may_commit.wait(30)

    def early() -> None:
        assert began.wait(30)
        record(postgres_store, "early")
        # Read before the late one commits: the cursor stands behind the early one.
        assert [row.event.resource for row in numbered(postgres_store, 1)] == ["early"]
        may_commit.set()

    run_together([lambda: postgres_store.write("test", late), early])
    numbered(postgres_store, 2)
    with postgres_store.read("test") as tx:
        assert [row.event.resource for row in events.page(tx, after_seq=1, limit=9)] == ["late"]


def test_two_daemons_number_one_order(postgres_url: str, open_store: Callable[[str], Store]) -> None:
    stores = [open_store(postgres_url), open_store(postgres_url)]

    def many(store: Store) -> None:
        for number in range(50):
            record(store, f"{id(store)}-{number}")

    run_together([partial(many, store) for store in stores * 2])
    rows = numbered(stores[0], 200)
    assert [row.seq for row in rows] == list(range(1, 201))
    with stores[0].read("test") as tx:
        assert events.verify_all(tx) == []


def test_whoever_does_not_hold_the_lease_does_not_number(postgres_url: str, open_store: Callable[[str], Store]) -> None:
    store = open_store(postgres_url)

    def held_by_another(tx: Transaction) -> None:
        tx.execute(text("UPDATE event_sequence SET numberer = 'another', lease_until = 9000000000000000"))
        tx.event(event("waits"))

    store.write("test", held_by_another)
    engine = dialect.postgresql_engine(dialect.parse_url(postgres_url))
    sequencer = Sequencer(dialect.postgresql_read_committed(engine), SystemClock())
    assert sequencer._number() == 0
    with store.read("test") as tx:
        assert events.head(tx).seq == 0
    execute(store, "UPDATE event_sequence SET lease_until = 1")
    assert [row.event.resource for row in numbered(store, 1)] == ["waits"]
    sequencer.close()
    engine.dispose()


def test_an_event_that_cannot_be_encoded_fails_its_own_work(store: Store) -> None:
    with pytest.raises(UnicodeEncodeError):
        record(store, "\ud800")
    record(store, "fine")
    assert len(numbered(store, 1)) == 1


def test_an_event_of_a_type_that_only_a_newer_daemon_knows_is_numbered(postgres_store: Store) -> None:
    execute(
        postgres_store,
        "INSERT INTO unnumbered_events (time, type, principal, resource, details) VALUES (1, 'new', 'p', 'r', '{}')",
    )
    record(postgres_store, "known")

    def both_are_numbered() -> bool:
        with postgres_store.read("test") as tx:
            return events.head(tx).seq == 2

    wait_until(both_are_numbered, "both events are numbered")


def test_listeners_hear_of_numbered_events_until_they_end(store: Store) -> None:
    heard, ended = threading.Event(), threading.Event()

    def fails() -> None:
        raise RuntimeError

    store.when_events(fails)
    store.when_events(heard.set)
    store.when_events(ended.set)()
    record(store, "a")
    assert heard.wait(30)
    assert len(numbered(store, 1)) == 1
    # On PostgreSQL the first look for the events of others tells as well.
    heard.clear()
    record(store, "b")
    assert heard.wait(30)
    assert not ended.is_set()


def test_a_commit_without_events_is_told_to_nobody(sqlite_store: Store) -> None:
    heard = threading.Event()
    sqlite_store.when_events(heard.set)
    sqlite_store.write("test", lambda _tx: None)
    # Behind the commit before it, in the one thread that writes.
    sqlite_store.write("test", lambda _tx: None)
    assert not heard.is_set()


def test_events_that_another_daemon_numbered_are_told(postgres_url: str, open_store: Callable[[str], Store]) -> None:
    here, there = open_store(postgres_url), open_store(postgres_url)
    heard = threading.Event()
    here.when_events(heard.set)
    for number in range(1, 4):
        record(there, f"r{number}")
        numbered(there, number)
        wait_until(heard.is_set, f"event {number} is told")
        heard.clear()


def test_a_type_of_a_newer_certd_is_read(store: Store) -> None:
    record(store, "a")
    numbered(store, 1)
    execute(store, "UPDATE events SET type = 'moon.landed'")
    with store.read("test") as tx:
        (row,) = events.page(tx, after_seq=0, limit=9)
    assert (row.event.type.value, str(row.event.type)) == ("moon.landed", "moon.landed")
    assert row.event.type == EventType.of("moon.landed")
    assert row.event.type not in list(EventType)


def test_pages_go_back_and_show_a_tenant_its_part(store: Store) -> None:
    for number in range(6):
        record(store, f"r{number}", [None, "one"][number % 2])
    numbered(store, 6)
    with store.read("test") as tx:
        assert [row.seq for row in events.page_back(tx, before_seq=7, limit=4)] == [6, 5, 4, 3]
        assert [row.seq for row in events.page_back(tx, before_seq=3, limit=4)] == [2, 1]
        ones = events.page_back(tx, before_seq=6, limit=9, tenant="one")
        assert [row.event.resource for row in ones] == ["r3", "r1"]


def test_the_place_of_an_event_and_of_a_time_is_found(store: Store) -> None:
    with store.read("test") as tx:
        assert events.first_from(tx, NOW) == 1
    for hour in (0, 1, 1, 3):
        at = NOW + timedelta(hours=hour)
        store.write("test", lambda tx, at=at: tx.event(event("a", time=at)))  # type: ignore[misc]  # mypy infers no type for a default.
    rows = numbered(store, 4)
    with store.read("test") as tx:
        found = [events.first_from(tx, NOW + timedelta(hours=hour)) for hour in (-1, 0, 1, 2, 3, 4)]
        assert found == [1, 1, 2, 4, 4, 5]
        assert events.head_at(tx, 0) == CHAIN_START
        assert events.head_at(tx, 3) == ChainHead(3, rows[2].chain_hash)
        assert events.head_at(tx, 5) is None
