"""Profiles of a tenant's own in use: what is issued under them, what keeps them from being deleted, who may."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Caller, Grant, Role
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import AuthorityName, ManagedCertificateName, ProfileName
from certd.pki import distinguished_name
from certd.pki.names import SubjectAlternativeNames
from certd.services.certificates import CertificateView, NewCertificate
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_certificates import NewManagedCertificate
from certd.services.profile_changes import GivenProfile
from certd.services.profiles import ProfileChange
from certd.store import certificates, grants, managed_versions
from certd.store.store import Transaction
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN, World, configuration, csr_for, running_world
from tests.services.profile_books import DAY, GIVEN, WEB, refused
from tests.store.waiting import run_together
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

CA = AuthorityName("default", "ca")
MANAGED = ManagedCertificateName("default", "web")
RESTRICTED = replace(GIVEN, passed_extensions=("1.3.6.1.5.5.7.1.24",))


@pytest.fixture
def ca(world: World) -> World:
    world.create_root()
    world.create_subordinate()
    create(world)
    return world


def create(world: World, name: ProfileName = WEB, given: GivenProfile = GIVEN) -> None:
    world.core.profiles.create(ADMINISTRATOR, name, given, key=None, validate_only=False)


def update(world: World, given: GivenProfile, *changes: str) -> None:
    change = ProfileChange(name=WEB, given=given, fields=frozenset(changes))
    world.core.profiles.update(ADMINISTRATOR, change, key=None, validate_only=False)


def delete(world: World, name: ProfileName = WEB) -> None:
    world.core.profiles.delete(ADMINISTRATOR, name, etag="", key=None, validate_only=False)


def issue(world: World, caller: Caller = ADMINISTRATOR, name: ProfileName = WEB) -> CertificateView:
    new = NewCertificate(authority=CA, csr=csr_for("www.example.internal"), profile=name)
    return world.core.certificates.issue(caller, new, key=None, validate_only=False, timeout=30)


def settled(world: World) -> ManagedCertificateView:
    def look() -> ManagedCertificateView | None:
        view = world.core.managed_certificates.get(ADMINISTRATOR, MANAGED)
        return view if view.state is not ManagedCertificateState.PENDING else None

    return eventually(look)


def test_a_certificate_keeps_the_version_it_was_issued_under(ca: World) -> None:
    first = issue(ca)
    assert first.certificate.not_after - ca.clock.now() < 60 * DAY
    update(ca, GivenProfile(default_lifetime=7 * DAY), "default_lifetime")
    second = issue(ca)
    assert second.certificate.not_after - ca.clock.now() < 7 * DAY
    delete(ca)
    refused(lambda: issue(ca), Reason.PROFILE_NOT_FOUND, "ListProfiles")
    create(ca)
    third = issue(ca)
    with ca.core.store.read("test.rows") as tx:
        rows = [
            certificates.get(tx, view.certificate.authority_uid, view.certificate.serial)
            for view in (first, second, third)
        ]
    assert [(row.profile, row.profile_version) for row in rows if row is not None] == [
        ("web", 1),
        ("web", 2),
        ("web", 3),
    ]
    assert first.profile_name == str(WEB)


def test_a_managed_certificate_is_issued_under_the_newest_version(ca: World) -> None:
    ca.steps.at["managed.3.key-sealed"] = lambda: update(ca, GivenProfile(default_lifetime=7 * DAY), "default_lifetime")
    ca.request(profile=WEB)
    view = settled(ca)
    assert view.state is ManagedCertificateState.ACTIVE
    with ca.core.store.read("test.rows") as tx:
        version = managed_versions.get(tx, view.managed_certificate.uid, 1)
        assert version is not None
        row = certificates.get(tx, version.authority_uid, version.serial or "")
    assert row is not None
    assert row.profile_version == 2
    assert row.not_after - ca.clock.now() < 7 * DAY


def test_no_managed_certificate_becomes_an_authority_because_its_profile_did(ca: World) -> None:
    def restrict() -> None:
        authority = GivenProfile(authority=True)
        update(ca, authority, "authority", "key_usages", "extended_key_usages", "names", "subject")

    ca.steps.at["managed.3.key-sealed"] = restrict
    ca.request(profile=WEB)
    view = settled(ca)
    assert view.state is ManagedCertificateState.FAILED
    (condition,) = view.managed_certificate.conditions
    assert condition.reason == Reason.PROFILE_FORBIDS


@pytest.mark.parametrize("is_before", [True, False])
def test_no_managed_certificate_gets_what_was_restricted_since_its_request(ca: World, *, is_before: bool) -> None:
    """Who asked for a server's certificate does not become an OCSP responder; an operator may ask for one."""

    def restrict() -> None:
        ca.clock.advance(timedelta(seconds=1))
        update(ca, GivenProfile(extended_key_usages=("1.3.6.1.5.5.7.3.9",)), "extended_key_usages")

    if is_before:
        restrict()
    else:
        ca.steps.at["managed.3.key-sealed"] = restrict
    ca.request(profile=WEB)
    view = settled(ca)
    assert view.state is (ManagedCertificateState.ACTIVE if is_before else ManagedCertificateState.FAILED)
    (condition,) = view.managed_certificate.conditions
    assert condition.reason == ("Issued" if is_before else Reason.PROFILE_FORBIDS)


