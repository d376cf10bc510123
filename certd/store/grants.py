"""Rows of grants. A tenant's grant has the id of the tenant and a slash before its own, the server's has its own."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, exists, func, or_, select
from sqlalchemy import delete as delete_from

from certd.model.access import EVERYTHING, Grant, Role, principals_of
from certd.model.certificate import CertificateState
from certd.model.names import GrantName
from certd.model.tenant import Quota
from certd.store import schema, tenant_counts
from certd.store.certificate_names import NameKind
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, time_of

_grants = schema.grants
_identities = schema.identities
_authorities, _certificates, _names = schema.authorities, schema.certificates, schema.certificate_names
_ACTIVE = "ACTIVE"
_SERVER = ""
_INSERT = insert_if_absent(_grants)
_SELECT: Select[Any] = select(_grants).order_by(_grants.c.grant_id)
_GET = _SELECT.where(_grants.c.grant_id == bindparam("id"), _grants.c.tenant == bindparam("of_tenant"))
_OF_PRINCIPAL = _SELECT.where(_grants.c.principal == bindparam("of_principal"))
_OF_PRINCIPALS = _SELECT.where(_grants.c.principal.in_(bindparam("of_principals", expanding=True)))
_PAGE = _SELECT.where(_grants.c.tenant == bindparam("of_tenant"), _grants.c.grant_id > bindparam("after")).limit(
    bindparam("most")
)
_PAGE_OF_PRINCIPAL = _PAGE.where(_grants.c.principal == bindparam("of_principal"))
_COUNT: Select[Any] = select(func.count()).select_from(
    select(_grants.c.grant_id)
    .where(_grants.c.tenant == bindparam("of_tenant"), _grants.c.principal == bindparam("of_principal"))
    .limit(bindparam("most"))
    .subquery()
)
_DELETE = delete_from(_grants).where(_grants.c.grant_id == bindparam("id"), _grants.c.tenant == bindparam("of_tenant"))
_HAS_CERTIFICATE = exists(
    select(_names.c.serial)
    .join_from(
        _names,
        _certificates,
        and_(_certificates.c.authority_uid == _names.c.authority_uid, _certificates.c.serial == _names.c.serial),
    )
    .where(
        # Of a system authority: what a tenant's authority issues lets nobody in.
        _names.c.authority_uid.in_(select(_authorities.c.uid).where(_authorities.c.tenant.is_(None))),
        _names.c.kind == NameKind.URI.value,
        _names.c.name == _grants.c.principal,
        _certificates.c.state == CertificateState.ISSUED.value,
        _certificates.c.not_after >= bindparam("now"),
    )
)
_ADMINISTRATORS = _SELECT.outerjoin(_identities, _identities.c.spiffe_id == _grants.c.principal).where(
    _grants.c.role == Role.ADMINISTRATOR.value,
    _grants.c.scope == EVERYTHING,
    # Who has a certificate of before identities had rows calls as others do.
    or_(_identities.c.state == _ACTIVE, _identities.c.state.is_(None)),
    _HAS_CERTIFICATE,
)


def insert(tx: Transaction, grant: Grant) -> bool:
    """Inserts a grant; returns False, and changes nothing, when there is one with this id."""
    columns = {
        "grant_id": _row_id(grant.tenant, grant.grant_id),
        "principal": grant.principal,
        "role": grant.role.value,
        "scope": grant.scope,
        "profiles": None if grant.profiles is None else json_text(sorted(grant.profiles)),
        "tenant": grant.tenant or _SERVER,
        "creator": grant.creator,
        "create_time": 0 if grant.create_time is None else microseconds(grant.create_time),
    }
    tx.configuration_changed()
    is_new = tx.execute(_INSERT, columns).rowcount == 1
    if is_new:
        tenant_counts.add(tx, grant.tenant, Quota.GRANTS)
    return is_new


def get(tx: Transaction, name: GrantName) -> Grant | None:
    """Returns a grant; None when there is none."""
    row = tx.execute(_GET, _key(name)).first()
    return None if row is None else _grant(row)


def of_principal(tx: Transaction, principal: str) -> list[Grant]:
    """Returns every grant with exactly this principal, in the order of their ids."""
    return [_grant(row) for row in tx.execute(_OF_PRINCIPAL, {"of_principal": principal})]


def of_caller(tx: Transaction, principal: str) -> list[Grant]:
    """Returns every grant that holds for a SPIFFE id, those of its prefixes too, in the order of their ids."""
    return [_grant(row) for row in tx.execute(_OF_PRINCIPALS, {"of_principals": list(principals_of(principal))})]


def page(tx: Transaction, tenant: str | None, *, principal: str | None, after: str, limit: int) -> Sequence[Grant]:
    """Returns up to `limit` grants of a tenant, or of the server, in the order of their ids from behind `after`.

    With `principal`, only those with exactly this one.
    """
    parameters = {"of_tenant": tenant or _SERVER, "after": _row_id(tenant, after), "most": limit}
    if principal is None:
        return [_grant(row) for row in tx.execute(_PAGE, parameters)]
    return [_grant(row) for row in tx.execute(_PAGE_OF_PRINCIPAL, {**parameters, "of_principal": principal})]


def count(tx: Transaction, tenant: str, principal: str, *, most: int) -> int:
    """Returns how many grants of a tenant have exactly this principal, without counting past `most`."""
    return int(tx.execute(_COUNT, {"of_tenant": tenant, "of_principal": principal, "most": most}).scalar_one())


def delete(tx: Transaction, name: GrantName) -> bool:
    """Deletes a grant; returns False when there is none."""
    tx.configuration_changed()
    is_deleted = tx.execute(_DELETE, _key(name)).rowcount == 1
    if is_deleted:
        tenant_counts.add(tx, name.tenant, Quota.GRANTS, -1)
    return is_deleted


def administrators(tx: Transaction, now: datetime) -> list[Grant]:
    """Returns the grants by which somebody administers everything.

    That is an exact principal whose identity is ACTIVE and has a certificate that is neither expired nor revoked.
    """
    return [_grant(row) for row in tx.execute(_ADMINISTRATORS, {"now": microseconds(now)})]


def _key(name: GrantName) -> dict[str, object]:
    return {"id": _row_id(name.tenant, name.grant), "of_tenant": name.tenant or _SERVER}


def _row_id(tenant: str | None, grant_id: str) -> str:
    return grant_id if tenant is None else f"{tenant}/{grant_id}"


def _grant(row: Row[Any]) -> Grant:
    tenant = row.tenant or None
    return Grant(
        grant_id=row.grant_id if tenant is None else row.grant_id.removeprefix(f"{tenant}/"),
        principal=row.principal,
        role=Role(row.role),
        scope=row.scope,
        profiles=None if row.profiles is None else frozenset(json.loads(row.profiles)),
        tenant=tenant,
        creator=row.creator,
        create_time=time_of(row.create_time) if row.create_time else None,
    )
