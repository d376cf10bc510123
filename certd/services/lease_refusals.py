"""Refused leases become events: the first of its kind in a minute at once, how many followed when that is over."""

import logging
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason
from certd.model.access import Caller
from certd.model.event import Event, EventType
from certd.model.names import AssociationName
from certd.store.store import Store, Transaction

_log = logging.getLogger("certd.lease-refusals")

TOLD: Final = frozenset(
    {
        Reason.ASSOCIATION_NOT_FOUND,
        Reason.CREDENTIAL_REVOKED,
        Reason.LEASE_REFUSED,
        Reason.MANAGED_CERTIFICATE_NOT_FOUND,
        Reason.RATE_LIMITED,
        Reason.STATE_FORBIDS,
        Reason.TOKEN_POLICY_FORBIDS,
    }
)
"""Reasons that say something of the caller or of the key. Who lacks the permission is told among the refused calls."""

MOST_KINDS: Final = 4096
"""Different refusals in a minute; those of further kinds are told by the log alone."""
KINDS_OF_ONE: Final = 32
"""Of one principal; further ones count together, whichever associations they name."""
_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """Refusals that are equal."""

    principal: str
    tenant: str
    resource: str
    version: int
    reason: Reason
    minute: datetime


class LeaseRefusals:
    """Writes an event of each kind of refusal, and one more of how many equal ones followed within the minute.

    What is counted and not yet written is lost when the daemon is killed.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._minute: datetime | None = None
        self._followed: Counter[_Kind] = Counter()
        """How many followed the first of each kind in this minute."""
        self._kinds_of: Counter[str] = Counter()
        """How many kinds each principal has in this minute."""
        self._unwritten: Counter[_Kind] = Counter()
        """Of minutes that are over."""

    def note(self, caller: Caller, name: AssociationName, version: int, error: CertdError) -> None:
        """Takes a refusal down; nothing happens for a reason that is none of TOLD. Raises nothing."""
        if error.reason not in TOLD:
            return
        now = self._clock.now()
        tenant = name.managed_certificate.tenant
        kind = _Kind(
            principal=caller.principal,
            tenant=tenant,
            resource=str(name),
            version=version,
            reason=error.reason,
            minute=_minute_of(now),
        )
        others = _Kind(
            principal=caller.principal,
            tenant=tenant,
            resource=f"tenants/{tenant}",
            version=0,
            reason=error.reason,
            minute=kind.minute,
        )
        with self._lock:
            first = self._counted(kind, others)
        if first is not None:
            self._write(Counter({first: 1}), now)

    def _counted(self, kind: _Kind, others: _Kind) -> _Kind | None:
        """Counts a refusal; returns the kind that it is the first of, if it is."""
        self._turn(kind.minute)
        if kind not in self._followed and self._kinds_of[kind.principal] >= KINDS_OF_ONE:
            kind = others
        if kind in self._followed:
            self._followed[kind] += 1
            return None
        if len(self._followed) >= MOST_KINDS:
            _log.warning("a lease of %s is refused to %s: %s", kind.resource, kind.principal, kind.reason)
            return None
        self._followed[kind] = 0
        self._kinds_of[kind.principal] += 1
        return kind

    def flush(self, *, whole_minutes: bool = True) -> None:
        """Writes what followed in the minutes that are over, or in all; what cannot be written is written next time."""
        now = self._clock.now()
        with self._lock:
            self._turn(_minute_of(now) if whole_minutes else None)
            due, self._unwritten = self._unwritten, Counter()
        kinds = list(due)
        for start in range(0, len(kinds), _AT_ONCE):
            self._write(Counter({kind: due[kind] for kind in kinds[start : start + _AT_ONCE]}), now)

    def _turn(self, minute: datetime | None) -> None:
        """Begins a minute, unless it is the one that is counted; what was counted before is due then."""
        if minute != self._minute or minute is None:
            # Without those that nothing followed. When nothing could be written for long, no more is kept.
            if len(self._unwritten) < MOST_KINDS:
                self._unwritten += self._followed
            self._followed, self._kinds_of, self._minute = Counter(), Counter(), minute

    def _write(self, counts: Counter[_Kind], now: datetime) -> None:
        try:
            self._store.write("lease-refusals.write", lambda tx: _record(tx, counts, now))
        except CertdError as error:
            _log.warning("the events of %d kinds of refused leases are not written yet: %s", len(counts), error)
            with self._lock:
                self._unwritten += counts


def _minute_of(now: datetime) -> datetime:
    return now.replace(second=0, microsecond=0)


def _record(tx: Transaction, counts: Counter[_Kind], now: datetime) -> None:
    for kind, count in counts.items():
        tx.event(
            Event(
                time=now,
                type=EventType.MANAGED_CERTIFICATE_LEASE_REFUSED,
                tenant=kind.tenant,
                principal=kind.principal,
                resource=kind.resource,
                details={
                    "reason": kind.reason,
                    "version": str(kind.version),
                    "count": str(count),
                    "minute": rfc3339(kind.minute),
                },
            )
        )
