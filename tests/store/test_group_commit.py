"""One thread commits the works of all callers together."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest
from sqlalchemy import text

from certd.errors import CertdError, Reason
from certd.store import events, group_commit, tenants
from certd.store.dialect import raw_sqlite
from certd.store.group_commit import GroupCommitWriter
from certd.store.store import Store, Transaction
from tests.store.samples import add_tenant, event, tenant
from tests.store.waiting import run_together, wait_until


@contextmanager
def commits(store: Store) -> Iterator[list[str]]:
    """Yields a list that grows by an item with each commit of this store; the metric counts those of every store."""
    writer = store._writer
    assert isinstance(writer, GroupCommitWriter)
    assert writer._connection is not None
    made: list[str] = []

    def noted(statement: str) -> None:
        if statement == "COMMIT":
            made.append(statement)

    raw = raw_sqlite(writer._connection)
    raw.set_trace_callback(noted)
    yield made
    raw.set_trace_callback(None)


def inserting(tenant_id: str) -> Callable[[Transaction], bool]:
    """A work that inserts a tenant, with an event."""

    def work(tx: Transaction) -> bool:
        tx.event(event(tenant_id))
        return tenants.insert(tx, tenant(tenant_id))

    return work


def write_together(store: Store, works: Sequence[Callable[[Transaction], object]]) -> list[object]:
    """Returns what each work returned or raised, all of them committed in one batch."""
    writer = store._writer
    assert isinstance(writer, GroupCommitWriter)
    gate = threading.Event()
    gate_entered = threading.Event()

    def hold(_tx: Transaction) -> None:
        gate_entered.set()
        assert gate.wait(30)

    def caught(work: Callable[[Transaction], object]) -> object:
        try:
            return store.write("test", work)
        except Exception as error:  # noqa: BLE001  # The test looks at it.
            return error

    def open_gate() -> None:
        wait_until(lambda: writer.waiting == len(works), "all works wait")
        gate.set()

    def start(work: Callable[[Transaction], object]) -> object:
        assert gate_entered.wait(30)
        return caught(work)

    tasks: list[Callable[[], object]] = [lambda: store.write("hold", hold)]
    tasks += [partial(start, work) for work in works]
    tasks += [open_gate]
    return run_together(tasks)[1:-1]


def test_works_of_many_threads_share_a_commit(sqlite_store: Store) -> None:
    with commits(sqlite_store) as made:
        assert write_together(sqlite_store, [inserting(f"t{i}") for i in range(50)]) == [True] * 50
    # The one that held the writer, and the fifty.
    assert len(made) == 2
    with sqlite_store.read("test") as tx:
        assert all(tenants.get(tx, f"t{i}") for i in range(50))


def test_a_batch_is_bounded(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "LARGEST_BATCH", 4)
    with commits(sqlite_store) as made:
        write_together(sqlite_store, [inserting(f"t{i}") for i in range(10)])
    assert len(made) == 1 + 3


def test_the_queue_is_bounded(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "LONGEST_QUEUE", 0)
    with pytest.raises(CertdError, match="already wait") as caught:
        add_tenant(sqlite_store)
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert caught.value.retry_after is not None


def test_a_failing_work_fails_alone(sqlite_store: Store) -> None:
    def failing(tx: Transaction) -> None:
        tenants.insert(tx, tenant("failed"))
        tx.event(event("failed"))
        raise ValueError("its own")

    def wrong_statement(tx: Transaction) -> None:
        tenants.insert(tx, tenant("wrong"))
        tx.execute(text("INSERT INTO tenants (tenant_id) VALUES ('x')"))

    works = [inserting("a"), failing, inserting("b"), wrong_statement, inserting("c")]
    with commits(sqlite_store) as made:
        answers = write_together(sqlite_store, works)
    assert len(made) == 2
    assert (answers[0], answers[2], answers[4]) == (True, True, True)
    assert isinstance(answers[1], ValueError)
    assert type(answers[3]).__name__ == "IntegrityError"
    with sqlite_store.read("test") as tx:
        assert [tenants.get(tx, name) is not None for name in ("a", "b", "c", "failed", "wrong")] == [True] * 3 + [
            False,
            False,
        ]
        rows = events.page(tx, after_seq=0, limit=10)
        assert [row.seq for row in rows] == [1, 2, 3]
        assert {row.event.resource for row in rows} == {"a", "b", "c"}
        assert events.verify_all(tx) == []


def fill(tx: Transaction) -> None:
    tx.execute(text("CREATE TABLE ballast (data BLOB)"))
    for _ in range(100):
        tx.execute(text("INSERT INTO ballast VALUES (zeroblob(100000))"))


def page_limit(store: Store, limit: int) -> None:
    store.write("test", lambda tx: tx.execute(text(f"PRAGMA max_page_count = {limit}")).all())


def pages(store: Store) -> int:
    with store.read("test") as tx:
        count: int = tx.execute(text("PRAGMA page_count")).scalar_one()
        return count


def test_a_full_disk_fails_the_whole_batch_and_heals(sqlite_store: Store) -> None:
    sqlite_store.write("test", lambda tx: tx.event(event("before")))
    page_limit(sqlite_store, pages(sqlite_store) + 20)

    def hidden(tx: Transaction) -> None:
        # A work that swallows the failure does not get away with half a transaction.
        with pytest.raises(Exception, match="full"):
            fill(tx)

    for filler, words in ((fill, "disk that holds the database is full"), (hidden, "nothing was changed")):
        answers = write_together(
            sqlite_store,
            [
                inserting("a"),
                filler,
                inserting("b"),
            ],
        )
        assert [answer.reason for answer in answers if isinstance(answer, CertdError)] == [Reason.STORE_UNAVAILABLE] * 3
        assert all(words in str(answer) for answer in answers)
        assert len({id(answer) for answer in answers}) == 3
        assert all(answer.retry_after for answer in answers if isinstance(answer, CertdError))
        with sqlite_store.read("test") as tx:
            assert tenants.get(tx, "a") is None
            assert tenants.get(tx, "b") is None
            assert [row.event.resource for row in events.page(tx, after_seq=0, limit=10)] == ["before"]
    # Small works still fit.
    add_tenant(sqlite_store, "small")
    page_limit(sqlite_store, 1_000_000)
    sqlite_store.write("test", fill)
    sqlite_store.write("test", lambda tx: tx.event(event("after")))
    with sqlite_store.read("test") as tx:
        assert [row.seq for row in events.page(tx, after_seq=0, limit=10)] == [1, 2]
        assert events.verify_all(tx) == []


def test_a_full_disk_at_the_events_of_a_batch_leaves_nothing(sqlite_store: Store) -> None:
    page_limit(sqlite_store, pages(sqlite_store))

    def many_events(tx: Transaction) -> None:
        for number in range(500):
            tx.event(event(f"{number}" * 20))

    with pytest.raises(CertdError, match="full") as caught:
        sqlite_store.write("test", many_events)
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    page_limit(sqlite_store, 1_000_000)
    sqlite_store.write("test", many_events)
    with sqlite_store.read("test") as tx:
        assert events.head(tx).seq == 500
        assert events.verify_all(tx) == []


def test_the_writer_survives_a_work_that_ends_the_transaction(sqlite_store: Store) -> None:
    with pytest.raises(CertdError, match="nothing was changed") as caught:
        sqlite_store.write("test", lambda tx: tx.execute(text("ROLLBACK")))
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    add_tenant(sqlite_store)


def test_a_lost_connection_is_opened_anew(sqlite_store: Store) -> None:
    sqlite_store.write("test", lambda tx: tx.event(event("before")))

    def break_connection(tx: Transaction) -> None:
        assert tx._connection is not None
        tx._connection.connection.driver_connection.close()  # type: ignore[union-attr]  # It is there.

    with pytest.raises(CertdError) as caught:
        sqlite_store.write("test", break_connection)
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    sqlite_store.write("test", lambda tx: tx.event(event("after")))
    with sqlite_store.read("test") as tx:
        assert [row.event.resource for row in events.page(tx, after_seq=0, limit=10)] == ["before", "after"]
        assert events.verify_all(tx) == []


def test_a_work_that_writes_through_the_store_is_refused_instead_of_hanging(sqlite_store: Store) -> None:
    with pytest.raises(RuntimeError, match="wait for itself"):
        sqlite_store.write("test", lambda _tx: add_tenant(sqlite_store))
    add_tenant(sqlite_store)


def test_another_program_that_holds_the_file_locked(
    sqlite_url: str, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from certd.store import dialect

    monkeypatch.setattr(dialect, "_BUSY_MILLISECONDS", 1)
    other = dialect.sqlite_writer_engine(dialect.parse_url(sqlite_url))
    sqlite_store.write("test", lambda tx: tx.execute(text("PRAGMA busy_timeout = 1")).all())
    with other.connect() as connection:
        dialect.raw_sqlite(connection).execute("BEGIN IMMEDIATE")
        with pytest.raises(CertdError, match="End that program") as caught:
            add_tenant(sqlite_store)
        assert caught.value.reason is Reason.STORE_UNAVAILABLE
        dialect.raw_sqlite(connection).execute("ROLLBACK")
    add_tenant(sqlite_store)
