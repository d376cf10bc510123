"""Managed certificates are renewed in their windows, by every policy, whatever happens on the way."""

import hashlib
import os
import signal
import threading
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from sqlalchemy import delete, update

from certd.errors import Reason
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.event import EventType
from certd.model.managed_certificate import ManagedCertificateState, VersionState
from certd.model.names import ManagedCertificateName
from certd.model.renewal import DEFAULT_RENEWAL_POLICY, MaintenanceWindow, RenewalPolicy, renewal_window
from certd.services.authority_changes import Change
from certd.services.managed_revocation import NewManagedRevocation
from certd.services.profile_changes import GivenProfile
from certd.services.profiles import ProfileChange
from certd.store import blocked_keys, managed_schema, schema
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.batches import CA
from tests.services.conftest import ADMINISTRATOR, World, crash, two_worlds
from tests.services.consumers import WEB, active, associate, consumer
from tests.services.managed_books import (
    as_time_goes_by,
    at_version,
    get,
    jobs_of,
    renew,
    rewrite,
    stands,
    states_of_certificates,
    versions,
)
from tests.services.profile_books import GIVEN
from tests.services.profile_books import WEB as WEB_PROFILE
from tests.services.renewals import (
    BLOCKED,
    DAY,
    HOUR,
    MINUTE,
    NEVER,
    RENEWED,
    SECOND,
    WHEN_USED,
    at,
    at_planned,
    attempts,
    blocked,
    change_policy,
    due_times,
    end_authority,
    events,
    export,
    planned,
    settle,
    together,
)
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

LONGEST_RETRY = 10 * MINUTE


@pytest.fixture
def ca(world: World) -> World:
    world.create_root()
    world.create_subordinate()
    return world


@pytest.fixture
def web(ca: World) -> World:
    active(ca)
    return ca


def request(world: World, **changes: Any) -> None:
    """Requests one and waits until it is issued."""
    world.request(**changes)
    settle(world)
    assert get(world).state is ManagedCertificateState.ACTIVE


def leaf(world: World) -> x509.Certificate:
    return x509.load_der_x509_certificate(get(world).certificate or b"")


def test_what_is_issued_has_a_window_and_a_moment_in_it(web: World) -> None:
    managed, certificate = stands(web), leaf(web)
    window = renewal_window(web.clock.now(), certificate.not_valid_after_utc, DEFAULT_RENEWAL_POLICY)
    assert managed.renewal_window == window
    assert managed.issue_time == web.clock.now()
    assert window.start <= planned(web) < window.end
    assert due_times(web, managed.uid) == [planned(web)]
    assert blocked(managed) is None


def test_it_is_renewed_at_its_moment_with_another_key_and_not_before(web: World) -> None:
    first, before = leaf(web), stands(web)
    assert at(web, planned(web) - SECOND) == before
    managed = at_planned(web)
    now, second = web.clock.now(), leaf(web)
    assert (managed.current_version, managed.state) == (2, ManagedCertificateState.ACTIVE)
    assert (managed.issue_time, managed.not_after) == (now, second.not_valid_after_utc)
    assert second.not_valid_after_utc == now + 90 * DAY - SECOND
    assert second.public_key() != first.public_key()
    assert second.serial_number != first.serial_number
    assert second.subject == first.subject
    assert second.extensions.get_extension_for_class(x509.SubjectAlternativeName) == (
        first.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    )
    # The next one is planned.
    window = renewal_window(now, second.not_valid_after_utc, DEFAULT_RENEWAL_POLICY)
    assert managed.renewal_window == window
    assert window.start <= planned(web) < window.end
    assert due_times(web, managed.uid) == [planned(web)]
    # And told.
    (event,) = events(web, RENEWED)
    assert event.resource == WEB.version(2)
    assert {"version": "2", "previous_version": "1"}.items() <= event.details.items()
    assert int(event.details["serial"], 16) == second.serial_number


def test_it_is_renewed_again_and_again_and_keeps_the_keys_of_those_that_live(web: World) -> None:
    for number in range(2, 6):
        assert at_planned(web).current_version == number
        assert export(web) == leaf(web)
    shown = versions(web)
    assert [one.version.number for one in shown] == [5, 4, 3, 2, 1]
    now = web.clock.now()
    for one in shown:
        lives = one.version.not_after is not None and one.version.not_after >= now
        assert one.state is (
            VersionState.CURRENT
            if one.version.number == 5
            else VersionState.SUPERSEDED
            if lives
            else VersionState.EXPIRED
        )
        if lives:
            assert one.key_available
            export(web, one.version.number)
    assert len(events(web, RENEWED)) == 4