@pytest.mark.parametrize("earlier", [timedelta(0), timedelta(seconds=5)])
def test_nor_when_the_clock_of_who_restricts_is_slow(ca: World, earlier: timedelta) -> None:
    """That of another daemon may be, and two things may be of one moment."""

    def restrict() -> None:
        ca.clock.advance(-earlier)
        update(ca, GivenProfile(extended_key_usages=("1.3.6.1.5.5.7.3.9",)), "extended_key_usages")

    ca.steps.at["managed.3.key-sealed"] = restrict
    ca.request(profile=WEB)
    view = settled(ca)
    assert view.state is ManagedCertificateState.FAILED
    (condition,) = view.managed_certificate.conditions
    assert condition.reason == Reason.PROFILE_FORBIDS


def test_nor_when_it_is_restricted_while_it_is_requested(ca: World) -> None:
    requester, core = grant(ca, "requester", Role.REQUESTER), ca.core
    operator = grant(ca, "operator", Role.REQUESTER, Role.AUTHORITY_OPERATOR)
    new = NewManagedCertificate(
        name=MANAGED,
        authority=CA,
        subject=distinguished_name.EMPTY,
        names=SubjectAlternativeNames(dns_names=("www.example.internal",)),
    )
    now, requests = ca.clock.now(), core.managed_certificates
    declared, _ = requests._rehearse(requester, new, WEB, now)
    update(ca, GivenProfile(extended_key_usages=("1.3.6.1.5.5.7.3.9",)), "extended_key_usages")

    def declare(caller: Caller) -> Callable[[], object]:
        return lambda: core.store.write("test", lambda tx: requests._declare(tx, caller, declared, None, now))

    refused(declare(requester), Reason.PROFILE_FORBIDS, "while this was requested")
    declare(operator)()


def test_a_profile_in_use_is_not_deleted(ca: World) -> None:
    ca.request(profile=WEB)
    settled(ca)
    error = refused(lambda: delete(ca), Reason.PROFILE_IN_USE, "named by the managed certificates web; delete these")
    assert error.metadata == {"managed_certificates": "web"}
    refused(lambda: ca.request("other", profile=ProfileName("default", "none")), Reason.PROFILE_NOT_FOUND, "use one of")


def grant(world: World, name: str, *roles: Role) -> Caller:
    caller = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/{name}", serial="09")

    def work(tx: Transaction) -> None:
        for role in roles:
            held = Grant(
                grant_id=uuid.uuid4().hex, principal=caller.principal, role=role, scope=EVERYTHING, profiles=None
            )
            grants.insert(tx, held)
        tx.configuration_changed()

    world.core.store.write("test.grants", work)
    return caller


@pytest.mark.parametrize(
    "name", [ProfileName("default", "mine"), *(ProfileName("default", each) for each in ("blank", "ocsp-signing"))]
)
def test_what_is_restricted_is_for_those_who_operate_the_authority(ca: World, name: ProfileName) -> None:
    create(ca, ProfileName("default", "mine"), RESTRICTED)
    issuer = grant(ca, "issuer", Role.ISSUER, Role.REQUESTER)
    operator = grant(ca, "operator", Role.ISSUER, Role.REQUESTER, Role.AUTHORITY_OPERATOR)
    assert issue(ca, issuer).profile_name == str(WEB)
    error = refused(lambda: issue(ca, issuer, name), Reason.PERMISSION_MISSING, "lacks authority.create")
    assert error.resource == str(CA)

    def ask(caller: Caller, managed_id: str) -> Callable[[], object]:
        new = NewManagedCertificate(
            name=ManagedCertificateName("default", managed_id),
            authority=CA,
            profile=name,
            subject=distinguished_name.EMPTY,
            names=SubjectAlternativeNames(dns_names=("www.example.internal",)),
        )
        return lambda: ca.core.managed_certificates.request(caller, new, key=None, validate_only=True)

    error = refused(ask(issuer, "one"), Reason.PERMISSION_MISSING, "lacks authority.create")
    assert error.resource == str(CA)
    if name.profile != "ocsp-signing":
        assert issue(ca, operator, name).profile_name == str(name)
        ask(operator, "two")()


def test_a_profile_that_becomes_restricted_is_at_once_out_of_reach(ca: World) -> None:
    issuer = grant(ca, "issuer", Role.ISSUER)
    issue(ca, issuer)
    update(ca, RESTRICTED, "passed_extensions")
    refused(lambda: issue(ca, issuer), Reason.PERMISSION_MISSING, "lacks authority.create")


def race(world: World) -> None:
    """Deletes a profile while a managed certificate is requested under it; one of both is refused, every time."""
    for round_ in range(8):
        name = ProfileName("default", f"round-{round_}")
        create(world, name)

        def attempt(call: Callable[[], object]) -> Reason | None:
            try:
                call()
            except CertdError as error:
                return error.reason
            return None

        deleted, requested = run_together(
            [
                lambda name=name: attempt(lambda: delete(world, name)),  # type: ignore[misc]  # mypy infers no type for a default.
                lambda name=name, round_=round_: attempt(lambda: world.request(f"m{round_}", profile=name)),  # type: ignore[misc]  # As above.
            ]
        )
        assert (deleted, requested) in {(None, Reason.PROFILE_NOT_FOUND), (Reason.PROFILE_IN_USE, None)}


def test_of_a_deletion_and_a_request_one_wins(ca: World) -> None:
    race(ca)


@pytest.fixture
def on_postgresql(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    with running_world(configuration(tmp_path, token_settings, database_url=url), FakeClock()) as world:
        world.create_root()
        world.create_subordinate()
        yield world


def test_of_a_deletion_and_a_request_one_wins_on_postgresql(on_postgresql: World) -> None:
    race(on_postgresql)
