"""Revocation: what follows from it, what is refused, and what a repetition does."""

import hashlib
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import text, update

from certd.clock import rfc3339
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant, Role
from certd.model.authority import AuthorityState
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.event import EventType
from certd.model.names import AuthorityName, CertificateName, ManagedCertificateName, ProfileName
from certd.services.authority_changes import Change
from certd.services.certificates import CertificateView, NewCertificate
from certd.services.idempotency import RequestKey
from certd.services.revocation import NewRevocation
from certd.store import blocked_keys, grants, schema
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN, CrashError, World, crash, csr_for
from tests.services.revocation_books import entries, published, settle
from tests.waiting import eventually

CA = AuthorityName("default", "ca")
SUPERSEDED, COMPROMISE = RevocationReason.SUPERSEDED, RevocationReason.KEY_COMPROMISE


def new_key(content: bytes = b"a") -> RequestKey:
    return RequestKey(str(uuid.uuid4()), content)


def revoke(
    world: World,
    name: str,
    reason: RevocationReason = SUPERSEDED,
    *,
    caller: Caller = ADMINISTRATOR,
    since: datetime | None = None,
    key: RequestKey | None = None,
    validate_only: bool = False,
) -> CertificateView:
    new = NewRevocation(name=CertificateName.parse("name", name), reason=reason, invalidity_time=since)
    return world.core.revocation.revoke(caller, new, key=key, validate_only=validate_only)


def refusal(world: World, name: str, reason: RevocationReason = SUPERSEDED, **options: Any) -> CertdError:
    before = world.events()
    with pytest.raises(CertdError) as refused:
        revoke(world, name, reason, **options)
    assert world.events() == before
    return refused.value


def read(world: World, name: str) -> CertificateView:
    return world.core.certificates.get(ADMINISTRATOR, CertificateName.parse("name", name))


def blocked(world: World, public_key_sha256: bytes, tenant: str | None = "default") -> bool:
    with world.core.store.read("test") as tx:
        return bool(blocked_keys.blocked(tx, [(tenant, public_key_sha256)]))


def grant(world: World, name: str, role: Role, scope: str) -> Caller:
    caller = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/{name}", serial="03")
    held = Grant(grant_id=f"{name}-{role}", principal=caller.principal, role=role, scope=scope, profiles=None)

    def work(tx: Any) -> None:
        grants.insert(tx, held)
        tx.configuration_changed()

    world.core.store.write("test.grant", work)
    return caller


def certificate_of(world: World, authority_id: str, issuer: str) -> str:
    """Returns the name of the certificate of an authority."""
    der = world.core.authorities.get(ADMINISTRATOR, AuthorityName("default", authority_id)).authority.certificate
    assert der is not None
    serial = x509.load_der_x509_certificate(der).serial_number
    return str(CertificateName.parse("name", f"tenants/default/authorities/{issuer}/certificates/{serial:x}"))