def test_sealed_keys_of_versions_that_ended_are_deleted_and_no_others(web: World) -> None:
    at_planned(web)
    first_ends = versions(web)[1].version.not_after
    assert first_ends is not None
    at(web, first_ends)
    assert [one.key_available for one in versions(web)] == [True, True]
    # Every hour they are looked for.
    at(web, first_ends + HOUR + SECOND)
    eventually(lambda: not versions(web)[-1].key_available)
    available = {one.version.number: one.key_available for one in versions(web)}
    assert available == {number: number > 1 for number in available}
    export(web)


# By every policy.


def test_when_used_it_is_left_alone_until_it_is_used(ca: World) -> None:
    request(ca, renewal=WHEN_USED)
    managed = at_planned(ca)
    assert (managed.current_version, managed.state) == (1, ManagedCertificateState.ACTIVE)
    condition = blocked(managed)
    assert condition is not None
    assert (condition.status, condition.reason) == (False, "NotUsed")
    assert managed.not_after is not None
    assert managed.next_attempt_time == ca.clock.now() + (managed.not_after - ca.clock.now()) / 10
    assert not events(ca, BLOCKED)
    export(ca)
    assert at_planned(ca).current_version == 2
    # Nobody has exported the second version, and so it goes on.
    assert at_planned(ca).current_version == 2


def test_who_may_lease_it_uses_it(ca: World) -> None:
    request(ca, renewal=WHEN_USED)
    associate(ca, consumer(ca))
    for number in (2, 3, 4):
        assert at_planned(ca).current_version == number


def test_what_is_not_used_expires_and_is_renewed_when_it_is_used_after_all(ca: World) -> None:
    request(ca, renewal=WHEN_USED)
    ends = stands(ca).not_after
    assert ends is not None
    looks = 0
    while ca.clock.now() <= ends:
        at_planned(ca)
        looks += 1
    # A tenth of what is left, and an hour at least.
    assert looks < 100
    assert get(ca).state is ManagedCertificateState.EXPIRED
    associate(ca, consumer(ca))
    assert at_planned(ca).current_version == 2
    assert get(ca).state is ManagedCertificateState.ACTIVE


def test_never_is_only_when_somebody_asks(ca: World) -> None:
    request(ca, renewal=NEVER)
    managed = stands(ca)
    assert (managed.renewal_window, managed.next_attempt_time) == (None, None)
    assert jobs_of(ca, managed.uid) == 0
    renew(ca)
    settle(ca)
    managed = stands(ca)
    assert (managed.current_version, managed.renewal_window, managed.next_attempt_time) == (2, None, None)
    assert jobs_of(ca, managed.uid) == 0


def test_another_policy_makes_another_plan(web: World) -> None:
    before = stands(web)
    change_policy(web, RenewalPolicy(remaining_percent=10))
    settle(web)
    managed = stands(web)
    assert managed.issue_time is not None
    assert managed.not_after is not None
    assert managed.renewal_window == renewal_window(
        managed.issue_time, managed.not_after, RenewalPolicy(remaining_percent=10)
    )
    assert planned(web) > (before.next_attempt_time or web.clock.now())
    assert due_times(web, managed.uid) == [planned(web)]
    change_policy(web, NEVER)
    settle(web)
    assert jobs_of(web, managed.uid) == 0
    change_policy(web, DEFAULT_RENEWAL_POLICY)
    settle(web)
    assert planned(web) == before.next_attempt_time


def test_a_policy_that_changes_while_it_is_renewed_is_what_the_next_renewal_is_planned_by(web: World) -> None:
    web.steps.at["renewal.3.planned"] = lambda: change_policy(web, NEVER)
    managed = at_planned(web)
    settle(web)
    assert (managed.current_version, managed.renewal) == (2, NEVER)
    assert (stands(web).renewal_window, stands(web).next_attempt_time) == (None, None)
    assert jobs_of(web, managed.uid) == 0


