"""Authorities that come near their end. All are told of: a new certificate of an authority is for people to make.

Those that issue for long are told of earlier: the next key has to sign while what it issues can live as long as before.
Not those of the system, which belong to no tenant and are followed by the next one in time by themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from certd.clock import rfc3339
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.notice import AUTHORITY_NOTICE_DAYS, ENDED, ROTATION_NOTICE_DAYS, nearest, rotation_is_due
from certd.services.notice_pages import Come
from certd.store import live_certificates, notices
from certd.store.notices import EndingAuthority, Mark
from certd.store.store import Transaction


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
