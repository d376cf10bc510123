"""A new certificate for the key that an authority has, and all that hangs on the one before."""

import subprocess
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from certd.errors import CertdError, Reason
from certd.model.authority import Authority, AuthorityState
from certd.model.certificate import RevocationReason
from certd.model.event import EventType
from certd.model.names import AuthorityName, CertificateName, serial_text
from certd.pki.authority_certificate import standing_of
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.services.certificates import CertificateView
from certd.services.idempotency import RequestKey
from certd.services.revocation import NewRevocation
from tests.outside_parent import pem_of
from tests.services.authority_lives import CA, ROOT, disable, enable, get, reissue, revoke_authority
from tests.services.awaiting import SUB, create_active, create_awaiting
from tests.services.conftest import ADMINISTRATOR, STRANGER, World
from tests.services.revocation_books import entries, published, revoke, settle

DAY, YEAR = timedelta(days=1), timedelta(days=365)
SECOND = timedelta(seconds=1)


def refused(reason: Reason, call: Callable[[], object], *, says: str) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    assert says in caught.value.message, caught.value.message
    return caught.value


def parsed(der: bytes | None) -> x509.Certificate:
    return x509.load_der_x509_certificate(der or b"")


def verify(folder: Path, at: datetime, leaf: CertificateView, chain: tuple[bytes, ...]) -> str:
    """Has openssl verify a leaf under the last certificate of a chain; returns what it complains of."""
    for name, content in (("leaf", [leaf.der or b""]), ("untrusted", chain), ("root", chain[-1:])):
        (folder / f"{name}.pem").write_bytes(pem_of(*content))
    command = ["openssl", "verify", "-x509_strict", "-attime", str(int(at.timestamp())), "-CAfile", "root.pem"]
    run = subprocess.run(
        [*command, "-untrusted", "untrusted.pem", "leaf.pem"], cwd=folder, capture_output=True, text=True, check=False
    )
    return "" if run.returncode == 0 else run.stderr


def is_in_books(world: World, issuer: AuthorityName, der: bytes | None) -> bool:
    name = CertificateName(issuer.tenant, issuer.authority, serial_text(parsed(der).serial_number))
    return world.core.certificates.get(ADMINISTRATOR, name).der == der


def keeps(before: Authority, after: Authority) -> None:
    """What relying parties find the issuer of a certificate by is as it was, byte for byte."""
    old, new = parsed(before.certificate), parsed(after.certificate)
    assert new.serial_number != old.serial_number
    assert new.public_key() == old.public_key()
    assert new.subject.public_bytes() == old.subject.public_bytes() == after.subject
    assert (
        standing_of(after.certificate or b"", ()).subject_key_identifier
        == standing_of(before.certificate or b"", ()).subject_key_identifier
    )
    constraints = [one.extensions.get_extension_for_class(x509.BasicConstraints) for one in (old, new)]
    assert constraints[0] == constraints[1]


@pytest.mark.parametrize("name", [ROOT, CA], ids=["root", "ca"])
def test_what_it_issued_verifies_through_its_new_certificate(ca: World, tmp_path: Path, name: AuthorityName) -> None:
    leaf = ca.issue("www.example.internal")
    before, ca_before = get(ca, name), get(ca)
    ca.clock.advance(30 * DAY)
    view = reissue(ca, name)
    now = ca.clock.now()
    after = view.authority
    keeps(before.authority, after)
    assert view.state is AuthorityState.ENABLED
    assert parsed(after.certificate).not_valid_after_utc == after.not_after
    assert is_in_books(ca, ROOT, after.certificate)
    # The one before is not revoked: chains through it stay valid too.
    assert is_in_books(ca, ROOT, before.authority.certificate)
    for chain in (leaf.chain, ca_before.authority.full_chain, get(ca).authority.full_chain):
        assert verify(tmp_path, now, leaf, chain) == ""
    assert get(ca).authority.full_chain != ca_before.authority.full_chain
    new_leaf = ca.issue("www.example.internal")
    assert new_leaf.chain == get(ca).authority.full_chain
    assert verify(tmp_path, now, new_leaf, new_leaf.chain) == ""
    (event,) = [event for event in ca.events() if event.type is EventType.AUTHORITY_REISSUED]
    assert (event.resource, event.principal) == (str(name), ADMINISTRATOR.principal)
    assert event.details["serial"] == serial_text(parsed(after.certificate).serial_number)