def test_what_happens_to_it_while_it_is_renewed_stays(web: World) -> None:
    machine = consumer(web)

    def happen() -> None:
        export(web)
        associate(web, machine)

    web.steps.at["renewal.3.planned"] = happen
    managed = at_planned(web)
    assert (managed.current_version, managed.exported_version, managed.association_count) == (2, 1, 1)


# What keeps it from being renewed.


def holds_back(world: World, reason: Reason, *, count: int = 6) -> None:
    """Attempts fail for one reason: it stays as it is, says why, and is told once."""
    before = stands(world)
    managed = at_planned(world)
    condition = blocked(managed)
    assert condition is not None
    assert (condition.status, condition.reason) == (True, reason)
    assert condition.message
    managed = attempts(world, count)
    assert managed.renewal_blocked
    assert (managed.state, managed.current_version) == (before.state, before.current_version)
    assert managed.not_after == before.not_after
    assert managed.renewal_window == before.renewal_window
    assert managed.next_attempt_time is not None
    assert SECOND / 2 <= managed.next_attempt_time - world.clock.now() <= LONGEST_RETRY
    assert [event.details["reason"] for event in events(world, BLOCKED)] == [reason]
    assert events(world, BLOCKED)[0].resource == str(WEB)
    assert not events(world, RENEWED)


def goes_on(world: World) -> None:
    """It recovers by itself, within ten minutes."""
    start = world.clock.now()
    before = stands(world).current_version
    managed = at_planned(world)
    assert world.clock.now() - start <= LONGEST_RETRY
    assert (managed.current_version, managed.state) == (before + 1, ManagedCertificateState.ACTIVE)
    condition = blocked(managed)
    assert condition is not None
    assert (condition.status, condition.reason) == (False, "Renewed")
    assert condition.last_transition_time == world.clock.now()
    assert not managed.renewal_blocked
    export(world)


def test_an_authority_that_is_disabled_holds_it_back(web: World) -> None:
    web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    holds_back(web, Reason.AUTHORITY_NOT_ENABLED)
    web.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA))
    goes_on(web)


def test_attempts_become_rarer_and_never_rarer_than_ten_minutes(web: World) -> None:
    web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    at_planned(web)
    waits = []
    for _ in range(15):
        waits.append(planned(web) - web.clock.now())
        at_planned(web)
    assert waits[0] <= 2 * SECOND
    assert all(LONGEST_RETRY / 2 <= wait <= LONGEST_RETRY for wait in waits[-3:])


def test_it_goes_on_after_its_end(web: World) -> None:
    """What nobody mended in time is renewed all the same once somebody has."""
    web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    at_planned(web)
    ends = stands(web).not_after
    assert ends is not None
    at(web, ends + DAY)
    assert get(web).state is ManagedCertificateState.EXPIRED
    assert stands(web).renewal_blocked
    web.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA))
    goes_on(web)
    assert get(web).state is ManagedCertificateState.ACTIVE


def test_an_authority_that_ends_too_soon_for_its_lifetime_holds_it_back(ca: World) -> None:
    request(ca, lifetime=60 * DAY)
    ends = ca.clock.now() + 80 * DAY
    end_authority(ca, ends)
    holds_back(ca, Reason.LIFETIME_EXCEEDS_AUTHORITY)
    condition = blocked(stands(ca))
    assert condition is not None
    assert f"{CA} ends at {ends:%Y-%m-%dT%H:%M:%SZ}" in condition.message
    assert "re-issue" in condition.message
    end_authority(ca, ca.clock.now() + 365 * DAY)
    goes_on(ca)


def test_what_its_authority_cuts_short_is_not_renewed_in_ever_shorter_steps(ca: World) -> None:
    """Ninety days by default, of an authority with a hundred: the second ends with it, and there is no third."""
    ends = ca.clock.now() + 100 * DAY
    end_authority(ca, ends)
    request(ca)
    assert at_planned(ca).current_version == 2
    assert stands(ca).not_after == ends
    at_planned(ca)
    managed = attempts(ca, 4)
    assert (managed.current_version, managed.renewal_blocked) == (2, True)
    condition = blocked(managed)
    assert condition is not None
    assert condition.reason == Reason.LIFETIME_EXCEEDS_AUTHORITY
    assert len(events(ca, BLOCKED)) == 1
    # Who asks for it gets one that ends no earlier, and that does not start it all over.
    renew(ca)
    managed = at_version(ca, 3).managed_certificate
    assert (managed.not_after, managed.forced) == (ends, False)
    end_authority(ca, ends + 365 * DAY)
    while stands(ca).current_version == 3:
        at_planned(ca)
    assert stands(ca).not_after != ends


