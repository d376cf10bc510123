"""Identities renew themselves, and are revoked with all they have."""

import uuid
from datetime import timedelta

import pytest
from cryptography import x509

from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Caller, Grant, Role
from certd.model.certificate import CertificateState
from certd.model.event import EventType
from certd.model.identity import IdentityState, spiffe_id_of
from certd.model.names import IdentityName, TenantName
from certd.pki.credential_request import new_credential_request
from certd.pki.names import SubjectAlternativeNames
from certd.services import identity_changes
from certd.services.enrollment import NewCode
from certd.services.idempotency import RequestKey
from certd.services.identities import IdentityCredential
from certd.services.paging import PageRequest
from certd.store import certificates, enrollment_codes, grants, identities
from certd.store.enrollment_codes import EnrollmentCodeRow
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN, World

WEB = IdentityName("default", "web")


def enrolled(world: World, name: IdentityName = WEB) -> tuple[Caller, bytes]:
    """Makes an identity with a certificate; returns it as a caller, and the certificate."""
    spiffe_id = spiffe_id_of(name, TRUST_DOMAIN)
    core = world.core
    core.store.write("test", lambda tx: identities.ensure(tx, name, spiffe_id, IdentityState.ACTIVE, world.clock.now()))
    certificate = core.identities.ensure_identity(spiffe_id, new_credential_request().csr).certificate
    return core.access.authenticate(certificate), certificate


def renew(world: World, caller: Caller, csr: bytes | None = None) -> IdentityCredential:
    world.clock.advance(timedelta(minutes=1))
    return world.core.identity_changes.renew(caller, csr or new_credential_request().csr, timeout=30)


def refusal(world: World, caller: Caller, csr: bytes | None = None) -> CertdError:
    with pytest.raises(CertdError) as caught:
        renew(world, caller, csr)
    return caught.value


def test_an_identity_renews_with_a_new_key_and_both_certificates_are_good(world: World) -> None:
    caller, old = enrolled(world)
    renewed = renew(world, caller)
    core = world.core
    again = core.access.authenticate(renewed.certificate)
    assert again.principal == caller.principal
    assert core.access.authenticate(old) == caller
    assert [one.serial for one in renewed.view.certificates] == [again.serial, caller.serial]
    root = core.system_authority.get().certificate
    assert renewed.system_roots == (root,)
    parsed = x509.load_der_x509_certificate(renewed.certificate)
    left = parsed.not_valid_after_utc - renewed.renew_time
    assert left == (parsed.not_valid_after_utc - parsed.not_valid_before_utc) / 3
    (event,) = [event for event in world.events() if event.type is EventType.IDENTITY_RENEWED]
    assert (event.tenant, event.principal, event.resource) == ("default", caller.principal, str(WEB))
    assert event.details["former_serial"] == caller.serial


def test_the_same_csr_again_returns_the_same_certificate(world: World) -> None:
    caller, _ = enrolled(world)
    csr = new_credential_request().csr
    assert renew(world, caller, csr).certificate == renew(world, caller, csr).certificate


def test_a_key_that_was_certified_before_is_refused(world: World) -> None:
    caller, _ = enrolled(world)
    other, _ = enrolled(world, IdentityName("default", "other"))
    csr = new_credential_request().csr
    own = world.core.access.authenticate(renew(world, other, csr).certificate)
    # Of somebody else; of the certificate that is shown; and of the one before it.
    assert refusal(world, caller, csr).reason is Reason.FIELD_INVALID
    assert refusal(world, own, csr).reason is Reason.FIELD_INVALID
    after = world.core.access.authenticate(renew(world, own).certificate)
    assert refusal(world, after, csr).reason is Reason.FIELD_INVALID


@pytest.mark.parametrize(
    "principal",
    [
        f"spiffe://{TRUST_DOMAIN}/oidc/people/ada",
        f"spiffe://{TRUST_DOMAIN}/identities",
        "spiffe://other.internal/identities/web",
    ],
)
def test_who_has_no_certificate_of_an_identity_renews_nothing(world: World, principal: str) -> None:
    assert refusal(world, Caller(principal=principal, serial="01")).reason is Reason.STATE_FORBIDS
    bearer = Caller(principal=spiffe_id_of(WEB, TRUST_DOMAIN), serial="")
    assert refusal(world, bearer).reason is Reason.STATE_FORBIDS


