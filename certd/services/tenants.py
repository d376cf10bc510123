"""Tenants: the accounts, and how much each may have."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Caller, Permission
from certd.model.event import Event, EventType
from certd.model.names import TenantName
from certd.model.tenant import DEFAULT_EXPIRY_NOTICE_DAYS, DEFAULT_QUOTAS, Quota, Quotas, Tenant
from certd.services.access import Access
from certd.services.idempotency import RequestKey, record_of, same_request
from certd.services.paging import Page, PageRequest, page_of
from certd.services.remembered import Remembered
from certd.store import request_records, tenant_counts, tenants
from certd.store.store import Store, Transaction

DEFAULT_TENANT = "default"
_TENANTS: Final = "tenants"
"""The resource on which a caller needs what touches more than one tenant; only the scope of everything holds it."""
_CREATE, _UPDATE = "CreateTenant", "UpdateTenant"


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenTenant:
    """What a caller says of a tenant. The names are those of `Tenant`."""

    display_name: str = ""
    expiry_notice_days: tuple[int, ...] = DEFAULT_EXPIRY_NOTICE_DAYS
    quotas: Quotas = DEFAULT_QUOTAS


FIELDS = frozenset(field.name for field in fields(GivenTenant))
"""What can be said of a tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantChange:
    """What a caller wants changed."""

    name: TenantName
    given: GivenTenant
    fields: frozenset[str] = FIELDS
    """Names of the fields to take from `given`."""
    etag: str = ""
    """That of the revision that the caller has read; empty when that does not matter."""


def existing_tenant(tx: Transaction, tenant_id: str) -> Tenant:
    """Returns a tenant; raises TENANT_NOT_FOUND."""
    found = tenants.get(tx, tenant_id)
    if found is None:
        raise CertdError(
            Reason.TENANT_NOT_FOUND, f"tenants/{tenant_id} does not exist", resource=f"tenants/{tenant_id}"
        )
    return found


def check_quota(tx: Transaction, tenant_id: str | None, quota: Quota) -> None:
    """Raises QUOTA_EXCEEDED when a tenant has as many of something as it may have, TENANT_NOT_FOUND.

    Called in the transaction that makes one more, so that two at once do not both make the last. The server itself,
    None, has no quotas.
    """
    if tenant_id is None:
        return
    limit = existing_tenant(tx, tenant_id).quotas.of(quota)
    if tenant_counts.get(tx, tenant_id, quota) >= limit:
        kind = quota.value.replace("_", " ")
        raise CertdError(
            Reason.QUOTA_EXCEEDED,
            f"tenants/{tenant_id} has {limit} {kind}, as many as it may have; delete one that is not used, or have an"
            " administrator of the server raise the quota",
            metadata={"limit": str(limit), "quota": quota.value},
            resource=f"tenants/{tenant_id}",
        )


class Tenants:
    """The use cases of tenants."""

    def __init__(self, *, store: Store, clock: Clock, access: Access) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._rates: Remembered[str, int] = Remembered(store, "tenants.calls-per-second", _rate)

    def calls_per_second(self, tenant_id: str) -> int:
        """Returns how fast a tenant may call; of one that does not exist, the default."""
        return self._rates.get(tenant_id)

    def create(
        self, caller: Caller, tenant_id: str, given: GivenTenant, *, key: RequestKey | None, validate_only: bool
    ) -> Tenant:
        """Makes a tenant; raises TENANT_EXISTS, REQUEST_ID_REUSED. Only who administers everything may."""
        self._access.require(caller, Permission.TENANT_CREATE, _TENANTS)
        now = self._clock.now()
        made = Tenant(
            tenant_id=tenant_id,
            uid=uuid.uuid4().hex,
            create_time=now,
            display_name=given.display_name,
            expiry_notice_days=given.expiry_notice_days,
            quotas=given.quotas,
        )

        def create(tx: Transaction) -> Tenant:
            if _is_repeated(tx, caller, _CREATE, key, name=made.name, now=now):
                return existing_tenant(tx, tenant_id)
            if not tenants.insert(tx, made):
                raise _exists(made)
            _record(tx, EventType.TENANT_CREATED, made, caller, now, details={"uid": made.uid})
            return made

        if not validate_only:
            return self._store.write("tenants.create", create)
        with self._store.read("tenants.create") as tx:
            if tenants.get(tx, tenant_id) is not None:
                raise _exists(made)
        return made

    def get(self, caller: Caller, name: TenantName) -> Tenant:
        """Returns a tenant; raises TENANT_NOT_FOUND."""
        self._access.require(caller, Permission.TENANT_READ, str(name))
        with self._store.read("tenants.get") as tx:
            return existing_tenant(tx, name.tenant)

    def page(self, caller: Caller, request: PageRequest) -> Page[Tenant]:
        """Returns a page, by id, of the tenants that the caller may read, which may be none."""
        among = _readable(self._access, caller)
        # Whose list it is belongs to the query: a token says where to go on among the caller's own.
        query = f"tenants {caller.principal}"
        after = request.after(query)
        with self._store.read("tenants.page") as tx:
            rows = tenants.page(tx, among=among, after=after[0] if after else "", limit=request.size + 1)
        return page_of(rows, request, query, key=lambda tenant: [tenant.tenant_id])

    def update(self, caller: Caller, change: TenantChange, *, key: RequestKey | None, validate_only: bool) -> Tenant:
        """Changes a tenant; when nothing is changed, it stays at its revision.

        Quotas bound the tenant's own administrators, so only who administers everything may change them.
        Raises TENANT_NOT_FOUND, ETAG_MISMATCH, PERMISSION_MISSING, REQUEST_ID_REUSED.
        """
        self._access.require(caller, Permission.TENANT_UPDATE, str(change.name))
        unbound = _refusal(lambda: self._access.require(caller, Permission.TENANT_UPDATE, _TENANTS))
        now = self._clock.now()

        def plan(tx: Transaction) -> tuple[Tenant, Tenant]:
            found = existing_tenant(tx, change.name.tenant)
            if change.etag not in {"", found.etag}:
                raise _mismatch(found)
            planned = replace(found, **{field: getattr(change.given, field) for field in change.fields})
            if planned.quotas != found.quotas and unbound is not None:
                raise unbound.another()
            return found, planned

        def update(tx: Transaction) -> Tenant:
            if _is_repeated(tx, caller, _UPDATE, key, name=str(change.name), now=now):
                return existing_tenant(tx, change.name.tenant)
            found, planned = plan(tx)
            if planned == found:
                return found
            changed = tenants.update(tx, replace(planned, update_time=now))
            if changed is None:
                raise _mismatch(found)
            _record(tx, EventType.TENANT_UPDATED, changed, caller, now, details=_differences(found, changed))
            return changed

        if not validate_only:
            return self._store.write("tenants.update", update)
        with self._store.read("tenants.update") as tx:
            found, planned = plan(tx)
        return found if planned == found else replace(planned, update_time=now, revision=found.revision + 1)