def test_a_profile_that_was_restricted_since_holds_it_back(ca: World) -> None:
    ca.core.profiles.create(ADMINISTRATOR, WEB_PROFILE, GIVEN, key=None, validate_only=False)
    request(ca, profile=WEB_PROFILE)
    ca.clock.advance(SECOND)

    def restrict(oid: str) -> None:
        given = GivenProfile(extended_key_usages=(oid,))
        change = ProfileChange(name=WEB_PROFILE, given=given, fields=frozenset({"extended_key_usages"}))
        ca.core.profiles.update(ADMINISTRATOR, change, key=None, validate_only=False)

    restrict("1.3.6.1.5.5.7.3.9")
    holds_back(ca, Reason.PROFILE_FORBIDS)
    restrict("1.3.6.1.5.5.7.3.1")
    goes_on(ca)


def test_a_token_that_is_gone_holds_it_back(web: World, token_settings: TokenSettings) -> None:
    """The process is killed, and finds no token when it comes back."""
    assert token_settings.softhsm_conf is not None
    tokens = token_settings.softhsm_conf.parent / "tokens"
    tokens.rename(tokens.with_name("away"))
    process_id = web.core.token.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    eventually(lambda: not web.core.token.ready)
    holds_back(web, Reason.TOKEN_UNAVAILABLE)
    tokens.with_name("away").rename(tokens)
    eventually(lambda: web.core.token.ready, within=30)
    goes_on(web)


def test_a_token_process_that_is_killed_in_the_middle_costs_no_version(web: World) -> None:
    process_id = web.core.token.process_id
    assert process_id is not None
    web.steps.at["renewal.3.planned"] = lambda: os.kill(process_id, signal.SIGKILL)
    at_planned(web)
    as_time_goes_by(web, lambda: stands(web).current_version == 2, step=SECOND)
    assert len(events(web, EventType.MANAGED_CERTIFICATE_KEY_GENERATED)) == 2
    export(web)


def test_another_reason_is_told_too(web: World) -> None:
    web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    at_planned(web)
    web.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA))
    end_authority(web, web.clock.now() + DAY)
    at_planned(web)
    attempts(web, 3)
    reasons = [event.details["reason"] for event in events(web, BLOCKED)]
    assert reasons == [Reason.AUTHORITY_NOT_ENABLED, Reason.LIFETIME_EXCEEDS_AUTHORITY]
    condition = blocked(stands(web))
    assert condition is not None
    assert condition.reason == Reason.LIFETIME_EXCEEDS_AUTHORITY


def test_who_is_no_longer_to_be_renewed_is_no_longer_blocked(web: World) -> None:
    web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    at_planned(web)
    change_policy(web, NEVER)
    settle(web)
    managed = stands(web)
    assert not managed.renewal_blocked
    assert (managed.next_attempt_time, jobs_of(web, managed.uid)) == (None, 0)


def test_one_that_is_held_back_holds_back_no_others(ca: World) -> None:
    """Forty at one moment, which are renewed together."""
    ca.create_subordinate("other")
    names = [ManagedCertificateName("default", f"m{number}") for number in range(40)]
    for number, name in enumerate(names):
        ca.request(name.managed_certificate, authority=CA if number % 8 else type(CA)("default", "other"))
    settle(ca)
    ca.core.authority_changes.disable(ADMINISTRATOR, Change(name=type(CA)("default", "other")))
    all_at_once(ca, ca.clock.now() + 70 * DAY)
    standing = [stands(ca, name) for name in names]
    assert [managed.current_version for managed in standing] == [2 if number % 8 else 1 for number in range(40)]
    assert [managed.renewal_blocked for managed in standing] == [number % 8 == 0 for number in range(40)]
    for name in names[1:4]:
        export(ca, name=name)


def all_at_once(world: World, time: datetime) -> None:
    """Has the renewals of all be planned for one moment, and goes there."""
    moment = int(time.timestamp()) * 1_000_000

    def work(tx: Any) -> None:
        tx.execute(update(managed_schema.managed_certificates).values(next_attempt_time=moment))
        tx.execute(update(schema.jobs).values(due_time=moment, available_time=moment))

    world.core.store.write("test.plan", work)
    world.clock.advance(time - world.clock.now())
    settle(world)


