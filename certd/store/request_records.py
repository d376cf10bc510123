"""Rows of request records: what makes a repeated request harmless."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, select, tuple_
from sqlalchemy import delete as delete_from
from sqlalchemy import update as update_of

from certd.store import schema
from certd.store.dialect import Many, insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import microseconds, time_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """A request that was made; principal, method and request id are its key."""

    principal: str
    method: str
    request_id: str
    request_sha256: bytes
    """Hash of the request without its secret fields."""
    resource: str | None
    """Name of what it made; None while it runs."""
    create_time: datetime


_records = schema.request_records
_KEY = (_records.c.principal, _records.c.method, _records.c.request_id)
_KEY_FITS = (
    _records.c.principal == bindparam("of_principal"),
    _records.c.method == bindparam("of_method"),
    _records.c.request_id == bindparam("of_request"),
)
_INSERT = insert_if_absent(_records)
_INSERT_MANY = Many(_INSERT, columns=("principal", "method", "request_id", "request_sha256", "resource", "create_time"))
_GET: Select[Any] = select(*_KEY, _records.c.request_sha256, _records.c.resource, _records.c.create_time).where(
    *_KEY_FITS
)
_SET_RESOURCE = update_of(_records).where(*_KEY_FITS)
_DELETE = delete_from(_records).where(*_KEY_FITS)
_DELETE_OF_RESOURCE = delete_from(_records).where(_records.c.resource == bindparam("of_resource"))
_DELETE_OLDER = delete_from(_records).where(
    tuple_(*_KEY).in_(
        select(*_KEY)
        .where(_records.c.create_time < bindparam("before"))
        .order_by(_records.c.create_time)
        .limit(bindparam("most"))
    )
)


def _key(record: RequestRecord) -> dict[str, object]:
    return {"of_principal": record.principal, "of_method": record.method, "of_request": record.request_id}


def get(tx: Transaction, principal: str, method: str, request_id: str) -> RequestRecord | None:
    """Returns a record; None when there is none."""
    key = {"of_principal": principal, "of_method": method, "of_request": request_id}
    row = tx.execute(_GET, key).first()
    if row is None:
        return None
    return RequestRecord(
        principal=row.principal,
        method=row.method,
        request_id=row.request_id,
        request_sha256=row.request_sha256,
        resource=row.resource,
        create_time=time_of(row.create_time),
    )


def claim(tx: Transaction, record: RequestRecord) -> RequestRecord | None:
    """Inserts a record; returns None when it is new, else the one that has its key, and changes nothing."""
    inserted = tx.execute(_INSERT, _columns(record))
    return None if inserted.rowcount == 1 else get(tx, record.principal, record.method, record.request_id)


def claim_all(tx: Transaction, records: Sequence[RequestRecord]) -> list[RequestRecord | None]:
    """Does what `claim` does for each, in order, with one statement as long as all of them are new.

    Each names a resource of its own: by that it is told whether what stands there is this record or an earlier one.
    """
    if not records or tx.execute_many(_INSERT_MANY, [_columns(one) for one in records]) == len(records):
        return [None] * len(records)
    found = [get(tx, record.principal, record.method, record.request_id) for record in records]
    return [
        None if one is not None and one.resource == record.resource else one
        for one, record in zip(found, records, strict=True)
    ]


def _columns(record: RequestRecord) -> dict[str, object]:
    return {
        "principal": record.principal,
        "method": record.method,
        "request_id": record.request_id,
        "request_sha256": record.request_sha256,
        "resource": record.resource,
        "create_time": microseconds(record.create_time),
    }


def set_resource(tx: Transaction, record: RequestRecord, resource: str) -> bool:
    """Says what the request with the key of `record` made; returns whether there is such a record."""
    return tx.execute(_SET_RESOURCE, {**_key(record), "resource": resource}).rowcount == 1


def delete(tx: Transaction, record: RequestRecord) -> bool:
    """Deletes the record with the key of `record`, so that the request may be made afresh; returns whether it was."""
    return tx.execute(_DELETE, _key(record)).rowcount == 1


def delete_of_resource(tx: Transaction, resource: str) -> int:
    """Deletes the records of the requests that were to make `resource`; returns how many."""
    return tx.execute(_DELETE_OF_RESOURCE, {"of_resource": resource}).rowcount


def delete_older(tx: Transaction, before: datetime, limit: int) -> int:
    """Deletes up to `limit` records made before a time, the oldest first; returns how many."""
    return tx.execute(_DELETE_OLDER, {"before": microseconds(before), "most": limit}).rowcount