def test_chains_below_follow_all_the_way_down(world: World, tmp_path: Path) -> None:
    world.create_root(path_length=3)
    world.create_subordinate("first", path_length=2)
    world.create_subordinate("second", "first", path_length=1)
    world.create_subordinate("third", "second")
    world.create_subordinate("other")
    leaf = world.issue("www.example.internal", authority="third")
    names = [AuthorityName("default", one) for one in ("first", "second", "third")]
    before = [get(world, name).authority for name in names]
    etag = before[2].etag
    root = reissue(world, ROOT, lifetime=10 * YEAR).authority
    first, second, third = (get(world, name).authority for name in names)
    assert first.chain == (root.certificate,)
    assert second.chain == (first.certificate, root.certificate)
    assert third.chain == (second.certificate, first.certificate, root.certificate)
    assert [one.certificate for one in (first, second, third)] == [one.certificate for one in before]
    assert third.etag != etag
    assert get(world, AuthorityName("default", "other")).authority.chain == (root.certificate,)
    second = reissue(world, names[1]).authority
    third = get(world, names[2]).authority
    assert third.chain == (second.certificate, first.certificate, root.certificate)
    assert [key.chain for key in get(world, names[2]).keys] == [third.chain]
    assert world.core.public_certificates.authority_chain(third.uid, 1) == third.full_chain
    assert verify(tmp_path, world.clock.now(), leaf, third.full_chain) == ""


def test_an_expired_one_issues_again(ca: World) -> None:
    serial = revoke(ca, ca.issue("www.example.internal"))
    settle(ca)
    ca.clock.advance(5 * YEAR)
    settle(ca)
    assert get(ca).state is AuthorityState.EXPIRED
    view = reissue(ca)
    assert view.state is AuthorityState.ENABLED
    leaf = ca.issue("www.example.internal")
    # CRLs are signed again, though the last one was out.
    again = revoke(ca, leaf)
    settle(ca)
    assert set(entries(published(ca))) == {again}
    assert serial != again
    next_update = published(ca).next_update_utc
    assert next_update is not None
    assert ca.clock.now() < next_update < ca.clock.now() + 8 * DAY


def test_an_expired_one_that_was_disabled_stays_so(ca: World) -> None:
    disable(ca)
    ca.clock.advance(5 * YEAR)
    assert get(ca).state is AuthorityState.EXPIRED
    assert reissue(ca).state is AuthorityState.DISABLED
    assert enable(ca).state is AuthorityState.ENABLED


def test_an_expired_root_signs_itself_again(ca: World) -> None:
    ca.clock.advance(11 * YEAR)
    refused(Reason.AUTHORITY_NOT_ENABLED, lambda: reissue(ca), says="EXPIRED")
    assert reissue(ca, ROOT).state is AuthorityState.ENABLED
    # Its own certificate has ended as well.
    assert get(ca).state is AuthorityState.EXPIRED
    assert reissue(ca).state is AuthorityState.ENABLED


def test_by_default_it_ends_with_its_issuer(ca: World) -> None:
    ca.clock.advance(8 * YEAR)
    root = get(ca, ROOT).authority
    assert reissue(ca).authority.not_after == root.not_after


def test_a_lifetime_may_be_chosen(ca: World) -> None:
    view = reissue(ca, lifetime=2 * YEAR)
    assert view.authority.not_after == ca.clock.now() + 2 * YEAR - SECOND
    assert view.authority.lifetime == 5 * YEAR