# One renewal is one version.


def test_many_who_want_it_renewed_now_get_one_version(web: World) -> None:
    holding = threading.Event()
    web.steps.at["renewal.2.key-sealed"] = holding.wait
    calls = [lambda: renew(web) for _ in range(50)]
    together(calls)
    holding.set()
    settle(web)
    assert stands(web).current_version == 2
    assert len(events(web, RENEWED)) == len(events(web, EventType.MANAGED_CERTIFICATE_RENEWAL_REQUESTED)) == 1
    assert states_of_certificates(web, stands(web).uid) == [CertificateState.ISSUED] * 2


def test_two_daemons_that_are_asked_at_once_make_one_version(
    postgres_url: str, tmp_path: Path, token_settings: TokenSettings
) -> None:
    with two_worlds(tmp_path, token_settings, postgres_url) as worlds:
        first = worlds[0]
        first.create_root()
        first.create_subordinate()
        active(first)
        holding = threading.Event()
        for world in worlds:
            world.steps.at["renewal.2.key-sealed"] = holding.wait
        together([lambda world=world: renew(world) for world in worlds for _ in range(25)])  # type: ignore[misc]  # mypy infers no type for a default.
        holding.set()
        at_version(first, 2)
        for world in worlds:
            settle(world)
        assert stands(first).current_version == 2
        assert states_of_certificates(first, stands(first).uid) == [CertificateState.ISSUED] * 2
        # Each is numbered a moment after its commit.
        eventually(lambda: events(first, RENEWED))
        assert len(events(first, RENEWED)) == 1


def test_a_daemon_whose_lease_was_lost_makes_no_second_version(
    postgres_url: str, tmp_path: Path, token_settings: TokenSettings
) -> None:
    """The first stands still with a key that is sealed; the second takes over; the first wakes."""
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        first.create_root()
        first.create_subordinate()
        active(first)
        uid = stands(first).uid
        still, held = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            still.wait()

        for world in (first, second):
            world.steps.at["renewal.3.planned"] = hold
        first.clock.advance(planned(first) - first.clock.now())
        first.core.scheduler.wake()
        assert held.wait(20)
        for world in (first, second):
            world.steps.at.clear()
        # The lease of the job ends, and with it the right to it, though its daemon lives.
        first.clock.advance(11 * MINUTE)
        at_version(second, 2)
        still.set()
        eventually(lambda: not jobs_claimed(first))
        as_time_goes_by(first, lambda: set(states_of_certificates(first, uid)[1:]) >= {CertificateState.ISSUED})
        settle(first)
        assert stands(first).current_version == 2
        # What the first one had signed all the same is revoked a moment later.
        eventually(lambda: CertificateState.PENDING not in states_of_certificates(first, uid))
        states = states_of_certificates(first, uid)
        assert states.count(CertificateState.ISSUED) == 2
        assert set(states) <= {CertificateState.ISSUED, CertificateState.LOST}
        assert [one.version.number for one in versions(first)] == [2, 1]
        assert due_times(first, uid) == [planned(first)]
        assert not stands(first).renewal_blocked
        export(first)


def jobs_claimed(world: World) -> int:
    with world.core.store.read("test.claimed") as tx:
        statement = schema.jobs.select().where(schema.jobs.c.owner_epoch.is_not(None))
        return len(tx.execute(statement).all())


STEPS = (
    "renewal.1.wrapping-key",
    "renewal.2.key-sealed",
    "renewal.3.planned",
    "renewal.4.issued",
    "issue.2.prepared",
    "job.advance-managed-certificate.done",
)


@pytest.mark.parametrize("step", STEPS)
def test_no_crash_loses_or_doubles_a_version(web: World, step: str) -> None:
    """The run dies at the step; the job is still there and the next run goes on from the books."""
    web.steps.at[step] = crash
    web.clock.advance(planned(web) - web.clock.now())
    web.core.scheduler.wake()
    eventually(lambda: not web.steps.at)
    as_time_goes_by(web, lambda: stands(web).current_version == 2 and not jobs_claimed(web), step=SECOND)
    settle(web)
    managed = stands(web)
    assert (managed.current_version, managed.state) == (2, ManagedCertificateState.ACTIVE)
    assert len(events(web, RENEWED)) == 1
    assert states_of_certificates(web, managed.uid).count(CertificateState.ISSUED) == 2
    assert [one.version.number for one in versions(web)] == [2, 1]
    assert due_times(web, managed.uid) == [planned(web)]
    assert planned(web) > web.clock.now() + DAY
    for number in (1, 2):
        export(web, number)


