"""What is done about managed certificates from time to time, whatever their jobs say."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock
from certd.model.job import JobKind
from certd.store import jobs, managed_endings, sealed_keys
from certd.store.managed_endings import Ending
from certd.store.store import Store, Transaction

_EVERY: Final = timedelta(hours=1)
_AROUND_THE_END: Final = timedelta(days=45)
_LOOKED_AT_ONCE: Final = 1000
_DELETED_AT_ONCE: Final = 500
_DELETED_IN_A_BEAT: Final = 2000


class ManagedUpkeep:
    """Looks for certificates that nobody will renew, and for keys that nobody needs.

    A daemon of the release before this one ends the jobs of renewals, which it knows nothing of.
    """

    def __init__(self, *, store: Store, clock: Clock, wake_scheduler: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._wake_scheduler = wake_scheduler
        self._next_look = clock.now()
        self._next_deletion = clock.now()
        self._seen: tuple[datetime, str] | None = None
        """The one that was looked at last, by its end, while not all were."""

    def look(self) -> None:
        """Puts a job for certificates around their end that have none; every hour, many at a time."""
        now = self._clock.now()
        if self._seen is None and now < self._next_look:
            return
        with self._store.read("managed-certificates.look") as tx:
            page = managed_endings.page(
                tx,
                after=self._seen or (now - _AROUND_THE_END, ""),
                until=now + _AROUND_THE_END,
                limit=_LOOKED_AT_ONCE,
            )
        forgotten = [one for one in page if one.is_forgotten]
        if forgotten:
            self._store.write("managed-certificates.remind", lambda tx: _remind(tx, forgotten, now))
            self._wake_scheduler()
        if len(page) == _LOOKED_AT_ONCE:
            self._seen = page[-1].not_after, page[-1].uid
        else:
            self._seen, self._next_look = None, now + _EVERY

    def delete_keys(self) -> None:
        """Deletes sealed keys of versions that ended; every hour, and with each beat while there are many."""
        now = self._clock.now()
        if now < self._next_deletion:
            return
        for _ in range(_DELETED_IN_A_BEAT // _DELETED_AT_ONCE):
            deleted = self._store.write(
                "sealed-keys.delete", lambda tx: sealed_keys.delete_expired(tx, now, _DELETED_AT_ONCE)
            )
            if deleted < _DELETED_AT_ONCE:
                self._next_deletion = now + _EVERY
                return


def _remind(tx: Transaction, forgotten: list[Ending], now: datetime) -> None:
    for one in forgotten:
        jobs.hasten(tx, JobKind.ADVANCE_MANAGED_CERTIFICATE, one.uid, now)