def test_an_identity_has_so_many_certificates_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_changes, "MOST_LIVE_CERTIFICATES", 2)
    caller, _ = enrolled(world)
    renewed_serial = renew(world, caller).view.certificates[0].serial
    assert refusal(world, caller).reason is Reason.QUOTA_EXCEEDED
    with world.core.store.read("test") as tx:
        uid = world.core.system_authority.uid
        assert len(identities.live_certificates(tx, uid, caller.principal, now=world.clock.now(), limit=9)) == 2
    # Those that have ended do not count.
    world.clock.advance(timedelta(days=30))
    newest = Caller(principal=caller.principal, serial=renewed_serial)
    assert len(renew(world, newest).view.certificates) == 1


def test_a_revoked_identity_is_refused_at_its_next_call_with_every_certificate(world: World) -> None:
    caller, first = enrolled(world)
    second = renew(world, caller).certificate
    _, unharmed = enrolled(world, IdentityName("default", "web2"))
    core, now = world.core, world.clock.now()
    code = EnrollmentCodeRow(
        code_sha256=bytes(32),
        identity=WEB,
        public_key_sha256=None,
        source_networks=(),
        creator="test",
        create_time=now,
        expire_time=now + timedelta(hours=1),
    )
    core.store.write("test", lambda tx: enrollment_codes.insert_code(tx, code))
    view = core.identity_changes.revoke(ADMINISTRATOR, WEB, key=None, validate_only=False)
    assert (view.identity.state, view.certificates) == (IdentityState.REVOKED, ())
    for certificate in (first, second):
        with pytest.raises(CertdError) as caught:
            core.access.authenticate(certificate)
        assert caught.value.reason is Reason.CREDENTIAL_REVOKED
    core.access.authenticate(unharmed)
    with core.store.read("test") as tx:
        assert enrollment_codes.get(tx, bytes(32)) is None
    events = world.events()
    (event,) = [event for event in events if event.type is EventType.IDENTITY_REVOKED]
    assert (event.tenant, event.principal, event.resource) == ("default", ADMINISTRATOR.principal, str(WEB))
    assert (event.details["certificates"], event.details["enrollment_codes"]) == ("2", "1")
    assert len([event for event in events if event.type is EventType.CERTIFICATE_REVOKED]) == 2
    # Nothing is left to do, and nothing is told twice.
    core.identity_changes.revoke(ADMINISTRATOR, WEB, key=None, validate_only=False)
    assert world.events() == events


def test_no_certificate_counts_while_its_identity_is_revoked(world: World) -> None:
    _, certificate = enrolled(world)
    now = world.clock.now()
    world.core.store.write("test", lambda tx: identities.set_state(tx, WEB, IdentityState.REVOKED, now))
    with pytest.raises(CertdError) as caught:
        world.core.access.authenticate(certificate)
    assert caught.value.reason is Reason.CREDENTIAL_REVOKED
    world.core.store.write("test", lambda tx: identities.set_state(tx, WEB, IdentityState.ACTIVE, now))
    world.core.access.authenticate(certificate)


def test_a_repeated_first_start_does_not_let_a_revoked_administrator_in(world: World) -> None:
    now, admin = world.clock.now(), IdentityName(None, "admin")
    world.core.store.write("test", lambda tx: identities.set_state(tx, admin, IdentityState.REVOKED, now))
    with pytest.raises(CertdError) as caught:
        world.core.bootstrap.run(
            trust_domain=TRUST_DOMAIN,
            server_names=SubjectAlternativeNames(dns_names=("localhost",)),
            server_csr=new_credential_request().csr,
            administrator_id="admin",
            administrator_csr=new_credential_request().csr,
        )
    assert (caught.value.reason, "recover-admin" in caught.value.message) == (Reason.STATE_FORBIDS, True)


def test_who_is_revoked_while_renewing_gets_nothing(world: World) -> None:
    caller, _ = enrolled(world)

    def revoke() -> None:
        world.core.identity_changes.revoke(ADMINISTRATOR, WEB, key=None, validate_only=False)

    world.steps.at["issue.4.signed"] = revoke
    assert refusal(world, caller).reason is Reason.STATE_FORBIDS
    with world.core.store.read("test") as tx:
        uid = world.core.system_authority.uid
        assert identities.live_certificates(tx, uid, caller.principal, now=world.clock.now(), limit=9) == []
        row = certificates.get(tx, uid, caller.serial)
    assert row is not None
    assert row.state is CertificateState.REVOKED


