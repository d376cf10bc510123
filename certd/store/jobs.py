"""Rows of jobs, claimed with a lease."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, bindparam, delete, func, literal_column, select, update

from certd.model.job import APART, Job, JobKind
from certd.store import schema
from certd.store.dialect import Many, PerEngine, Query, insert_or_replace
from certd.store.owners import LIVE_EPOCHS
from certd.store.transaction import Transaction
from certd.store.values import duration_microseconds, microseconds, optional_time_of, time_of

_jobs = schema.jobs
_PUT = insert_or_replace(
    _jobs, key=["kind", "subject"], replaced=["due_time", "available_time", "attempt", "owner_epoch"]
)
_PUT_MANY = Many(_PUT, columns=("kind", "subject", "due_time", "available_time", "attempt", "owner_epoch"))
_HASTEN = insert_or_replace(
    _jobs,
    key=["kind", "subject"],
    replaced=["due_time", "available_time"],
    where=lambda new: _jobs.c.owner_epoch.is_(None) & (_jobs.c.available_time > new.available_time),
)
_BY_TIME = (_jobs.c.available_time, _jobs.c.kind, _jobs.c.subject)


def _by_time(statement: Select[Any]) -> PerEngine:
    """Returns a statement without the kinds of APART, and those that only a newer release knows: its daemons do them.

    SQLite would look for the kinds, and read every job there is to find the first by time: one for each managed
    certificate. A plus before the column has it read them by time.
    """
    kinds = [kind.value for kind in JobKind if kind not in APART]
    return PerEngine(
        sqlite=statement.where(literal_column("+jobs.kind").in_(kinds)),
        postgresql=statement.where(_jobs.c.kind.in_(kinds)),
    )


def _apart(statement: Select[Any]) -> Select[Any]:
    """Returns a statement for the kinds of APART alone, of which there are few."""
    return statement.where(_jobs.c.kind.in_([kind.value for kind in APART]))


_CLAIMED: Select[Any] = (
    select(_jobs.c.kind, _jobs.c.subject, _jobs.c.due_time, _jobs.c.attempt)
    .limit(bindparam("most"))
    # Says nothing on SQLite, where nobody else writes meanwhile.
    .with_for_update(skip_locked=True)
)
_DUE = _CLAIMED.where(_jobs.c.available_time <= bindparam("now"))
_OLDEST = _by_time(_DUE.order_by(*_BY_TIME))
_NEWEST = _by_time(_DUE.order_by(*(column.desc() for column in _BY_TIME)))
# The other way round than above: by time SQLite would pass all others that are due.
_OLDEST_APART = PerEngine(
    sqlite=_apart(_CLAIMED.where(literal_column("+jobs.available_time") <= bindparam("now")).order_by(*_BY_TIME)),
    postgresql=_apart(_DUE.order_by(*_BY_TIME)),
)
_FOR_THE_NEWEST = 4
"""One of so many claims."""
_KEY_FITS = (_jobs.c.kind == bindparam("of_kind"), _jobs.c.subject == bindparam("of_subject"))
_TAKE = Many(
    update(_jobs)
    .where(*_KEY_FITS)
    .values(available_time=bindparam("lease_until"), owner_epoch=bindparam("of_owner"), attempt=_jobs.c.attempt + 1),
    columns=("of_kind", "of_subject", "lease_until", "of_owner"),
    sqlite_text="""
        UPDATE jobs SET available_time = taken.column3, owner_epoch = taken.column4, attempt = jobs.attempt + 1
        FROM (VALUES {rows}) AS taken WHERE jobs.kind = taken.column1 AND jobs.subject = taken.column2
    """,
)
_PUT_BACK = (
    update(_jobs)
    .where(*_KEY_FITS, _jobs.c.owner_epoch == bindparam("of_owner"), _jobs.c.attempt == bindparam("of_attempt"))
    .values(due_time=bindparam("at"), available_time=bindparam("at"), owner_epoch=None)
)
_RELEASE = (
    update(_jobs)
    .where(_jobs.c.owner_epoch.is_not(None), _jobs.c.owner_epoch.not_in(LIVE_EPOCHS))
    .values(available_time=_jobs.c.due_time, owner_epoch=None)
)
_IN_SPAN = (
    select(((_jobs.c.available_time - bindparam("start")) // bindparam("length")).label("place"))
    .where(_jobs.c.available_time >= bindparam("start"), _jobs.c.available_time < bindparam("end"))
    .limit(bindparam("most"))
    .subquery()
)
_LOADS = Query(select(_IN_SPAN.c.place, func.count()).group_by(_IN_SPAN.c.place))
_FINISH = delete(_jobs).where(*_KEY_FITS)
_FINISH_DUE = _FINISH.where(_jobs.c.due_time == bindparam("of_due_time"))
_DUE_TIME = select(_jobs.c.due_time).where(*_KEY_FITS)
_NEXT = _by_time(select(_jobs.c.available_time).order_by(_jobs.c.available_time).limit(1))
_NEXT_APART = _apart(select(func.min(_jobs.c.available_time)))


def put(tx: Transaction, job: Job) -> None:
    """Inserts a job, or gives the one of the same kind and subject this due time and attempt and ends its lease."""
    _put(tx, job, available_time=job.due_time, owner_epoch=None)


def put_all(tx: Transaction, several: Sequence[Job]) -> None:
    """As `put`, for many of which no two have one kind and subject."""
    tx.execute_many(_PUT_MANY, [_columns(job, available_time=job.due_time, owner_epoch=None) for job in several])


def put_claimed(tx: Transaction, job: Job, *, lease_until: datetime, owner_epoch: int) -> None:
    """As `put`, for a job that whoever puts it begins at once; others come to it only when that one has died."""
    _put(tx, job, available_time=lease_until, owner_epoch=owner_epoch)


def _put(tx: Transaction, job: Job, *, available_time: datetime, owner_epoch: int | None) -> None:
    tx.execute(_PUT, _columns(job, available_time=available_time, owner_epoch=owner_epoch))


def _columns(job: Job, *, available_time: datetime, owner_epoch: int | None) -> dict[str, object]:
    return {
        "kind": job.kind.value,
        "subject": job.subject,
        "due_time": microseconds(job.due_time),
        "available_time": microseconds(available_time),
        "attempt": job.attempt,
        "owner_epoch": owner_epoch,
    }


def hasten(tx: Transaction, kind: JobKind, subject: str, due_time: datetime) -> None:
    """Makes a job due at `due_time` unless it is earlier; inserts it when there is none.

    One that somebody has claimed stays as it is: who works on it finds out in its last transaction what is wanted.
    """
    due = microseconds(due_time)
    tx.execute(
        _HASTEN,
        {
            "kind": kind.value,
            "subject": subject,
            "due_time": due,
            "available_time": due,
            "attempt": 0,
            "owner_epoch": None,
        },
    )


def claim(
    tx: Transaction, now: datetime, *, lease_until: datetime, owner_epoch: int, limit: int, apart: bool = False
) -> list[Job]:
    """Claims up to `limit` jobs that are due, the longest due first, and keeps others off them until `lease_until`.

    Those of the kinds in APART, or all others, and of more of these than `limit` a fourth are those that became due
    last: what somebody waits for now does not come after all that was left undone in a long time.

    A job whose claimer neither finished it nor put it again is due once the lease has passed, or once the claimer's
    epoch has ended, see `release_of_ended_owners`. The attempt of a job that is returned counts this one: 1 the first
    time.
    """
    newest = 0 if apart else limit // _FOR_THE_NEWEST
    rows = list(tx.execute(_OLDEST_APART if apart else _OLDEST, {"now": microseconds(now), "most": limit - newest}))
    if newest and len(rows) == limit - newest:
        known = {(row.kind, row.subject) for row in rows}
        last = tx.execute(_NEWEST, {"now": microseconds(now), "most": newest})
        rows += [row for row in last if (row.kind, row.subject) not in known]
    if rows:
        lease = microseconds(lease_until)
        tx.execute_many(
            _TAKE,
            [
                {"of_kind": row.kind, "of_subject": row.subject, "lease_until": lease, "of_owner": owner_epoch}
                for row in rows
            ],
        )
    return [
        Job(kind=JobKind(row.kind), subject=row.subject, due_time=time_of(row.due_time), attempt=row.attempt + 1)
        for row in rows
    ]


def put_back(tx: Transaction, job: Job, *, owner_epoch: int) -> bool:
    """Gives a job that was claimed under this epoch its due time, at which it is tried again; returns whether it did.

    Not what was ended, put again or claimed by another meanwhile: that stays as it is.
    """
    parameters = {
        "of_kind": job.kind.value,
        "of_subject": job.subject,
        "of_owner": owner_epoch,
        "of_attempt": job.attempt,
        "at": microseconds(job.due_time),
    }
    return tx.execute(_PUT_BACK, parameters).rowcount == 1


def release_of_ended_owners(tx: Transaction, now: datetime) -> int:
    """Makes due again what a daemon had claimed whose epoch has ended or whose lease has passed; returns how many."""
    return tx.execute(_RELEASE, {"now": microseconds(now)}).rowcount


def finish(tx: Transaction, kind: JobKind, subject: str, *, due_time: datetime | None = None) -> bool:
    """Deletes a job; returns whether it was there.

    With `due_time`, only if it is still due at that time: one that was put again meanwhile stays.
    """
    parameters: dict[str, object] = {"of_kind": kind.value, "of_subject": subject}
    if due_time is None:
        return tx.execute(_FINISH, parameters).rowcount == 1
    return tx.execute(_FINISH_DUE, {**parameters, "of_due_time": microseconds(due_time)}).rowcount == 1


def loads(tx: Transaction, start: datetime, length: timedelta, count: int, *, most: int) -> list[int] | None:
    """Returns how many jobs are due in each of `count` spans of a length, one after the other from `start` on.

    None when there are `most` or more in all: counting goes no further.
    """
    first, lasts = microseconds(start), duration_microseconds(length)
    parameters = {"start": first, "length": lasts, "end": first + count * lasts, "most": most}
    found = {int(row[0]): int(row[1]) for row in tx.query(_LOADS, parameters)}
    return None if sum(found.values()) >= most else [found.get(place, 0) for place in range(count)]


def next_due(tx: Transaction, *, apart: bool = False) -> datetime | None:
    """Returns when the next job of the kinds in APART, or of all others, can be claimed; None when there is none.

    The time may be past.
    """
    return optional_time_of(tx.execute(_NEXT_APART if apart else _NEXT).scalar())


def due_time(tx: Transaction, kind: JobKind, subject: str) -> datetime | None:
    """Returns when a job is due, also while somebody has claimed it; None when there is none."""
    return optional_time_of(tx.execute(_DUE_TIME, {"of_kind": kind.value, "of_subject": subject}).scalar())
