"""Searches among the managed certificates of a tenant, by id, each call at a bounded cost.

What columns answer, the database says; names and labels are documents, and are looked at row by row. What a call found
and where it stopped are told apart (AIP-158).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, exists, func, or_, select

from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateState
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import AuthorityName
from certd.store import managed_schema, schema
from certd.store.managed_certificates import MANAGED_CERTIFICATE_COLUMNS, managed_certificate_of
from certd.store.transaction import Transaction
from certd.store.values import labels_of, microseconds

MOST_LOOKED_AT = 2_000
"""Rows that a call looks at."""
_STRETCH = 500
"""Rows that are fetched at once."""

_managed = managed_schema.managed_certificates
_versions = managed_schema.managed_certificate_versions
_certificates, _authorities = schema.certificates, schema.authorities
_Condition = ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Found:
    """What a call found."""

    managed_certificates: list[ManagedCertificate]
    """By id."""
    after: str | None
    """The id behind which the next call goes on; None: everything was looked at."""


def matching(
    tx: Transaction,
    tenant: str,
    wanted: ManagedCertificateFilter,
    *,
    now: datetime,
    after: str | None,
    limit: int,
    most_looked_at: int = MOST_LOOKED_AT,
) -> Found:
    """Returns up to `limit` managed certificates of a tenant that fit, in the order of their ids.

    Args:
        tx: the transaction.
        tenant: whose.
        wanted: what to find.
        now: the moment at which it is decided what has expired.
        after: where the call before stopped; None: the first one.
        limit: how many at most; fewer, or none, say nothing of what is left.
        most_looked_at: rows that are looked at.
    """
    place = after or ""
    horizon = _horizon(tx, tenant, place, most_looked_at)
    conditions = [_managed.c.tenant == tenant, *_conditions(wanted, now)]
    if horizon is not None:
        conditions.append(_managed.c.managed_certificate_id <= horizon)
    found: list[ManagedCertificate] = []
    stretch = min(_STRETCH, limit + 1) if _columns_say_all(wanted) else _STRETCH
    while True:
        rows = tx.execute(
            select(*MANAGED_CERTIFICATE_COLUMNS)
            .where(*conditions, _managed.c.managed_certificate_id > place)
            .order_by(_managed.c.managed_certificate_id)
            .limit(stretch)
        ).all()
        for row in rows:
            if _fits(wanted, row):
                if len(found) == limit:
                    return Found(found, found[-1].managed_certificate_id)
                found.append(managed_certificate_of(row))
        if len(rows) < stretch:
            return Found(found, horizon)
        place = rows[-1].managed_certificate_id


def _horizon(tx: Transaction, tenant: str, after: str, most_looked_at: int) -> str | None:
    """Returns the id up to which rows are looked at; None when these are all. An index has the answer."""
    ends = tx.execute(
        select(_managed.c.managed_certificate_id)
        .where(_managed.c.tenant == tenant, _managed.c.managed_certificate_id > after)
        .order_by(_managed.c.managed_certificate_id)
        .offset(most_looked_at - 1)
        .limit(2)
    ).all()
    return ends[0].managed_certificate_id if len(ends) > 1 else None


def _conditions(wanted: ManagedCertificateFilter, now: datetime) -> Iterator[_Condition]:
    """Yields what the database decides; no index but that of the ids serves any of it."""
    columns = _managed.c
    if wanted.states:
        yield or_(*(_in_state(state, now) for state in sorted(wanted.states)))
    for column, value in (
        (columns.type, wanted.type),
        (columns.authority_name, "" if wanted.authority_key_number else wanted.authority),
        (columns.profile, wanted.profile),
        (columns.key_spec, wanted.key_spec),
    ):
        if value:
            yield column == str(value)
    if wanted.authority_key_number:
        yield _signed_by(AuthorityName.parse("authority", wanted.authority), wanted.authority_key_number)
    if wanted.not_after_before is not None:
        yield columns.not_after < microseconds(wanted.not_after_before)
    if wanted.issued_before is not None:
        yield columns.issue_time < microseconds(wanted.issued_before)
    if wanted.renewal_blocked is not None:
        yield columns.renewal_blocked.is_(wanted.renewal_blocked)
    if wanted.used is True:
        yield or_(columns.association_count > 0, and_(columns.exported_version > 0, _exported()))
    if wanted.used is False:
        yield and_(columns.association_count == 0, or_(columns.exported_version == 0, ~_exported()))


def _signed_by(authority: AuthorityName, key_number: int) -> _Condition:
    """Returns whether a key of an authority signed the current version."""
    return exists().where(
        _versions.c.managed_certificate_uid == _managed.c.uid,
        _versions.c.number == _managed.c.current_version,
        _certificates.c.authority_uid == _versions.c.authority_uid,
        _certificates.c.serial == _versions.c.serial,
        _certificates.c.key_number == key_number,
        _authorities.c.uid == _certificates.c.authority_uid,
        _authorities.c.tenant == authority.tenant,
        _authorities.c.authority_id == authority.authority,
    )


def _exported() -> _Condition:
    return _managed.c.exported_version == _managed.c.current_version


def _in_state(state: ManagedCertificateState, now: datetime) -> _Condition:
    """Returns what `ManagedCertificate.state_at` computes, in SQL."""
    stored = _unindexed(_managed.c.state)
    ended = func.coalesce(_managed.c.not_after, microseconds(now)) < microseconds(now)
    active = stored == ManagedCertificateState.ACTIVE.value
    if state is ManagedCertificateState.EXPIRED:
        return and_(active, ended)
    if state is ManagedCertificateState.ACTIVE:
        return and_(active, ~ended)
    return stored == state.value


def _unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Returns a column such that no index serves it: what is looked at was chosen, and no index may widen that."""
    return func.coalesce(column, column)


def _columns_say_all(wanted: ManagedCertificateFilter) -> bool:
    return not (wanted.alternative_name or wanted.domain or wanted.labels)


def _fits(wanted: ManagedCertificateFilter, row: Row[Any]) -> bool:
    """Returns whether names and labels fit, of which a row is not made more than is asked."""
    if wanted.labels and not _labelled(wanted.labels, labels_of(row.labels)):
        return False
    if not (wanted.alternative_name or wanted.domain):
        return True
    names: Mapping[str, list[str]] = json.loads(row.names)
    if wanted.alternative_name and not any(wanted.alternative_name in of_kind for of_kind in names.values()):
        return False
    below = f".{wanted.domain}"
    return not wanted.domain or any(name == wanted.domain or name.endswith(below) for name in names["dns_names"])


def _labelled(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(key in labels and value in {"", labels[key]} for key, value in wanted.items())