def test_what_is_only_checked_changes_nothing_and_a_repeated_request_revokes_once(world: World) -> None:
    _, certificate = enrolled(world)
    changes = world.core.identity_changes
    before = world.events()
    planned = changes.revoke(ADMINISTRATOR, WEB, key=None, validate_only=True)
    assert planned.identity.state is IdentityState.REVOKED
    assert world.events() == before
    world.core.access.authenticate(certificate)
    key = RequestKey(str(uuid.uuid4()), b"a" * 32)
    changes.revoke(ADMINISTRATOR, WEB, key=key, validate_only=False)
    name, now = WEB, world.clock.now()
    world.core.store.write("test", lambda tx: identities.set_state(tx, name, IdentityState.ACTIVE, now))
    again = changes.revoke(ADMINISTRATOR, WEB, key=key, validate_only=False)
    assert again.identity.state is IdentityState.ACTIVE
    with pytest.raises(CertdError) as caught:
        changes.revoke(ADMINISTRATOR, WEB, key=RequestKey(key.request_id, b"b" * 32), validate_only=False)
    assert caught.value.reason is Reason.REQUEST_ID_REUSED


def test_the_last_administrator_is_not_revoked(world: World) -> None:
    changes, admin = world.core.identity_changes, IdentityName(None, "admin")
    for validate_only in (True, False):
        with pytest.raises(CertdError) as caught:
            changes.revoke(ADMINISTRATOR, admin, key=None, validate_only=validate_only)
        assert caught.value.reason is Reason.LAST_ADMINISTRATOR
    second = IdentityName(None, "second")
    caller, _ = enrolled(world, second)
    grant = Grant(
        grant_id="second", principal=caller.principal, role=Role.ADMINISTRATOR, scope=EVERYTHING, profiles=None
    )
    world.core.store.write("test", lambda tx: grants.insert(tx, grant))
    changes.revoke(ADMINISTRATOR, admin, key=None, validate_only=False)
    with pytest.raises(CertdError) as caught:
        changes.revoke(caller, second, key=None, validate_only=False)
    assert caught.value.reason is Reason.LAST_ADMINISTRATOR


def test_identities_are_read_by_those_who_may(world: World) -> None:
    changes = world.core.identity_changes
    for name in ("c", "a", "b"):
        enrolled(world, IdentityName("default", name))
    parent = TenantName("default")
    first = changes.page(ADMINISTRATOR, parent, PageRequest(2, ""))
    second = changes.page(ADMINISTRATOR, parent, PageRequest(2, first.next_page_token))
    assert [view.identity.name.identity for view in (*first.items, *second.items)] == ["a", "b", "c"]
    assert all(len(view.certificates) == 1 for view in first.items)
    (admin,) = changes.page(ADMINISTRATOR, None, PageRequest(9, "")).items
    assert admin.identity.state is IdentityState.ACTIVE
    assert admin == changes.get(ADMINISTRATOR, IdentityName(None, "admin"))
    with pytest.raises(CertdError) as caught:
        changes.get(ADMINISTRATOR, IdentityName("default", "d"))
    assert caught.value.reason is Reason.IDENTITY_NOT_FOUND
    for asked in (
        lambda: changes.get(STRANGER, IdentityName("default", "a")),
        lambda: changes.get(STRANGER, IdentityName("default", "d")),
        lambda: changes.page(STRANGER, None, PageRequest(9, "")),
        lambda: changes.revoke(STRANGER, IdentityName("default", "a"), key=None, validate_only=False),
    ):
        with pytest.raises(CertdError) as caught:
            asked()
        assert caught.value.reason is Reason.PERMISSION_MISSING


def test_who_was_revoked_does_not_renew_after_the_identity_enrolled_anew(world: World) -> None:
    # Their call began before: it was let in, and comes to its turn after both.
    caller, _ = enrolled(world)
    core = world.core
    core.identity_changes.revoke(ADMINISTRATOR, WEB, key=None, validate_only=False)
    code = core.enrollment.create_code(ADMINISTRATOR, NewCode(identity=WEB)).code.text()
    core.enrollment.enroll(code, new_credential_request().csr, address="192.0.2.7")
    assert refusal(world, caller).reason is Reason.CREDENTIAL_REVOKED
    with core.store.read("test") as tx:
        live = core.identities.live(tx, caller.principal, now=world.clock.now(), limit=10)
    assert len(live) == 1
