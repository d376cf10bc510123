"""Refused calls become events: one for each principal, method and minute, with how many there were and why."""

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason
from certd.model.event import Event, EventType
from certd.services.rates import tenant_of
from certd.store.store import Store, Transaction

_log = logging.getLogger("certd.refusals")

TOLD: Final = frozenset(
    {
        Reason.CREDENTIAL_INVALID,
        Reason.CREDENTIAL_MISSING,
        Reason.CREDENTIAL_REVOKED,
        Reason.PERMISSION_MISSING,
        Reason.RATE_LIMITED,
    }
)
"""Reasons that make a call one of these."""

UNKNOWN: Final = "unknown"
"""The principal of callers who are not known."""
OTHERS: Final = "others"
"""The principal of those for whom there was no room of their own."""

_MOST: Final = 4096
_AT_ONCE: Final = 256
_MINUTE: Final = timedelta(minutes=1)


@dataclass(slots=True, kw_only=True)
class _Refused:
    """What was refused to one principal, of one method."""

    minute: datetime
    last: datetime
    peer: str
    reasons: Counter[Reason] = field(default_factory=Counter)


_Key = tuple[str, str, datetime]
"""Principal, method, minute."""


class Refusals:
    """Counts refused calls and writes an event of each count when its minute is over.

    What is counted and not yet written is lost when the daemon is killed.

    Args:
        store: where the events go.
        clock: tells which minute it is.
        most: counts that are kept; what is refused to further principals counts together.
    """

    def __init__(self, store: Store, clock: Clock, *, most: int = _MOST) -> None:
        self._store = store
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self._refused: dict[_Key, _Refused] = {}

    def note(self, *, principal: str, method: str, reason: Reason, peer: str) -> None:
        """Counts a refused call; `principal` is empty for callers who are not known, `peer` is where they called from.

        Nothing happens for a reason that is none of TOLD.
        """
        if reason not in TOLD:
            return
        now = self._clock.now()
        minute = now.replace(second=0, microsecond=0)
        key = (principal or UNKNOWN, method, minute)
        with self._lock:
            refused = self._refused.get(key)
            if refused is None and len(self._refused) >= self._most:
                key = (OTHERS, method, minute)
                refused = self._refused.get(key)
            if refused is None and len(self._refused) >= 2 * self._most:
                # The events have not been written for hours.
                return
            if refused is None:
                refused = self._refused[key] = _Refused(minute=minute, last=now, peer=peer)
            refused.reasons[reason] += 1
            refused.last, refused.peer = now, peer

    def flush(self, *, whole_minutes: bool = True) -> None:
        """Writes the events of the minutes that are over, or of all; what cannot be written is written next time."""
        minute = self._clock.now().replace(second=0, microsecond=0)
        with self._lock:
            due = {key: one for key, one in self._refused.items() if not whole_minutes or one.minute != minute}
            for key in due:
                del self._refused[key]
        while due:
            part = dict(list(due.items())[:_AT_ONCE])
            try:
                self._store.write("refusals.write", lambda tx, part=part: _write(tx, part))  # type: ignore[misc]
            except CertdError as error:
                _log.warning("the events of %d counts of refused calls are not written yet: %s", len(due), error)
                self._put_back(due)
                return
            for key in part:
                del due[key]

    def _put_back(self, unwritten: dict[_Key, _Refused]) -> None:
        with self._lock:
            for key, refused in unwritten.items():
                known = self._refused.get(key)
                if known is None:
                    self._refused[key] = refused
                else:
                    known.reasons.update(refused.reasons)


def _write(tx: Transaction, counts: dict[_Key, _Refused]) -> None:
    for (principal, method, _), refused in counts.items():
        tx.event(
            Event(
                time=refused.last,
                type=EventType.CALL_REFUSED,
                tenant=tenant_of(principal),
                principal=principal,
                resource=method,
                details={
                    "count": str(refused.reasons.total()),
                    "minute": rfc3339(refused.minute),
                    "peer": refused.peer,
                    "reasons": ", ".join(f"{reason}: {count}" for reason, count in sorted(refused.reasons.items())),
                },
            )
        )
