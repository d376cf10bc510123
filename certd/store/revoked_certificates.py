"""Which revoked certificates of a key stand on a CRL. There may be millions, so they come in pages, each a read.

A row that is revoked between two pages may be missed, and has marked the CRL again.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, TextClause, bindparam, func, select, text, tuple_

from certd.store import schema
from certd.store.dialect import PerEngine
from certd.store.store import Store
from certd.store.transaction import Transaction
from certd.store.values import microseconds, optional_time_of

_PAGE: Final = 5_000
_SECOND: Final = 1_000_000

_certificates = schema.certificates
_OF_KEY = (
    _certificates.c.authority_uid == bindparam("of_authority"),
    _certificates.c.key_number == bindparam("of_key"),
)
_IN_NONE = _certificates.c.crl_partition.is_(None)
_IN_ONE = _certificates.c.crl_partition == bindparam("of_partition")
_ENDS_BEFORE = _certificates.c.not_after < bindparam("of_end")
_ENTRIES: Select[Any] = (
    select(
        _certificates.c.serial,
        _certificates.c.not_after,
        _certificates.c.revoke_time,
        _certificates.c.revocation_reason,
        _certificates.c.invalidity_time,
    )
    .where(
        *_OF_KEY,
        tuple_(_certificates.c.not_after, _certificates.c.serial)
        > tuple_(bindparam("after_end"), bindparam("after_serial")),
    )
    .order_by(_certificates.c.not_after, _certificates.c.serial)
    .limit(_PAGE)
)
_ANY = select(_certificates.c.serial).where(*_OF_KEY).limit(1)
_LATEST = (
    select(_certificates.c.not_after)
    .where(*_OF_KEY, _ENDS_BEFORE)
    .order_by(_certificates.c.not_after.desc(), _certificates.c.serial.desc())
    .limit(1)
)
_NEXT_PARTITION = select(func.min(_certificates.c.crl_partition)).where(
    *_OF_KEY, _certificates.c.crl_partition > bindparam("after_partition"), schema.REVOKED
)
_LAST_IMPORT = select(func.max(_certificates.c.create_time)).where(
    # What is signed here is so under a profile.
    *_OF_KEY,
    _IN_NONE,
    schema.REVOKED,
    _certificates.c.profile == "",
)
_LAST_END = select(func.max(_certificates.c.not_after)).where(*_OF_KEY)


class RevokedCertificate(NamedTuple):
    """What an entry says; times in seconds since 1970."""

    serial: str
    revoke_time: int
    reason: str | None
    """None: of one that nobody received."""
    invalidity_time: int | None


class Scope(NamedTuple):
    """Which certificates a CRL is about."""

    authority_uid: str
    key_number: int
    partition: int
    """0: all that the key signed."""


class _Statements(NamedTuple):
    """One statement, for certificates that name no partition and for those of a given one."""

    of_none: PerEngine
    of_one: PerEngine

    def of(self, partition: int | None) -> PerEngine:
        return self.of_none if partition is None else self.of_one


_Condition = TextClause | ColumnElement[bool]


def _statements(statement: Select[Any], *, sqlite: list[_Condition], postgresql: list[_Condition]) -> _Statements:
    return _Statements(
        *(
            PerEngine(
                sqlite=statement.where(place, *sqlite),
                postgresql=statement.where(place, *postgresql),
            )
            for place in (_IN_NONE, _IN_ONE)
        )
    )


# The conditions are literally those of the partial indexes.
_REVOKED: list[_Condition] = [schema.REVOKED]
_REVOKED_ENTRIES = _statements(_ENTRIES, sqlite=_REVOKED, postgresql=_REVOKED)
_CODE_ENTRIES = _statements(
    _ENTRIES.where(_ENDS_BEFORE), sqlite=[schema.SQLITE_REVOKED_CODE], postgresql=[schema.POSTGRESQL_REVOKED_CODE]
)
_ANY_CODE = _statements(_ANY, sqlite=[schema.SQLITE_REVOKED_CODE], postgresql=[schema.POSTGRESQL_REVOKED_CODE])
_LATEST_LEFT = _statements(
    _LATEST,
    sqlite=[schema.REVOKED, text(f"NOT coalesce({schema.SQLITE_REVOKED_CODE.text}, false)")],
    postgresql=[schema.REVOKED, text(f"NOT coalesce({schema.POSTGRESQL_REVOKED_CODE.text}, false)")],
)


def pages(store: Store, scope: Scope, since: datetime) -> Iterator[list[RevokedCertificate]]:
    """Yields what stands on a CRL: what ended at `since` or later, and certificates of code whenever they ended."""
    with store.read("revocation-list.partitions") as tx:
        partitions = _partitions(tx, scope)
    for partition in partitions:
        yield from _pages(store, _REVOKED_ENTRIES.of(partition), _values(scope, partition), microseconds(since) - 1)
        before = {**_values(scope, partition), "of_end": microseconds(since)}
        yield from _pages(store, _CODE_ENTRIES.of(partition), before, -1)


def left_until(tx: Transaction, scope: Scope, since: datetime) -> datetime | None:
    """Returns the latest end of what was revoked and stands on the CRL no more; None when everything does."""
    ends = []
    for partition in _partitions(tx, scope):
        values = {**_values(scope, partition), "of_end": microseconds(since)}
        ends.append(optional_time_of(tx.execute(_LATEST_LEFT.of(partition), values).scalar()))
    return max((end for end in ends if end is not None), default=None)


def any_code(tx: Transaction, scope: Scope) -> bool:
    """Returns whether a certificate of code is revoked."""
    return any(
        tx.execute(_ANY_CODE.of(partition), _values(scope, partition)).first() is not None
        for partition in _partitions(tx, scope)
    )


def last_end(tx: Transaction, authority_uid: str, key_number: int) -> datetime | None:
    """Returns when the last certificate ends that a key signed; None when it signed none."""
    values = {"of_authority": authority_uid, "of_key": key_number}
    return optional_time_of(tx.execute(_LAST_END, values).scalar())


def last_import(tx: Transaction, authority_uid: str, key_number: int) -> datetime | None:
    """Returns when a revoked certificate of a key was taken over last from another CA, or a journal; None: none was."""
    values = {"of_authority": authority_uid, "of_key": key_number}
    return optional_time_of(tx.execute(_LAST_IMPORT, values).scalar())


def _partitions(tx: Transaction, scope: Scope) -> list[int | None]:
    """Returns where what a CRL is about stands; for the complete one wherever something is revoked."""
    if scope.partition:
        return [scope.partition]
    found: list[int | None] = [None]
    last = 0
    while True:
        # The index is read at one place for each of them, however much is revoked.
        values = {"of_authority": scope.authority_uid, "of_key": scope.key_number, "after_partition": last}
        following = tx.execute(_NEXT_PARTITION, values).scalar()
        if following is None:
            return found
        last = int(following)
        found.append(last)


def _pages(
    store: Store, statement: PerEngine, values: dict[str, object], after_end: int
) -> Iterator[list[RevokedCertificate]]:
    after_serial = "~"
    while True:
        with store.read("revocation-list.page") as tx:
            place = {"after_end": after_end, "after_serial": after_serial}
            rows: Sequence[Any] = tx.execute(statement, {**values, **place}).all()
        if rows:
            # By place: names of columns cost as much as all the rest of an entry.
            yield [
                RevokedCertificate(
                    serial, revoke_time // _SECOND, reason, None if invalidity is None else invalidity // _SECOND
                )
                for serial, _, revoke_time, reason, invalidity in rows
            ]
        if len(rows) < _PAGE:
            return
        after_end, after_serial = rows[-1].not_after, rows[-1].serial


def _values(scope: Scope, partition: int | None) -> dict[str, object]:
    values: dict[str, object] = {"of_authority": scope.authority_uid, "of_key": scope.key_number}
    return values if partition is None else {**values, "of_partition": partition}
