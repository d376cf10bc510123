"""TenantService: convert, call `services.tenants`, convert back."""

from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.model.names import TenantName, check_id
from certd.model.request_limits import RequestLimits
from certd.model.tenant import DEFAULT_EXPIRY_NOTICE_DAYS, DEFAULT_QUOTAS, Quotas, Tenant
from certd.services.paging import Page
from certd.services.tenants import FIELDS, GivenTenant, TenantChange, Tenants
from certd.v1 import tenant_pb2, tenant_service_pb2

_LONGEST_ETAG: Final = 128
_LONGEST_DISPLAY_NAME: Final = 128
_MOST_NOTICES: Final = 16
_EARLIEST_NOTICE: Final = 365
_HIGHEST_QUOTA: Final = 1_000_000
_QUOTAS: Final = tuple(field.name for field in tenant_pb2.Quotas.DESCRIPTOR.fields)


def methods(tenants: Tenants, limits: RequestLimits) -> Methods:
    """Returns the functions that answer TenantService."""
    return {
        "CreateTenant": partial(create_tenant, tenants),
        "GetTenant": partial(get_tenant, tenants),
        "ListTenants": partial(list_tenants, tenants, limits),
        "UpdateTenant": partial(update_tenant, tenants),
    }


def create_tenant(tenants: Tenants, request: tenant_service_pb2.CreateTenantRequest, call: Call) -> tenant_pb2.Tenant:
    """CreateTenant."""
    violations = fields.Violations()
    tenant_id = violations.attempt(lambda: check_id("tenant_id", request.tenant_id))
    given = violations.attempt(lambda: _given(request.tenant, FIELDS))
    key = violations.attempt(lambda: fields.request_key("CreateTenant", request, request.request_id))
    violations.check()
    made = tenants.create(call.caller, tenant_id, given, key=key, validate_only=request.validate_only)
    return tenant_message(made)


def get_tenant(tenants: Tenants, request: tenant_service_pb2.GetTenantRequest, call: Call) -> tenant_pb2.Tenant:
    """GetTenant."""
    return tenant_message(tenants.get(call.caller, TenantName.parse("name", request.name)))


def list_tenants(
    tenants: Tenants, limits: RequestLimits, request: tenant_service_pb2.ListTenantsRequest, call: Call
) -> tenant_service_pb2.ListTenantsResponse:
    """ListTenants."""
    asked = fields.page_request(request.page_size, request.page_token, largest=limits.page_size)

    def answer(page: Page[Tenant]) -> tenant_service_pb2.ListTenantsResponse:
        return tenant_service_pb2.ListTenantsResponse(
            tenants=[tenant_message(tenant) for tenant in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(asked, lambda smaller: tenants.page(call.caller, smaller), answer)


def update_tenant(tenants: Tenants, request: tenant_service_pb2.UpdateTenantRequest, call: Call) -> tenant_pb2.Tenant:
    """UpdateTenant."""
    violations = fields.Violations()
    violations.attempt(lambda: fields.required("tenant", present=request.HasField("tenant")))
    name = violations.attempt(lambda: TenantName.parse("tenant.name", request.tenant.name))
    etag = violations.attempt(lambda: fields.text("tenant.etag", request.tenant.etag, longest=_LONGEST_ETAG))
    key = violations.attempt(lambda: fields.request_key("UpdateTenant", request, request.request_id))
    change = violations.attempt(lambda: _change(request))
    violations.check()
    changes, given = change
    changed = tenants.update(
        call.caller,
        TenantChange(name=name, given=given, fields=changes, etag=etag),
        key=key,
        validate_only=request.validate_only,
    )
    return tenant_message(changed)


def _change(request: tenant_service_pb2.UpdateTenantRequest) -> tuple[frozenset[str], GivenTenant]:
    """Returns the names of the fields to change, and what these say; what is not to change is not looked at."""
    changes = fields.changed(
        request.tenant,
        request.update_mask,
        changeable=FIELDS,
        example="quotas",
    )
    return changes, _given(request.tenant, changes)


def _given(tenant: tenant_pb2.Tenant, chosen: frozenset[str]) -> GivenTenant:
    """Returns what a message says of the fields `chosen`, the rest at its default; raises FIELD_INVALID."""
    violations = fields.Violations()
    display_name, quotas = "", DEFAULT_QUOTAS
    days: tuple[int, ...] = DEFAULT_EXPIRY_NOTICE_DAYS
    if "display_name" in chosen:
        display_name = violations.attempt(
            lambda: fields.text("tenant.display_name", tenant.display_name, longest=_LONGEST_DISPLAY_NAME)
        )
    if "expiry_notice_days" in chosen:
        days = violations.attempt(lambda: _notice_days(tenant))
    if "quotas" in chosen:
        quotas = violations.attempt(lambda: _quotas(tenant.quotas))
    violations.check()
    return GivenTenant(display_name=display_name, expiry_notice_days=days, quotas=quotas)


def _notice_days(tenant: tenant_pb2.Tenant) -> tuple[int, ...]:
    violations = fields.Violations()
    given = tenant.expiry_notice_days
    if len(given) > _MOST_NOTICES:
        violations.add("tenant.expiry_notice_days", f"has {len(given)} days; at most {_MOST_NOTICES} are allowed")
        violations.check()
    for index, day in enumerate(given):
        field = f"tenant.expiry_notice_days[{index}]"
        if not 1 <= day <= _EARLIEST_NOTICE:
            violations.add(field, f"must be from 1 to {_EARLIEST_NOTICE} days before the end")
        elif day in given[:index]:
            violations.add(field, f"is {day} a second time; name each day once")
    violations.check()
    return tuple(sorted(given, reverse=True)) or DEFAULT_EXPIRY_NOTICE_DAYS


def _quotas(message: tenant_pb2.Quotas) -> Quotas:
    violations = fields.Violations()
    given: dict[str, int] = {}
    for name in _QUOTAS:
        number = getattr(message, name)
        if not 0 <= number <= _HIGHEST_QUOTA:
            violations.add(f"tenant.quotas.{name}", f"must be from 1 to {_HIGHEST_QUOTA:,}, or 0 for the default")
        given[name] = number or getattr(DEFAULT_QUOTAS, name)
    violations.check()
    return Quotas(**given)


def tenant_message(tenant: Tenant) -> tenant_pb2.Tenant:
    """Returns a tenant as a message, with the quotas that hold."""
    return tenant_pb2.Tenant(
        name=tenant.name,
        uid=tenant.uid,
        display_name=tenant.display_name,
        expiry_notice_days=tenant.expiry_notice_days,
        quotas=tenant_pb2.Quotas(**{name: getattr(tenant.quotas, name) for name in _QUOTAS}),
        create_time=x509.timestamp(tenant.create_time),
        update_time=x509.timestamp(tenant.update_time or tenant.create_time),
        etag=tenant.etag,
    )
