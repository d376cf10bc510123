"""Transactions: what a caller of the store may rely on, on both engines."""

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from certd.clock import SystemClock
from certd.errors import CertdError, Reason
from certd.model.event import NumberedEvent
from certd.store import certificates, events, managed_certificates, tenants
from certd.store import store as store_module
from certd.store.migration import migrate
from certd.store.store import Store, Transaction
from tests.postgres import PostgresServer
from tests.store.samples import NOW, add_tenant, event, intent, managed, tenant
from tests.store.waiting import run_together, wait_until


def tenant_exists(store: Store, tenant_id: str) -> bool:
    with store.read("test") as tx:
        return tenants.get(tx, tenant_id) is not None


def test_write_returns_the_result_of_its_work_after_the_commit(store: Store) -> None:
    assert store.write("test", lambda tx: (tenants.insert(tx, tenant()), "result")) == (True, "result")
    with store.read("test") as tx:
        assert tenants.get(tx, "default") == tenant()


def test_what_a_work_raises_reaches_its_caller_and_nothing_of_it_stays(store: Store) -> None:
    def work(tx: Transaction) -> None:
        tenants.insert(tx, tenant())
        tx.event(event())
        raise CertdError(Reason.STATE_FORBIDS, "no")

    with pytest.raises(CertdError, match="no") as caught:
        store.write("test", work)
    assert caught.value.reason is Reason.STATE_FORBIDS
    assert not tenant_exists(store, "default")
    store.write("test", lambda tx: tx.event(event("after")))
    assert [row.event.resource for row in numbered(store, 1)] == ["after"]


def numbered(store: Store, count: int) -> list[NumberedEvent]:
    def rows() -> list[NumberedEvent]:
        with store.read("test") as tx:
            return events.page(tx, after_seq=0, limit=1000)

    return wait_until(lambda: found if len(found := rows()) >= count else None, f"{count} events are numbered") or []


def test_a_transaction_is_of_no_use_after_its_work(store: Store) -> None:
    def leak(tx: Transaction) -> Transaction:
        return tx

    leaked = store.write("test", leak)
    with pytest.raises(RuntimeError, match="ended"):
        tenants.get(leaked, "default")
    with pytest.raises(RuntimeError, match="ended"):
        leaked.event(event())
    with store.read("test") as tx:
        pass
    with pytest.raises(RuntimeError, match="ended"):
        tenants.get(tx, "default")


def test_a_reader_sees_one_snapshot(store: Store) -> None:
    with store.read("test") as tx:
        assert tenants.get(tx, "default") is None
        add_tenant(store)
        assert tenants.get(tx, "default") is None
    assert tenant_exists(store, "default")


def test_a_reader_cannot_write(store: Store) -> None:
    with pytest.raises((SQLAlchemyError, CertdError)), store.read("test") as tx:
        tenants.insert(tx, tenant())
    assert not tenant_exists(store, "default")
    # The connection goes back whole.
    add_tenant(store)


def test_mistakes_of_the_program_are_not_called_an_unavailable_store(store: Store) -> None:
    with pytest.raises(SQLAlchemyError):
        store.write("test", lambda tx: tx.execute(text("SELECT nothing FROM nowhere")))
    with pytest.raises(SQLAlchemyError):
        # No such tenant.
        store.write("test", lambda tx: managed_certificates.insert(tx, managed()))
    with pytest.raises(SQLAlchemyError), store.read("test") as tx:
        tx.execute(text("SELECT nothing FROM nowhere"))


def test_errors_show_no_parameters(store: Store) -> None:
    bad = intent(profile=None, tbs=b"SECRET-BYTES", subject_text="SECRET-TEXT")
    with pytest.raises((SQLAlchemyError, sqlite3.Error)) as caught:
        store.write("test", lambda tx: certificates.insert_intents(tx, [bad]))
    assert "SECRET" not in str(caught.value).replace(str(getattr(caught.value, "orig", "")), "")


