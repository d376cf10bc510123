"""Searches through the service: what is issued is found by what it has, in pages, by those who may read it."""

from datetime import timedelta

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant, Role
from certd.model.certificate import CertificateState
from certd.model.certificate_filter import (
    AllOf,
    CertificateFilter,
    HasName,
    HasSerial,
    InDomain,
    InState,
    IsManaged,
    Not,
    OfKey,
    OfKeySpec,
    UnderProfile,
)
from certd.model.names import AuthorityName, CertificateName, ManagedCertificateName
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.services.paging import PageRequest
from certd.services.revocation import NewRevocation
from certd.store import grants
from certd.store.store import Transaction
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN, World
from tests.waiting import eventually

CA = AuthorityName("default", "ca")
EVERY = AuthorityName("default", "-")


@pytest.fixture
def ca(world: World) -> World:
    world.create_root()
    world.create_subordinate()
    world.create_subordinate("other-ca")
    return world


def found(
    world: World,
    wanted: CertificateFilter | None,
    parent: AuthorityName = CA,
    *,
    size: int = 100,
    caller: Caller = ADMINISTRATOR,
) -> list[str]:
    """Names of all pages, one after the other."""
    found: list[str] = []
    token = ""
    while True:
        page = world.core.certificate_searches.search(caller, parent, wanted, PageRequest(size, token))
        assert len(page.items) <= size
        found += [view.name for view in page.items]
        token = page.next_page_token
        if not token:
            return found


def named(*dns_names: str) -> HasName:
    return HasName(SubjectAlternativeNames(dns_names=dns_names))


def test_what_is_issued_is_found_by_what_it_has(ca: World) -> None:
    www = ca.issue("www.example.internal", "*.apps.example.internal")
    other = ca.issue("www.example.internal", "example.org", authority="other-ca")
    mine = ca.issue("db.example.internal")
    row = mine.certificate
    assert row.key_spec is KeySpec.EC_P256
    cases: list[tuple[CertificateFilter | None, list[str], list[str]]] = [
        (named("www.example.internal"), [www.name], [other.name, www.name]),
        (named("*.apps.example.internal"), [www.name], [www.name]),
        (named("apps.example.internal"), [], []),
        (InDomain("apps.example.internal"), [www.name], [www.name]),
        (InDomain("example.internal"), [mine.name, www.name], [mine.name, other.name, www.name]),
        (HasSerial(row.serial), [mine.name], [mine.name]),
        (OfKey(row.public_key_sha256), [mine.name], [mine.name]),
        (AllOf((OfKeySpec(KeySpec.EC_P256), Not(named("www.example.internal")))), [mine.name], [mine.name]),
        (OfKeySpec(KeySpec.RSA_2048), [], []),
        (UnderProfile("server"), [], []),
        (None, [mine.name, www.name], [mine.name, other.name, www.name]),
    ]
    leaves = AllOf((Not(UnderProfile("root-ca")), Not(UnderProfile("subordinate-ca"))))
    for wanted, of_one, of_all in cases:
        assert set(found(ca, wanted)) == set(of_one), wanted
        of_leaves = leaves if wanted is None else AllOf((leaves, wanted))
        assert set(found(ca, of_leaves, EVERY)) == set(of_all), wanted


def test_what_is_revoked_is_found_as_revoked(ca: World) -> None:
    kept, gone = ca.issue("kept.example.internal"), ca.issue("gone.example.internal")
    revocation = NewRevocation(name=CertificateName.parse("name", gone.name))
    ca.core.revocation.revoke(ADMINISTRATOR, revocation, key=None, validate_only=False)
    assert found(ca, InState(CertificateState.REVOKED)) == [gone.name]
    assert found(ca, InState(CertificateState.ISSUED)) == [kept.name]


def test_what_belongs_to_a_managed_certificate_is_found(ca: World) -> None:
    ca.issue("www.example.internal")
    ca.request("web")
    web = ManagedCertificateName("default", "web")
    eventually(lambda: ca.core.managed_certificates.get(ADMINISTRATOR, web).certificate is not None)
    (view,) = ca.core.certificate_searches.search(ADMINISTRATOR, CA, IsManaged(managed=True), PageRequest(10, "")).items
    assert view.managed_certificate_version == f"{web}/versions/1"
    assert view.chain == ()


def test_pages_are_newest_first_and_bound_to_their_search(ca: World) -> None:
    issued = []
    for number in range(5):
        ca.clock.advance(timedelta(seconds=1))
        issued.append(ca.issue(f"host-{number}.example.internal").name)
    wanted = InDomain("example.internal")
    assert found(ca, wanted, size=2) == issued[::-1]
    assert found(ca, Not(InDomain("example.org")), size=2) == issued[::-1]
    token = ca.core.certificate_searches.search(ADMINISTRATOR, CA, wanted, PageRequest(2, "")).next_page_token
    for parent, other in ((CA, None), (CA, InDomain("host-1.example.internal")), (EVERY, wanted)):
        with pytest.raises(CertdError) as refused:
            ca.core.certificate_searches.search(ADMINISTRATOR, parent, other, PageRequest(2, token))
        assert [violation.field for violation in refused.value.violations] == ["page_token"]


def test_searches_are_for_those_who_may_read(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    reader = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/reader", serial="03")
    grant = Grant(grant_id="g", principal=reader.principal, role=Role.ISSUER, scope=str(CA), profiles=None)

    def work(tx: Transaction) -> None:
        grants.insert(tx, grant)
        tx.configuration_changed()

    ca.core.store.write("test.grant", work)
    wanted = named("www.example.internal")
    assert found(ca, wanted, caller=reader) == [issued.name]
    for caller, parent in (
        (reader, EVERY),
        (reader, AuthorityName("default", "other-ca")),
        (STRANGER, CA),
        (STRANGER, AuthorityName("default", "absent")),
    ):
        with pytest.raises(CertdError) as refused:
            found(ca, wanted, parent, caller=caller)
        assert refused.value.reason is Reason.PERMISSION_MISSING
        assert refused.value.metadata["permission"] == "certificate.read"


@pytest.mark.parametrize(
    ("parent", "reason"),
    [
        (AuthorityName("default", "absent"), Reason.AUTHORITY_NOT_FOUND),
        (AuthorityName("absent", "-"), Reason.TENANT_NOT_FOUND),
        (AuthorityName("absent", "ca"), Reason.TENANT_NOT_FOUND),
    ],
)
def test_what_is_not_there_is_named(ca: World, parent: AuthorityName, reason: Reason) -> None:
    with pytest.raises(CertdError) as refused:
        found(ca, None, parent)
    assert refused.value.reason is reason
