"""Rows of wrapping keys."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, literal_column, select
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of

from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.store import managed_schema
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import microseconds, optional_microseconds, optional_time_of, time_of

_keys = managed_schema.wrapping_keys
_SELECT: Select[Any] = select(
    _keys.c.tenant,
    _keys.c.number,
    _keys.c.key_id,
    _keys.c.state,
    _keys.c.create_time,
    _keys.c.reseal_count,
    _keys.c.resealed_count,
    _keys.c.rotate_time,
    _keys.c.retire_time,
    _keys.c.destroy_time,
    _keys.c.escrow.is_not(None).label("escrowed"),
    _keys.c.revision,
)
_OF_TENANT = _keys.c.tenant == bindparam("of_tenant")
_GET = _SELECT.where(_OF_TENANT, _keys.c.number == bindparam("of_number"))
_PRIMARY = _SELECT.where(_OF_TENANT, _keys.c.state == literal_column("'PRIMARY'"))
# Whoever rotates waits for those who are about to keep something under the key, so that a key gains nothing more once
# it is no longer primary. Says nothing on SQLite, where nobody else writes meanwhile.
_HELD_PRIMARY = _PRIMARY.with_for_update(read=True)
_DECRYPT_ONLY = (
    _SELECT.where(_OF_TENANT, _keys.c.state == WrappingKeyState.DECRYPT_ONLY.value).order_by(_keys.c.number).limit(1)
)
_DOWN = (
    _SELECT.where(_OF_TENANT, _keys.c.number < bindparam("below"))
    .order_by(_keys.c.number.desc())
    .limit(bindparam("most"))
)
_INSERT = insert_into(_keys)
_CLAIM = insert_if_absent(_keys)
_UPDATE = update_of(_keys).where(
    _OF_TENANT, _keys.c.number == bindparam("of_number"), _keys.c.revision == bindparam("expected_revision")
)
_SET_ESCROW = (
    update_of(_keys).where(_OF_TENANT, _keys.c.number == bindparam("of_number")).values(escrow=bindparam("new_escrow"))
)
_ESCROWS = select(_keys.c.tenant, _keys.c.number, _keys.c.key_id, _keys.c.state, _keys.c.escrow).order_by(
    _keys.c.tenant, _keys.c.number
)
_ABOVE_ALL = 1 << 62


def _wrapping_key(row: Row[Any] | None) -> WrappingKey | None:
    return None if row is None else _wrapping_key_of(row)


def _wrapping_key_of(row: Row[Any]) -> WrappingKey:
    return WrappingKey(
        tenant=row.tenant,
        number=row.number,
        key_id=row.key_id,
        state=WrappingKeyState(row.state),
        create_time=time_of(row.create_time),
        reseal_count=row.reseal_count,
        resealed_count=row.resealed_count,
        rotate_time=optional_time_of(row.rotate_time),
        retire_time=optional_time_of(row.retire_time),
        destroy_time=optional_time_of(row.destroy_time),
        escrowed=bool(row.escrowed),
        revision=row.revision,
    )


def _columns(key: WrappingKey) -> Mapping[str, object]:
    return {
        "tenant": key.tenant,
        "number": key.number,
        "key_id": key.key_id,
        "create_time": microseconds(key.create_time),
        **_mutable_columns(key),
    }


def _mutable_columns(key: WrappingKey) -> Mapping[str, object]:
    return {
        "state": key.state.value,
        "reseal_count": key.reseal_count,
        "resealed_count": key.resealed_count,
        "rotate_time": optional_microseconds(key.rotate_time),
        "retire_time": optional_microseconds(key.retire_time),
        "destroy_time": optional_microseconds(key.destroy_time),
        "revision": key.revision,
    }


def primary(tx: Transaction, tenant: str) -> WrappingKey | None:
    """Returns the key that seals for a tenant; None before the first."""
    return _wrapping_key(tx.execute(_PRIMARY, {"of_tenant": tenant}).first())


def seals(tx: Transaction, tenant: str, number: int) -> bool:
    """Returns whether a key is the one that seals for a tenant.

    It stays so until the transaction ends, which is one that writes.
    """
    found = _wrapping_key(tx.execute(_HELD_PRIMARY, {"of_tenant": tenant}).first())
    return found is not None and found.number == number


def decrypt_only(tx: Transaction, tenant: str) -> WrappingKey | None:
    """Returns the key of a tenant under which keys are being sealed anew; None when there is none."""
    return _wrapping_key(tx.execute(_DECRYPT_ONLY, {"of_tenant": tenant}).first())


def get(tx: Transaction, tenant: str, number: int) -> WrappingKey | None:
    """Returns a key of a tenant; None when there is none."""
    return _wrapping_key(tx.execute(_GET, {"of_tenant": tenant, "of_number": number}).first())


def page(tx: Transaction, tenant: str, *, below: int | None, limit: int) -> list[WrappingKey]:
    """Returns up to `limit` keys of a tenant, the newest first, from those with numbers below `below`."""
    parameters = {"of_tenant": tenant, "below": _ABOVE_ALL if below is None else below, "most": limit}
    return [_wrapping_key_of(row) for row in tx.execute(_DOWN, parameters)]


def claim(tx: Transaction, key: WrappingKey) -> WrappingKey:
    """Makes `key` the primary one of its tenant if that has none; returns the primary one, own or another's."""
    tx.execute(_CLAIM, _columns(key))
    winner = primary(tx, key.tenant)
    if winner is None:
        raise ValueError(f"wrapping key {key.number} of tenant {key.tenant} is not primary, so it cannot be claimed")
    return winner


