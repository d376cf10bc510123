"""Two tenants with the same ids in them: what one has, the other neither sees nor uses, and no error tells of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import update

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant, Role
from certd.model.authority import AuthorityType
from certd.model.certificate import RevocationReason
from certd.model.certificate_filter import HasName
from certd.model.event import EventType
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import (
    AuthorityName,
    CertificateName,
    GrantName,
    IdentityName,
    ManagedCertificateName,
    ProfileName,
    RenewalCampaignName,
    TenantName,
)
from certd.model.tenant import Quotas
from certd.pki import distinguished_name
from certd.pki.names import SubjectAlternativeNames
from certd.services.authority_changes import Change, NewSettings
from certd.services.authority_deletion import Deletion
from certd.services.authority_plan import NewAuthority
from certd.services.authority_reissue import Reissue
from certd.services.certificates import CertificateView, NewCertificate
from certd.services.grants import GivenGrant
from certd.services.managed_certificate_changes import LABELS, ManagedCertificateChange
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_certificates import NewManagedCertificate
from certd.services.managed_export import PassphraseExport
from certd.services.managed_revocation import NewManagedRevocation
from certd.services.paging import Page, PageRequest
from certd.services.profile_check import RequestToCheck
from certd.services.profiles import ProfileChange
from certd.services.renewal_campaigns import NewRenewalCampaign
from certd.services.revocation import NewRevocation
from certd.services.tenants import GivenTenant, TenantChange
from certd.store import grants, managed_schema, sealed_keys, wrapping_keys
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN, World, csr_for
from tests.services.profile_books import GIVEN as PROFILE
from tests.waiting import eventually

MINE, THEIRS, NONE = "default", "other", "none-such"
INSIDER = Caller(principal=f"spiffe://{TRUST_DOMAIN}/tenants/{MINE}/identities/insider", serial="05")
"""Has every role on one tenant."""
FIRST = PageRequest(100, "")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Names that a call is made with: of things that exist, or not."""

    tenant: str
    suffix: str = ""
    """Added to every id; with one, nothing is there."""
    serial: str

    @property
    def authority(self) -> AuthorityName:
        return AuthorityName(self.tenant, f"ca{self.suffix}")

    @property
    def profile(self) -> ProfileName:
        return ProfileName(self.tenant, f"own{self.suffix}")

    @property
    def managed(self) -> ManagedCertificateName:
        return ManagedCertificateName(self.tenant, f"web{self.suffix}")

    @property
    def campaign(self) -> RenewalCampaignName:
        return RenewalCampaignName(self.tenant, f"leak{self.suffix}")

    @property
    def certificate(self) -> CertificateName:
        return CertificateName(self.tenant, self.authority.authority, self.serial)


@dataclass(frozen=True, kw_only=True)
class Tenancy:
    """A world with two tenants that have one of everything each, under the same ids."""

    world: World
    issued: Mapping[str, CertificateView]
    managed: Mapping[str, ManagedCertificateView]

    def place(self, tenant: str, suffix: str = "") -> Place:
        serial = "01" if suffix or tenant == NONE else self.issued[tenant].certificate.serial
        return Place(tenant=tenant, suffix=suffix, serial=serial)


