"""Searches among certificates, newest first, each call at a bounded cost.

Where every certificate that fits must have a certain name, domain, serial or key, and few have it, these few are taken
from the index and looked at. Otherwise the newest rows of each authority are, up to a bound; behind it the next call
goes on. What a call found and where it stopped are told apart (AIP-158).
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, product
from typing import Any, TypeAlias, assert_never

from sqlalchemy import ColumnElement, Select, and_, func, literal, literal_column, not_, or_, select, union, union_all

from certd.model.certificate import Certificate
from certd.model.certificate_filter import (
    AllOf,
    AnyOf,
    CertificateFilter,
    CreatedWithin,
    EndsWithin,
    HasName,
    HasSerial,
    InDomain,
    InState,
    IsManaged,
    Labelled,
    Not,
    OfKey,
    OfKeySpec,
    UnderProfile,
)
from certd.store import schema
from certd.store.certificate_names import NameKind, kept, reversed_labels
from certd.store.certificates import CERTIFICATE_COLUMNS, certificate_of
from certd.store.dialect import has_member
from certd.store.transaction import Transaction
from certd.store.values import microseconds, time_of

MOST_LOOKED_AT = 10_000
"""Rows that a call looks at, over all authorities."""
_FEWEST_OF_EACH = 100
"""Of each authority, where there are very many."""
_GROWTH = 8
_MOST_PATHS = 4
"""Ways by an index that are tried; each costs a count."""

Place: TypeAlias = tuple[datetime, str]
"""Creation time and serial: a place in the order of results."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a call found."""

    certificates: list[Certificate]
    """Newest first, those of one moment by serial."""
    after: Place | None
    """Where the next call goes on; None: everything was looked at."""


_certificates = schema.certificates
_names = schema.certificate_names
_Leaf: TypeAlias = HasName | InDomain | HasSerial | OfKey
"""A condition that an index answers."""
_Condition: TypeAlias = ColumnElement[bool]
_KEY = (_certificates.c.authority_uid, _certificates.c.serial)
_ORDER = (_certificates.c.create_time.desc(), _certificates.c.serial)
# A literal, as in the partial index.
_SHOWN = _certificates.c.state != literal_column("'PENDING'")


