"""Rows of keys that were reported as compromised, by tenant: they are never certified again."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, select

from certd.store import schema
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import microseconds

TenantKey = tuple[str | None, bytes]
"""Id of the tenant, None for the system authority, and SHA-256 of the SubjectPublicKeyInfo."""

_keys = schema.blocked_keys
_SYSTEM = ""
"""Stands in the column for no tenant: part of a primary key is never NULL."""
_INSERT = insert_if_absent(_keys)
# By the key alone: the same key in two tenants is rare, and a list of pairs takes both engines longer to plan.
_ANY = select(_keys.c.tenant).limit(1)
_BLOCKED: Select[Any] = select(_keys.c.tenant, _keys.c.public_key_sha256).where(
    _keys.c.public_key_sha256.in_(bindparam("of_keys", expanding=True))
)


def block(
    tx: Transaction, tenant: str | None, public_key_sha256: bytes, *, authority_uid: str, serial: str, now: datetime
) -> None:
    """Blocks a key for a tenant. What blocked it first stays on record.

    Args:
        tx: the transaction.
        tenant: id of the tenant; None for the system authority.
        public_key_sha256: of the SubjectPublicKeyInfo.
        authority_uid: of the certificate whose revocation blocks the key.
        serial: of that certificate.
        now: time of the use case.
    """
    columns = {
        "tenant": tenant or _SYSTEM,
        "public_key_sha256": public_key_sha256,
        "authority_uid": authority_uid,
        "serial": serial,
        "create_time": microseconds(now),
    }
    tx.execute(_INSERT, columns)


def blocked(tx: Transaction, keys: Collection[TenantKey]) -> set[TenantKey]:
    """Returns those of `keys` that are blocked, with one query for all of them."""
    # Most have none, and that is quicker to say than a list to look up.
    if not keys or tx.execute(_ANY).first() is None:
        return set()
    asked = {sha256: None for _tenant, sha256 in keys}
    found = {(row.tenant or None, row.public_key_sha256) for row in tx.execute(_BLOCKED, {"of_keys": list(asked)})}
    return found.intersection(keys)