def test_a_closed_store_says_so(store: Store) -> None:
    add_tenant(store)
    store.close()
    store.close()
    with pytest.raises(CertdError) as caught:
        add_tenant(store)
    assert caught.value.reason is Reason.SHUTTING_DOWN
    with pytest.raises(CertdError) as caught, store.read("test"):
        pass
    assert caught.value.reason is Reason.SHUTTING_DOWN


def test_closing_waits_for_what_was_accepted(
    database_url: str, open_store: Callable[[str], Store], store: Store
) -> None:
    started, may_end = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> bool:
        started.set()
        assert may_end.wait(30)
        return tenants.insert(tx, tenant())

    def close() -> bool:
        assert started.wait(30)
        threading.Timer(0.05, may_end.set).start()
        store.close()
        return True

    assert run_together([lambda: store.write("slow", slow), close]) == [True, True]
    assert tenant_exists(open_store(database_url), "default")


def test_works_that_read_and_then_write_do_not_overwrite_each_other(store: Store) -> None:
    add_tenant(store)
    sample = managed()
    store.write("test", lambda tx: managed_certificates.insert(tx, sample))

    def count_up(tx: Transaction) -> None:
        row = managed_certificates.get_by_uid(tx, sample.uid)
        assert row is not None
        assert managed_certificates.update(tx, row, row.revision) is not None

    def many() -> None:
        for _ in range(10):
            store.write("count", count_up)

    run_together([many] * 4)
    with store.read("test") as tx:
        row = managed_certificates.get_by_uid(tx, sample.uid)
    assert row is not None
    assert row.revision == 1 + 4 * 10