def _rate(tx: Transaction, tenant_id: str) -> int:
    found = tenants.get(tx, tenant_id)
    return (DEFAULT_QUOTAS if found is None else found.quotas).calls_per_second


def _readable(access: Access, caller: Caller) -> frozenset[str] | None:
    """Returns the ids of tenants that a caller may read, of which some may not exist; None: of all."""
    if access.may(caller, Permission.TENANT_READ, _TENANTS):
        return None
    scopes = {grant.scope for grant in access.held(caller) if grant.allows(Permission.TENANT_READ, grant.scope)}
    named = (scope.split("/") for scope in scopes if scope != EVERYTHING)
    return frozenset(words[1] for words in named if len(words) == 2 and words[0] == _TENANTS)


def _refusal(check: Callable[[], None]) -> CertdError | None:
    """Returns what a check raises; None when it passes."""
    try:
        check()
    except CertdError as error:
        return error
    return None


def _is_repeated(
    tx: Transaction, caller: Caller, method: str, key: RequestKey | None, *, name: str, now: datetime
) -> bool:
    """Claims a request; returns whether it was made before. Raises REQUEST_ID_REUSED when that was another one."""
    if key is None:
        return False
    found = request_records.claim(tx, record_of(caller, method, key, resource=name, now=now))
    if found is None:
        return False
    same_request(found, key.request_sha256)
    return True


def _exists(tenant: Tenant) -> CertdError:
    return CertdError(
        Reason.TENANT_EXISTS,
        f"{tenant.name} exists already; choose another tenant_id, or change it with UpdateTenant",
        resource=tenant.name,
    )


def _mismatch(found: Tenant) -> CertdError:
    return CertdError(
        Reason.ETAG_MISMATCH,
        f"{found.name} has changed since it was read; read it again and repeat the change with its etag",
        metadata={"etag": found.etag},
        resource=found.name,
    )


def _differences(before: Tenant, after: Tenant) -> dict[str, str]:
    """Returns the fields that differ, each quota by its own name, with what they are now."""
    told = {field: str(getattr(after, field)) for field in FIELDS - {"quotas"} if _differ(before, after, field)}
    if before.expiry_notice_days != after.expiry_notice_days:
        told["expiry_notice_days"] = ",".join(map(str, after.expiry_notice_days))
    for quota in fields(Quotas):
        if _differ(before.quotas, after.quotas, quota.name):
            told[f"quotas.{quota.name}"] = str(getattr(after.quotas, quota.name))
    return told


def _differ(before: object, after: object, field: str) -> bool:
    return bool(getattr(before, field) != getattr(after, field))


def _record(
    tx: Transaction, type_: EventType, tenant: Tenant, caller: Caller, now: datetime, *, details: dict[str, str]
) -> None:
    """Records what was done to a tenant, for the audit and for those who keep what tenants may."""
    tx.event(
        Event(
            time=now,
            type=type_,
            tenant=tenant.tenant_id,
            principal=caller.principal,
            resource=tenant.name,
            details=details,
        )
    )
    tx.configuration_changed()
