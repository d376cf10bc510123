"""Writing to SQLite: one thread commits the works of all callers together.

The disk's flush is what a commit costs, so a busy daemon batches by itself: whatever waits while one commit flushes
shares the next one.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, Engine, insert, literal_column, select, update

from certd.errors import CertdError, Reason
from certd.metrics import STORE_COMMITS, STORE_FAILED_COMMITS
from certd.store import schema
from certd.store.answer_listeners import AnswerListeners
from certd.store.dialect import RETRY_AFTER, SQLITE, Many, breaks_batch, mapped, raw_sqlite
from certd.store.event_chain import ChainHead, next_head
from certd.store.event_salts import new_salts
from certd.store.transaction import PendingEvent, Transaction

LONGEST_QUEUE = 4096
LARGEST_BATCH = 256

_log = logging.getLogger("certd.store")

_SELECT_HEAD = select(
    schema.event_sequence.c.last_seq, schema.event_sequence.c.last_hash, schema.event_sequence.c.salted_from
)
_INSERT_EVENTS = Many(
    insert(schema.events),
    columns=("seq", "time", "type", "tenant", "principal", "resource", "details", "chain_hash", "salt"),
)
_SELECT_VERSION = select(schema.configuration_version.c.version)
_GROW_VERSION = update(schema.configuration_version).values(version=schema.configuration_version.c.version + 1)
_UPDATE_HEAD = update(schema.event_sequence).where(schema.event_sequence.c.id == literal_column("1"))

_Work = tuple[Callable[[Transaction], Any], Future[Any]]


class _TransactionLostError(Exception):
    """SQLite undid the whole transaction under a work that hid it."""


class GroupCommitWriter:
    """The one writer of a SQLite database.

    Args:
        engine: yields the connection that this writer keeps.
        events_numbered: called after a commit that brought events.
    """

    def __init__(self, engine: Engine, events_numbered: Callable[[], None]) -> None:
        self._engine = engine
        self._events_numbered = events_numbered
        self._waiting: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._connection: Connection | None = None
        self._head = ChainHead(0, b"")
        self._salted_from = 0
        self.answers_forgotten = AnswerListeners()
        self.configuration_version = 0
        """Grows after each commit of a work that said that it changes the configuration."""
        self._open_connection()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many works wait for the next commit."""
        return len(self._waiting)

    def forget_version(self) -> None:
        """Does nothing: what this writer knows of the version is never old."""

    def write(self, _name: str, work: Callable[[Transaction], Any]) -> Any:  # noqa: ANN401  # The type of the work's result; Store.write says it.
        """Returns the result of `work` once it is committed; raises what it raised, or STORE_UNAVAILABLE."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a work must not write through the store: it would wait for itself")
        future: Future[Any] = Future()
        with self._changed:
            if self._closing:
                raise CertdError(Reason.SHUTTING_DOWN, "certd is shutting down; try again once it serves")
            if len(self._waiting) >= LONGEST_QUEUE:
                raise CertdError(
                    Reason.STORE_UNAVAILABLE,
                    f"{LONGEST_QUEUE} works already wait for the database; try again later",
                    retry_after=RETRY_AFTER,
                )
            self._waiting.append((work, future))
            self._changed.notify()
        return future.result()

    def close(self) -> None:
        """Commits what waits, then ends."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._close_connection()
        self._engine.dispose()

    def _run(self) -> None:
        while batch := self._take():
            self._commit(batch)

    def _take(self) -> list[_Work]:
        """Waits for works and returns them; returns none when the writer closes."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), LARGEST_BATCH))]

    def _commit(self, batch: list[_Work]) -> None:
        results: list[tuple[Future[Any], Any, BaseException | None]] = []
        transactions: list[Transaction] = []
        committing = False
        try:
            connection = self._open_connection()
            raw = raw_sqlite(connection)
            raw.execute("BEGIN IMMEDIATE")
            head = self._head
            for work, future in batch:
                transaction = Transaction(connection, SQLITE)
                transactions.append(transaction)
                raw.execute("SAVEPOINT work")
                try:
                    result = work(transaction)
                except BaseException as error:
                    if breaks_batch(error) or not raw.in_transaction:
                        raise
                    raw.execute("ROLLBACK TO work")
                    raw.execute("RELEASE work")
                    transaction.events.clear()
                    transaction.configuration_is_changed = False
                    transaction.forgotten_answers.clear()
                    results.append((future, None, error))
                else:
                    if not raw.in_transaction:
                        raise _TransactionLostError
                    raw.execute("RELEASE work")
                    results.append((future, result, None))
                finally:
                    transaction.end()
            head = self._number(connection, transactions, head)
            grows = any(transaction.configuration_is_changed for transaction in transactions)
            if grows:
                connection.execute(_GROW_VERSION)
            committing = True
            raw.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  # The thread survives everything, and the callers hear of it.
            self._undo(reopen=committing)
            # What could not be committed may have been all the same.
            self.answers_forgotten.tell(transactions)
            self._fail(batch, error)
            return
        brought_events = head != self._head
        self._head = head
        self.configuration_version += grows
        STORE_COMMITS.inc()
        self.answers_forgotten.tell(transactions)
        self._answer(results)
        if brought_events:
            self._events_numbered()

    @staticmethod
    def _answer(results: list[tuple[Future[Any], Any, BaseException | None]]) -> None:
        """Wakes the callers of a committed batch."""
        for future, result, failure in results:
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(mapped(failure))

    def _number(self, connection: Connection, transactions: list[Transaction], head: ChainHead) -> ChainHead:
        """Writes the events of the batch with numbers and hashes; returns the head after them."""
        rows: list[dict[str, object]] = []
        events: list[PendingEvent] = [event for transaction in transactions for event in transaction.events]
        for event, salt in zip(events, new_salts(len(events)), strict=True):
            head = next_head(head, event.canonical, salt=salt, salted_from=self._salted_from)
            rows.append({**event.columns, "seq": head.seq, "chain_hash": head.chain_hash, "salt": salt})
        if rows:
            _INSERT_EVENTS.on_sqlite(connection, rows)
            connection.execute(_UPDATE_HEAD, {"last_seq": head.seq, "last_hash": head.chain_hash})
        return head

    def _undo(self, *, reopen: bool) -> None:
        """Rolls back; with `reopen` the next batch reads the chain's head again: what failed may have been done."""
        connection = self._connection
        try:
            if connection is not None and raw_sqlite(connection).in_transaction:
                raw_sqlite(connection).execute("ROLLBACK")
        except BaseException:  # noqa: BLE001  # The thread survives everything.
            # What cannot be rolled back is rolled back by closing.
            _log.exception("rolling back failed; the connection to the database is opened anew")
            reopen = True
        if reopen:
            self._close_connection()

    @staticmethod
    def _fail(batch: list[_Work], error: BaseException) -> None:
        STORE_FAILED_COMMITS.inc()
        failure = mapped(error)
        if not isinstance(failure, CertdError):
            _log.error("a transaction failed as a whole", exc_info=error)
        for _, future in batch:
            # An error of its own for each caller, whose traceback it will carry.
            future.set_exception(
                CertdError(
                    Reason.STORE_UNAVAILABLE,
                    failure.message
                    if isinstance(failure, CertdError)
                    else "the database refused the transaction and nothing was changed; the daemon's log says why",
                    retry_after=RETRY_AFTER,
                )
            )

    def _open_connection(self) -> Connection:
        if self._connection is None:
            connection = self._engine.connect()
            try:
                row = connection.execute(_SELECT_HEAD).one()
                version = connection.execute(_SELECT_VERSION).scalar_one()
            except BaseException:
                connection.close()
                raise
            self._head = ChainHead(row.last_seq, row.last_hash)
            self._salted_from = row.salted_from
            self.configuration_version = version
            self._connection = connection
        return self._connection

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception:  # noqa: BLE001  # As above; nothing depends on it.
                _log.exception("closing the connection to the database failed")
