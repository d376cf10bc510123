"""Those who are told that events were numbered, so that nobody has to ask again and again."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from sqlalchemy import Engine, literal_column, select
from sqlalchemy.exc import SQLAlchemyError

from certd.store import schema

Listener = Callable[[], None]

_INTERVAL: Final = 0.25
_PAUSE_AFTER_FAILURE: Final = 1.0
_LAST = select(schema.event_sequence.c.last_seq).where(schema.event_sequence.c.id == literal_column("1"))

_log = logging.getLogger("certd.store")


class EventListeners:
    """Functions that are called after a commit that numbered events, in the thread that committed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()

    @property
    def are_there(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def add(self, listener: Listener) -> Callable[[], None]:
        """Has `listener` called from now on; returns what ends that."""

        # Of its own, so that one who listens twice is told twice, and can end one of the two.
        def own() -> None:
            listener()

        def end() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not own)

        with self._lock:
            self._listeners = (*self._listeners, own)
        return end

    def tell(self) -> None:
        """Calls every listener; what one raises is logged, for whoever commits has done nothing wrong."""
        for listener in self._listeners:
            try:
                listener()
            except Exception:  # noqa: BLE001  # A commit does not fail by those who hear of it.
                _log.exception("a listener of events failed")


class EventPoll:
    """A thread that tells listeners of events that another daemon numbered, while there are listeners.

    Args:
        engine: the pool, for reads.
        listeners: who is told.
    """

    def __init__(self, engine: Engine, listeners: EventListeners) -> None:
        self._engine = engine
        self._listeners = listeners
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Says that somebody listens."""
        with self._changed:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="store-event-poll", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closing = True
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        # The first look tells in any case: what was numbered before it may be news.
        seen = -1
        pause = 0.0
        while self._wait(pause):
            pause = _INTERVAL
            try:
                with self._engine.connect() as connection:
                    last: int = connection.execute(_LAST).scalar_one()
            except SQLAlchemyError as error:
                _log.warning("looking for new events failed, trying again: %s", getattr(error, "orig", error))
                pause = _PAUSE_AFTER_FAILURE
                continue
            except Exception:  # noqa: BLE001  # The thread survives everything.
                _log.exception("looking for new events failed, trying again")
                pause = _PAUSE_AFTER_FAILURE
                continue
            if last != seen:
                seen = last
                self._listeners.tell()

    def _wait(self, pause: float) -> bool:
        """Waits for the next look; returns whether there is to be one."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, timeout=pause)
            self._changed.wait_for(lambda: self._closing or self._listeners.are_there)
            return not self._closing
