"""Rows of wrapping keys."""

from typing import Any

from sqlalchemy import Row, Select, bindparam, literal_column, select

from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.store import managed_schema
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import microseconds, time_of

_keys = managed_schema.wrapping_keys
_SELECT: Select[Any] = select(_keys.c.tenant, _keys.c.number, _keys.c.key_id, _keys.c.state, _keys.c.create_time)
_GET = _SELECT.where(_keys.c.tenant == bindparam("of_tenant"), _keys.c.number == bindparam("of_number"))
_PRIMARY = _SELECT.where(_keys.c.tenant == bindparam("of_tenant"), _keys.c.state == literal_column("'PRIMARY'"))
_INSERT = insert_if_absent(_keys)


def _wrapping_key(row: Row[Any] | None) -> WrappingKey | None:
    if row is None:
        return None
    return WrappingKey(
        tenant=row.tenant,
        number=row.number,
        key_id=row.key_id,
        state=WrappingKeyState(row.state),
        create_time=time_of(row.create_time),
    )


def primary(tx: Transaction, tenant: str) -> WrappingKey | None:
    """Returns the key that seals for a tenant; None before the first."""
    return _wrapping_key(tx.execute(_PRIMARY, {"of_tenant": tenant}).first())


def get(tx: Transaction, tenant: str, number: int) -> WrappingKey | None:
    """Returns a key of a tenant; None when there is none."""
    return _wrapping_key(tx.execute(_GET, {"of_tenant": tenant, "of_number": number}).first())


def claim(tx: Transaction, key: WrappingKey) -> WrappingKey:
    """Makes `key` the primary one of its tenant if that has none; returns the primary one, own or another's."""
    tx.execute(
        _INSERT,
        {
            "tenant": key.tenant,
            "number": key.number,
            "key_id": key.key_id,
            "state": key.state.value,
            "create_time": microseconds(key.create_time),
        },
    )
    winner = primary(tx, key.tenant)
    if winner is None:
        raise ValueError(f"wrapping key {key.number} of tenant {key.tenant} is not primary, so it cannot be claimed")
    return winner
