"""TenantService at the edge: what comes in is converted whole, refused with every field, and goes out whole."""

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from certd.errors import CertdError, Reason
from certd.model.names import TenantName
from certd.model.tenant import DEFAULT_EXPIRY_NOTICE_DAYS, DEFAULT_QUOTAS, Quotas
from certd.services.paging import PageRequest
from certd.services.tenants import FIELDS, GivenTenant, TenantChange
from certd.v1 import tenant_pb2, tenant_service_pb2
from tests.api.edge_failure import failure_of
from tests.api.edge_messages import REQUEST_ID, call, moment_of, refused
from tests.api.edge_server import ALICE, Edge

ACME = TenantName("acme")
NOTICES = "tenant.expiry_notice_days"


def create(**changes: Any) -> tenant_service_pb2.CreateTenantRequest:
    return tenant_service_pb2.CreateTenantRequest(**{"tenant_id": "acme", **changes})


def update(mask: list[str] | None = None, **changes: Any) -> tenant_service_pb2.UpdateTenantRequest:
    tenant = tenant_pb2.Tenant(**{"name": str(ACME), **changes})
    return tenant_service_pb2.UpdateTenantRequest(
        tenant=tenant, update_mask=None if mask is None else FieldMask(paths=mask)
    )


def test_create_tenant(edge: Edge) -> None:
    tenant = tenant_pb2.Tenant(
        display_name="Acme — ü", expiry_notice_days=[7, 30], quotas=tenant_pb2.Quotas(authorities=7)
    )
    call(edge, create(tenant=tenant, request_id=REQUEST_ID, validate_only=True))
    caller, tenant_id, given, key, validate_only = edge.told.last
    assert (caller.principal, tenant_id, validate_only) == (ALICE, "acme", True)
    assert given == GivenTenant(display_name="Acme — ü", expiry_notice_days=(30, 7), quotas=Quotas(authorities=7))
    assert key.request_id == REQUEST_ID.lower()


def test_what_is_not_said_is_at_its_default(edge: Edge) -> None:
    for request in (
        create(),
        create(tenant=tenant_pb2.Tenant(name="x", uid="y", etag="z", quotas=tenant_pb2.Quotas())),
    ):
        call(edge, request)
        _, _, given, key, validate_only = edge.told.last
        assert (given, key, validate_only) == (GivenTenant(), None, False)
    assert (given.quotas, given.expiry_notice_days) == (DEFAULT_QUOTAS, DEFAULT_EXPIRY_NOTICE_DAYS)


def test_a_tenant_goes_out_whole(edge: Edge) -> None:
    answer = call(edge, tenant_service_pb2.GetTenantRequest(name="tenants/acme"))
    assert edge.told.last[1] == ACME
    made = moment_of(datetime(2030, 1, 2, tzinfo=UTC))
    assert answer == tenant_pb2.Tenant(
        name="tenants/acme",
        uid="0123",
        display_name="Acme Corporation",
        expiry_notice_days=[30, 7],
        quotas=tenant_pb2.Quotas(
            authorities=7,
            managed_certificates=2500,
            profiles=1000,
            identities=10_000,
            grants=10_000,
            calls_per_second=20,
        ),
        create_time=made,
        update_time=made,
        etag="acme-3",
    )


def test_list_tenants(edge: Edge) -> None:
    answer = call(edge, tenant_service_pb2.ListTenantsRequest(page_size=7, page_token="token"))
    assert edge.told.last[1] == PageRequest(7, "token")
    assert ([one.name for one in answer.tenants], answer.next_page_token) == (["tenants/acme"], "next")


@pytest.mark.parametrize(
    ("mask", "changes", "fields", "given"),
    [
        (None, {}, set(), GivenTenant()),
        (None, {"display_name": "x"}, {"display_name"}, GivenTenant(display_name="x")),
        (["quotas"], {"display_name": "x" * 999}, {"quotas"}, GivenTenant()),
        (["quotas", "name", "etag", "uid"], {}, {"quotas"}, GivenTenant()),
        (["*"], {"expiry_notice_days": [1]}, FIELDS, GivenTenant(expiry_notice_days=(1,))),
    ],
)
def test_update_tenant(
    edge: Edge, mask: list[str] | None, changes: dict[str, Any], fields: set[str], given: GivenTenant
) -> None:
    call(edge, update(mask, etag="e", **changes))
    assert edge.told.last[1] == TenantChange(name=ACME, given=given, fields=frozenset(fields), etag="e")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"display_name": "x" * 129}, "tenant.display_name"),
        ({"display_name": "a\nb"}, "tenant.display_name"),
        ({"expiry_notice_days": [0]}, f"{NOTICES}[0]"),
        ({"expiry_notice_days": [5, 366]}, f"{NOTICES}[1]"),
        ({"expiry_notice_days": [5, 4, 5]}, f"{NOTICES}[2]"),
        ({"expiry_notice_days": range(1, 18)}, NOTICES),
        ({"quotas": tenant_pb2.Quotas(grants=-1)}, "tenant.quotas.grants"),
        ({"quotas": tenant_pb2.Quotas(calls_per_second=1_000_001)}, "tenant.quotas.calls_per_second"),
    ],
)
def test_what_a_tenant_cannot_be_is_refused(edge: Edge, changes: dict[str, Any], field: str) -> None:
    for request in (create(tenant=tenant_pb2.Tenant(**changes)), update(None, **changes), update(["*"], **changes)):
        failure = refused(edge, request)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
        assert [path for path, _ in failure.violations] == [field]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (create(tenant_id="Acme"), "tenant_id"),
        (create(tenant_id="-"), "tenant_id"),
        (create(request_id="7"), "request_id"),
        (tenant_service_pb2.GetTenantRequest(name="acme"), "name"),
        (tenant_service_pb2.ListTenantsRequest(page_size=-1), "page_size"),
        (tenant_service_pb2.UpdateTenantRequest(), "tenant"),
        (update(name="tenants/a/b"), "tenant.name"),
        (update(etag="x" * 129), "tenant.etag"),
        (update(["quotas.grants"]), "update_mask.paths[0]"),
        (update(["display_name", "*"]), "update_mask.paths[1]"),
    ],
)
def test_a_malformed_request_is_refused(edge: Edge, request_: Any, field: str) -> None:
    failure = refused(edge, request_)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert field in [path for path, _ in failure.violations]


def test_a_quota_that_is_used_up_is_told(edge: Edge) -> None:
    edge.told.error = CertdError(
        Reason.QUOTA_EXCEEDED, "full", metadata={"limit": "7", "quota": "authorities"}, resource="tenants/acme"
    )
    with pytest.raises(grpc.RpcError) as raised:
        call(edge, create())
    failure = failure_of(raised.value)
    assert (failure.code, failure.retry_after) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)
    assert failure.metadata == {"limit": "7", "quota": "authorities"}
    assert failure.quota == (("tenants/acme", "QUOTA_EXCEEDED"),)
    assert failure.resource == ("certd.v1.Tenant", "tenants/acme")