def test_slow_calls_are_logged_by_name(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add_tenant(store)
    assert "slow" not in caplog.text
    monkeypatch.setattr(store_module, "SLOW_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING, "certd.store"):
        store.write("insert-a-tenant", lambda tx: tenants.insert(tx, tenant("other")))
        tenant_exists(store, "other")
    assert "slow write insert-a-tenant" in caplog.text
    assert "slow read test" in caplog.text


def test_a_read_that_sqlite_has_rolled_back_fails_with_its_own_error(sqlite_store: Store) -> None:
    """As after an error of the disk, which ends the transaction: what went wrong is told, not that nothing is left."""

    def read() -> None:
        with sqlite_store.read("test") as tx:
            tx.execute(text("ROLLBACK"))
            raise CertdError(Reason.STORE_UNAVAILABLE, "went wrong")

    with pytest.raises(CertdError, match="went wrong"):
        read()


def test_a_second_daemon_on_a_sqlite_file_is_refused(
    sqlite_url: str, tmp_path: Path, open_store: Callable[[str], Store]
) -> None:
    first = open_store(sqlite_url)
    (tmp_path / "link.db").symlink_to(tmp_path / "certd.db")
    for url in (sqlite_url, f"sqlite:///{tmp_path / 'link.db'}"):
        with pytest.raises(CertdError, match="Stop that one first") as caught:
            Store.open(url, clock=SystemClock())
        assert caught.value.reason is Reason.STORE_UNAVAILABLE
        assert str(tmp_path / "certd.db") in caught.value.message
    with pytest.raises(CertdError, match="another certd"):
        migrate(sqlite_url)
    add_tenant(first)
    first.close()
    assert tenant_exists(open_store(sqlite_url), "default")


def test_two_daemons_share_one_postgresql(postgres_url: str, open_store: Callable[[str], Store]) -> None:
    first, second = open_store(postgres_url), open_store(postgres_url)
    add_tenant(first)
    assert tenant_exists(second, "default")


def test_a_database_that_is_not_there(tmp_path: Path, postgres_server: PostgresServer) -> None:
    with pytest.raises(CertdError, match="certd init") as caught:
        Store.open(f"sqlite:///{tmp_path / 'none.db'}", clock=SystemClock())
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CertdError) as caught:
        migrate(f"sqlite:///{tmp_path / 'none' / 'certd.db'}")
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    for url in (
        f"postgresql://certd:hidden@/none?host={postgres_server.directory}",
        f"postgresql://certd:hidden@/none?host={tmp_path}",
    ):
        with pytest.raises(CertdError) as caught:
            Store.open(url, clock=SystemClock())
        assert caught.value.reason is Reason.STORE_UNAVAILABLE
        assert "hidden" not in caught.value.message


@pytest.mark.parametrize(
    "url", ["", "certd.db", "sqlite://", "sqlite:///:memory:", "mysql://x:hidden@y/z", "postgresql://"]
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(CertdError) as caught:
        Store.open(url, clock=SystemClock())
    assert caught.value.reason is Reason.FIELD_INVALID
    assert "hidden" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "certd.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(CertdError, match="no database") as caught:
        Store.open(f"sqlite:///{tmp_path / 'certd.db'}", clock=SystemClock())
    assert caught.value.reason is Reason.STORE_UNAVAILABLE


def test_the_database_file_is_its_owners_alone(tmp_path: Path, sqlite_store: Store) -> None:
    add_tenant(sqlite_store)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_is_committed_on_sqlite_is_on_the_disk(sqlite_store: Store) -> None:
    def settings(tx: Transaction) -> list[object]:
        names = ("synchronous", "journal_mode", "foreign_keys", "query_only")
        return [tx.execute(text(f"PRAGMA {name}")).scalar() for name in names]

    full = 2
    assert sqlite_store.write("test", settings) == [full, "wal", 1, 0]
    with sqlite_store.read("test") as tx:
        assert settings(tx) == [full, "wal", 1, 1]


def test_what_is_committed_on_postgresql_is_on_the_disk(
    postgres_server: PostgresServer, postgres_url: str, open_store: Callable[[str], Store]
) -> None:
    # Whatever the server's administrator has set for the database.
    name = postgres_url.rpartition("?")[0].rpartition("/")[2]
    with postgres_server.connect("postgres") as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")

    def settings(tx: Transaction) -> list[object]:
        names = ("synchronous_commit", "transaction_isolation", "transaction_read_only")
        return [tx.execute(text(f"SHOW {name}")).scalar() for name in names]

    store = open_store(postgres_url)
    assert store.write("test", settings) == ["on", "serializable", "off"]
    with store.read("test") as tx:
        assert settings(tx) == ["on", "repeatable read", "on"]
    assert store.write("test", settings) == ["on", "serializable", "off"]


def test_a_write_outlives_broken_connections(postgres_store: Store) -> None:
    add_tenant(postgres_store)

    def kill_others(tx: Transaction) -> None:
        tx.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )

    run_together([lambda: add_tenant(postgres_store, "other")] * 4)
    postgres_store.write("test", kill_others)
    add_tenant(postgres_store, "third")
    postgres_store.write("test", lambda tx: tx.event(event()))
    # By a write: a read may yet meet one of the broken connections, and says so to who asks.
    found = wait_until(
        lambda: postgres_store.write("test", lambda tx: events.page(tx, after_seq=0, limit=1000)),
        "the event is numbered",
    )
    assert len(found) == 1


def test_a_work_whose_connection_breaks_is_tried_once_more(postgres_store: Store) -> None:
    attempts = []

    def break_own(tx: Transaction) -> None:
        attempts.append(NOW)
        tx.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(CertdError) as caught:
        postgres_store.write("test", break_own)
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert caught.value.retry_after is not None
    assert len(attempts) == 2
    add_tenant(postgres_store)


def test_works_that_always_collide_are_given_up(postgres_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certd.store.concurrent.MOST_ATTEMPTS", 3)
    attempts = []

    def collide(tx: Transaction) -> None:
        attempts.append(NOW)
        # What the server raises for a serialization failure.
        tx.execute(text("DO $$ BEGIN RAISE EXCEPTION 'collision' USING ERRCODE = '40001'; END $$"))

    with pytest.raises(CertdError, match="collided") as caught:
        postgres_store.write("test", collide)
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert len(attempts) == 3
