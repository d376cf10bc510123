"""Managed certificates by their end, and whether anybody will look after them then."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, and_, bindparam, literal_column, select, tuple_

from certd.model.job import JobKind
from certd.model.managed_certificate import ManagedCertificateType
from certd.model.renewal import RenewalMode
from certd.store import managed_schema, schema
from certd.store.managed_certificates import renewal_of
from certd.store.transaction import Transaction
from certd.store.values import microseconds, optional_time_of, time_of

_LONGEST_WAIT: Final = timedelta(days=2)
"""What is due or past its end is looked at again sooner than that."""
_managed, _jobs = managed_schema.managed_certificates, schema.jobs
_PAGE: Select[Any] = (
    select(
        _managed.c.uid,
        _managed.c.not_after,
        _managed.c.type,
        _managed.c.renewal,
        _managed.c.current_version,
        _managed.c.forced_version,
        _jobs.c.available_time,
    )
    .join_from(
        _managed,
        _jobs,
        and_(_jobs.c.kind == JobKind.ADVANCE_MANAGED_CERTIFICATE.value, _jobs.c.subject == _managed.c.uid),
        isouter=True,
    )
    .where(
        _managed.c.state == literal_column("'ACTIVE'"),
        tuple_(_managed.c.not_after, _managed.c.uid) > tuple_(bindparam("after_time"), bindparam("after_uid")),
        _managed.c.not_after <= bindparam("until"),
    )
    .order_by(_managed.c.not_after, _managed.c.uid)
    .limit(bindparam("most"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A managed certificate that is not revoked, and the end of its current version."""

    uid: str
    not_after: datetime
    is_forgotten: bool
    """Whether it is to be renewed, and has no job, or one that comes when it is too late.

    That is what a clock leaves which was far ahead for a while."""


def page(tx: Transaction, *, after: tuple[datetime, str], until: datetime, now: datetime, limit: int) -> list[Ending]:
    """Returns up to `limit` that end by `until`, by their end, from behind the one with this end and uid."""
    rows = tx.execute(
        _PAGE,
        {
            "after_time": microseconds(after[0]),
            "after_uid": after[1],
            "until": microseconds(until),
            "most": limit,
        },
    )
    found = []
    for row in rows:
        planned = renewal_of(row.renewal).mode is not RenewalMode.NEVER
        wanted = planned or 0 < row.forced_version == row.current_version
        ours = ManagedCertificateType(row.type) is ManagedCertificateType.PRIVATE
        ends, comes = time_of(row.not_after), optional_time_of(row.available_time)
        late = comes is None or comes > max(ends, now + _LONGEST_WAIT)
        found.append(Ending(uid=row.uid, not_after=ends, is_forgotten=ours and wanted and late))
    return found