@pytest.fixture
def tenancy(world: World) -> Tenancy:
    core = world.core
    core.tenants.create(ADMINISTRATOR, THEIRS, GivenTenant(), key=None, validate_only=False)
    for role in Role:
        grant = Grant(
            grant_id=f"insider-{role}",
            tenant=MINE,
            principal=INSIDER.principal,
            role=role,
            scope=f"tenants/{MINE}",
            profiles=None,
        )
        core.store.write("test.grant", lambda tx, grant=grant: grants.insert(tx, grant))  # type: ignore[misc]  # mypy infers no type for a default.
    issued, managed = {}, {}
    for tenant in (MINE, THEIRS):
        world.create_root(name=AuthorityName(tenant, "root"))
        world.create_root(
            name=AuthorityName(tenant, "ca"),
            type=AuthorityType.SUBORDINATE,
            subject=distinguished_name.parse_text("CN=Issuing"),
            issuer=AuthorityName(tenant, "root"),
        )
        core.profiles.create(ADMINISTRATOR, ProfileName(tenant, "own"), PROFILE, key=None, validate_only=False)
        new = NewCertificate(authority=AuthorityName(tenant, "ca"), csr=csr_for(f"{tenant}.example.internal"))
        issued[tenant] = core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=30)
        name = ManagedCertificateName(tenant, "web")
        world.request(name=name, authority=AuthorityName(tenant, "ca"))
        campaign = NewRenewalCampaign(
            name=RenewalCampaignName(tenant, "leak"), filter=ManagedCertificateFilter(domain="nowhere.internal")
        )
        core.renewal_campaigns.create(ADMINISTRATOR, campaign, key=None, validate_only=False)
        managed[tenant] = eventually(lambda name=name: _active(world, name))  # type: ignore[misc]  # As above.
    return Tenancy(world=world, issued=issued, managed=managed)


def _active(world: World, name: ManagedCertificateName) -> ManagedCertificateView | None:
    view = world.core.managed_certificates.get(ADMINISTRATOR, name)
    return view if view.state is ManagedCertificateState.ACTIVE else None