def test_a_revocation_is_a_row_and_an_event(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    ca.clock.advance(timedelta(seconds=45))
    before = ca.events()
    view = revoke(ca, issued.name, since=ca.clock.now() - timedelta(seconds=30))
    row = view.certificate
    assert (row.state, row.revoke_time, row.revocation_reason, row.invalidity_time) == (
        CertificateState.REVOKED,
        ca.clock.now(),
        SUPERSEDED,
        ca.clock.now() - timedelta(seconds=30),
    )
    assert (view.der, view.chain, view.warnings) == (issued.der, issued.chain, ())
    assert read(ca, issued.name) == view
    (event,) = ca.events()[len(before) :]
    assert (event.type, event.principal, event.resource, event.tenant, event.time) == (
        EventType.CERTIFICATE_REVOKED,
        ADMINISTRATOR.principal,
        issued.name,
        "default",
        ca.clock.now(),
    )
    assert event.details["reason"] == "SUPERSEDED"
    assert event.details["revoke_time"] == ca.clock.now().isoformat()
    assert event.details["invalidity_time"] == (ca.clock.now() - timedelta(seconds=30)).isoformat()
    assert not blocked(ca, row.public_key_sha256)
    assert ca.steps.seen[-1] == "revoke.1.committed"


@pytest.mark.parametrize("reason", list(RevocationReason))
def test_every_reason_is_kept(ca: World, reason: RevocationReason) -> None:
    issued = ca.issue("www.example.internal")
    assert revoke(ca, issued.name, reason).certificate.revocation_reason is reason
    assert read(ca, issued.name).certificate.revocation_reason is reason


def test_a_second_revocation_is_refused_and_told_of_the_first(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    first = revoke(ca, issued.name)
    ca.clock.advance(timedelta(hours=1))
    for reason in set(RevocationReason) - {COMPROMISE}:
        error = refusal(ca, issued.name, reason)
        assert error.reason is Reason.ALREADY_REVOKED
        assert first.certificate.revoke_time is not None
        assert error.metadata == {"revoke_time": rfc3339(first.certificate.revoke_time), "reason": "SUPERSEDED"}
        assert error.resource == issued.name
        assert "KEY_COMPROMISE" in error.message
    assert read(ca, issued.name) == first


def test_an_upgrade_keeps_the_time_and_blocks_the_key(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    first = revoke(ca, issued.name)
    ca.clock.advance(timedelta(hours=1))
    upgraded = revoke(ca, issued.name, COMPROMISE).certificate
    assert (upgraded.revocation_reason, upgraded.revoke_time) == (COMPROMISE, first.certificate.revoke_time)
    assert read(ca, issued.name).certificate == upgraded
    assert blocked(ca, upgraded.public_key_sha256)
    event = ca.events()[-1]
    assert (event.details["reason"], event.details["reason_before"]) == ("KEY_COMPROMISE", "SUPERSEDED")
    error = refusal(ca, issued.name, COMPROMISE)
    assert (error.reason, error.metadata["reason"]) == (Reason.ALREADY_REVOKED, "KEY_COMPROMISE")


def test_an_upgrade_moves_the_time_back_to_the_invalidity_and_never_forward(ca: World) -> None:
    earlier, later = ca.issue("a.example.internal"), ca.issue("b.example.internal")
    ca.clock.advance(timedelta(days=1))
    since = ca.clock.now() - timedelta(hours=5)
    first = revoke(ca, earlier.name).certificate
    revoke(ca, later.name, since=since)
    ca.clock.advance(timedelta(hours=1))
    moved = revoke(ca, earlier.name, COMPROMISE, since=since).certificate
    assert (moved.revoke_time, moved.invalidity_time) == (since, since)
    assert first.revoke_time is not None
    # What was said of it before and was earlier still holds.
    kept = revoke(ca, later.name, COMPROMISE, since=ca.clock.now()).certificate
    assert (kept.revoke_time, kept.invalidity_time) == (since, since)


def test_an_invalidity_lies_in_the_past(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    error = refusal(ca, issued.name, since=ca.clock.now() + timedelta(seconds=1))
    assert error.reason is Reason.FIELD_INVALID
    assert [one.field for one in error.violations] == ["invalidity_time"]
    assert "future" in error.violations[0].description
    assert revoke(ca, issued.name, since=ca.clock.now()).certificate.invalidity_time == ca.clock.now()


def test_an_invalidity_before_the_certificate_is_cut_and_told(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    began = issued.certificate.not_before
    view = revoke(ca, issued.name, COMPROMISE, since=began - timedelta(days=30))
    assert view.certificate.invalidity_time == began
    (warning,) = view.warnings
    assert warning.field == "invalidity_time"
    assert rfc3339(began) in warning.message


def test_a_compromised_key_is_blocked_for_the_tenant_alone(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    sha256 = revoke(ca, issued.name, COMPROMISE).certificate.public_key_sha256
    assert blocked(ca, sha256)
    assert not blocked(ca, sha256, tenant="other")
    assert not blocked(ca, sha256, tenant=None)


def test_a_blocked_key_is_never_certified_again(ca: World) -> None:
    csr = csr_for("www.example.internal")
    revoke(ca, ca.issue(csr=csr).name, COMPROMISE)
    with pytest.raises(CertdError) as refused:
        ca.issue(csr=csr)
    assert refused.value.reason is Reason.KEY_TOO_WEAK


def test_a_key_that_is_blocked_while_the_token_signs_gets_no_certificate(ca: World) -> None:
    csr = csr_for("www.example.internal")
    name = ca.issue(csr=csr).name
    settle(ca)
    # What the token has signed by then is nobody's: lost, and revoked on the next CRL as the other one.
    ca.steps.at["issue.4.signed"] = lambda: revoke(ca, name, COMPROMISE)
    with pytest.raises(CertdError) as refused:
        ca.issue(csr=csr)
    assert refused.value.reason is Reason.KEY_TOO_WEAK
    with ca.core.store.read("test") as tx:
        (lost,) = tx.execute(text("SELECT serial FROM certificates WHERE state = 'LOST'")).scalars()
    settle(ca)
    assert {serial: entry.reason for serial, entry in entries(published(ca)).items()} == {
        name.rpartition("/")[2]: COMPROMISE.value,
        lost: None,
    }


def test_an_expired_certificate_may_be_revoked(ca: World) -> None:
    issued = ca.issue("www.example.internal", lifetime=timedelta(days=1))
    ca.clock.advance(timedelta(days=2))
    assert revoke(ca, issued.name).certificate.state is CertificateState.REVOKED


def test_a_lost_certificate_counts_as_revoked(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    lost = update(schema.certificates).where(schema.certificates.c.serial == issued.certificate.serial)
    ca.core.store.write("test.lose", lambda tx: tx.execute(lost.values(state="LOST", der=None, revoke_time=1)))
    error = refusal(ca, issued.name, COMPROMISE)
    assert (error.reason, error.metadata["state"], error.resource) == (Reason.STATE_FORBIDS, "LOST", issued.name)
    assert "counts as revoked" in error.message
    assert not blocked(ca, issued.certificate.public_key_sha256)


def test_what_is_not_there_or_pending_is_not_found(ca: World) -> None:
    pending: list[CertdError] = []

    def look() -> None:
        with ca.core.store.read("test") as tx:
            serial = tx.execute(schema.certificates.select().where(schema.certificates.c.state == "PENDING")).one()
        pending.append(refusal(ca, f"{CA}/certificates/{serial.serial}"))

    ca.steps.at["issue.3.intended"] = look
    ca.issue("www.example.internal")
    assert [error.reason for error in pending] == [Reason.CERTIFICATE_NOT_FOUND]
    absent = refusal(ca, f"{CA}/certificates/ab")
    assert (absent.reason, absent.resource) == (Reason.CERTIFICATE_NOT_FOUND, f"{CA}/certificates/ab")
    error = refusal(ca, "tenants/default/authorities/absent/certificates/ab")
    assert error.reason is Reason.AUTHORITY_NOT_FOUND


def test_a_root_does_not_revoke_itself(ca: World) -> None:
    name = certificate_of(ca, "root", "root")
    error = refusal(ca, name, COMPROMISE)
    assert (error.reason, error.resource) == (Reason.STATE_FORBIDS, name)
    assert "trust store" in error.message
    assert "disable tenants/default/authorities/root" in error.message


def test_revoking_the_certificate_of_an_authority_disables_it(ca: World) -> None:
    ca.issue("www.example.internal")
    name = certificate_of(ca, "ca", "root")
    before = ca.events()
    view = revoke(ca, name, RevocationReason.CA_COMPROMISE)
    assert view.certificate.state is CertificateState.REVOKED
    authority = ca.core.authorities.get(ADMINISTRATOR, CA)
    assert authority.state is AuthorityState.DISABLED
    revoked, disabled = ca.events()[len(before) :]
    assert (revoked.type, revoked.resource) == (EventType.CERTIFICATE_REVOKED, name)
    assert (disabled.type, disabled.resource, disabled.details) == (
        EventType.AUTHORITY_DISABLED,
        str(CA),
        {"revoked_certificate": name},
    )
    # Its key, and not that of its issuer.
    assert blocked(ca, view.certificate.public_key_sha256)
    with pytest.raises(CertdError) as refused:
        ca.issue("other.example.internal")
    assert refused.value.reason is Reason.AUTHORITY_NOT_ENABLED


def test_an_authority_whose_certificate_is_revoked_stays_disabled(ca: World) -> None:
    revoke(ca, certificate_of(ca, "ca", "root"))
    for validate_only in (True, False):
        with pytest.raises(CertdError) as refused:
            ca.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA, validate_only=validate_only))
        assert refused.value.reason is Reason.STATE_FORBIDS
        assert "is revoked" in refused.value.message
    assert ca.core.authorities.get(ADMINISTRATOR, CA).authority.state is AuthorityState.DISABLED


def test_a_disabled_authority_revokes_what_it_issued(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    revoke(ca, certificate_of(ca, "ca", "root"))
    assert revoke(ca, issued.name).certificate.state is CertificateState.REVOKED


def test_a_leaf_revoked_because_of_its_authority_does_not_block_its_own_key(ca: World) -> None:
    view = revoke(ca, ca.issue("www.example.internal").name, RevocationReason.CA_COMPROMISE)
    assert not blocked(ca, view.certificate.public_key_sha256)


def test_nobody_revokes_without_the_permission(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    issuer = grant(ca, "issuer", Role.ISSUER, "*")
    for caller, name in ((STRANGER, issued.name), (issuer, issued.name), (issuer, f"{CA}/certificates/ab")):
        error = refusal(ca, name, caller=caller)
        assert (error.reason, error.metadata["permission"]) == (Reason.PERMISSION_MISSING, "certificate.revoke")
    assert read(ca, issued.name).certificate.state is CertificateState.ISSUED
    operator = grant(ca, "operator", Role.AUTHORITY_OPERATOR, str(CA))
    assert revoke(ca, issued.name, caller=operator).certificate.state is CertificateState.REVOKED


def test_the_certificate_of_an_authority_needs_the_permission_on_the_one_that_issued_it(ca: World) -> None:
    name = certificate_of(ca, "ca", "root")
    alone = grant(ca, "alone", Role.AUTHORITY_OPERATOR, name)
    error = refusal(ca, name, caller=alone)
    assert (error.reason, error.metadata["permission"]) == (Reason.PERMISSION_MISSING, "authority.enable")
    assert error.resource == "tenants/default/authorities/root"
    operator = grant(ca, "operator", Role.AUTHORITY_OPERATOR, "tenants/default/authorities/root")
    assert revoke(ca, name, caller=operator).certificate.state is CertificateState.REVOKED


def test_validate_only_checks_everything_and_changes_nothing(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    before = ca.events()
    key = new_key()
    view = revoke(ca, issued.name, COMPROMISE, key=key, validate_only=True)
    assert (view.name, view.certificate.state) == (issued.name, CertificateState.REVOKED)
    assert view.certificate.revoke_time == ca.clock.now()
    assert read(ca, issued.name).certificate.state is CertificateState.ISSUED
    assert (ca.events(), blocked(ca, view.certificate.public_key_sha256)) == (before, False)
    revoke(ca, issued.name, key=key)
    assert refusal(ca, issued.name, validate_only=True).reason is Reason.ALREADY_REVOKED
    root = certificate_of(ca, "root", "root")
    assert refusal(ca, root, validate_only=True).reason is Reason.STATE_FORBIDS


def test_a_repeated_request_revokes_once(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    key = new_key()
    first = revoke(ca, issued.name, key=key)
    before = ca.events()
    ca.clock.advance(timedelta(minutes=1))
    assert revoke(ca, issued.name, key=key) == first
    assert ca.events() == before
    error = refusal(ca, issued.name, COMPROMISE, key=RequestKey(key.request_id, b"another"))
    assert (error.reason, error.metadata["request_id"]) == (Reason.REQUEST_ID_REUSED, key.request_id)
    assert refusal(ca, issued.name, key=key, caller=STRANGER).reason is Reason.PERMISSION_MISSING


def test_of_revocations_at_once_one_succeeds(ca: World) -> None:
    issued = ca.issue("www.example.internal")

    def attempt(_number: int) -> Reason | None:
        try:
            revoke(ca, issued.name)
        except CertdError as error:
            return error.reason
        return None

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(8)))
    assert sorted(outcomes, key=str) == [Reason.ALREADY_REVOKED] * 7 + [None]
    assert [event.type for event in ca.events()].count(EventType.CERTIFICATE_REVOKED) == 1


def test_a_refused_request_is_not_remembered(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    revoke(ca, issued.name)
    key = new_key()
    assert refusal(ca, issued.name, key=key).reason is Reason.ALREADY_REVOKED
    assert refusal(ca, issued.name, key=key).reason is Reason.ALREADY_REVOKED


def test_what_dies_after_the_commit_is_found_by_the_same_request(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    key = new_key()
    ca.steps.at["revoke.1.committed"] = crash
    with pytest.raises(CrashError):
        revoke(ca, issued.name, COMPROMISE, key=key)
    before = ca.events()
    view = revoke(ca, issued.name, COMPROMISE, key=key)
    assert view.certificate.revocation_reason is COMPROMISE
    assert ca.events() == before


def test_a_managed_certificate_that_goes_on_with_it_is_named(ca: World) -> None:
    ca.request("web")
    web = ManagedCertificateName("default", "web")
    eventually(lambda: ca.core.managed_certificates.get(ADMINISTRATOR, web).certificate is not None)
    managed = ca.core.managed_certificates.get(ADMINISTRATOR, web)
    leaf = x509.load_der_x509_certificate(managed.certificate or b"")
    view = revoke(ca, f"{CA}/certificates/{leaf.serial_number:x}")
    assert view.managed_certificate_version == f"{web}/versions/1"
    (warning,) = view.warnings
    assert view.managed_certificate_version in warning.message


def test_an_authority_outside_is_revoked_like_one_of_ours(ca: World) -> None:
    """Of a certificate from a CSR: there is no authority to disable, and the permission is the same."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Outside CA")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())

    new = NewCertificate(
        authority=AuthorityName("default", "root"),
        csr=csr.public_bytes(Encoding.DER),
        profile=ProfileName("default", "subordinate-ca"),
    )
    issued = ca.core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=30)
    before = ca.events()
    view = revoke(ca, issued.name, RevocationReason.CA_COMPROMISE)
    assert len(ca.events()) == len(before) + 1
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert view.certificate.public_key_sha256 == hashlib.sha256(spki).digest()
    assert blocked(ca, view.certificate.public_key_sha256)