def test_a_policy_that_was_sealed_with_the_key_holds(ca: World) -> None:
    error = refused(
        Reason.FIELD_INVALID, lambda: reissue(ca, ROOT, lifetime=10 * YEAR + DAY), says="PrepareAuthorityKey"
    )
    assert [violation.field for violation in error.violations] == ["lifetime"]
    assert "3650 days" in error.message
    assert reissue(ca, ROOT, lifetime=10 * YEAR).state is AuthorityState.ENABLED


@pytest.mark.parametrize("lifetime", [timedelta(minutes=59), 41 * YEAR], ids=["short", "long"])
def test_a_lifetime_has_bounds(ca: World, lifetime: timedelta) -> None:
    error = refused(Reason.FIELD_INVALID, lambda: reissue(ca, lifetime=lifetime), says="40 years")
    assert [violation.field for violation in error.violations] == ["lifetime"]


def test_it_may_not_outlive_its_issuer(ca: World) -> None:
    ca.clock.advance(8 * YEAR)
    refused(Reason.LIFETIME_EXCEEDS_AUTHORITY, lambda: reissue(ca, lifetime=5 * YEAR), says="ends at")


def test_what_would_outlive_it_is_named_unless_that_is_allowed(ca: World) -> None:
    leaf = ca.issue("www.example.internal", lifetime=200 * DAY)
    serial = CertificateName.parse("name", leaf.name).serial
    error = refused(Reason.CERTIFICATE_IN_USE, lambda: reissue(ca, lifetime=100 * DAY), says=serial)
    assert error.metadata == {"certificates": serial, "key_number": "1"}
    refused(Reason.CERTIFICATE_IN_USE, lambda: reissue(ca, lifetime=100 * DAY, validate_only=True), says=serial)
    assert reissue(ca, lifetime=201 * DAY).authority.not_after == ca.clock.now() + 201 * DAY - SECOND
    assert reissue(ca, lifetime=100 * DAY, broken=True).authority.not_after == ca.clock.now() + 100 * DAY - SECOND
    refused(
        Reason.LIFETIME_EXCEEDS_AUTHORITY,
        lambda: ca.issue("www.example.internal", lifetime=101 * DAY),
        says="ends at",
    )


def test_an_authority_below_ends_with_the_chain_and_goes_on_with_it(ca: World) -> None:
    end = get(ca).authority.not_after
    view = reissue(ca, ROOT, lifetime=YEAR, broken=True)
    assert get(ca).authority.not_after == view.authority.not_after == ca.clock.now() + YEAR - SECOND
    ca.clock.advance(YEAR)
    assert get(ca).state is AuthorityState.EXPIRED
    reissue(ca, ROOT)
    assert (get(ca).state, get(ca).authority.not_after) == (AuthorityState.ENABLED, end)


def test_it_keeps_its_name_constraints(world: World) -> None:
    world.create_root()
    constraints = NameConstraints(permitted=Subtrees(dns_names=("example.internal",)))
    world.create_subordinate(name_constraints=constraints)
    assert reissue(world).authority.constraints == constraints
    refused(Reason.NAME_CONSTRAINT_VIOLATED, lambda: world.issue("www.example.com"), says="www.example.com")


def test_one_with_an_outside_parent_is_refused(world: World) -> None:
    create_active(world)
    refused(Reason.STATE_FORBIDS, lambda: reissue(world, SUB), says="ActivateAuthority")


def test_one_that_awaits_its_certificate_is_refused(world: World) -> None:
    create_awaiting(world)
    error = refused(Reason.STATE_FORBIDS, lambda: reissue(world, SUB), says="ActivateAuthority")
    assert error.metadata == {"state": "AWAITING_CERTIFICATE"}


def test_its_issuer_must_be_enabled(ca: World) -> None:
    disable(ca, ROOT)
    refused(Reason.AUTHORITY_NOT_ENABLED, lambda: reissue(ca), says="DISABLED")
    # A root signs its own, whatever its state.
    assert reissue(ca, ROOT).state is AuthorityState.DISABLED


