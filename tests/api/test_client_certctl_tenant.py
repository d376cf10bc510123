"""certctl tenant against a server of our own: what it asks, what it prints, how it ends."""

import json
from collections.abc import Iterator

import pytest

from certd.client.messages import timestamp
from certd.v1.tenant_pb2 import Quotas, Tenant
from certd.v1.tenant_service_pb2 import ListTenantsResponse
from tests.certctl import Certctl
from tests.fakes_server import FakeServer, Issued, make_leaf, running
from tests.store.samples import NOW

QUOTAS = Quotas(
    authorities=7, managed_certificates=2500, profiles=1000, identities=10_000, grants=10_000, calls_per_second=20
)


@pytest.fixture
def fake(root: Issued) -> Iterator[FakeServer]:
    with running(FakeServer(), make_leaf(root, "localhost"), root) as server:
        for method in ("CreateTenant", "GetTenant", "UpdateTenant"):
            server.answer(method, acme())
        yield server


def acme(name: str = "tenants/acme") -> Tenant:
    return Tenant(
        name=name,
        uid="0123",
        display_name="Acme Corporation",
        expiry_notice_days=[30, 7],
        quotas=QUOTAS,
        create_time=timestamp(NOW),
        update_time=timestamp(NOW),
        etag="acme-3",
    )


def test_create(fake: FakeServer, certctl: Certctl) -> None:
    ended = certctl(
        *("tenant", "create", "acme", "--display-name", "Acme", "--quota", "authorities=7", "--quota"),
        *("calls-per-second=20", "--expiry-notice-day", "30", "--expiry-notice-day", "7", "--validate-only"),
    )
    assert (ended.code, ended.err) == (0, "certctl: every check passed; nothing was changed\n")
    (request,) = fake.requests("CreateTenant")
    assert (request.tenant_id, request.validate_only) == ("acme", True)
    assert request.tenant == Tenant(
        display_name="Acme", expiry_notice_days=[30, 7], quotas=Quotas(authorities=7, calls_per_second=20)
    )
    assert request.request_id
    assert "Quotas        authorities 7\n              managed-certificates 2,500\n" in ended.out
    assert "Expiry told   30, 7 days before\n" in ended.out


def test_get_shows_the_tenant_of_the_settings(
    fake: FakeServer, certctl: Certctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert certctl("tenant", "get").code == 0
    assert certctl("tenant", "get", "--tenant", "other").code == 0
    monkeypatch.setenv("CERTCTL_TENANT", "third")
    assert certctl("tenant", "get").code == 0
    ended = certctl("tenant", "get", "tenants/acme", "-o", "json")
    assert json.loads(ended.out)["quotas"]["authorities"] == 7
    names = [request.name for request in fake.requests("GetTenant")]
    assert names == ["tenants/default", "tenants/other", "tenants/third", "tenants/acme"]


def test_list(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "ListTenants",
        ListTenantsResponse(tenants=[acme()], next_page_token="more"),
        ListTenantsResponse(tenants=[acme("tenants/beta")]),
    )
    ended = certctl("tenant", "list")
    assert ended.out.splitlines()[0].split() == ["TENANT", "DISPLAY", "NAME", "CREATED", "CHANGED"]
    assert [line.split()[0] for line in ended.out.splitlines()[1:]] == ["acme", "beta"]
    assert [request.page_token for request in fake.requests("ListTenants")] == ["", "more"]


def test_update_keeps_the_quotas_that_are_not_named(fake: FakeServer, certctl: Certctl) -> None:
    assert certctl("tenant", "update", "acme", "--quota", "profiles=5").code == 0
    (request,) = fake.requests("UpdateTenant")
    expected = Quotas()
    expected.CopyFrom(QUOTAS)
    expected.profiles = 5
    assert request.tenant == Tenant(name="tenants/acme", quotas=expected, etag="acme-3")
    assert request.update_mask.paths == ["quotas"]


def test_update_of_what_is_named_alone(fake: FakeServer, certctl: Certctl) -> None:
    arguments = ("--display-name", "", "--expiry-notice-day", "3", "--clear", "quotas", "--etag", "acme-2")
    assert certctl("tenant", "update", "acme", *arguments).code == 0
    (request,) = fake.requests("UpdateTenant")
    assert request.tenant == Tenant(name="tenants/acme", expiry_notice_days=[3], etag="acme-2")
    assert request.update_mask.paths == ["display_name", "expiry_notice_days", "quotas"]
    assert not fake.requests("GetTenant")


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",),
        ("create", "acme", "--quota", "everything=1"),
        ("create", "acme", "--quota", "authorities"),
        ("create", "acme", "--quota", "authorities=many"),
        ("create", "acme", "--quota", "authorities=0"),
        ("create", "acme", "--expiry-notice-day", "366"),
        ("update", "acme"),
        ("update", "acme", "--clear", "name"),
    ],
)
def test_wrong_usage(fake: FakeServer, certctl: Certctl, arguments: tuple[str, ...]) -> None:
    assert certctl("tenant", *arguments).code == 2
    assert not fake.calls