def calls_on(world: World, caller: Caller, at: Place) -> dict[str, Callable[[], Any]]:
    """Returns a call of every use case that is about one tenant, on the names of a place."""
    core, tenant = world.core, TenantName(at.tenant)
    every = AuthorityName(at.tenant, "-")
    change = Change(name=at.authority, etag="", key=None, validate_only=True)
    passphrase = PassphraseExport(b"correct horse battery")
    renamed = TenantChange(name=tenant, given=GivenTenant(display_name="x"), fields=frozenset({"display_name"}))
    made: dict[str, Any] = {"key": None, "validate_only": True}
    return {
        "authorities.get": lambda: core.authorities.get(caller, at.authority),
        "authorities.page": lambda: core.authorities.page(caller, tenant, FIRST),
        "authorities.create": lambda: core.authorities.create(caller, _root(at), **made),
        "authorities.csr": lambda: core.authority_activation.csr(caller, at.authority),
        "authorities.update": lambda: core.authority_changes.update(caller, change, NewSettings(labels={})),
        "authorities.enable": lambda: core.authority_changes.enable(caller, change),
        "authorities.disable": lambda: core.authority_changes.disable(caller, change),
        "authorities.reissue": lambda: core.authority_life.reissue.reissue(caller, change, Reissue()),
        "authorities.delete": lambda: core.authority_life.deletion.delete(caller, change, Deletion()),
        "authorities.undelete": lambda: core.authority_life.deletion.undelete(caller, change),
        "certificates.get": lambda: core.certificates.get(caller, at.certificate),
        "certificates.page": lambda: core.certificates.page(caller, at.authority, FIRST),
        "certificates.page of all": lambda: core.certificates.page(caller, every, FIRST),
        "certificates.search": lambda: core.certificate_searches.search(caller, at.authority, None, FIRST),
        "certificates.search of all": lambda: core.certificate_searches.search(caller, every, None, FIRST),
        "certificates.issue": lambda: _issue(world, caller, authority=at.authority),
        "certificates.revoke": lambda: core.revocation.revoke(caller, NewRevocation(name=at.certificate), **made),
        "profiles.create": lambda: core.profiles.create(caller, ProfileName(at.tenant, "new"), PROFILE, **made),
        "profiles.get": lambda: core.profiles.get(caller, at.profile),
        "profiles.page": lambda: core.profiles.page(caller, tenant, FIRST),
        "profiles.update": lambda: core.profiles.update(caller, ProfileChange(name=at.profile, given=PROFILE), **made),
        "profiles.delete": lambda: core.profiles.delete(caller, at.profile, etag="", **made),
        "profiles.check": lambda: core.profile_checks.check(caller, RequestToCheck(name=at.profile, csr=csr_for("a"))),
        "managed.get": lambda: core.managed_certificates.get(caller, at.managed),
        "managed.page": lambda: core.managed_certificates.page(caller, tenant, FIRST),
        "managed.request": lambda: _request(world, caller, at.managed, at.authority),
        "managed.export": lambda: core.managed_export.export(
            caller, at.managed, version=None, protection=passphrase, reason=""
        ),
        "managed.update": lambda: core.managed_certificate_changes.update(
            caller, ManagedCertificateChange(name=at.managed, fields=frozenset({LABELS}), labels={"a": "b"}), **made
        ),
        "managed.renew": lambda: core.managed_certificate_changes.renew(caller, at.managed, reason="", key=None),
        "managed.delete": lambda: core.managed_certificate_changes.delete(caller, at.managed, etag="", **made),
        "managed.versions, a page": lambda: core.managed_certificate_changes.versions(caller, at.managed, FIRST),
        # A version that nobody has: what is revoked is of no use to the other calls.
        "managed.revoke": lambda: core.managed_revocation.revoke(
            caller,
            NewManagedRevocation(name=at.managed, version=1_000_000, reason=RevocationReason.SUPERSEDED),
            key=None,
        ),
        "campaigns.create": lambda: core.renewal_campaigns.create(
            caller, NewRenewalCampaign(name=at.campaign, filter=ManagedCertificateFilter()), **made
        ),
        "campaigns.get": lambda: core.renewal_campaigns.get(caller, at.campaign),
        "campaigns.cancel": lambda: core.renewal_campaigns.cancel(caller, at.campaign),
        "campaigns.page": lambda: core.renewal_campaigns.page(caller, tenant, FIRST),
        "server.trust-bundle": lambda: core.server.trust_bundle(caller, tenant),
        "tenants.get": lambda: core.tenants.get(caller, tenant),
        "tenants.update": lambda: core.tenants.update(caller, renamed, **made),
        "grants.get": lambda: core.grants.get(caller, GrantName(at.tenant, f"insider-auditor{at.suffix}")),
        "grants.page": lambda: core.grants.page(caller, tenant, FIRST),
        "identities.get": lambda: core.identity_changes.get(caller, IdentityName(at.tenant, f"i{at.suffix}")),
        "identities.page": lambda: core.identity_changes.page(caller, tenant, FIRST),
    }


def _root(at: Place) -> NewAuthority:
    return NewAuthority(
        name=AuthorityName(at.tenant, "fresh"),
        type=AuthorityType.ROOT,
        subject=distinguished_name.parse_text("CN=Fresh"),
    )


def _issue(world: World, caller: Caller, **changes: Any) -> CertificateView:
    wanted: dict[str, Any] = {"authority": AuthorityName(MINE, "ca"), "csr": csr_for("www.example.internal")}
    new = NewCertificate(**(wanted | changes))
    return world.core.certificates.issue(caller, new, key=None, validate_only=True, timeout=30)


def _request(
    world: World,
    caller: Caller,
    name: ManagedCertificateName,
    authority: AuthorityName,
    profile: ProfileName | None = None,
) -> ManagedCertificateView:
    new = NewManagedCertificate(
        name=name,
        authority=authority,
        profile=profile,
        subject=distinguished_name.EMPTY,
        names=SubjectAlternativeNames(dns_names=("www.example.internal",)),
    )
    return world.core.managed_certificates.request(caller, new, key=None, validate_only=True)


