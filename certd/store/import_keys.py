"""Rows of import keys."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, delete, select
from sqlalchemy import insert as insert_into

from certd.model.import_key import ImportKey
from certd.pki.key_spec import SignatureAlgorithm
from certd.store import managed_schema
from certd.store.transaction import Transaction
from certd.store.values import microseconds, time_of

_keys = managed_schema.import_keys
_INSERT = insert_into(_keys)
_SELECT: Select[Any] = select(
    _keys.c.tenant,
    _keys.c.import_key_id,
    _keys.c.public_key,
    _keys.c.wrapping_key_number,
    _keys.c.blob,
    _keys.c.statement,
    _keys.c.signature,
    _keys.c.signature_algorithm,
    _keys.c.authority_certificate,
    _keys.c.create_time,
    _keys.c.expire_time,
).where(_keys.c.tenant == bindparam("of_tenant"))
_GET = _SELECT.where(_keys.c.import_key_id == bindparam("id"))
_NEWEST = _SELECT.order_by(_keys.c.expire_time.desc(), _keys.c.import_key_id).limit(1)
_DELETE_EXPIRED = delete(_keys).where(
    _keys.c.tenant == bindparam("of_tenant"), _keys.c.expire_time <= bindparam("before")
)


def insert(tx: Transaction, key: ImportKey) -> None:
    """Inserts an import key."""
    tx.execute(
        _INSERT,
        {
            "tenant": key.tenant,
            "import_key_id": key.import_key_id,
            "public_key": key.public_key,
            "wrapping_key_number": key.wrapping_key_number,
            "blob": key.sealed_key,
            "statement": key.statement,
            "signature": key.signature,
            "signature_algorithm": key.signature_algorithm.value,
            "authority_certificate": key.authority_certificate,
            "create_time": microseconds(key.create_time),
            "expire_time": microseconds(key.expire_time),
        },
    )


def get(tx: Transaction, tenant: str, import_key_id: str) -> ImportKey | None:
    """Returns an import key of a tenant; None when there is none."""
    row = tx.execute(_GET, {"of_tenant": tenant, "id": import_key_id}).first()
    return None if row is None else _import_key(row)


def newest(tx: Transaction, tenant: str) -> ImportKey | None:
    """Returns the import key of a tenant that lives longest, which may have ended; None when there is none."""
    row = tx.execute(_NEWEST, {"of_tenant": tenant}).first()
    return None if row is None else _import_key(row)


def delete_expired(tx: Transaction, tenant: str, before: datetime) -> int:
    """Deletes the import keys of a tenant that ended at a time or before it; returns how many."""
    return tx.execute(_DELETE_EXPIRED, {"of_tenant": tenant, "before": microseconds(before)}).rowcount


def _import_key(row: Row[Any]) -> ImportKey:
    return ImportKey(
        tenant=row.tenant,
        import_key_id=row.import_key_id,
        public_key=row.public_key,
        wrapping_key_number=row.wrapping_key_number,
        sealed_key=row.blob,
        statement=row.statement,
        signature=row.signature,
        signature_algorithm=SignatureAlgorithm(row.signature_algorithm),
        authority_certificate=row.authority_certificate,
        create_time=time_of(row.create_time),
        expire_time=time_of(row.expire_time),
    )
