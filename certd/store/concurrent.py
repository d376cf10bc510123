"""Writing to PostgreSQL: works run beside each other, and again where the server undid one for another's sake."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, insert, select, update

from certd.errors import CertdError, Reason
from certd.metrics import STORE_COMMITS, STORE_FAILED_COMMITS, STORE_RETRIES
from certd.store import schema
from certd.store.answer_listeners import AnswerListeners
from certd.store.dialect import POSTGRESQL, RETRY_AFTER, lost_connection, mapped, may_run_again
from certd.store.transaction import Transaction

MOST_ATTEMPTS = 20
_LONGEST_PAUSE = 0.1

_LONGEST_MEMORY = 0.5
"""Seconds for which a version is not asked for again; others' changes are seen after that."""

_INSERT_EVENTS = insert(schema.unnumbered_events)
_SELECT_VERSION = select(schema.configuration_version.c.version)
_GROW_VERSION = update(schema.configuration_version).values(version=schema.configuration_version.c.version + 1)


class ConcurrentWriter:
    """The writer of a PostgreSQL database, for any number of threads.

    Args:
        engine: the pool, whose transactions are SERIALIZABLE.
        events_committed: called after a commit that brought events.
    """

    def __init__(self, engine: Engine, events_committed: Callable[[], None]) -> None:
        self._engine = engine
        self._events_committed = events_committed
        self.answers_forgotten = AnswerListeners()
        self._changed = threading.Condition()
        self._running = 0
        self._closing = False
        self._version_lock = threading.Lock()
        self._version = 0
        self._version_until = 0.0

    @property
    def configuration_version(self) -> int:
        """Grows with each commit, of any daemon, that changes the configuration; read again twice a second.

        Raises what the driver raises when the server does not answer: nothing is allowed on what may be outdated.
        """
        if time.monotonic() < self._version_until:
            return self._version
        with self._version_lock:
            asked = time.monotonic()
            if asked >= self._version_until:
                with self._engine.connect() as connection:
                    self._version = connection.execute(_SELECT_VERSION).scalar_one()
                self._version_until = asked + _LONGEST_MEMORY
            return self._version

    def forget_version(self) -> None:
        """Has the version asked for anew by whoever wants it next."""
        # Behind whoever reads it at this moment, perhaps without what is to be seen.
        with self._version_lock:
            self._version_until = 0.0

    def write(self, name: str, work: Callable[[Transaction], Any]) -> Any:  # noqa: ANN401  # The type of the work's result; Store.write says it.
        """Returns the result of `work` once it is committed; raises what it raised, or STORE_UNAVAILABLE."""
        with self._changed:
            if self._closing:
                raise CertdError(Reason.SHUTTING_DOWN, "certd is shutting down; try again once it serves")
            self._running += 1
        try:
            return self._write(name, work)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _write(self, name: str, work: Callable[[Transaction], Any]) -> Any:  # noqa: ANN401  # As above.
        for attempt in range(MOST_ATTEMPTS):
            try:
                return self._attempt(work)
            except Exception as error:
                STORE_FAILED_COMMITS.inc()
                # A connection that broke before COMMIT left nothing; one try finds a server that is back.
                broken_before_commit = lost_connection(error) and not getattr(error, "certd_committing", False)
                if not (may_run_again(error) or (broken_before_commit and attempt == 0)):
                    failure = mapped(error)
                    if failure is error:
                        raise
                    raise failure from error
            STORE_RETRIES.labels(name).inc()
            # Those who collided must not meet again.
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.002 * 2**attempt)))  # noqa: S311  # Spreads retries, guards nothing.
        raise CertdError(
            Reason.STORE_UNAVAILABLE,
            f"{name} collided with other changes {MOST_ATTEMPTS} times and nothing was changed; try again later",
            retry_after=RETRY_AFTER,
        )

    def close(self) -> None:
        """Refuses further works and waits for those that run."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: self._running == 0)

    def _attempt(self, work: Callable[[Transaction], Any]) -> Any:  # noqa: ANN401  # As above.
        with self._engine.connect() as connection:
            transaction = Transaction(connection, POSTGRESQL)
            try:
                result = work(transaction)
            finally:
                transaction.end()
            if transaction.events:
                connection.execute(_INSERT_EVENTS, [event.columns for event in transaction.events])
            if transaction.configuration_is_changed:
                connection.execute(_GROW_VERSION)
            try:
                connection.commit()
            except Exception as error:
                # Whether it was committed is unknown when the connection breaks here, so the work must not run again.
                error.certd_committing = True  # type: ignore[attr-defined]  # Read in write().
                self.answers_forgotten.tell([transaction])
                raise
        STORE_COMMITS.inc()
        if transaction.configuration_is_changed:
            self.forget_version()
        self.answers_forgotten.tell([transaction])
        if transaction.events:
            self._events_committed()
        return result
