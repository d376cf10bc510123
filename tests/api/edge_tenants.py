"""Tenants behind the edge that do as they are told."""

from datetime import UTC, datetime

from certd.model.access import Caller
from certd.model.names import TenantName
from certd.model.tenant import Quotas, Tenant
from certd.services.idempotency import RequestKey
from certd.services.paging import Page, PageRequest
from certd.services.tenants import GivenTenant, TenantChange, Tenants
from tests.api.edge_profiles import Takes

ACME = Tenant(
    tenant_id="acme",
    uid="0123",
    create_time=datetime(2030, 1, 2, tzinfo=UTC),
    display_name="Acme Corporation",
    expiry_notice_days=(30, 7),
    quotas=Quotas(authorities=7, calls_per_second=20),
    revision=3,
)


class FakeTenants(Tenants):
    def __init__(self, told: Takes) -> None:
        self._told = told

    def create(
        self, caller: Caller, tenant_id: str, given: GivenTenant, *, key: RequestKey | None, validate_only: bool
    ) -> Tenant:
        self._told.take(caller, tenant_id, given, key, validate_only)
        return ACME

    def get(self, caller: Caller, name: TenantName) -> Tenant:
        self._told.take(caller, name)
        return ACME

    def page(self, caller: Caller, request: PageRequest) -> Page[Tenant]:
        self._told.take(caller, request)
        return Page((ACME,), "next")

    def update(self, caller: Caller, change: TenantChange, *, key: RequestKey | None, validate_only: bool) -> Tenant:
        self._told.take(caller, change, key, validate_only)
        return ACME
