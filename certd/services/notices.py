"""Notices before certificates end, and once they have: events, each once.

For every number of days at which a tenant wants to hear of an end, a mark says how far that was done. A round reads by
the end what has come near since the last one, page by page:

1. read: a page behind the mark, and who of it is to be told of.
2. write: the mark goes to the end of the page, unless another daemon was faster; those are looked at again that are to
   be told of, and get their events. Commit.

So a round costs what has come near since the last one, however many certificates there are, and whatever dies between
the steps, each notice is given once. A new mark begins at the present: of what is nearer its end than that, the next
number of days tells. So do an import, a roll-back or a change of the policy below a number of days.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock
from certd.model.notice import AUTHORITY_NOTICE_DAYS, ENDED, ROTATION_NOTICE_DAYS, NoticeKind
from certd.model.tenant import DEFAULT_EXPIRY_NOTICE_DAYS
from certd.services.ending_authorities import EndingAuthorities
from certd.services.ending_managed_certificates import EndingManagedCertificates
from certd.services.notice_pages import Endings
from certd.services.remembered import Remembered
from certd.services.steps import StepHook
from certd.store import notices, tenants
from certd.store.notices import Mark
from certd.store.store import Store, Transaction

_EVERY: Final = timedelta(minutes=1)
_AT_ONCE: Final = 200
_PAGES_IN_A_BEAT: Final = 20
"""Of all marks together: the scheduler does nothing else meanwhile, and comes again in seconds."""
_TENANTS_AT_ONCE: Final = 1000
_LARGEST_SKEW: Final = timedelta(hours=1)
"""A mark that is farther ahead than that was moved by a clock that was ahead; the clocks of daemons differ by less."""


class Notices:
    """Gives notices; called by the scheduler every few seconds, and at work every minute."""

    def __init__(self, *, store: Store, clock: Clock, step: StepHook) -> None:
        self._store = store
        self._clock = clock
        self._step = step
        self._next_round = clock.now()
        self._days: Remembered[str, NoticeDays] = Remembered(store, "notices.days", lambda tx, _: notice_days(tx))
        self._endings: dict[NoticeKind, Endings] = {
            NoticeKind.MANAGED_CERTIFICATE: EndingManagedCertificates(self._days_of, since=clock.now()),
            NoticeKind.AUTHORITY: EndingAuthorities(),
        }

    def tell(self) -> None:
        """Tells of all that has come near its end since the last round."""
        now = self._clock.now()
        # What is farther off than it can be was told by a clock that was ahead.
        if now < self._next_round <= now + _EVERY:
            return
        pages, marks = _PAGES_IN_A_BEAT, self._marks(now)
        for mark in marks:
            if mark.come:
                pages -= self._tell(mark, now, most=pages)
        others = {mark: _until(mark, now) for mark in marks if not mark.come and mark.until < _until(mark, now)}
        if others:
            self._store.write("notices.move", lambda tx: notices.move_all(tx, others))
        if pages > 0:
            self._next_round = now + _EVERY

    def _days_of(self, tenant: str) -> tuple[int, ...]:
        return self._days.get("").of(tenant)

    def _marks(self, now: datetime) -> list[Mark]:
        """Returns a mark for each number of days that any tenant has, the nearest first, none of them ahead of time."""
        wanted = self._days.get("").wanted
        with self._store.read("notices.marks") as tx:
            marks = notices.marks(tx, now)
        if {(mark.kind, mark.days) for mark in marks} != wanted or any(_is_ahead(mark, now) for mark in marks):
            marks = self._store.write("notices.marks", lambda tx: _settled(tx, now))
        return marks

    def _tell(self, mark: Mark, now: datetime, *, most: int) -> int:
        """Tells at one mark, so many pages at most; returns how many there were."""
        endings, until = self._endings[mark.kind], _until(mark, now)
        for count in range(most):
            if mark.until >= until:
                return count
            with self._store.read("notices.come") as tx:
                come = endings.come(tx, mark, until, now, limit=_AT_ONCE)
            moved = replace(mark, until=until, uid="")
            if come.last is not None:
                moved = replace(mark, until=come.last[0], uid=come.last[1])
            if come.to_tell:
                self._step("notices.1.read")
            if not self._told(endings, mark, moved, come.to_tell, now):
                # Another daemon is at it.
                return count
            if come.to_tell:
                self._step("notices.2.told")
            mark = moved
        return most

    def _told(self, endings: Endings, mark: Mark, moved: Mark, uids: Sequence[str], now: datetime) -> bool:
        """Step 2; returns False, with nothing written, when another daemon has moved the mark."""

        def tell(tx: Transaction) -> bool:
            if not notices.move(tx, mark, moved.until, moved.uid):
                return False
            for event in endings.tell(tx, uids, mark.days, now):
                tx.event(event)
            return True

        return self._store.write("notices.tell", tell)


@dataclass(frozen=True, slots=True)
class NoticeDays:
    """How many days before an end tenants hear of it."""

    special: dict[str, tuple[int, ...]]
    """By id of the tenant, where that is not the default."""
    wanted: frozenset[tuple[NoticeKind, int]]
    """Every mark that there is to be."""

    def of(self, tenant: str) -> tuple[int, ...]:
        """Returns those of a tenant."""
        return self.special.get(tenant, DEFAULT_EXPIRY_NOTICE_DAYS)


def notice_days(tx: Transaction) -> NoticeDays:
    """Reads the days of all tenants."""
    special: dict[str, tuple[int, ...]] = {}
    wanted = {(NoticeKind.MANAGED_CERTIFICATE, ENDED), (NoticeKind.AUTHORITY, ENDED)}
    wanted |= {(NoticeKind.AUTHORITY, days) for days in (*ROTATION_NOTICE_DAYS, *AUTHORITY_NOTICE_DAYS)}
    after = ""
    while found := tenants.page(tx, among=None, after=after, limit=_TENANTS_AT_ONCE):
        for tenant in found:
            if tenant.expiry_notice_days != DEFAULT_EXPIRY_NOTICE_DAYS:
                special[tenant.tenant_id] = tenant.expiry_notice_days
            wanted |= {(NoticeKind.MANAGED_CERTIFICATE, days) for days in tenant.expiry_notice_days}
        after = found[-1].tenant_id
    return NoticeDays(special, frozenset(wanted))


def _settled(tx: Transaction, now: datetime) -> list[Mark]:
    """Makes the marks that are missing, forgets those that nobody wants, and puts back those that are ahead of time.

    What ended or came near long ago is no news: a new mark begins at the present, also the first ones of a database
    that has been there for years. What a clock that was ahead passed over comes once more, and what was told of it is
    not told again.
    """
    wanted, marks = notice_days(tx).wanted, notices.marks(tx, now)
    for mark in marks:
        if (mark.kind, mark.days) not in wanted:
            notices.end(tx, mark)
        elif _is_ahead(mark, now):
            notices.move(tx, mark, _until(mark, now))
    for kind, days in wanted - {(mark.kind, mark.days) for mark in marks}:
        notices.begin(tx, Mark(kind=kind, days=days, until=now + timedelta(days=days)))
    return notices.marks(tx, now)


def _until(mark: Mark, now: datetime) -> datetime:
    return now + timedelta(days=mark.days)


def _is_ahead(mark: Mark, now: datetime) -> bool:
    return mark.until > _until(mark, now) + _LARGEST_SKEW
