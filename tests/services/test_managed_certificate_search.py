"""Searches among managed certificates through the service: in pages, by those who may read."""

from dataclasses import replace
from datetime import timedelta

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant, Role
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import TenantName
from certd.pki.names import SubjectAlternativeNames
from certd.services.paging import PageRequest
from certd.store import grants
from certd.store.store import Transaction
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN, World
from tests.waiting import eventually

DEFAULT = TenantName("default")
EVERYTHING = ManagedCertificateFilter()


def found(
    world: World, wanted: ManagedCertificateFilter, *, size: int = 100, caller: Caller = ADMINISTRATOR
) -> list[str]:
    """Ids of all pages, one after the other."""
    gathered: list[str] = []
    token = ""
    while True:
        page = world.core.managed_certificate_searches.search(caller, DEFAULT, wanted, PageRequest(size, token))
        assert len(page.items) <= size
        gathered += [view.managed_certificate.managed_certificate_id for view in page.items]
        token = page.next_page_token
        if not token:
            return gathered


@pytest.fixture
def web(world: World) -> World:
    """Four that are issued: three of the web, one of a database."""
    world.create_root()
    world.create_subordinate()
    for number in range(3):
        names = SubjectAlternativeNames(dns_names=(f"www-{number}.example.internal",))
        world.request(f"web-{number}", names=names, labels={"team": "web", "number": str(number)})
    world.request("db", names=SubjectAlternativeNames(dns_names=("db.example.org",)), lifetime=timedelta(days=10))
    active = ManagedCertificateFilter(states=frozenset({ManagedCertificateState.ACTIVE}))
    eventually(lambda: len(found(world, active)) == 4)
    return world


def test_what_is_managed_is_found_by_what_it_has(web: World) -> None:
    in_ten_days = web.clock.now() + timedelta(days=10)
    for wanted, expected in (
        (EVERYTHING, ["db", "web-0", "web-1", "web-2"]),
        (ManagedCertificateFilter(domain="example.internal"), ["web-0", "web-1", "web-2"]),
        (ManagedCertificateFilter(alternative_name="www-1.example.internal"), ["web-1"]),
        (ManagedCertificateFilter(labels={"team": "", "number": "2"}), ["web-2"]),
        (ManagedCertificateFilter(not_after_before=in_ten_days), ["db"]),
        (ManagedCertificateFilter(authority="tenants/default/authorities/root"), []),
        (ManagedCertificateFilter(states=frozenset({ManagedCertificateState.PENDING})), []),
    ):
        assert found(web, wanted) == expected, wanted


def test_what_has_ended_is_found_as_expired(web: World) -> None:
    expired = ManagedCertificateFilter(states=frozenset({ManagedCertificateState.EXPIRED}), domain="example.org")
    assert found(web, expired) == []
    # Nothing renews it any more.
    web.core.scheduler.stop()
    web.clock.advance(timedelta(days=10))
    (view,) = web.core.managed_certificate_searches.search(ADMINISTRATOR, DEFAULT, expired, PageRequest(10, "")).items
    assert view.state is ManagedCertificateState.EXPIRED
    assert view.certificate is not None
    assert view.chain == ()


def test_pages_are_by_name_and_bound_to_their_search(web: World) -> None:
    wanted = ManagedCertificateFilter(domain="example.internal")
    assert found(web, wanted, size=1) == ["web-0", "web-1", "web-2"]
    search = web.core.managed_certificate_searches.search
    token = search(ADMINISTRATOR, DEFAULT, wanted, PageRequest(1, "")).next_page_token
    for other in (EVERYTHING, replace(wanted, used=True)):
        with pytest.raises(CertdError) as refused:
            search(ADMINISTRATOR, DEFAULT, other, PageRequest(1, token))
        assert [violation.field for violation in refused.value.violations] == ["page_token"]


def test_searches_are_for_those_who_may_read_all_of_the_tenant(web: World) -> None:
    reader = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/reader", serial="03")

    def allow(scope: str) -> None:
        grant = Grant(grant_id=scope, principal=reader.principal, role=Role.AUDITOR, scope=scope, profiles=None)

        def work(tx: Transaction) -> None:
            grants.insert(tx, grant)
            tx.configuration_changed()

        web.core.store.write("test.grant", work)

    allow("tenants/default/managedCertificates/db")
    for caller in (reader, STRANGER):
        with pytest.raises(CertdError) as refused:
            found(web, EVERYTHING, caller=caller)
        assert refused.value.reason is Reason.PERMISSION_MISSING
        assert refused.value.metadata["permission"] == "managed-certificate.read"
    allow("tenants/default")
    assert found(web, EVERYTHING, caller=reader) == ["db", "web-0", "web-1", "web-2"]


def test_a_tenant_that_is_not_there_is_named(web: World) -> None:
    with pytest.raises(CertdError) as refused:
        web.core.managed_certificate_searches.search(
            ADMINISTRATOR, TenantName("absent"), EVERYTHING, PageRequest(1, "")
        )
    assert refused.value.reason is Reason.TENANT_NOT_FOUND