def test_what_was_revoked_while_it_was_renewed_gets_no_new_version(web: World) -> None:
    """Nobody asked for another one: what comes too late counts as lost, and is revoked."""

    def revoke() -> None:
        new = NewManagedRevocation(name=WEB, version=None, reason=RevocationReason.CESSATION_OF_OPERATION)
        web.core.managed_revocation.revoke(ADMINISTRATOR, new, key=None)

    web.steps.at["renewal.3.planned"] = revoke
    at_planned(web)
    as_time_goes_by(web, lambda: jobs_of(web, stands(web).uid) == 0, step=SECOND)
    assert get(web).state is ManagedCertificateState.REVOKED
    assert stands(web).current_version == 1
    assert not events(web, BLOCKED)
    wanted = [CertificateState.REVOKED, CertificateState.LOST]
    eventually(lambda: states_of_certificates(web, stands(web).uid) == wanted)


@pytest.mark.parametrize("number", [1, 2])
def test_a_key_that_was_reported_as_compromised_before_its_use_is_made_anew(ca: World, number: int) -> None:
    """Its certificate was lost once, and whoever saw that revoked it; the first version or a later one."""
    step = "managed.3.key-sealed" if number == 1 else "renewal.2.key-sealed"
    if number == 2:
        active(ca)

    def block() -> None:
        made = versions(ca)[0].version
        assert made.number == number
        digest = hashlib.sha256(made.public_key).digest()
        ca.core.store.write(
            "test.block",
            lambda tx: blocked_keys.block(
                tx, "default", digest, authority_uid=made.authority_uid, serial="00", now=ca.clock.now()
            ),
        )

    ca.steps.at[step] = block
    if number == 1:
        ca.request()
    else:
        ca.clock.advance(planned(ca) - ca.clock.now())
        ca.core.scheduler.wake()
    as_time_goes_by(ca, lambda: stands(ca).current_version == number, step=SECOND)
    assert get(ca).state is ManagedCertificateState.ACTIVE
    assert not events(ca, BLOCKED, EventType.MANAGED_CERTIFICATE_FAILED)
    assert len(events(ca, EventType.MANAGED_CERTIFICATE_KEY_GENERATED)) == number + 1
    export(ca)


# Maintenance windows.

SATURDAYS = RenewalPolicy(
    maintenance_windows=(MaintenanceWindow(cron="0 2 * * SAT", time_zone="Europe/Berlin", duration=2 * HOUR),)
)


def is_saturday_night(time: datetime) -> bool:
    """Whether it is Saturday, from two to four in Berlin, in winter or in summer."""
    return time.isoweekday() == 6 and time.hour in {0, 1, 2}


def test_it_is_renewed_in_maintenance_windows(ca: World) -> None:
    request(ca, renewal=SATURDAYS)
    for number in (2, 3, 4):
        assert at_planned(ca).current_version == number
        assert is_saturday_night(ca.clock.now())


def test_who_missed_a_maintenance_window_waits_for_the_next(ca: World) -> None:
    """The daemon was away, or the authority. By this policy at least two more come in time."""
    request(ca, renewal=replace(SATURDAYS, remaining_percent=50))
    managed = at(ca, planned(ca) + 5 * HOUR)
    assert managed.current_version == 1
    assert is_saturday_night(planned(ca))
    assert not managed.renewal_blocked
    ca.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    assert at_planned(ca).renewal_blocked
    while is_saturday_night(planned(ca)) and planned(ca) - ca.clock.now() < DAY:
        at_planned(ca)
    ca.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA))
    while stands(ca).current_version == 1:
        at_planned(ca)
    assert is_saturday_night(ca.clock.now())


def test_who_asks_for_it_does_not_wait_for_maintenance(ca: World) -> None:
    request(ca, renewal=SATURDAYS)
    ca.clock.advance(2 * DAY)
    renew(ca)
    at_version(ca, 2)
    assert not is_saturday_night(ca.clock.now())