def rotate(tx: Transaction, old: WrappingKey, *, key_id: bytes, now: datetime) -> WrappingKey | None:
    """Makes a new key the primary one in place of `old`, which opens from now on and seals no more.

    Returns the new one; None, with nothing changed, when `old` is no longer as it was read.
    """
    replaced = replace(old, state=WrappingKeyState.DECRYPT_ONLY, rotate_time=now, reseal_count=0, resealed_count=0)
    if update(tx, replaced, old.revision) is None:
        return None
    new = WrappingKey(
        tenant=old.tenant, number=old.number + 1, key_id=key_id, state=WrappingKeyState.PRIMARY, create_time=now
    )
    tx.execute(_INSERT, _columns(new))
    return new


def update(tx: Transaction, key: WrappingKey, expected_revision: int) -> WrappingKey | None:
    """Replaces what may change, if the row still has `expected_revision`, and counts the revision up by one.

    Returns the key as it now stands; None, with nothing changed, when another was faster.
    """
    changed = replace(key, revision=expected_revision + 1)
    parameters = {
        **_mutable_columns(changed),
        "of_tenant": key.tenant,
        "of_number": key.number,
        "expected_revision": expected_revision,
    }
    return changed if tx.execute(_UPDATE, parameters).rowcount == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowedKey:
    """A wrapping key, and how it is in escrow."""

    tenant: str
    number: int
    key_id: bytes
    state: WrappingKeyState
    escrow: bytes | None
    """As `pki.escrow` has it; None: it is in the token alone."""


def set_escrow(tx: Transaction, key: WrappingKey, escrow: bytes) -> WrappingKey:
    """Keeps how a key is in escrow, in place of what was kept before: a key that was never made.

    Returns the key as it now stands.
    """
    tx.execute(_SET_ESCROW, {"of_tenant": key.tenant, "of_number": key.number, "new_escrow": escrow})
    return replace(key, escrowed=True)


def escrows(tx: Transaction) -> list[EscrowedKey]:
    """Returns every wrapping key of every tenant."""
    return [
        EscrowedKey(
            tenant=row.tenant,
            number=row.number,
            key_id=row.key_id,
            state=WrappingKeyState(row.state),
            escrow=row.escrow,
        )
        for row in tx.execute(_ESCROWS)
    ]