def test_one_whose_certificate_was_revoked_gets_another(ca: World) -> None:
    revoke_authority(ca, CA, ROOT)
    assert get(ca).state is AuthorityState.DISABLED
    refused(Reason.STATE_FORBIDS, lambda: enable(ca), says="revoked")
    assert reissue(ca).state is AuthorityState.DISABLED
    assert enable(ca).state is AuthorityState.ENABLED


def test_a_key_that_is_compromised_is_not_saved_by_a_new_certificate(ca: World) -> None:
    before = parsed(get(ca).authority.certificate)
    reissue(ca)
    new = NewRevocation(
        name=CertificateName("default", "root", serial_text(before.serial_number)),
        reason=RevocationReason.CA_COMPROMISE,
    )
    ca.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)
    assert get(ca).state is AuthorityState.DISABLED
    refused(Reason.STATE_FORBIDS, lambda: enable(ca), says="revoked")
    refused(Reason.KEY_TOO_WEAK, lambda: reissue(ca), says="compromised")


def test_a_certificate_of_before_that_is_revoked_leaves_it_as_it_is(ca: World) -> None:
    before = parsed(get(ca).authority.certificate)
    reissue(ca)
    new = NewRevocation(
        name=CertificateName("default", "root", serial_text(before.serial_number)), reason=RevocationReason.SUPERSEDED
    )
    ca.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)
    assert get(ca).state is AuthorityState.ENABLED
    ca.issue("www.example.internal")


def test_what_is_only_checked_changes_nothing(ca: World) -> None:
    before = get(ca)
    assert reissue(ca, validate_only=True) == before
    assert get(ca) == before


def test_a_repeated_request_makes_one(ca: World) -> None:
    key = RequestKey(str(uuid.uuid4()), b"a")
    first = reissue(ca, key=key)
    assert reissue(ca, key=key).authority == first.authority
    refused(Reason.REQUEST_ID_REUSED, lambda: reissue(ca, key=RequestKey(key.request_id, b"b")), says="another request")
    assert [event.type for event in ca.events()].count(EventType.AUTHORITY_REISSUED) == 1


def test_another_etag_is_refused(ca: World) -> None:
    before = get(ca).authority.etag
    after = reissue(ca, etag=before).authority.etag
    assert after != before
    refused(Reason.ETAG_MISMATCH, lambda: reissue(ca, etag=before), says="changed")


def test_a_stranger_gets_none(ca: World) -> None:
    refused(Reason.PERMISSION_MISSING, lambda: reissue(ca, caller=STRANGER), says="authority.reissue")


def test_one_that_changed_meanwhile_keeps_its_certificate(ca: World) -> None:
    before = get(ca).authority
    ca.steps.at["issue.3.intended"] = lambda: disable(ca)
    refused(Reason.ETAG_MISMATCH, lambda: reissue(ca, etag=before.etag), says="changed")
    assert get(ca).authority.certificate == before.certificate


@pytest.mark.parametrize("name", [ROOT, CA], ids=["root", "ca"])
def test_one_that_is_not_signed_leaves_it_as_it_was(
    ca: World, monkeypatch: pytest.MonkeyPatch, name: AuthorityName
) -> None:
    before = get(ca, name)
    key = RequestKey(str(uuid.uuid4()), b"a")

    def fails(*_arguments: object, **_options: object) -> None:
        raise CertdError(Reason.TOKEN_UNAVAILABLE, "the token is away", retry_after=1.0)

    with monkeypatch.context() as patched:
        patched.setattr(ca.core.token, "submit_signatures", fails)
        refused(Reason.TOKEN_UNAVAILABLE, lambda: reissue(ca, name, key=key), says="away")
    assert get(ca, name) == before
    # The same request makes it, once it can be made.
    assert reissue(ca, name, key=key).authority.certificate != before.authority.certificate
