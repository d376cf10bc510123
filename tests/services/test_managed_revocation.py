"""Versions of managed certificates are revoked, by either method with the same consequences."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.errors import CertdError, Reason
from certd.model.access import Caller
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.event import EventType
from certd.model.managed_certificate import ManagedCertificateState, VersionState
from certd.model.names import CertificateName, ManagedCertificateName
from certd.model.renewal import RenewalMode, RenewalPolicy
from certd.services.certificates import CertificateView
from certd.services.idempotency import RequestKey
from certd.services.managed_certificate_changes import RENEWAL_FIELDS, ManagedCertificateChange
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_export import RecipientExport
from certd.services.managed_revocation import NewManagedRevocation
from certd.services.revocation import NewRevocation
from certd.store import blocked_keys, certificates, managed_versions, sealed_keys
from tests.services.batches import CA
from tests.services.conftest import ADMINISTRATOR, STRANGER, CrashError, World, crash
from tests.services.consumers import WEB, active
from tests.services.managed_books import (
    as_time_goes_by,
    at_version,
    events_of,
    get,
    new_key,
    renew,
    renewed,
    rewrite,
    stands,
    states_of_certificates,
    versions,
)
from tests.waiting import eventually

ABSENT = ManagedCertificateName("default", "absent")
SUPERSEDED, COMPROMISE = RevocationReason.SUPERSEDED, RevocationReason.KEY_COMPROMISE
CESSATION = RevocationReason.CESSATION_OF_OPERATION
ALL = None

Revoke = Callable[..., Any]


@pytest.fixture
def web(world: World) -> World:
    world.create_root()
    world.create_subordinate()
    active(world)
    return world


def revoke(
    world: World,
    version: int | None,
    reason: RevocationReason = SUPERSEDED,
    *,
    name: ManagedCertificateName = WEB,
    caller: Caller = ADMINISTRATOR,
    since: datetime | None = None,
    key: RequestKey | None = None,
) -> ManagedCertificateView:
    new = NewManagedRevocation(name=name, version=version, reason=reason, invalidity_time=since)
    return world.core.managed_revocation.revoke(caller, new, key=key)


def certificate_name(world: World, version: int) -> CertificateName:
    with world.core.store.read("test.version") as tx:
        found = managed_versions.get(tx, stands(world).uid, version)
    assert found is not None
    assert found.serial is not None
    return CertificateName("default", CA.authority, found.serial)


def revoke_certificate(
    world: World, version: int, reason: RevocationReason = SUPERSEDED, *, validate_only: bool = False
) -> CertificateView:
    """The other way: the certificate of a version, by its own name."""
    new = NewRevocation(name=certificate_name(world, version), reason=reason)
    return world.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=validate_only)


def refusal(world: World, call: Callable[[], object]) -> CertdError:
    """Why a call fails, which changes nothing."""
    before, stood = world.events(), stands(world)
    with pytest.raises(CertdError) as refused:
        call()
    assert world.events() == before
    assert stands(world) == stood
    return refused.value


def states(world: World) -> dict[int, VersionState]:
    return {view.version.number: view.state for view in versions(world)}


def set_mode(world: World, mode: RenewalMode) -> None:
    change = ManagedCertificateChange(name=WEB, fields=RENEWAL_FIELDS, renewal=RenewalPolicy(mode=mode))
    world.core.managed_certificate_changes.update(ADMINISTRATOR, change, key=None, validate_only=False)


def export(world: World, version: int | None) -> None:
    public_key = X25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    world.core.managed_export.export(
        ADMINISTRATOR, WEB, version=version, protection=RecipientExport(public_key), reason=""
    )


BOTH_WAYS = pytest.mark.parametrize("way", [revoke, revoke_certificate], ids=["managed", "certificate"])


@BOTH_WAYS
def test_a_version_is_revoked_with_all_that_follows(web: World, way: Revoke) -> None:
    renewed(web)
    web.clock.advance(timedelta(minutes=1))
    before = len(web.events())
    way(web, 1)
    old = versions(web)[1]
    assert (old.state, old.version.revoke_time, old.version.revocation_reason) == (
        VersionState.REVOKED,
        web.clock.now(),
        SUPERSEDED,
    )
    name = certificate_name(web, 1)
    row = web.core.certificates.get(ADMINISTRATOR, name).certificate
    assert (row.state, row.revoke_time, row.revocation_reason) == (
        CertificateState.REVOKED,
        web.clock.now(),
        SUPERSEDED,
    )
    certificate, managed = web.events()[before:]
    assert (certificate.type, certificate.resource) == (EventType.CERTIFICATE_REVOKED, str(name))
    assert (managed.type, managed.resource, managed.principal) == (
        EventType.MANAGED_CERTIFICATE_REVOKED,
        f"{WEB}/versions/1",
        ADMINISTRATOR.principal,
    )
    assert (managed.details["reason"], managed.details["serial"]) == ("SUPERSEDED", name.serial)


@BOTH_WAYS
def test_an_old_version_takes_nothing_from_the_current_one(web: World, way: Revoke) -> None:
    renewed(web)
    planned = eventually(lambda: stands(web).next_attempt_time)
    way(web, 1, COMPROMISE)
    assert get(web).state is ManagedCertificateState.ACTIVE
    assert stands(web).next_attempt_time == planned
    assert not stands(web).forced
    assert states(web) == {1: VersionState.REVOKED, 2: VersionState.CURRENT}
    export(web, None)


@BOTH_WAYS
def test_while_another_version_lives_it_stays_active(web: World, way: Revoke) -> None:
    renewed(web)
    way(web, 2)
    assert get(web).state is ManagedCertificateState.ACTIVE
    assert states(web) == {1: VersionState.SUPERSEDED, 2: VersionState.REVOKED}
    way(web, 1)
    assert get(web).state is ManagedCertificateState.REVOKED


@BOTH_WAYS
def test_when_none_lives_it_is_revoked_and_nothing_is_planned(web: World, way: Revoke) -> None:
    eventually(lambda: stands(web).next_attempt_time)
    way(web, 1, CESSATION)
    managed = stands(web)
    assert managed.state is ManagedCertificateState.REVOKED
    assert (managed.renewal_window, managed.next_attempt_time) == (None, None)
    # And nobody renews it, however much time goes by.
    as_time_goes_by(web, lambda: web.clock.now() > (managed.not_after or web.clock.now()), step=timedelta(days=5))
    assert (get(web).state, stands(web).current_version) == (ManagedCertificateState.REVOKED, 1)


@BOTH_WAYS
@pytest.mark.parametrize("mode", [RenewalMode.ALWAYS, RenewalMode.WHEN_USED])
def test_a_compromised_key_is_replaced_at_once(web: World, way: Revoke, mode: RenewalMode) -> None:
    set_mode(web, mode)
    way(web, 1, COMPROMISE)
    assert at_version(web, 2).state is ManagedCertificateState.ACTIVE
    assert states(web) == {1: VersionState.REVOKED, 2: VersionState.CURRENT}
    (asked,) = events_of(web, EventType.MANAGED_CERTIFICATE_RENEWAL_REQUESTED)
    assert asked.details["reason"] == "KEY_COMPROMISE"
    with web.core.store.read("test.blocked") as tx:
        first, second = (
            certificates.get(tx, version.authority_uid, version.serial or "")
            for version in reversed(managed_versions.page(tx, stands(web).uid, below=None, limit=2))
        )
        assert first is not None
        assert second is not None
        keys = [("default", row.public_key_sha256) for row in (first, second)]
        assert blocked_keys.blocked(tx, keys) == {keys[0]}


@BOTH_WAYS
def test_a_compromised_key_is_not_replaced_when_nobody_wants_renewals(web: World, way: Revoke) -> None:
    set_mode(web, RenewalMode.NEVER)
    way(web, 1, COMPROMISE)
    assert get(web).state is ManagedCertificateState.REVOKED
    assert not stands(web).forced
    assert renewed(web).state is ManagedCertificateState.ACTIVE


@BOTH_WAYS
def test_the_graver_reason_renews_what_was_revoked(web: World, way: Revoke) -> None:
    first = way(web, 1)
    assert first is not None
    revoke_time = versions(web)[0].version.revoke_time
    web.clock.advance(timedelta(hours=1))
    way(web, 1, COMPROMISE)
    assert versions(web)[-1].version.revocation_reason is COMPROMISE
    assert versions(web)[-1].version.revoke_time == revoke_time
    assert at_version(web, 2).state is ManagedCertificateState.ACTIVE


@BOTH_WAYS
def test_a_second_revocation_is_refused(web: World, way: Revoke) -> None:
    way(web, 1)
    for reason in set(RevocationReason) - {COMPROMISE}:
        error = refusal(web, lambda: way(web, 1, reason))  # noqa: B023  # Called at once.
        assert error.reason is Reason.ALREADY_REVOKED
        assert error.metadata["reason"] == "SUPERSEDED"


@BOTH_WAYS
def test_a_version_that_has_ended_is_revoked_without_harm(web: World, way: Revoke) -> None:
    set_mode(web, RenewalMode.NEVER)
    web.clock.advance(timedelta(days=90))
    way(web, 1)
    assert get(web).state is ManagedCertificateState.EXPIRED
    assert states(web) == {1: VersionState.REVOKED}


@BOTH_WAYS
def test_revoked_versions_do_not_leave(web: World, way: Revoke) -> None:
    renewed(web)
    way(web, 1)
    with pytest.raises(CertdError) as refused:
        export(web, 1)
    assert refused.value.reason is Reason.STATE_FORBIDS
    export(web, 2)
    # Who investigates may still need it.
    with web.core.store.read("test.sealed") as tx:
        assert sealed_keys.get(tx, stands(web).uid, 1) is not None


@BOTH_WAYS
def test_the_key_of_what_is_revoked_is_kept_until_its_end(web: World, way: Revoke) -> None:
    way(web, 1, CESSATION)
    ends = stands(web).not_after
    assert ends is not None

    def deleted(time: datetime) -> int:
        return web.core.store.write("test.tidy", lambda tx: sealed_keys.delete_expired(tx, time, 10))

    assert deleted(ends) == 0
    assert versions(web)[0].key_available
    assert deleted(ends + timedelta(seconds=1)) == 1
    assert not versions(web)[0].key_available


@BOTH_WAYS
def test_who_gave_it_up_ends_a_renewal_that_somebody_wanted(web: World, way: Revoke) -> None:
    """It is revoked while the certificate of the next version is being signed."""
    web.steps.at["issue.3.intended"] = lambda: way(web, 1, CESSATION)
    renew(web)
    eventually(lambda: not web.steps.at)
    uid = stands(web).uid
    as_time_goes_by(web, lambda: CertificateState.PENDING not in states_of_certificates(web, uid))
    assert get(web).state is ManagedCertificateState.REVOKED
    assert (stands(web).current_version, stands(web).forced) == (1, False)
    assert states_of_certificates(web, uid)[0] is CertificateState.REVOKED
    assert CertificateState.ISSUED not in states_of_certificates(web, uid)


def test_all_that_have_not_ended_are_revoked_together(web: World) -> None:
    renewed(web)
    web.clock.advance(timedelta(days=40))
    renewed(web)
    web.clock.advance(timedelta(days=51))
    assert [state.name for state in states(web).values()] == ["CURRENT", "EXPIRED", "EXPIRED"]
    renewed(web)
    before = len(web.events())
    view = revoke(web, ALL, CESSATION)
    assert view.state is ManagedCertificateState.REVOKED
    revoked = [number for number, state in states(web).items() if state is VersionState.REVOKED]
    assert revoked == [4, 3]
    told = [event.type for event in web.events()[before:]]
    assert told.count(EventType.MANAGED_CERTIFICATE_REVOKED) == told.count(EventType.CERTIFICATE_REVOKED) == 2


def test_all_leaves_out_what_is_revoked_already(web: World) -> None:
    renewed(web)
    revoke(web, 1)
    revoke(web, ALL, CESSATION)
    reasons = {view.version.number: view.version.revocation_reason for view in versions(web)}
    assert reasons == {1: SUPERSEDED, 2: CESSATION}
    assert refusal(web, lambda: revoke(web, ALL, CESSATION)).reason is Reason.ALREADY_REVOKED
    # The graver reason takes the place of the others.
    revoke(web, ALL, COMPROMISE)
    assert {view.version.revocation_reason for view in versions(web) if view.version.number < 3} == {COMPROMISE}
    at_version(web, 3)


def test_all_of_a_compromised_one_renews_it_once(web: World) -> None:
    renewed(web)
    revoke(web, ALL, COMPROMISE)
    assert at_version(web, 3).state is ManagedCertificateState.ACTIVE
    asked = events_of(web, EventType.MANAGED_CERTIFICATE_RENEWAL_REQUESTED)
    assert [event.details.get("reason") for event in asked] == [None, "KEY_COMPROMISE"]


def test_what_nobody_here_issued_nobody_here_revokes(web: World) -> None:
    rewrite(web, stands(web).uid, type="IMPORTED")
    for version in (1, ALL):
        error = refusal(web, lambda: revoke(web, version))  # noqa: B023  # Called at once.
        assert (error.reason, error.resource) == (Reason.STATE_FORBIDS, str(WEB))
        assert "the authority that issued its certificate" in error.message


def test_there_is_nothing_to_revoke_before_the_first_version_and_after_the_last(world: World) -> None:
    world.create_root()
    world.create_subordinate()
    errors: list[CertdError] = []

    def attempt() -> None:
        for version in (1, ALL):
            with pytest.raises(CertdError) as refused:
                revoke(world, version)
            errors.append(refused.value)

    world.steps.at["managed.3.key-sealed"] = attempt
    active(world)
    assert [error.reason for error in errors] == [Reason.STATE_FORBIDS] * 2
    set_mode(world, RenewalMode.NEVER)
    world.clock.advance(timedelta(days=90))
    assert refusal(world, lambda: revoke(world, ALL)).reason is Reason.STATE_FORBIDS
    error = refusal(world, lambda: revoke(world, 2))
    assert (error.reason, error.resource) == (Reason.MANAGED_CERTIFICATE_NOT_FOUND, f"{WEB}/versions/2")


def test_a_version_in_the_making_is_not_revoked(web: World) -> None:
    errors: list[CertdError] = []

    def attempt() -> None:
        with pytest.raises(CertdError) as refused:
            revoke(web, 2)
        errors.append(refused.value)

    web.steps.at["issue.3.intended"] = attempt
    renewed(web)
    assert [error.reason for error in errors] == [Reason.STATE_FORBIDS]


def test_an_invalidity_is_not_in_the_future_and_not_before_the_certificate(web: World) -> None:
    error = refusal(web, lambda: revoke(web, 1, COMPROMISE, since=web.clock.now() + timedelta(seconds=1)))
    assert [violation.field for violation in error.violations] == ["invalidity_time"]
    view = revoke(web, 1, COMPROMISE, since=web.clock.now() - timedelta(days=30))
    (warning,) = view.warnings
    assert warning.field == "invalidity_time"
    assert "was cut to" in warning.message
    row = web.core.certificates.get(ADMINISTRATOR, certificate_name(web, 1)).certificate
    assert row.invalidity_time == row.not_before


def test_a_repeated_revocation_is_made_once(web: World) -> None:
    key = new_key()
    revoke(web, ALL, COMPROMISE, key=key)
    at_version(web, 2)
    told = len(events_of(web, EventType.MANAGED_CERTIFICATE_REVOKED))
    assert revoke(web, ALL, COMPROMISE, key=key).state is ManagedCertificateState.ACTIVE
    assert len(events_of(web, EventType.MANAGED_CERTIFICATE_REVOKED)) == told
    other = RequestKey(key.request_id, b"b")
    assert refusal(web, lambda: revoke(web, ALL, key=other)).reason is Reason.REQUEST_ID_REUSED


def test_many_at_once_revoke_once(web: World) -> None:
    def attempt(_number: int) -> Reason | None:
        try:
            revoke(web, 1)
        except CertdError as error:
            return error.reason
        return None

    with ThreadPoolExecutor(8) as callers:
        outcomes = list(callers.map(attempt, range(8)))
    assert outcomes.count(None) == 1
    assert outcomes.count(Reason.ALREADY_REVOKED) == 7
    assert len(events_of(web, EventType.MANAGED_CERTIFICATE_REVOKED)) == 1


def test_a_renewal_is_not_forgotten_though_the_daemon_died(web: World) -> None:
    web.steps.at["managed-revoke.1.committed"] = crash
    with pytest.raises(CrashError):
        revoke(web, 1, COMPROMISE)
    at_version(web, 2)


@pytest.mark.parametrize("name", [WEB, ABSENT])
def test_a_stranger_learns_nothing(web: World, name: ManagedCertificateName) -> None:
    error = refusal(web, lambda: revoke(web, 1, name=name, caller=STRANGER))
    assert error.reason is Reason.PERMISSION_MISSING


def test_what_is_not_there_is_not_found(web: World) -> None:
    assert refusal(web, lambda: revoke(web, 1, name=ABSENT)).reason is Reason.MANAGED_CERTIFICATE_NOT_FOUND


@pytest.mark.parametrize("validate_only", [False, True])
def test_who_revokes_the_certificate_is_told_what_becomes_of_it(web: World, *, validate_only: bool) -> None:
    set_mode(web, RenewalMode.NEVER)

    def told(version: int, reason: RevocationReason = SUPERSEDED) -> str:
        (warning,) = revoke_certificate(web, version, reason, validate_only=validate_only).warnings
        assert warning.field == "name"
        assert "neither exported nor leased" in warning.message
        return warning.message

    renewed(web)
    assert f"{WEB}/versions/1 has this certificate" in (old := told(1))
    assert "version 2 is the current one" in old
    assert "renew the managed certificate" in told(2)
    set_mode(web, RenewalMode.ALWAYS)
    assert "a new version is being made" in told(2, COMPROMISE)


def test_who_revokes_the_current_version_is_told_that_none_follows(web: World) -> None:
    renewed(web)
    assert revoke(web, 1).warnings == ()
    (warning,) = revoke(web, 2).warnings
    assert (warning.field, "renew the managed certificate" in warning.message) == ("version", True)
    # One is being made.
    assert revoke(web, 2, COMPROMISE).warnings == ()