def search(
    tx: Transaction,
    authority_uids: Sequence[str],
    wanted: CertificateFilter | None,
    *,
    after: Place | None,
    limit: int,
    most_looked_at: int = MOST_LOOKED_AT,
) -> Found:
    """Returns up to `limit` certificates of the authorities that fit, pending ones excepted.

    Args:
        tx: the transaction.
        authority_uids: whose certificates.
        wanted: what to find; None: everything.
        after: where the call before stopped; None: the first one.
        limit: how many at most; fewer, or none, say nothing of what is left.
        most_looked_at: rows that are looked at.
    """
    if not authority_uids:
        return Found([], None)
    fits = _SHOWN if wanted is None else and_(_SHOWN, _condition(wanted, tx.engine_name))
    for path in islice(() if wanted is None else _paths(wanted), _MOST_PATHS):
        among = [select_ for leaf in path for select_ in _by_index(leaf, authority_uids)]
        if _count(tx, among, most_looked_at + 1) <= most_looked_at:
            return _found(_looked_at(tx, union(*among), fits, after, limit + 1), limit, None)
    of_each = max(most_looked_at // len(authority_uids), min(_FEWEST_OF_EACH, most_looked_at))
    return _among_the_newest(tx, authority_uids, fits, after, limit, of_each)


def _among_the_newest(
    tx: Transaction, authority_uids: Sequence[str], fits: _Condition, after: Place | None, limit: int, of_each: int
) -> Found:
    """Looks at the newest rows of each authority, `of_each` at most, in stretches that grow while little is found."""
    rows: list[Certificate] = []
    stretch = limit + 1
    while True:
        stretch = min(stretch, of_each)
        horizon = _horizon(tx, authority_uids, after, stretch)
        # Of each authority alone, as in `certificates.page`: a range of the index, already in order.
        pages = [
            _looked_at(tx, _newest(uid, after, horizon).limit(stretch), fits, None, limit + 1 - len(rows))
            for uid in authority_uids
        ]
        rows += heapq.merge(*pages, key=_order)
        of_each -= stretch
        if len(rows) > limit or horizon is None or of_each == 0:
            return _found(rows, limit, horizon)
        after = horizon
        stretch *= _GROWTH


def _order(certificate: Certificate) -> tuple[int, str]:
    return -microseconds(certificate.create_time), certificate.serial


def _found(rows: list[Certificate], limit: int, horizon: Place | None) -> Found:
    """Returns what is shown; `rows` has one more than that when there is more before the horizon."""
    shown = rows[:limit]
    return Found(shown, (shown[-1].create_time, shown[-1].serial) if len(rows) > limit else horizon)


def _looked_at(
    tx: Transaction,
    candidates: Any,  # noqa: ANN401  # A selection or a union of several; the library has no common type with `subquery`.
    fits: _Condition,
    after: Place | None,
    limit: int,
) -> list[Certificate]:
    """Returns those of the candidates behind a place that fit, in order."""
    few = candidates.subquery("candidates")
    statement = (
        select(*CERTIFICATE_COLUMNS)
        .join_from(
            few,
            _certificates,
            and_(_certificates.c.authority_uid == few.c.authority_uid, _certificates.c.serial == few.c.serial),
        )
        .where(fits, *_span(after, None))
        .order_by(*_ORDER)
        .limit(limit)
    )
    return [certificate_of(row) for row in tx.execute(statement)]


def _newest(authority_uid: str, after: Place | None, horizon: Place | None) -> Select[Any]:
    return select(*_KEY).where(_certificates.c.authority_uid == authority_uid, *_span(after, horizon)).order_by(*_ORDER)


def _horizon(tx: Transaction, authority_uids: Sequence[str], after: Place | None, of_each: int) -> Place | None:
    """Returns the place up to which all rows of all authorities are looked at; None when that is the end."""
    ends = []
    for uid in authority_uids:
        statement = _newest(uid, after, None).offset(of_each - 1).limit(2)
        end = tx.execute(statement.with_only_columns(_certificates.c.create_time, _certificates.c.serial)).all()
        if len(end) > 1:
            ends.append((-end[0].create_time, end[0].serial))
    if not ends:
        return None
    newest, serial = min(ends)
    return time_of(-newest), serial


def _span(after: Place | None, horizon: Place | None) -> Iterator[_Condition]:
    """Yields what holds between two places; the first condition of each alone is a range of the index."""
    time, serial = _certificates.c.create_time, _certificates.c.serial
    if after is not None:
        moment = microseconds(after[0])
        yield time <= moment
        yield or_(time < moment, serial > after[1])
    if horizon is not None:
        moment = microseconds(horizon[0])
        yield time >= moment
        yield or_(time > moment, serial <= horizon[1])


def _paths(wanted: CertificateFilter) -> Iterator[tuple[_Leaf, ...]]:
    """Yields ways to everything that fits by an index: in each, what fits satisfies at least one of the conditions."""
    match wanted:
        case HasName() | InDomain() | HasSerial() | OfKey():
            yield (wanted,)
        case AllOf(filters):
            for one in filters:
                yield from _paths(one)
        case AnyOf(filters):
            of_each = [list(islice(_paths(one), _MOST_PATHS)) for one in filters]
            for chosen in islice(product(*of_each), _MOST_PATHS):
                yield tuple(leaf for path in chosen for leaf in path)
        case _:
            return


def _by_index(leaf: _Leaf, authority_uids: Sequence[str]) -> Iterator[Select[Any]]:
    """Yields what selects the certificates for which the condition holds."""
    of_names = select(_names.c.authority_uid, _names.c.serial).where(_names.c.authority_uid.in_(authority_uids))
    of_certificates = select(*_KEY).where(_certificates.c.authority_uid.in_(authority_uids))
    match leaf:
        case HasName(names):
            for kind, name in kept(names):
                yield of_names.where(_names.c.kind == kind.value, _names.c.name == name)
        case InDomain(domain):
            itself, begin, end = _domain(domain)
            yield of_names.where(_names.c.kind == NameKind.DNS.value, _names.c.name == itself)
            yield of_names.where(_names.c.kind == NameKind.DNS.value, _names.c.name >= begin, _names.c.name < end)
        case HasSerial(serial):
            yield of_certificates.where(_certificates.c.serial == serial)
        case OfKey(public_key_sha256):
            yield of_certificates.where(_certificates.c.public_key_sha256 == public_key_sha256)
        case _:
            assert_never(leaf)


def _domain(domain: str) -> tuple[str, str, str]:
    """Returns a domain as its row has it, and the begin and the end of the range of what lies below it."""
    itself = reversed_labels(domain)
    return itself, f"{itself}.", f"{itself}{chr(ord('.') + 1)}"


def _count(tx: Transaction, among: Sequence[Select[Any]], most: int) -> int:
    """Returns how many rows the selections have together, counting no further than `most`."""
    few = union_all(*among).limit(most).subquery("candidates")
    return int(tx.execute(select(func.count()).select_from(few)).scalar_one())


def _condition(  # noqa: C901, PLR0911, PLR0912  # A case for each kind of condition.
    wanted: CertificateFilter, engine_name: str
) -> _Condition:
    """Returns the condition in SQL; it is true or false for every row, never unknown, so that it can be negated."""
    columns = _certificates.c
    match wanted:
        case AllOf(filters):
            return and_(*(_condition(one, engine_name) for one in filters))
        case AnyOf(filters):
            return or_(*(_condition(one, engine_name) for one in filters))
        case Not(negated):
            return not_(_condition(negated, engine_name))
        case HasName(names):
            return or_(*(_has_name(_names.c.kind == kind.value, _names.c.name == name) for kind, name in kept(names)))
        case InDomain(domain):
            itself, begin, end = _domain(domain)
            below = and_(_names.c.name >= begin, _names.c.name < end)
            return _has_name(_names.c.kind == NameKind.DNS.value, or_(_names.c.name == itself, below))
        case HasSerial(serial):
            return _unindexed(columns.serial) == serial
        case InState(state):
            return columns.state == state.value
        case UnderProfile(profile):
            return columns.profile == profile
        case OfKeySpec(key_spec):
            return func.coalesce(columns.key_spec, "") == key_spec.value
        case OfKey(public_key_sha256):
            return _unindexed(columns.public_key_sha256) == public_key_sha256
        case EndsWithin(begin=begin_, end=end_):
            return _within(columns.not_after, begin_, end_)
        case CreatedWithin(begin=begin_, end=end_):
            return _within(columns.create_time, begin_, end_)
        case Labelled(key, value):
            return has_member(engine_name, columns.labels, key, value)
        case IsManaged(managed):
            return (
                columns.managed_certificate_uid.is_not(None) if managed else columns.managed_certificate_uid.is_(None)
            )
        case _:
            assert_never(wanted)


def _has_name(*conditions: _Condition) -> _Condition:
    return (
        select(literal(1))
        .select_from(_names)
        .where(_names.c.authority_uid == _certificates.c.authority_uid, _names.c.serial == _certificates.c.serial)
        .where(*conditions)
        .correlate(_certificates)
        .exists()
    )


def _unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Returns a column such that no index serves it: what is looked at was chosen, and no index may widen that."""
    return func.coalesce(column, column)


def _within(column: ColumnElement[int], begin: datetime | None, end: datetime | None) -> _Condition:
    conditions = []
    if begin is not None:
        conditions.append(column >= microseconds(begin))
    if end is not None:
        conditions.append(column < microseconds(end))
    return and_(*conditions)
