"""Managed certificates that come near their end: who is told of, and in which words.

Only what is not going to be renewed before it ends: certificates of ninety days whose renewal is planned for the
sixtieth are near their end all the time, and who is told of that each time hears nothing any more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from certd.clock import rfc3339
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.notice import ENDED, NotRenewed, nearest, why_not_renewed
from certd.services.managed_certificate_records import event_of
from certd.services.notice_pages import Come
from certd.store import notices
from certd.store.notices import EndingManaged, Mark
from certd.store.store import Transaction

_NAMES_TOLD = 10
_ON_ITS_WAY = NotRenewed("Overdue", "Its renewal is on its way, and makes it ACTIVE again.")


class EndingManagedCertificates:
    """Tells of managed certificates.

    Args:
        days_of: returns how many days before an end a tenant hears of it.
        since: since when this daemon makes renewals.
    """

    def __init__(self, days_of: Callable[[str], tuple[int, ...]], *, since: datetime) -> None:
        self._days_of = days_of
        self._since = since

    def come(self, tx: Transaction, mark: Mark, until: datetime, now: datetime, *, limit: int) -> Come:
        """Returns a page of what ends before `until`, from behind a mark."""
        # A daemon whose clock was ahead when it began has begun now.
        self._since = min(self._since, now)
        page = notices.near(tx, mark, until, limit=limit)
        return Come(
            to_tell=[one.uid for one in page if self._why(one, mark.days, now) is not None],
            last=(page[-1].not_after, page[-1].uid) if len(page) == limit else None,
        )

    def tell(self, tx: Transaction, uids: Sequence[str], days: int, now: datetime) -> Iterator[Event]:
        """Records that those are told of that still are to be, and yields their events."""
        for one in notices.to_tell(tx, uids):
            why = self._why(one, days, now)
            if why is not None:
                notices.set_told(tx, one.managed, replace(one.told, days=(*one.told.days, days)))
                yield _event(one, days, why, now)

    def _why(self, one: EndingManaged, days: int, now: datetime) -> NotRenewed | None:
        """Returns why one is to be told of at a mark; None when it is not."""
        managed = one.managed
        if one.revoked or days in one.told.days or nearest(self._days_of(managed.tenant), one.not_after, now) != days:
            return None
        why = why_not_renewed(managed, now, since=self._since)
        if days == ENDED:
            return why or _ON_ITS_WAY
        # What was made with less than so many days is told of at the next number of days.
        began = managed.issue_time or managed.create_time
        return None if one.not_after - timedelta(days=days) < began else why


def _event(one: EndingManaged, days: int, why: NotRenewed, now: datetime) -> Event:
    managed = one.managed
    names = [*managed.names.dns_names, *managed.names.ip_addresses, *managed.names.uris, *managed.names.email_addresses]
    told = {
        "not_after": rfc3339(one.not_after),
        "version": str(managed.current_version),
        "type": managed.type.value,
        "names": ", ".join(names[:_NAMES_TOLD]),
        "reason": why.reason,
        "message": why.message,
        "used_by": str(managed.association_count),
    }
    type_ = EventType.MANAGED_CERTIFICATE_EXPIRED
    if days != ENDED:
        type_, told = EventType.MANAGED_CERTIFICATE_EXPIRING, {"days": str(days), **told}
    event = event_of(type_, managed, SYSTEM_PRINCIPAL, now, version=managed.current_version)
    return replace(event, details={**event.details, **told})
