"""What is done about managed certificates from time to time, whatever their jobs say."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock
from certd.model.job import JobKind
from certd.services.forced_renewal import updated
from certd.store import jobs, managed_certificates, managed_endings, sealed_keys
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
        """Puts a job for certificates around their end that have none in time; every hour, many at a time."""
        now = self._clock.now()
        if self._seen is None and _waits(now, self._next_look):
            return
        with self._store.read("managed-certificates.look") as tx:
            page = managed_endings.page(
                tx,
                after=self._seen or (now - _AROUND_THE_END, ""),
                until=now + _AROUND_THE_END,
                now=now,
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
        if _waits(now, self._next_deletion):
            return
        for _ in range(_DELETED_IN_A_BEAT // _DELETED_AT_ONCE):
            deleted = self._store.write(
                "sealed-keys.delete", lambda tx: sealed_keys.delete_expired(tx, now, _DELETED_AT_ONCE)
            )
            if deleted < _DELETED_AT_ONCE:
                self._next_deletion = now + _EVERY
                return


def _waits(now: datetime, time: datetime) -> bool:
    """Returns whether a time is yet to come; what is farther off than it can be was told by a clock that was ahead."""
    return now < time <= now + _EVERY


def _remind(tx: Transaction, forgotten: Sequence[Ending], now: datetime) -> None:
    for managed in managed_certificates.get_many(tx, [one.uid for one in forgotten], to_change=True):
        if managed.next_attempt_time is not None and managed.next_attempt_time > max(managed.not_after or now, now):
            # Nobody means that; it is planned anew.
            updated(tx, replace(managed, next_attempt_time=None, update_time=now), managed)
        jobs.hasten(tx, JobKind.ADVANCE_MANAGED_CERTIFICATE, managed.uid, now)