def told(call: Callable[[], Any], at: Place) -> tuple[Reason, str, str | None, dict[str, str]]:
    """Returns what a refusal says, with names that any place could have."""
    with pytest.raises(CertdError) as refused:
        call()
    error = refused.value

    def bare(text: str) -> str:
        return text.replace(f"tenants/{at.tenant}", "tenants/T").replace(at.suffix or "\0", "").replace(at.serial, "S")

    resource = None if error.resource is None else bare(error.resource)
    return error.reason, bare(error.message), resource, {key: bare(value) for key, value in error.metadata.items()}


def test_every_call_on_another_tenant_is_refused_alike_whether_it_exists_or_not(tenancy: Tenancy) -> None:
    places = [tenancy.place(THEIRS), tenancy.place(THEIRS, "-absent"), tenancy.place(NONE)]
    refusals = [{name: told(call, at) for name, call in calls_on(tenancy.world, INSIDER, at).items()} for at in places]
    assert refusals[0] == refusals[1] == refusals[2]
    assert {refusal[0] for refusal in refusals[0].values()} == {Reason.PERMISSION_MISSING}


def test_nothing_of_another_tenant_is_in_any_answer(tenancy: Tenancy) -> None:
    answered, refused = set(), set()
    for name, call in calls_on(tenancy.world, INSIDER, tenancy.place(MINE)).items():
        try:
            answer = repr(call())
        except CertdError as error:
            refused.add(error.reason)
            continue
        answered.add(name)
        assert "tenants/other" not in answer, name
        assert "'other'" not in answer, name
        assert "other.example.internal" not in answer, name
    assert {name for name in calls_on(tenancy.world, INSIDER, tenancy.place(MINE)) if "page" in name} <= answered
    assert {"certificates.search", "certificates.search of all", "server.trust-bundle", "managed.export"} <= answered
    assert Reason.PERMISSION_MISSING not in refused
    page = tenancy.world.core.tenants.page(INSIDER, FIRST)
    assert [one.tenant_id for one in page.items] == [MINE]


def test_what_is_searched_for_is_found_in_its_own_tenant_alone(tenancy: Tenancy) -> None:
    search = tenancy.world.core.certificate_searches.search
    for tenant in (MINE, THEIRS):
        for dns_name_of in (MINE, THEIRS):
            wanted = HasName(SubjectAlternativeNames(dns_names=(f"{dns_name_of}.example.internal",)))
            found = search(ADMINISTRATOR, AuthorityName(tenant, "-"), wanted, FIRST).items
            assert [view.name for view in found] == ([tenancy.issued[tenant].name] if tenant == dns_name_of else [])


def test_a_page_token_of_one_tenant_is_none_of_another(tenancy: Tenancy) -> None:
    core, one = tenancy.world.core, PageRequest(1, "")
    lists: list[Callable[[str, PageRequest], Page[Any]]] = [
        lambda tenant, request: core.authorities.page(ADMINISTRATOR, TenantName(tenant), request),
        lambda tenant, request: core.profiles.page(ADMINISTRATOR, TenantName(tenant), request),
        lambda tenant, request: core.certificates.page(ADMINISTRATOR, AuthorityName(tenant, "-"), request),
    ]
    for listed in lists:
        token = listed(MINE, one).next_page_token
        assert token
        with pytest.raises(CertdError, match="another query"):
            listed(THEIRS, PageRequest(1, token))


def fields_with(world: World, caller: Caller, at: Place) -> dict[str, Callable[[], Any]]:
    """Returns calls within one tenant that name things of another place in their fields."""
    core = world.core
    mine = TenantName(MINE)
    managed = ManagedCertificateName(MINE, "new")
    own_authority = AuthorityName(MINE, "ca")
    check = RequestToCheck(name=ProfileName(MINE, "own"), csr=csr_for("a.example"), authority=at.authority)
    return {
        "issuer": lambda: core.authorities.create(
            caller,
            NewAuthority(
                name=AuthorityName(MINE, "new"),
                type=AuthorityType.SUBORDINATE,
                subject=distinguished_name.parse_text("CN=New"),
                issuer=at.authority,
            ),
            key=None,
            validate_only=True,
        ),
        "profile of a certificate": lambda: _issue(world, caller, profile=at.profile),
        "authority of a managed certificate": lambda: _request(world, caller, managed, at.authority),
        "profile of a managed certificate": lambda: _request(world, caller, managed, own_authority, at.profile),
        "authority of a check": lambda: core.profile_checks.check(caller, check),
        "scope of a grant": lambda: core.grants.create(
            caller,
            GrantName(mine.tenant, "new"),
            GivenGrant(principal=INSIDER.principal, role=Role.AUDITOR, scope=str(at.authority), profiles=None),
            key=None,
            validate_only=True,
        ),
    }


