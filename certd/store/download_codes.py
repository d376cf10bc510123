"""Rows of codes for one download each, known by the hash of their secrets alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, delete, func, insert, or_, select, update

from certd.store import managed_schema, notification_schema
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, optional_time_of, time_of

_codes = notification_schema.download_codes
_managed = managed_schema.managed_certificates
_ID_BYTES = 8
_REST = bytes([0xFF]) * (32 - _ID_BYTES)
"""What no hash with the same beginning comes after."""
_INSERT = insert(_codes)
_GET: Select[Any] = select(_codes).where(_codes.c.code_sha256 == bindparam("of_code"))
_USE = (
    update(_codes)
    .where(
        _codes.c.code_sha256 == bindparam("of_code"),
        _codes.c.expire_time > bindparam("now"),
        _codes.c.use_time.is_(None),
    )
    .values(use_time=bindparam("now"))
)
_COUNT_LIVE: Select[Any] = select(func.count()).select_from(
    select(_codes.c.code_sha256)
    .where(
        _codes.c.managed_certificate_uid == bindparam("of_uid"),
        _codes.c.expire_time > bindparam("now"),
        _codes.c.use_time.is_(None),
    )
    .limit(bindparam("most"))
    .subquery()
)
_GET_BY_ID: Select[Any] = select(_codes).where(
    _codes.c.managed_certificate_uid == bindparam("of_uid"),
    _codes.c.code_sha256.between(bindparam("first"), bindparam("last")),
)
_BY_NAME: Select[Any] = (
    select(_codes, _managed.c.managed_certificate_id)
    .join_from(_codes, _managed, _codes.c.managed_certificate_uid == _managed.c.uid)
    .where(_codes.c.expire_time > bindparam("now"))
    .order_by(_managed.c.managed_certificate_id, _codes.c.code_sha256)
    .limit(bindparam("most"))
)
_PAGE = _BY_NAME.where(_managed.c.uid == bindparam("of_uid"), _codes.c.code_sha256 > bindparam("after"))
_PAGE_OF_TENANT = _BY_NAME.where(
    _managed.c.tenant == bindparam("of_tenant"),
    # The first alone begins at a place of the index.
    _managed.c.managed_certificate_id >= bindparam("after_managed"),
    or_(_managed.c.managed_certificate_id > bindparam("after_managed"), _codes.c.code_sha256 > bindparam("after")),
)
_DELETE_UNUSED = delete(_codes).where(_codes.c.code_sha256 == bindparam("of_code"), _codes.c.use_time.is_(None))
_DELETE_MADE_BY = delete(_codes).where(_codes.c.creator == bindparam("by_creator"), _codes.c.use_time.is_(None))
_SOME_OLD = select(_codes.c.code_sha256).where(_codes.c.expire_time <= bindparam("before")).limit(bindparam("most"))
_DELETE_OLD = delete(_codes).where(_codes.c.code_sha256.in_(_SOME_OLD))


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadCodeRow:
    """What is kept of a code."""

    code_sha256: bytes
    """Of the secret in it."""
    managed_certificate_uid: str
    source_networks: tuple[str, ...]
    """CIDR; empty for any."""
    reason: str
    creator: str
    create_time: datetime
    expire_time: datetime
    use_time: datetime | None = None

    @property
    def id(self) -> str:
        """By what people and events tell it from others, in hexadecimal; who knows it cannot use the code."""
        return self.code_sha256[:_ID_BYTES].hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDownloadCode:
    """A code with what it is for."""

    managed_certificate_id: str
    row: DownloadCodeRow


def insert_code(tx: Transaction, row: DownloadCodeRow) -> None:
    """Inserts a code that nobody has used."""
    columns = {
        "code_sha256": row.code_sha256,
        "managed_certificate_uid": row.managed_certificate_uid,
        "source_networks": json_text(row.source_networks),
        "reason": row.reason,
        "creator": row.creator,
        "create_time": microseconds(row.create_time),
        "expire_time": microseconds(row.expire_time),
        "use_time": None,
    }
    tx.execute(_INSERT, columns)


def get(tx: Transaction, code_sha256: bytes) -> DownloadCodeRow | None:
    """Returns a code, used and expired ones too; None when there is none."""
    row = tx.execute(_GET, {"of_code": code_sha256}).first()
    return None if row is None else _code(row)


def of_id(tx: Transaction, managed_certificate_uid: str, id_: str) -> DownloadCodeRow | None:
    """Returns a code of a managed certificate by its id, used and expired ones too; None when there is none."""
    first = bytes.fromhex(id_)
    row = tx.execute(_GET_BY_ID, {"of_uid": managed_certificate_uid, "first": first, "last": first + _REST}).first()
    return None if row is None else _code(row)


def page(
    tx: Transaction, managed_certificate_uid: str, *, now: datetime, after: str, limit: int
) -> list[ListedDownloadCode]:
    """Returns up to `limit` codes of a managed certificate that have not expired, by id, from behind `after`."""
    parameters = {"of_uid": managed_certificate_uid, "after": _behind(after)}
    return _listed(tx, _PAGE, parameters, now, limit)


def page_of_tenant(
    tx: Transaction, tenant: str, *, now: datetime, after: tuple[str, str] = ("", ""), limit: int
) -> list[ListedDownloadCode]:
    """Returns up to `limit` codes of a tenant that have not expired, by managed certificate and id.

    They are from behind `after`, the ids of a managed certificate and of a code.
    """
    parameters = {"of_tenant": tenant, "after_managed": after[0], "after": _behind(after[1])}
    return _listed(tx, _PAGE_OF_TENANT, parameters, now, limit)


def use(tx: Transaction, code_sha256: bytes, now: datetime) -> bool:
    """Writes that a code is used; False when it was, expired, or is no more."""
    return tx.execute(_USE, {"of_code": code_sha256, "now": microseconds(now)}).rowcount == 1


def count_live(tx: Transaction, managed_certificate_uid: str, *, now: datetime, most: int) -> int:
    """Returns how many codes of a managed certificate might still be used, without counting past `most`."""
    parameters = {"of_uid": managed_certificate_uid, "now": microseconds(now), "most": most}
    return int(tx.execute(_COUNT_LIVE, parameters).scalar_one())


def delete_unused(tx: Transaction, code_sha256: bytes) -> bool:
    """Deletes a code that nobody has used; returns whether there was one."""
    return tx.execute(_DELETE_UNUSED, {"of_code": code_sha256}).rowcount == 1


def delete_made_by(tx: Transaction, creator: str) -> int:
    """Deletes every code that a principal made and nobody has used; returns how many there were."""
    return tx.execute(_DELETE_MADE_BY, {"by_creator": creator}).rowcount


def delete_expired(tx: Transaction, before: datetime, most: int) -> int:
    """Deletes codes that expired at a time or before it; returns how many."""
    return tx.execute(_DELETE_OLD, {"before": microseconds(before), "most": most}).rowcount


def _behind(id_: str) -> bytes:
    """Returns what the codes after an id are greater than."""
    return bytes.fromhex(id_) + _REST if id_ else b""


def _listed(
    tx: Transaction, statement: Select[Any], parameters: Mapping[str, object], now: datetime, limit: int
) -> list[ListedDownloadCode]:
    rows = tx.execute(statement, {**parameters, "now": microseconds(now), "most": limit})
    return [ListedDownloadCode(managed_certificate_id=row.managed_certificate_id, row=_code(row)) for row in rows]


def _code(row: Row[Any]) -> DownloadCodeRow:
    return DownloadCodeRow(
        code_sha256=row.code_sha256,
        managed_certificate_uid=row.managed_certificate_uid,
        source_networks=tuple(json.loads(row.source_networks)),
        reason=row.reason,
        creator=row.creator,
        create_time=time_of(row.create_time),
        expire_time=time_of(row.expire_time),
        use_time=optional_time_of(row.use_time),
    )
