"""Authorities that come near their end. All are told of: a new certificate of an authority is for people to make.

Those that issue for long are told of earlier: the next key has to sign while what it issues can live as long as before.
Not those of the system, which belong to no tenant and are followed by the next one in time by themselves.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock, rfc3339
from certd.errors import CertdError
from certd.model.authority import Authority, AuthorityState
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.notice import (
    AUTHORITY_NOTICE_DAYS,
    ENDED,
    ROTATION_NOTICE_DAYS,
    longest_in_time,
    nearest,
    rotation_is_due,
)
from certd.services.notice_pages import Come
from certd.store import authorities, live_certificates, notices
from certd.store.notices import EndingAuthority, Mark
from certd.store.store import Store, Transaction

_LOOKED_FOR: Final = timedelta(minutes=10)
"""How long what was found is told: strangers may ask often, and all that is alive was looked through."""
_PAGE_LENGTH: Final = 200


class EndingAuthorities:
    """Tells of authorities."""

    def come(self, tx: Transaction, mark: Mark, until: datetime, now: datetime, *, limit: int) -> Come:
        """Returns a page of what ends before `until`, from behind a mark."""
        page = notices.near_authorities(tx, mark, until, limit=limit)
        return Come(
            to_tell=[one.uid for one in page if _is_told(one, mark.days, now) and _concerns(tx, one, mark.days, now)],
            last=(page[-1].not_after, page[-1].uid) if len(page) == limit else None,
        )

    def tell(self, tx: Transaction, uids: Sequence[str], days: int, now: datetime) -> Iterator[Event]:
        """Records that those are told of that still are to be, and yields their events."""
        for one in notices.authorities_to_tell(tx, uids):
            if _is_told(one, days, now):
                notices.set_authority_told(tx, one, replace(one.told, days=(*one.told.days, days)))
                yield _event(one, days, now)


class NextKeys:
    """Tells that authorities should have their next keys by now.

    Args:
        store: the books.
        clock: the time.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._looked: datetime | None = None
        self._due = 0

    def problems(self) -> list[str]:
        """Returns a sentence when there are such authorities; it names none, for strangers read it too."""
        now = self._clock.now()
        with self._lock:
            if self._looked is None or not self._looked <= now < self._looked + _LOOKED_FOR:
                try:
                    self._due = self._look(now)
                except CertdError:
                    return []
                self._looked = now
            due = self._due
        if not due:
            return []
        left = f"{due} authorities have less time left than one and a half lifetimes of what they issue"
        return [f"{left}: their next keys are due; certd doctor names them"]

    def _look(self, now: datetime) -> int:
        with self._store.read("authorities.next-keys") as tx:
            return sum(outgrown(tx, one, now) is not None for one in _enabled(tx, now))


def outgrown(tx: Transaction, authority: Authority, now: datetime) -> timedelta | None:
    """Returns a lifetime of what an authority issues for which its next key is due; None when it is not."""
    if authority.not_after is None or now > authority.not_after:
        return None
    return live_certificates.lifetime_above(tx, authority.uid, longest_in_time(authority.not_after - now), now)


def _enabled(tx: Transaction, now: datetime) -> Iterator[Authority]:
    after = ""
    while page := authorities.page_by_uid(tx, after=after, limit=_PAGE_LENGTH):
        after = page[-1].uid
        yield from (one for one in page if one.tenant is not None and one.state_at(now) is AuthorityState.ENABLED)


def _is_told(one: EndingAuthority, days: int, now: datetime) -> bool:
    every = (*ROTATION_NOTICE_DAYS, *AUTHORITY_NOTICE_DAYS)
    return days not in one.told.days and nearest(every, one.not_after, now) == days


def _concerns(tx: Transaction, one: EndingAuthority, days: int, now: datetime) -> bool:
    """Returns whether it is told so early: if what it issues lives so long that its next key is due."""
    if days not in ROTATION_NOTICE_DAYS:
        return True
    return rotation_is_due(days, live_certificates.longest_lifetime(tx, one.uid, now))


def _event(one: EndingAuthority, days: int, now: datetime) -> Event:
    told = {"uid": one.uid, "not_after": rfc3339(one.not_after), "type": one.type.value, "state": one.state.value}
    type_ = EventType.AUTHORITY_EXPIRED
    if days != ENDED:
        type_, told = EventType.AUTHORITY_EXPIRING, {"days": str(days), **told}
    return Event(
        time=now,
        type=type_,
        tenant=one.name.tenant,
        principal=SYSTEM_PRINCIPAL,
        resource=str(one.name),
        details=told,
    )
