"""Wakes the deliveries of those subscriptions that want what happened.

A job that is claimed is not hastened: who works on it looks at its end whether there is more. On PostgreSQL an event
that is numbered at that very moment could be missed by both, so a subscription that did not move is hastened again.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError
from certd.model.job import JobKind
from certd.model.subscription import Subscription
from certd.store import events, jobs, subscriptions
from certd.store.store import Store, Transaction
from certd.store.subscriptions import Position

TOGETHER: Final = 0.1
"""Seconds between two looks, so that many events make one look."""
_AGAIN: Final = 1.0
"""Seconds until a subscription that should have moved is looked at again."""
_TIMES: Final = 5
"""How often that is done."""
SAFETY: Final = 30.0
"""Seconds between two looks at all that are behind, whatever they want."""
_KNOWN: Final = 60.0
"""Seconds after which those are forgotten that are gone."""
_PAGE: Final = 500
_MOST_LOOKED_AT: Final = 5000
"""Events of one look; of more it is not looked who wants them."""
_POSITIONS: Final = 1000

_log = logging.getLogger("certd.deliveries")


@dataclass(slots=True)
class _Hastened:
    """A subscription that has something to send, and has been woken for it."""

    seq: int
    """Of the last event that it wants."""
    again: float
    """When it is woken again, by a clock that only goes on, unless it has moved."""
    times: int = 0


class DeliveryWakes:
    """A thread that looks who wants what happened."""

    def __init__(self, *, store: Store, clock: Clock, wake_scheduler: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._wake_scheduler = wake_scheduler
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._end_listening: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="delivery-wakes", daemon=True)
        self._seen: int | None = None
        """Number of the last event that was looked at; None: none yet."""
        self._next_safety = 0.0
        self._known: dict[str, Subscription] = {}
        self._known_since = 0.0
        self._hastened: dict[str, _Hastened] = {}

    def start(self) -> None:
        """Begins to look."""
        self._end_listening = self._store.when_events(self._woken.set)
        self._thread.start()

    def stop(self) -> None:
        """Ends looking."""
        self._stopping.set()
        self._woken.set()
        if self._end_listening is not None:
            self._end_listening()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                self.look()
            except CertdError as error:
                _log.warning("who wants what happened is looked at later: %s", error)
            except Exception:  # noqa: BLE001  # The thread survives everything.
                _log.exception("looking who wants what happened failed, and is tried again")
            self._stopping.wait(TOGETHER)
            if not self._stopping.is_set():
                self._woken.wait(_AGAIN if self._hastened else SAFETY)

    def look(self) -> None:
        """Hastens the jobs of all subscriptions that have something to send."""
        began, now = time.monotonic(), self._clock.now()
        if began - self._known_since >= _KNOWN:
            self._known, self._known_since = {}, began
        with self._store.read("deliveries.look") as tx:
            newest = events.head(tx).seq
            is_safety = self._seen is None or began >= self._next_safety
            if newest == self._seen and not self._hastened and not is_safety:
                return
            positions = _positions(tx)
            behind = {uid: one for uid, one in positions.items() if one.delivered_seq < newest and _may_try(one, now)}
            if is_safety or self._seen is None or newest - self._seen > _MOST_LOOKED_AT:
                self._next_safety = began + SAFETY
                wanting = dict.fromkeys(behind, newest)
            else:
                wanting = self._wanting(tx, self._seen, newest, behind)
        due = self._unmoved(positions, began, now)
        for uid, seq in wanting.items():
            hastened = self._hastened.get(uid)
            if hastened is not None:
                # Who works on it sees that too.
                hastened.seq = seq
            else:
                due.append(uid)
                if not is_safety:
                    self._hastened[uid] = _Hastened(seq, began + _AGAIN)
        if due:
            self._store.write("deliveries.hasten", lambda tx: _hasten(tx, sorted(due), now))
            self._wake_scheduler()
        self._seen = newest

    def _wanting(self, tx: Transaction, seen: int, newest: int, behind: Mapping[str, Position]) -> dict[str, int]:
        """Returns who of those behind wants an event since `seen`, and the last one that they want."""
        of_tenant: dict[str, list[Subscription]] = {}
        for position in behind.values():
            subscription = self._subscription(tx, position)
            if subscription is not None:
                of_tenant.setdefault(subscription.tenant, []).append(subscription)
        found: dict[str, int] = {}
        while of_tenant and seen < newest:
            page = events.page(tx, after_seq=seen, limit=_PAGE)
            if not page:
                break
            for numbered in page:
                for subscription in of_tenant.get(numbered.event.tenant or "", ()):
                    if subscription.fits(numbered.event):
                        found[subscription.uid] = numbered.seq
            seen = page[-1].seq
        return found

    def _subscription(self, tx: Transaction, position: Position) -> Subscription | None:
        """Returns what a subscription wants."""
        known = self._known.get(position.uid)
        if known is None or known.revision != position.revision:
            known = subscriptions.get_by_uid(tx, position.uid)
        if known is not None:
            self._known[position.uid] = known
        return known

    def _unmoved(self, positions: Mapping[str, Position], began: float, now: datetime) -> list[str]:
        """Returns who was woken a while ago and did not move since; forgets who moved."""
        found: list[str] = []
        for uid, hastened in list(self._hastened.items()):
            position = positions.get(uid)
            if position is None or position.delivered_seq >= hastened.seq or not _may_try(position, now):
                del self._hastened[uid]
            elif began >= hastened.again:
                hastened.times += 1
                hastened.again = began + _AGAIN
                found.append(uid)
                if hastened.times >= _TIMES:
                    # What does not move for long is put behind others, or waits itself; its job says until when.
                    del self._hastened[uid]
        return found


def _positions(tx: Transaction) -> dict[str, Position]:
    found: dict[str, Position] = {}
    after = ""
    while page := subscriptions.all_uids_with_position(tx, after=after, limit=_POSITIONS):
        found |= {one.uid: one for one in page}
        after = page[-1].uid
        if len(page) < _POSITIONS:
            break
    return found


def _may_try(position: Position, now: datetime) -> bool:
    """Returns whether the target is not one that is away, whose job says when it is tried again."""
    return position.next_attempt_time is None or position.next_attempt_time <= now


def _hasten(tx: Transaction, uids: list[str], now: datetime) -> None:
    for uid in uids:
        jobs.hasten(tx, JobKind.DELIVER_EVENTS, uid, now)
