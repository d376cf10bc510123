"""Rows of tenants."""

from sqlalchemy import bindparam, select

from certd.model.tenant import Tenant
from certd.store import schema
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import microseconds, time_of

_tenants = schema.tenants
_INSERT = insert_if_absent(_tenants)
_GET = select(_tenants.c.tenant_id, _tenants.c.uid, _tenants.c.create_time).where(
    _tenants.c.tenant_id == bindparam("key")
)


def insert(tx: Transaction, tenant: Tenant) -> bool:
    """Inserts a tenant; returns False, and changes nothing, when there is one with this id."""
    columns = {"tenant_id": tenant.tenant_id, "uid": tenant.uid, "create_time": microseconds(tenant.create_time)}
    return tx.execute(_INSERT, columns).rowcount == 1


def get(tx: Transaction, tenant_id: str) -> Tenant | None:
    """Returns a tenant; None when there is none."""
    row = tx.execute(_GET, {"key": tenant_id}).first()
    return None if row is None else Tenant(tenant_id=row.tenant_id, uid=row.uid, create_time=time_of(row.create_time))
