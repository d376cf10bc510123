"""Rows of tenants. What differs from the defaults is one document, so that a later default holds for all."""

import json
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from sqlalchemy import Row, Select, bindparam, select
from sqlalchemy import update as update_of

from certd.model.tenant import DEFAULT_EXPIRY_NOTICE_DAYS, DEFAULT_QUOTAS, Quotas, Tenant
from certd.store import schema
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, time_of

_tenants = schema.tenants
_INSERT = insert_if_absent(_tenants)
_SELECT: Select[Any] = select(_tenants)
_GET = _SELECT.where(_tenants.c.tenant_id == bindparam("key"))
_PAGE = _SELECT.where(_tenants.c.tenant_id > bindparam("after")).order_by(_tenants.c.tenant_id).limit(bindparam("most"))
_PAGE_AMONG = _PAGE.where(_tenants.c.tenant_id.in_(bindparam("among", expanding=True)))
_UPDATE = update_of(_tenants).where(
    _tenants.c.tenant_id == bindparam("key"), _tenants.c.revision == bindparam("expected_revision")
)
_NOTICE_DAYS = "expiry_notice_days"


def insert(tx: Transaction, tenant: Tenant) -> bool:
    """Inserts a tenant; returns False, and changes nothing, when there is one with this id."""
    columns = {
        "tenant_id": tenant.tenant_id,
        "uid": tenant.uid,
        "create_time": microseconds(tenant.create_time),
        "revision": tenant.revision,
        **_mutable_columns(tenant),
    }
    return tx.execute(_INSERT, columns).rowcount == 1


def get(tx: Transaction, tenant_id: str) -> Tenant | None:
    """Returns a tenant; None when there is none."""
    row = tx.execute(_GET, {"key": tenant_id}).first()
    return None if row is None else _tenant(row)


def page(tx: Transaction, *, among: Collection[str] | None, after: str, limit: int) -> list[Tenant]:
    """Returns up to `limit` tenants in the order of their ids, from behind the id `after`; of all when `among` is None.

    With `among` no more rows are looked at than ids are in it, so that the time tells nothing of other tenants.
    """
    parameters: dict[str, object] = {"after": after, "most": limit}
    if among is None:
        return [_tenant(row) for row in tx.execute(_PAGE, parameters)]
    # As many as one statement takes, and no more than the page needs.
    chosen = sorted(tenant_id for tenant_id in set(among) if tenant_id > after)
    found: list[Tenant] = []
    while chosen and len(found) < limit:
        part, chosen = chosen[:limit], chosen[limit:]
        rows = tx.execute(_PAGE_AMONG, {**parameters, "most": limit - len(found), "among": part})
        found.extend(_tenant(row) for row in rows)
    return found


def update(tx: Transaction, tenant: Tenant) -> Tenant | None:
    """Writes what may change and returns the tenant in its new revision; None when `tenant` is not of the newest."""
    values = {**_mutable_columns(tenant), "revision": tenant.revision + 1}
    changed = tx.execute(_UPDATE, {"key": tenant.tenant_id, "expected_revision": tenant.revision, **values})
    return get(tx, tenant.tenant_id) if changed.rowcount == 1 else None


def _mutable_columns(tenant: Tenant) -> dict[str, object]:
    names = [field.name for field in fields(Quotas)]
    given = {name: getattr(tenant.quotas, name) for name in names}
    settings: dict[str, object] = {
        name: number for name, number in given.items() if number != getattr(DEFAULT_QUOTAS, name)
    }
    if tenant.expiry_notice_days != DEFAULT_EXPIRY_NOTICE_DAYS:
        settings[_NOTICE_DAYS] = list(tenant.expiry_notice_days)
    return {
        "display_name": tenant.display_name,
        "settings": json_text(settings),
        "update_time": 0 if tenant.update_time is None else microseconds(tenant.update_time),
    }


def _tenant(row: Row[Any]) -> Tenant:
    settings = json.loads(row.settings)
    known = {field.name for field in fields(Quotas)} & settings.keys()
    return Tenant(
        tenant_id=row.tenant_id,
        uid=row.uid,
        create_time=time_of(row.create_time),
        display_name=row.display_name,
        expiry_notice_days=tuple(settings.get(_NOTICE_DAYS, DEFAULT_EXPIRY_NOTICE_DAYS)),
        quotas=Quotas(**{name: settings[name] for name in known}),
        update_time=time_of(row.update_time) if row.update_time else None,
        revision=row.revision,
    )
