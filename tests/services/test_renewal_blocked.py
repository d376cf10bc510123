"""What keeps a managed certificate from being renewed is told once, tried again, and over when it is over."""

import os
import signal
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import update

from certd.errors import CertdError, Reason
from certd.model.event import EventType
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import ManagedCertificateName
from certd.services.authority_changes import Change
from certd.services.profile_changes import GivenProfile
from certd.services.profiles import ProfileChange
from certd.store import managed_schema, schema
from certd.token.settings import TokenSettings
from tests.services.batches import CA
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.consumers import WEB, active
from tests.services.managed_books import (
    as_time_goes_by,
    at_version,
    get,
    jobs_of,
    renew,
    stands,
)
from tests.services.profile_books import GIVEN
from tests.services.profile_books import WEB as WEB_PROFILE
from tests.services.renewals import (
    BLOCKED,
    DAY,
    LONGEST_RETRY,
    NEVER,
    RENEWED,
    SECOND,
    at,
    at_planned,
    attempts,
    blocked,
    change_policy,
    end_authority,
    events,
    export,
    goes_on,
    planned,
    request,
    settle,
)
from tests.waiting import eventually


@pytest.fixture
def web(ca: World) -> World:
    active(ca)
    return ca


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


def test_an_authority_that_is_disabled_holds_it_back(web: World) -> None:
    web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    holds_back(web, Reason.AUTHORITY_NOT_ENABLED)
    web.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA))
    goes_on(web)


def reason(world: World) -> str | None:
    """What holds it back at the moment."""
    condition = blocked(stands(world))
    return condition.reason if condition is not None and condition.status else None


def test_reasons_that_take_turns_are_each_told_once_a_day(web: World) -> None:
    """Each attempt may find another of two; who is told of each hears nothing else."""
    reasons = [Reason.AUTHORITY_NOT_ENABLED, Reason.LIFETIME_EXCEEDS_AUTHORITY]

    def take_turns(rounds: int) -> None:
        for _ in range(rounds):
            web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
            at_planned(web)
            assert reason(web) == reasons[0]
            web.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA))
            end_authority(web, web.clock.now() + 2 * DAY)
            at_planned(web)
            assert reason(web) == reasons[1]

    take_turns(4)
    told = events(web, BLOCKED)
    assert [event.details["reason"] for event in told] == reasons
    assert all(event.details["message"] and event.details["version"] == "1" for event in told)
    at(web, web.clock.now() + DAY)
    take_turns(3)
    assert [event.details["reason"] for event in events(web, BLOCKED)] == 2 * reasons
    # Another version is another matter.
    end_authority(web, web.clock.now() + 365 * DAY)
    goes_on(web)
    web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    renew(web)
    settle(web)
    assert [event.details["version"] for event in events(web, BLOCKED)] == ["1", "1", "1", "1", "2"]


def test_reasons_that_take_turns_before_the_first_version_are_each_told_once(ca: World) -> None:
    away, disabled = Reason.TOKEN_UNAVAILABLE, Reason.AUTHORITY_NOT_ENABLED

    def fail() -> None:
        raise CertdError(away, "the token is away")

    ca.steps.at["managed.3.key-sealed"] = lambda: ca.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    ca.request()
    settle(ca)
    for _ in range(3):
        assert stands(ca).conditions[0].reason == disabled
        ca.steps.at["managed.3.key-sealed"] = fail
        at_planned(ca)
        assert stands(ca).conditions[0].reason == away
        at_planned(ca)
    told = [event.details["reason"] for event in events(ca, EventType.MANAGED_CERTIFICATE_BLOCKED)]
    assert told == [disabled, away]
    ca.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA))
    assert at_planned(ca).state is ManagedCertificateState.ACTIVE


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
    end_authority(web, web.clock.now() + 2 * DAY)
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