@pytest.mark.parametrize("caller", [INSIDER, ADMINISTRATOR], ids=["insider", "administrator"])
def test_what_another_tenant_has_is_used_by_nobody(tenancy: Tenancy, caller: Caller) -> None:
    places = [tenancy.place(THEIRS), tenancy.place(THEIRS, "-absent"), tenancy.place(NONE)]
    refusals = [
        {name: told(call, at) for name, call in fields_with(tenancy.world, caller, at).items()} for at in places
    ]
    assert refusals[0] == refusals[1] == refusals[2]
    # The same calls with names of the own tenant pass.
    own = fields_with(tenancy.world, caller, tenancy.place(MINE))
    for name in set(own) - {"issuer"}:
        own[name]()


def test_wrapping_keys_are_apart(tenancy: Tenancy) -> None:
    core = tenancy.world.core
    with core.store.read("test") as tx:
        mine, theirs = (wrapping_keys.primary(tx, tenant) for tenant in (MINE, THEIRS))
        assert mine is not None
        assert theirs is not None
        assert mine.key_id != theirs.key_id
        foreign = sealed_keys.get(tx, tenancy.managed[THEIRS].managed_certificate.uid, 1)
    keys = managed_schema.sealed_keys
    uid = tenancy.managed[MINE].managed_certificate.uid
    moved = update(keys).where(keys.c.managed_certificate_uid == uid).values(blob=foreign)
    core.store.write("test.move", lambda tx: tx.execute(moved).rowcount)
    with pytest.raises(CertdError, match="sealed for another tenant"):
        calls_on(tenancy.world, INSIDER, tenancy.place(MINE))["managed.export"]()


def test_events_are_of_their_tenant(tenancy: Tenancy) -> None:
    events = tenancy.world.events()
    assert {event.tenant for event in events if event.resource.startswith(f"tenants/{THEIRS}")} == {THEIRS}
    assert not [event for event in events if event.tenant == THEIRS and MINE in event.resource]
    made = [event.resource for event in events if event.type is EventType.TENANT_CREATED]
    assert made == [f"tenants/{MINE}", f"tenants/{THEIRS}"]


def test_the_quota_of_one_tenant_is_none_of_another(tenancy: Tenancy) -> None:
    world, core = tenancy.world, tenancy.world.core
    quotas = GivenTenant(quotas=Quotas(authorities=2, managed_certificates=1))
    change = TenantChange(name=TenantName(MINE), given=quotas, fields=frozenset({"quotas"}))
    core.tenants.update(ADMINISTRATOR, change, key=None, validate_only=False)
    more: list[Callable[[str], Any]] = [
        lambda tenant: world.create_root(name=AuthorityName(tenant, "third")),
        lambda tenant: world.request(
            name=ManagedCertificateName(tenant, "second"), authority=AuthorityName(tenant, "ca")
        ),
    ]
    for make in more:
        with pytest.raises(CertdError) as refused:
            make(MINE)
        assert (refused.value.reason, refused.value.resource) == (Reason.QUOTA_EXCEEDED, f"tenants/{MINE}")
        make(THEIRS)
    with pytest.raises(CertdError, match="as many as it may have"):
        calls_on(world, INSIDER, tenancy.place(MINE))["authorities.create"]()
