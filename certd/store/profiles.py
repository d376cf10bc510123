"""Rows of a tenant's own profiles and of all their versions. What a profile says is a document, opaque here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, func, or_, select
from sqlalchemy import delete as delete_from
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of

from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING
from certd.model.names import GrantName, ProfileName
from certd.model.tenant import Quota
from certd.store import managed_schema, schema, tenant_counts
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, optional_time_of, time_of

_profiles = schema.profiles
_versions = schema.profile_versions
_managed = managed_schema.managed_certificates
_grants = schema.grants


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRow:
    """A version of a profile of a tenant."""

    tenant: str
    profile_id: str
    version: int
    """Grows with every change, and goes on where it was when the id is used again after a deletion."""
    document: str
    """As `pki.profile_document` writes it."""
    create_time: datetime | None
    """When the first version since its last deletion was made; None for a version of before."""
    update_time: datetime
    """When this version was made."""


_COLUMNS = (
    _versions.c.tenant,
    _versions.c.profile_id,
    _versions.c.version,
    _versions.c.document,
    _versions.c.create_time.label("update_time"),
    _profiles.c.create_time,
)
_SAME = (_profiles.c.tenant == _versions.c.tenant) & (_profiles.c.profile_id == _versions.c.profile_id)
_NEWEST: Select[Any] = select(*_COLUMNS).join_from(
    _profiles, _versions, _SAME & (_profiles.c.version == _versions.c.version)
)
_PROFILE_FITS = (_profiles.c.tenant == bindparam("of_tenant"), _profiles.c.profile_id == bindparam("id"))
_GET = _NEWEST.where(*_PROFILE_FITS)
_GET_VERSION: Select[Any] = (
    select(*_COLUMNS)
    .join_from(_versions, _profiles, _SAME & (_profiles.c.create_time <= _versions.c.create_time), isouter=True)
    .where(
        _versions.c.tenant == bindparam("of_tenant"),
        _versions.c.profile_id == bindparam("id"),
        _versions.c.version == bindparam("number"),
    )
)
_PAGE = (
    _NEWEST.where(_profiles.c.tenant == bindparam("of_tenant"), _profiles.c.profile_id > bindparam("after"))
    .order_by(_profiles.c.profile_id)
    .limit(bindparam("most"))
)
_LAST_VERSION: Select[Any] = select(func.max(_versions.c.version)).where(
    _versions.c.tenant == bindparam("of_tenant"), _versions.c.profile_id == bindparam("id")
)
_INSERT = insert_if_absent(_profiles)
_INSERT_VERSION = insert_into(_versions)
_UPDATE = update_of(_profiles).where(*_PROFILE_FITS, _profiles.c.version == bindparam("expected_version"))
_DELETE = delete_from(_profiles).where(*_PROFILE_FITS)
_MANAGED_OF: Select[Any] = (
    select(_managed.c.managed_certificate_id)
    .where(_managed.c.tenant == bindparam("of_tenant"), _managed.c.profile == bindparam("id"))
    .order_by(_managed.c.managed_certificate_id)
    .limit(bindparam("most"))
)
_LAST_REQUEST: Select[Any] = select(func.max(_managed.c.create_time)).where(
    _managed.c.tenant == bindparam("of_tenant"), _managed.c.profile == bindparam("id")
)
_GRANTS_OF: Select[Any] = (
    select(_grants.c.tenant, _grants.c.grant_id)
    .where(
        # A JSON list of ids, which have no character that LIKE or JSON would take for another.
        _grants.c.profiles.like(bindparam("pattern")),
        or_(
            _grants.c.scope.in_([EVERYTHING, bindparam("scope")]),
            _grants.c.scope.like(bindparam("below")),
        ),
    )
    .order_by(_grants.c.grant_id)
    .limit(bindparam("most"))
)


def _row(row: Row[Any]) -> ProfileRow:
    return ProfileRow(
        tenant=row.tenant,
        profile_id=row.profile_id,
        version=row.version,
        document=row.document,
        create_time=optional_time_of(row.create_time),
        update_time=time_of(row.update_time),
    )


def insert(tx: Transaction, tenant: str, profile_id: str, *, document: str, now: datetime) -> ProfileRow:
    """Inserts a profile with its first version, or the next one where a deleted profile had this id.

    Raises PROFILE_EXISTS when the tenant has one with this id.
    """
    last = tx.execute(_LAST_VERSION, {"of_tenant": tenant, "id": profile_id}).scalar_one()
    version = (last or 0) + 1
    moment = microseconds(now)
    columns = {
        "tenant": tenant,
        "profile_id": profile_id,
        "version": version,
        "create_time": moment,
        "update_time": moment,
    }
    if tx.execute(_INSERT, columns).rowcount != 1:
        name = str(ProfileName(tenant, profile_id))
        raise CertdError(Reason.PROFILE_EXISTS, f"{name} exists already: choose another id", resource=name)
    tenant_counts.add(tx, tenant, Quota.PROFILES)
    _insert_version(tx, tenant, profile_id, version=version, document=document, now=now)
    return ProfileRow(
        tenant=tenant,
        profile_id=profile_id,
        version=version,
        document=document,
        create_time=time_of(moment),
        update_time=time_of(moment),
    )


def add_version(
    tx: Transaction, tenant: str, profile_id: str, *, expected_version: int, document: str, now: datetime
) -> ProfileRow | None:
    """Makes a new version after `expected_version` and returns it.

    None, with nothing changed, when the newest is another or there is no such profile.
    """
    version = expected_version + 1
    changed = tx.execute(
        _UPDATE,
        {
            "of_tenant": tenant,
            "id": profile_id,
            "expected_version": expected_version,
            "version": version,
            "update_time": microseconds(now),
        },
    )
    if changed.rowcount != 1:
        return None
    _insert_version(tx, tenant, profile_id, version=version, document=document, now=now)
    return get(tx, tenant, profile_id)


def _insert_version(
    tx: Transaction, tenant: str, profile_id: str, *, version: int, document: str, now: datetime
) -> None:
    tx.execute(
        _INSERT_VERSION,
        {
            "tenant": tenant,
            "profile_id": profile_id,
            "version": version,
            "document": document,
            "create_time": microseconds(now),
        },
    )


def get(tx: Transaction, tenant: str, profile_id: str) -> ProfileRow | None:
    """Returns the newest version of a profile; None when there is none, or no more."""
    row = tx.execute(_GET, {"of_tenant": tenant, "id": profile_id}).first()
    return None if row is None else _row(row)


def get_version(tx: Transaction, tenant: str, profile_id: str, version: int) -> ProfileRow | None:
    """Returns a version of a profile, also of one that was deleted; None when there never was one."""
    row = tx.execute(_GET_VERSION, {"of_tenant": tenant, "id": profile_id, "number": version}).first()
    return None if row is None else _row(row)


def page(tx: Transaction, tenant: str, *, after: str | None, limit: int) -> list[ProfileRow]:
    """Returns up to `limit` profiles of a tenant in the order of their ids, from behind the id `after`."""
    return [_row(row) for row in tx.execute(_PAGE, {"of_tenant": tenant, "after": after or "", "most": limit})]


def delete(tx: Transaction, tenant: str, profile_id: str) -> bool:
    """Deletes a profile; its versions stay on record. Returns False when there is none."""
    is_deleted = tx.execute(_DELETE, {"of_tenant": tenant, "id": profile_id}).rowcount == 1
    if is_deleted:
        tenant_counts.add(tx, tenant, Quota.PROFILES, -1)
    return is_deleted


def managed_certificates_of(tx: Transaction, tenant: str, profile_id: str, *, most: int) -> Sequence[str]:
    """Returns ids of managed certificates that name a profile, the first `most` of them."""
    return list(tx.execute(_MANAGED_OF, {"of_tenant": tenant, "id": profile_id, "most": most}).scalars())


def last_request_of(tx: Transaction, tenant: str, profile_id: str) -> datetime | None:
    """Returns when the newest managed certificate under a profile was requested; None when there is none."""
    moment = tx.execute(_LAST_REQUEST, {"of_tenant": tenant, "id": profile_id}).scalar_one()
    return None if moment is None else time_of(moment)


def grants_of(tx: Transaction, tenant: str, profile_id: str, *, most: int) -> Sequence[GrantName]:
    """Returns names of grants within a tenant, or over all of them, that list a profile, the first `most` of them."""
    parameters = {
        "pattern": f"%{json_text([profile_id])[1:-1]}%",
        "scope": f"tenants/{tenant}",
        "below": f"tenants/{tenant}/%",
        "most": most,
    }
    return [
        GrantName(row.tenant or None, row.grant_id.removeprefix(f"{row.tenant}/"))
        for row in tx.execute(_GRANTS_OF, parameters)
    ]
