"""Has answers in memory go that another daemon on the same PostgreSQL has made wrong."""

import logging
import threading
from typing import Final

from certd.errors import CertdError
from certd.model.event import EventType
from certd.services.ocsp_memory import AnswerMemory
from certd.store import events
from certd.store.dialect import POSTGRESQL
from certd.store.store import Store

_REVOKING: Final = frozenset({EventType.CERTIFICATE_REVOKED, EventType.CERTIFICATE_LOST})
_PAGE_LENGTH: Final = 1_000
_PAUSE_AFTER_FAILURE: Final = 1.0

_log = logging.getLogger("certd.ocsp")


class OcspFollower:
    """A thread that reads the events of others; on SQLite there are no others, and no thread.

    Args:
        store: where the events are.
        memory: of answers.
    """

    def __init__(self, store: Store, memory: AnswerMemory) -> None:
        self._store = store
        self._memory = memory
        self._news = threading.Event()
        self._closed = threading.Event()
        self._seen: int | None = None
        self._thread = threading.Thread(target=self._run, name="ocsp-follower", daemon=True)

    def start(self) -> None:
        """Starts the thread where it is needed."""
        if self._store.engine_name == POSTGRESQL:
            self._store.when_events(self._news.set)
            self._news.set()
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._closed.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._news.wait()
            self._news.clear()
            try:
                while self._follow():
                    pass
            except CertdError as error:
                # Nothing is known of what others did meanwhile.
                self._memory.clear()
                self._seen = None
                _log.warning("revocations by other daemons are looked for again: %s", error)
                self._closed.wait(_PAUSE_AFTER_FAILURE)
                self._news.set()
            except Exception:  # noqa: BLE001  # The thread survives everything, and the answers in memory do not.
                self._memory.clear()
                self._seen = None
                _log.exception("looking for revocations by other daemons failed")
                self._closed.wait(_PAUSE_AFTER_FAILURE)
                self._news.set()

    def _follow(self) -> bool:
        """Reads a page; returns whether there may be more."""
        with self._store.read("ocsp.follow") as tx:
            if self._seen is None:
                # What was kept before this moment may be wrong; what is kept later is not.
                self._seen = events.head(tx).seq
                self._memory.clear()
                return False
            page = events.page(tx, after_seq=self._seen, limit=_PAGE_LENGTH)
        serials = [row.event.resource.rpartition("/")[2] for row in page if row.event.type in _REVOKING]
        if serials:
            self._memory.forget_serials(serials)
        if page:
            self._seen = page[-1].seq
        return len(page) == _PAGE_LENGTH
