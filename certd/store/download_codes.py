"""Rows of codes for one download each, known by the hash of their secrets alone."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, delete, func, insert, select, update

from certd.store import notification_schema
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, optional_time_of, time_of

_codes = notification_schema.download_codes
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


def use(tx: Transaction, code_sha256: bytes, now: datetime) -> bool:
    """Writes that a code is used; False when it was, expired, or is no more."""
    return tx.execute(_USE, {"of_code": code_sha256, "now": microseconds(now)}).rowcount == 1


def count_live(tx: Transaction, managed_certificate_uid: str, *, now: datetime, most: int) -> int:
    """Returns how many codes of a managed certificate might still be used, without counting past `most`."""
    parameters = {"of_uid": managed_certificate_uid, "now": microseconds(now), "most": most}
    return int(tx.execute(_COUNT_LIVE, parameters).scalar_one())


def delete_made_by(tx: Transaction, creator: str) -> int:
    """Deletes every code that a principal made and nobody has used; returns how many there were."""
    return tx.execute(_DELETE_MADE_BY, {"by_creator": creator}).rowcount


def delete_expired(tx: Transaction, before: datetime, most: int) -> int:
    """Deletes codes that expired at a time or before it; returns how many."""
    return tx.execute(_DELETE_OLD, {"before": microseconds(before), "most": most}).rowcount


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
