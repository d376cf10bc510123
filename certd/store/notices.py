"""How far notices were given, of what ends soon, and which of them were given of each version and authority.

A mark for each kind and number of days says up to which end everything was dealt with, so that a round reads what has
come near since the last one and nothing else. What was told stands in the row of what it was told of besides: a mark
is put back when the clock was ahead of time, and nothing is told twice for it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    ScalarSelect,
    Select,
    Table,
    and_,
    bindparam,
    case,
    delete,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy import update as update_of

from certd.model.authority import AuthorityState, AuthorityType
from certd.model.managed_certificate import ManagedCertificate
from certd.model.names import AuthorityName
from certd.model.notice import NoticeKind
from certd.store import managed_schema, notification_schema, schema
from certd.store.dialect import insert_if_absent
from certd.store.managed_certificates import MANAGED_CERTIFICATE_COLUMNS, managed_certificate_of
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, time_of

_marks = notification_schema.notice_marks
_managed, _versions = managed_schema.managed_certificates, managed_schema.managed_certificate_versions
_authorities = schema.authorities


def _first(table: Table, *conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    """Returns the end of what comes first behind a mark; NULL when nothing does.

    In the order of the index: for EXISTS alone, PostgreSQL, which knows nothing of the marks, would read the table.
    """
    behind = tuple_(table.c.not_after, table.c.uid) > tuple_(_marks.c.told_until, _marks.c.told_uid)
    near_ones = select(table.c.not_after).where(*conditions, behind, table.c.not_after < _UNTIL)
    return near_ones.order_by(table.c.not_after, table.c.uid).limit(literal_column("1")).scalar_subquery()


_DAY: Final = 86_400_000_000
_UNTIL = bindparam("now", type_=BigInteger) + _marks.c.days * literal_column(str(_DAY))
"""What ends before this is near at a mark."""
_COME = case(
    (
        _marks.c.kind == literal_column(f"'{NoticeKind.MANAGED_CERTIFICATE}'"),
        _first(_managed, _managed.c.state == literal_column("'ACTIVE'")),
    ),
    else_=_first(_authorities),
).is_not(None)
"""Whether there is anything between a mark and the present."""
# A newer release may have more kinds.
_KNOWN = _marks.c.kind.in_([kind.value for kind in NoticeKind])
_MARKS: Select[Any] = (
    select(_marks.c.kind, _marks.c.days, _marks.c.told_until, _marks.c.told_uid, _COME.label("come"))
    .where(_KNOWN)
    .order_by(_marks.c.days, _marks.c.kind)
)
_BEGIN = insert_if_absent(_marks)
_OF_MARK = (_marks.c.kind == bindparam("of_kind"), _marks.c.days == bindparam("of_days"))
_END = delete(_marks).where(*_OF_MARK)
_MOVE = (
    update_of(_marks)
    .where(*_OF_MARK, _marks.c.told_until == bindparam("from_time"), _marks.c.told_uid == bindparam("from_uid"))
    .values(told_until=bindparam("to_time"), told_uid=bindparam("to_uid"))
)

_CURRENT: Select[Any] = select(
    *MANAGED_CERTIFICATE_COLUMNS, _versions.c.revoke_time.label("version_revoke_time"), _versions.c.told
).join_from(
    _managed,
    _versions,
    and_(_versions.c.managed_certificate_uid == _managed.c.uid, _versions.c.number == _managed.c.current_version),
)
_NEAR = (
    _CURRENT.where(
        _managed.c.state == literal_column("'ACTIVE'"),
        tuple_(_managed.c.not_after, _managed.c.uid) > tuple_(bindparam("after_time"), bindparam("after_uid")),
        _managed.c.not_after < bindparam("until"),
    )
    .order_by(_managed.c.not_after, _managed.c.uid)
    .limit(bindparam("most"))
)
# In the order in which others change them, and with nobody beside it, so that no notice comes behind a renewal.
_TO_TELL = (
    _CURRENT.where(
        _managed.c.uid.in_(bindparam("keys", expanding=True)), _managed.c.state == literal_column("'ACTIVE'")
    )
    .order_by(_managed.c.uid)
    .with_for_update(of=_managed)
)
_VERSION_FITS = (
    _versions.c.managed_certificate_uid == bindparam("key"),
    _versions.c.number == bindparam("of_number"),
)
_TOLD = select(_versions.c.told).where(*_VERSION_FITS)
_SET_TOLD = update_of(_versions).where(*_VERSION_FITS).values(told=bindparam("new_told"))

_AUTHORITY: Select[Any] = select(
    _authorities.c.uid,
    _authorities.c.tenant,
    _authorities.c.authority_id,
    _authorities.c.type,
    _authorities.c.state,
    _authorities.c.not_after,
    _authorities.c.told,
).where(_authorities.c.tenant.is_not(None), _authorities.c.delete_time.is_(None))
_NEAR_AUTHORITIES = (
    _AUTHORITY.where(
        tuple_(_authorities.c.not_after, _authorities.c.uid) > tuple_(bindparam("after_time"), bindparam("after_uid")),
        _authorities.c.not_after < bindparam("until"),
    )
    .order_by(_authorities.c.not_after, _authorities.c.uid)
    .limit(bindparam("most"))
)
_AUTHORITIES_TO_TELL = (
    _AUTHORITY.where(_authorities.c.uid.in_(bindparam("keys", expanding=True)))
    .order_by(_authorities.c.uid)
    .with_for_update()
)
_SET_AUTHORITY_TOLD = (
    update_of(_authorities).where(_authorities.c.uid == bindparam("key")).values(told=bindparam("new_told"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far notices of a kind were given."""

    kind: NoticeKind
    days: int
    """Before the end; ENDED: past it."""
    until: datetime
    """What ends before this was dealt with."""
    uid: str = ""
    """And of what ends at it, that with a uid up to this."""
    come: bool = False
    """Whether anything has come near since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The notices that were given of a certificate."""

    days: tuple[int, ...] = ()
    blocked: Mapping[str, datetime] = field(default_factory=dict)
    """When it was last told, by reason, that its renewal is blocked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndingManaged:
    """A managed certificate that is not revoked, whose current version ends."""

    managed: ManagedCertificate
    revoked: bool
    """Whether the current version is, beside another that lives."""
    told: Told
    """Of the current version."""

    @property
    def uid(self) -> str:
        """Of the managed certificate."""
        return self.managed.uid

    @property
    def not_after(self) -> datetime:
        """End of the current version."""
        # It is asked for by that.
        assert self.managed.not_after is not None  # noqa: S101
        return self.managed.not_after


@dataclass(frozen=True, slots=True, kw_only=True)
class EndingAuthority:
    """An authority of a tenant, whose certificate ends."""

    uid: str
    name: AuthorityName
    type: AuthorityType
    state: AuthorityState
    not_after: datetime
    told: Told


def marks(tx: Transaction, now: datetime) -> list[Mark]:
    """Returns every mark, the fewest days first."""
    return [
        Mark(
            kind=NoticeKind(row.kind),
            days=row.days,
            until=time_of(row.told_until),
            uid=row.told_uid,
            come=bool(row.come),
        )
        for row in tx.execute(_MARKS, {"now": microseconds(now)})
    ]


def begin(tx: Transaction, mark: Mark) -> None:
    """Makes a mark, unless there is one of its kind and days."""
    columns = {
        "kind": mark.kind.value,
        "days": mark.days,
        "told_until": microseconds(mark.until),
        "told_uid": mark.uid,
    }
    tx.execute(_BEGIN, columns)


def end(tx: Transaction, mark: Mark) -> None:
    """Deletes a mark."""
    tx.execute(_END, {"of_kind": mark.kind.value, "of_days": mark.days})


def move(tx: Transaction, mark: Mark, until: datetime, uid: str = "") -> bool:
    """Moves a mark; returns False, with nothing changed, when it does not stand any more where it did."""
    return tx.execute(_MOVE, _moved(mark, until, uid)).rowcount == 1


def move_all(tx: Transaction, several: Mapping[Mark, datetime]) -> None:
    """Moves those marks that still stand where they did.

    Looks at nothing else, so that on PostgreSQL it is in the way of nobody who changes what ends.
    """
    tx.execute(_MOVE, [_moved(mark, until, "") for mark, until in several.items()])


def _moved(mark: Mark, until: datetime, uid: str) -> dict[str, object]:
    return {
        "of_kind": mark.kind.value,
        "of_days": mark.days,
        "from_time": microseconds(mark.until),
        "from_uid": mark.uid,
        "to_time": microseconds(until),
        "to_uid": uid,
    }


def near(tx: Transaction, mark: Mark, until: datetime, *, limit: int) -> list[EndingManaged]:
    """Returns up to `limit` managed certificates that end before `until`, by their end, from behind a mark."""
    return [_ending(row) for row in tx.execute(_NEAR, _span(mark, until, limit))]


def to_tell(tx: Transaction, uids: Sequence[str]) -> list[EndingManaged]:
    """Returns those that are ACTIVE, by uid; nobody else changes them until the transaction ends."""
    return [_ending(row) for row in tx.execute(_TO_TELL, {"keys": list(uids)})] if uids else []


def told_of(tx: Transaction, managed: ManagedCertificate) -> Told:
    """Returns what was told of the current version, or of the first one while that is being made."""
    text = tx.execute(_TOLD, {"key": managed.uid, "of_number": managed.current_version or 1}).scalar()
    return _told(text, managed.not_after)


def set_told(tx: Transaction, managed: ManagedCertificate, told: Told) -> None:
    """Records what was told of the current version, or of the first one while that is being made."""
    text = _told_text(told, managed.not_after)
    tx.execute(_SET_TOLD, {"key": managed.uid, "of_number": managed.current_version or 1, "new_told": text})


def near_authorities(tx: Transaction, mark: Mark, until: datetime, *, limit: int) -> list[EndingAuthority]:
    """As `near`, of the authorities of tenants that are not deleted."""
    return [_ending_authority(row) for row in tx.execute(_NEAR_AUTHORITIES, _span(mark, until, limit))]


def authorities_to_tell(tx: Transaction, uids: Sequence[str]) -> list[EndingAuthority]:
    """As `to_tell`, of the authorities of tenants that are not deleted."""
    return [_ending_authority(row) for row in tx.execute(_AUTHORITIES_TO_TELL, {"keys": list(uids)})] if uids else []


def set_authority_told(tx: Transaction, authority: EndingAuthority, told: Told) -> None:
    """Records what was told of the certificate of an authority."""
    tx.execute(_SET_AUTHORITY_TOLD, {"key": authority.uid, "new_told": _told_text(told, authority.not_after)})


def _span(mark: Mark, until: datetime, limit: int) -> dict[str, object]:
    return {
        "after_time": microseconds(mark.until),
        "after_uid": mark.uid,
        "until": microseconds(until),
        "most": limit,
    }


def _ending(row: Row[Any]) -> EndingManaged:
    managed = managed_certificate_of(row)
    return EndingManaged(
        managed=managed, revoked=row.version_revoke_time is not None, told=_told(row.told, managed.not_after)
    )


def _ending_authority(row: Row[Any]) -> EndingAuthority:
    not_after = time_of(row.not_after)
    return EndingAuthority(
        uid=row.uid,
        name=AuthorityName(row.tenant, row.authority_id),
        type=AuthorityType(row.type),
        state=AuthorityState(row.state),
        not_after=not_after,
        told=_told(row.told, not_after),
    )


def _told_text(told: Told, not_after: datetime | None) -> str:
    # With the end of what it was told of: an authority may get another certificate.
    return json_text(
        {
            "not_after": 0 if not_after is None else microseconds(not_after),
            "days": list(told.days),
            "blocked": {reason: microseconds(time) for reason, time in told.blocked.items()},
        }
    )


def _told(text: str | None, not_after: datetime | None) -> Told:
    if text is None:
        return Told()
    read = json.loads(text)
    if read["not_after"] != (0 if not_after is None else microseconds(not_after)):
        return Told()
    return Told(days=tuple(read["days"]), blocked={reason: time_of(time) for reason, time in read["blocked"].items()})