def test_windows_that_never_come_in_time_are_not_kept_to(ca: World) -> None:
    yearly = RenewalPolicy(maintenance_windows=(MaintenanceWindow(cron="0 0 31 12 *", duration=HOUR),))
    view = ca.request(renewal=yearly)
    assert [warning.field for warning in view.warnings] == ["managed_certificate.renewal.maintenance_windows"]
    settle(ca)
    assert at_planned(ca).current_version == 2


# What others leave behind.


def test_what_an_older_release_left_without_a_plan_gets_one(web: World) -> None:
    """Its rows say neither when they were issued nor what their bounds are; the migration has put a job."""
    managed = stands(web)
    rewrite(
        web, managed.uid, renewal_window_start=None, renewal_window_end=None, next_attempt_time=None, issue_time=None
    )
    bare = update(managed_schema.managed_certificate_versions).values(not_before=None, not_after=None)
    web.core.store.write("test.bare", lambda tx: tx.execute(bare))
    due = update(schema.jobs).values(due_time=0, available_time=0)
    web.core.store.write("test.due", lambda tx: tx.execute(due))
    settle(web)
    again = stands(web)
    assert (again.renewal_window, again.next_attempt_time) == (managed.renewal_window, managed.next_attempt_time)
    assert again.issue_time == managed.issue_time
    assert due_times(web, managed.uid) == [planned(web)]
    assert at_planned(web).current_version == 2


def test_what_was_due_before_it_could_be_planned_is_renewed_at_once(web: World) -> None:
    managed = stands(web)
    assert managed.not_after is not None
    rewrite(web, managed.uid, renewal_window_start=None, renewal_window_end=None, next_attempt_time=None)
    assert at(web, managed.not_after - DAY).current_version == 2


def test_what_has_lost_its_job_is_found_before_its_end(web: World) -> None:
    """A daemon of the release before ends the jobs of renewals, which it takes for something finished."""
    managed = stands(web)
    assert managed.not_after is not None
    web.core.store.write("test.lose", lambda tx: tx.execute(delete(schema.jobs)))
    at(web, managed.not_after - 2 * DAY)
    at_version(web, 2)


def test_who_is_never_renewed_is_not_looked_after(ca: World) -> None:
    request(ca, renewal=NEVER)
    ends = stands(ca).not_after
    assert ends is not None
    at(ca, ends - DAY)
    steps = len(ca.steps.seen)
    at(ca, ends - HOUR)
    assert jobs_of(ca, stands(ca).uid) == 0
    assert len(ca.steps.seen) == steps


# An incident.


def test_a_compromised_key_is_replaced_at_once_and_the_plan_begins_anew(web: World) -> None:
    new = NewManagedRevocation(name=WEB, version=1, reason=RevocationReason.KEY_COMPROMISE)
    web.core.managed_revocation.revoke(ADMINISTRATOR, new, key=None)
    managed = at_version(web, 2).managed_certificate
    assert (managed.state, managed.forced) == (ManagedCertificateState.ACTIVE, False)
    settle(web)
    assert due_times(web, managed.uid) == [planned(web)]
    assert planned(web) > web.clock.now() + 30 * DAY
    export(web)


def test_what_cannot_be_replaced_at_once_after_an_incident_is_as_soon_as_it_can(web: World) -> None:
    web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    new = NewManagedRevocation(name=WEB, version=1, reason=RevocationReason.KEY_COMPROMISE)
    web.core.managed_revocation.revoke(ADMINISTRATOR, new, key=None)
    settle(web)
    managed = attempts(web, 5)
    assert (managed.state, managed.current_version) == (ManagedCertificateState.REVOKED, 1)
    assert managed.renewal_blocked
    assert [event.details["reason"] for event in events(web, BLOCKED)] == [Reason.AUTHORITY_NOT_ENABLED]
    web.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA))
    goes_on(web)


def test_a_failure_is_an_error_of_ours_and_no_more(web: World) -> None:
    """What is told of a defect is that there is one."""

    def fail() -> None:
        raise ZeroDivisionError("the secret of the implementation")

    web.steps.at["renewal.3.planned"] = fail
    managed = at_planned(web)
    condition = blocked(managed)
    assert condition is not None
    assert condition.reason == Reason.INTERNAL
    assert "secret" not in condition.message
    at_planned(web)
    assert stands(web).current_version == 2
