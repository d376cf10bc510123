"""Rows of enrollment codes, each known by the hash of its secret alone."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, delete, func, insert, select, update

from certd.model.names import IdentityName
from certd.store import schema
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, time_of

_codes = schema.enrollment_codes
_SERVER = ""
_INSERT = insert(_codes)
_GET: Select[Any] = select(_codes).where(_codes.c.code_sha256 == bindparam("of_code"))
_USE = (
    update(_codes)
    .where(
        _codes.c.code_sha256 == bindparam("of_code"), _codes.c.expire_time > bindparam("now"), _codes.c.serial.is_(None)
    )
    .values(serial=bindparam("new_serial"), used_public_key_sha256=bindparam("by_key"))
)
_COUNT_UNUSED: Select[Any] = select(func.count()).select_from(
    select(_codes.c.code_sha256)
    .where(
        _codes.c.tenant == bindparam("of_tenant"),
        _codes.c.identity_id == bindparam("of_identity"),
        _codes.c.expire_time > bindparam("now"),
        _codes.c.serial.is_(None),
    )
    .limit(bindparam("most"))
    .subquery()
)
_DELETE_OF = delete(_codes).where(
    _codes.c.tenant == bindparam("of_tenant"), _codes.c.identity_id == bindparam("of_identity")
)
_DELETE_MADE_BY = delete(_codes).where(_codes.c.creator == bindparam("by_creator"), _codes.c.serial.is_(None))
_SOME_OLD = select(_codes.c.code_sha256).where(_codes.c.expire_time <= bindparam("before")).limit(bindparam("most"))
_DELETE_OLD = delete(_codes).where(_codes.c.code_sha256.in_(_SOME_OLD))


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentCodeRow:
    """What is kept of a code."""

    code_sha256: bytes
    """Of the secret in it."""
    identity: IdentityName
    public_key_sha256: bytes | None
    """The key that must enroll; None for any."""
    source_networks: tuple[str, ...]
    """CIDR; empty for any."""
    creator: str
    create_time: datetime
    expire_time: datetime
    used_public_key_sha256: bytes | None = None
    """The key that enrolled; None before."""
    serial: str | None = None
    """Of the certificate that was made; None before."""


def insert_code(tx: Transaction, row: EnrollmentCodeRow) -> None:
    """Inserts a code."""
    columns = {
        "code_sha256": row.code_sha256,
        "tenant": row.identity.tenant or _SERVER,
        "identity_id": row.identity.identity,
        "public_key_sha256": row.public_key_sha256,
        "source_networks": json_text(row.source_networks),
        "creator": row.creator,
        "create_time": microseconds(row.create_time),
        "expire_time": microseconds(row.expire_time),
        "used_public_key_sha256": row.used_public_key_sha256,
        "serial": row.serial,
    }
    tx.execute(_INSERT, columns)


def get(tx: Transaction, code_sha256: bytes) -> EnrollmentCodeRow | None:
    """Returns a code; None when there is none."""
    row = tx.execute(_GET, {"of_code": code_sha256}).first()
    return None if row is None else _code(row)


def use(tx: Transaction, code_sha256: bytes, public_key_sha256: bytes, *, serial: str, now: datetime) -> bool:
    """Writes which key enrolled with a code, and its certificate; False when one has, it expired, or is no more."""
    parameters = {
        "of_code": code_sha256,
        "by_key": public_key_sha256,
        "new_serial": serial,
        "now": microseconds(now),
    }
    return tx.execute(_USE, parameters).rowcount == 1


def count_unused(tx: Transaction, identity: IdentityName, *, now: datetime, most: int) -> int:
    """Returns how many codes of an identity might still be used, without counting past `most`."""
    parameters = {
        "of_tenant": identity.tenant or _SERVER,
        "of_identity": identity.identity,
        "now": microseconds(now),
        "most": most,
    }
    return int(tx.execute(_COUNT_UNUSED, parameters).scalar_one())


def delete_of(tx: Transaction, identity: IdentityName) -> int:
    """Deletes every code of an identity, used or not; returns how many there were."""
    parameters = {"of_tenant": identity.tenant or _SERVER, "of_identity": identity.identity}
    return tx.execute(_DELETE_OF, parameters).rowcount


def delete_made_by(tx: Transaction, creator: str) -> int:
    """Deletes every code that a principal made and nobody has used; returns how many there were."""
    return tx.execute(_DELETE_MADE_BY, {"by_creator": creator}).rowcount


def delete_expired(tx: Transaction, before: datetime, most: int) -> int:
    """Deletes codes that expired at a time or before it; returns how many."""
    return tx.execute(_DELETE_OLD, {"before": microseconds(before), "most": most}).rowcount


def _code(row: Row[Any]) -> EnrollmentCodeRow:
    return EnrollmentCodeRow(
        code_sha256=row.code_sha256,
        identity=IdentityName(row.tenant or None, row.identity_id),
        public_key_sha256=row.public_key_sha256,
        source_networks=tuple(json.loads(row.source_networks)),
        creator=row.creator,
        create_time=time_of(row.create_time),
        expire_time=time_of(row.expire_time),
        used_public_key_sha256=row.used_public_key_sha256,
        serial=row.serial,
    )
