"""The store: transactions on SQLite or PostgreSQL, to be had by name."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self, TypeVar

from sqlalchemy import Engine
from sqlalchemy.engine import URL

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.metrics import STORE_SECONDS
from certd.store import dialect
from certd.store.concurrent import ConcurrentWriter
from certd.store.event_listeners import EventListeners, EventPoll
from certd.store.file_lock import FileLock
from certd.store.group_commit import GroupCommitWriter
from certd.store.migration import check_compatible
from certd.store.reader import Reader
from certd.store.sequencer import Sequencer
from certd.store.transaction import AnswerKey, Transaction

__all__ = ["Store", "Transaction"]

SLOW_SECONDS = 1.0
"""A call that takes longer is logged."""

_log = logging.getLogger("certd.store")

T = TypeVar("T")


class Store:
    """A database that is open.

    Get one by `Store.open`; the constructor takes what that has made.
    """

    def __init__(
        self,
        *,
        engine_name: str,
        readers: Engine,
        writer: GroupCommitWriter | ConcurrentWriter,
        listeners: EventListeners,
        poll: EventPoll | None,
        close: Callable[[], None],
    ) -> None:
        self.engine_name = engine_name
        """`sqlite` or `postgresql`."""
        self._reader = Reader(engine_name, readers, readers.dispose)
        self._writer = writer
        self._listeners = listeners
        self._poll = poll
        self._close = close
        self._closed = False

    @classmethod
    def open(cls, url: str, *, clock: Clock) -> Self:
        """Opens a database that `certd.store.migration.migrate` has prepared.

        Raises FIELD_INVALID for a URL that is none, and STORE_UNAVAILABLE when the database is not there, needs
        `certd migrate` or a newer certd, or is a SQLite file that another certd uses.
        """
        parsed = dialect.parse_url(url)
        with dialect.database_errors():
            if dialect.engine_name(parsed) == dialect.SQLITE:
                return cls._open_sqlite(parsed)
            return cls._open_postgresql(parsed, clock)

    @classmethod
    def _open_sqlite(cls, url: URL) -> Self:
        file = dialect.sqlite_file(url)
        if not file.exists():
            raise CertdError(
                Reason.STORE_UNAVAILABLE,
                f"there is no database {file}: run `certd init`, or `certd migrate` to make it",
            )
        lock = FileLock(file)
        readers = dialect.sqlite_reader_engine(url)
        listeners = EventListeners()
        try:
            with readers.connect() as connection:
                check_compatible(connection, str(file))
            writer = GroupCommitWriter(dialect.sqlite_writer_engine(url), listeners.tell)
        except BaseException:
            readers.dispose()
            lock.release()
            raise

        def close() -> None:
            writer.close()
            readers.dispose()
            lock.release()

        return cls(
            engine_name=dialect.SQLITE, readers=readers, writer=writer, listeners=listeners, poll=None, close=close
        )

    @classmethod
    def _open_postgresql(cls, url: URL, clock: Clock) -> Self:
        engine = dialect.postgresql_engine(url)
        try:
            with engine.connect() as connection:
                check_compatible(connection, dialect.shown(url))
        except BaseException:
            engine.dispose()
            raise
        readers = dialect.postgresql_snapshot(engine)
        listeners = EventListeners()
        sequencer = Sequencer(dialect.postgresql_read_committed(engine), clock, listeners.tell)
        poll = EventPoll(readers, listeners)
        writer = ConcurrentWriter(engine, sequencer.wake)

        def close() -> None:
            writer.close()
            sequencer.close()
            poll.close()
            engine.dispose()

        return cls(
            engine_name=dialect.POSTGRESQL, readers=readers, writer=writer, listeners=listeners, poll=poll, close=close
        )

    def write(self, name: str, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a transaction and returns its result after the commit.

        `work` may run again after a serialization failure, so it has no other effect; on SQLite it runs in the one
        thread that writes, so it does not wait for anything. What it raises is raised here, and nothing of it stays.
        Raises STORE_UNAVAILABLE when the database fails, SHUTTING_DOWN once the store is closed.
        """
        start = time.perf_counter()
        try:
            result: T = self._writer.write(name, work)
        finally:
            _observe("write", name, start)
        return result

    @contextmanager
    def read(self, name: str) -> Iterator[Transaction]:
        """Yields a transaction that sees one snapshot and cannot write; errors as those of `write`."""
        if self._closed:
            raise CertdError(Reason.SHUTTING_DOWN, "certd is shutting down; try again once it serves")
        start = time.perf_counter()
        try:
            with self._reader.read(name) as transaction:
                yield transaction
        finally:
            _observe("read", name, start)

    @property
    def configuration_version(self) -> int:
        """A number that grows with every change of what may be kept in memory, see `Transaction.configuration_changed`.

        On PostgreSQL changes by other daemons show within a second. Raises STORE_UNAVAILABLE.
        """
        try:
            return self._writer.configuration_version
        except Exception as error:
            failure = dialect.mapped(error)
            if failure is error:
                raise
            raise failure from error

    def forget_configuration_version(self) -> None:
        """Has the version asked for anew, because another daemon is known to have changed the configuration."""
        self._writer.forget_version()

    def when_events(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Has `listener` called after every commit that numbered events; returns what ends that.

        It is called in the thread that committed, so it only sets a flag. On PostgreSQL events that another daemon
        numbered are told of within 0.3 seconds, by asking for them while anybody listens. It may be called for nothing.
        """
        end = self._listeners.add(listener)
        if self._poll is not None:
            self._poll.wake()
        return end

    def when_answers_forgotten(self, listener: Callable[[AnswerKey], None]) -> None:
        """Has `listener` called for each OCSP answer that a commit of this daemon makes wrong, see `ocsp_responses`.

        It is called in a thread that commits, before the caller of the work hears of the commit; also for a commit that
        failed, which may have been done.
        """
        self._writer.answers_forgotten.add(listener)

    def close(self) -> None:
        """Commits what waits, refuses what comes, and lets go of the database."""
        if not self._closed:
            self._closed = True
            self._close()


def _observe(kind: str, name: str, start: float) -> None:
    seconds = time.perf_counter() - start
    STORE_SECONDS.labels(kind, name).observe(seconds)
    if seconds > SLOW_SECONDS:
        _log.warning("slow %s %s: %.3f s", kind, name, seconds)
