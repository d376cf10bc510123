"""Renewals where something is extreme: lifetimes, clocks, how much is held back at once."""

import logging
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import delete, select, text, update

from certd.errors import CertdError, Reason
from certd.model.certificate import CertificateState
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import ManagedCertificateName
from certd.model.renewal import RenewalMode, RenewalPolicy
from certd.services.authority_changes import Change
from certd.store import managed_deletion, managed_schema, schema
from certd.store.store import Transaction
from tests.services.batches import CA
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.consumers import active, associate, consumer
from tests.services.managed_books import (
    as_time_goes_by,
    at_version,
    get,
    new_key,
    renew,
    stands,
    states_of_certificates,
)
from tests.services.renewals import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    WHEN_USED,
    at,
    at_planned,
    blocked,
    change_policy,
    due_times,
    end_authority,
    export,
    planned,
    settle,
)
from tests.waiting import eventually


@pytest.fixture
def web(world: World) -> World:
    world.create_root()
    world.create_subordinate()
    active(world)
    return world


@pytest.mark.parametrize(("seconds", "percent"), [(60, 33), (60, 80), (120, 33), (300, 80)])
def test_what_lives_for_a_minute_is_renewed_when_so_much_of_that_minute_is_left(
    world: World, seconds: int, percent: int
) -> None:
    """Certificates begin five minutes in the past, which nobody can use any more."""
    world.create_root()
    world.create_subordinate()
    world.request(lifetime=timedelta(seconds=seconds), renewal=RenewalPolicy(remaining_percent=percent))
    settle(world)
    for number in range(1, 6):
        managed, now = stands(world), world.clock.now()
        assert managed.current_version == number
        assert managed.renewal_window is not None
        start, end = managed.renewal_window
        assert now + seconds // 10 * SECOND - SECOND <= start < end < (managed.not_after or now)
        assert start <= planned(world) <= end
        at_planned(world)


def test_a_clock_that_was_years_ahead_costs_no_renewal(web: World) -> None:
    """It finds everything expired, the authority too, and has it tried again minutes later, years ahead."""
    condition = blocked(at(web, web.clock.now() + 12 * 365 * DAY))
    assert condition is not None
    assert condition.reason == Reason.AUTHORITY_NOT_ENABLED
    ends = stands(web).not_after
    assert ends is not None
    # It is put back, and time goes on.
    web.clock.advance(ends - 40 * DAY - web.clock.now())
    as_time_goes_by(web, lambda: (stands(web).next_attempt_time or ends) < ends, step=MINUTE)
    settle(web)
    assert due_times(web, stands(web).uid) == [planned(web)]
    assert at_planned(web).current_version == 2


def test_what_is_planned_for_later_by_another_policy_is_no_longer_blocked(web: World) -> None:
    web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    assert at_planned(web).renewal_blocked
    change_policy(web, RenewalPolicy(remaining_percent=5))
    settle(web)
    managed = stands(web)
    assert planned(web) > web.clock.now() + DAY
    assert not managed.renewal_blocked
    condition = blocked(managed)
    assert condition is not None
    assert (condition.reason, condition.last_transition_time) == ("Planned", web.clock.now())
    # When it is due by that one, it is.
    assert at_planned(web).renewal_blocked


@pytest.mark.parametrize("use", [export, lambda world: associate(world, consumer(world))])
@pytest.mark.parametrize("lifetime", [HOUR, 90 * DAY])
def test_what_waited_for_its_use_is_renewed_at_once_when_it_is_used(
    world: World, lifetime: timedelta, use: Callable[[World], object]
) -> None:
    """Also past its end, when it is looked at once a day; of an hour's the last look comes an hour before that."""
    world.create_root()
    world.create_subordinate()
    world.request(lifetime=lifetime, renewal=WHEN_USED)
    settle(world)
    ends = stands(world).not_after
    assert ends is not None
    while world.clock.now() <= ends:
        at_planned(world)
    assert get(world).state is ManagedCertificateState.EXPIRED
    use(world)
    settle(world)
    managed = stands(world)
    assert (managed.current_version, get(world).state) == (2, ManagedCertificateState.ACTIVE)


def test_what_waits_for_its_use_no_longer_is_planned_by_its_new_policy(world: World) -> None:
    world.create_root()
    world.create_subordinate()
    world.request(renewal=WHEN_USED)
    settle(world)
    at_planned(world)
    change_policy(world, RenewalPolicy(mode=RenewalMode.WHEN_USED, remaining_percent=5))
    settle(world)
    before = stands(world)
    assert planned(world) > world.clock.now() + DAY
    # Its time has not come, and so its use changes nothing of it.
    associate(world, consumer(world))
    settle(world)
    assert (stands(world).current_version, planned(world)) == (1, before.next_attempt_time)
    assert at_planned(world).current_version == 2


def test_one_that_cannot_be_put_back_leaves_no_other_claimed(world: World) -> None:
    """What they wait for is written together; what fails then is written alone."""
    world.create_root()
    world.create_subordinate()
    names = [ManagedCertificateName("default", f"m{number}") for number in range(20)]
    for name in names:
        world.request(name.managed_certificate)
    settle(world)
    world.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))

    def due_and_refused(tx: Transaction) -> None:
        tx.execute(update(managed_schema.managed_certificates).values(next_attempt_time=0))
        tx.execute(update(schema.jobs).values(due_time=0, available_time=0))
        tx.execute(
            text(
                "CREATE TRIGGER refuse BEFORE UPDATE ON managed_certificates WHEN OLD.managed_certificate_id = 'm7'"
                " BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        )

    world.core.store.write("test.due", due_and_refused)
    bad = stands(world, names.pop(7)).uid

    def claimed() -> set[str]:
        world.core.scheduler.wake()
        with world.core.store.read("test.claimed") as tx:
            rows = tx.execute(select(schema.jobs.c.subject).where(schema.jobs.c.owner_epoch.is_not(None)))
            return set(rows.scalars())

    eventually(lambda: claimed() == {bad})
    assert all(stands(world, name).renewal_blocked for name in names)


@pytest.mark.parametrize(("attempt", "least", "most"), [(3, 2.5, 5), (120, 60, 121), (3000, 300, 600)])
def test_a_token_that_is_away_for_long_is_asked_for_ever_more_rarely(
    web: World, attempt: int, least: float, most: float
) -> None:
    def away() -> None:
        raise CertdError(Reason.TOKEN_UNAVAILABLE, "away")

    web.steps.at["renewal.2.key-sealed"] = away
    web.core.store.write("test.attempt", lambda tx: tx.execute(update(schema.jobs).values(attempt=attempt)))
    at_planned(web)
    assert stands(web).renewal_blocked
    assert least * SECOND <= planned(web) - web.clock.now() <= most * SECOND


def test_what_is_blocked_for_long_does_not_fill_the_log(web: World, caplog: pytest.LogCaptureFixture) -> None:
    web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    with caplog.at_level(logging.WARNING, logger="certd.scheduler"):
        for _ in range(20):
            at_planned(web)
    told = [record for record in caplog.records if "waits until" in record.getMessage()]
    # After 1, 2, 4, 8 and 16 attempts.
    assert len(told) == 5


def test_what_ends_a_little_before_its_authority_is_renewed_once_more_before_it_ends(web: World) -> None:
    """Five days are too little for a renewal a month before, and too much to be given away."""
    first = stands(web).not_after
    assert first is not None
    ends = first + 5 * DAY
    end_authority(web, ends)
    condition = blocked(at_planned(web))
    assert condition is not None
    assert (condition.status, condition.reason) == (True, Reason.LIFETIME_EXCEEDS_AUTHORITY)
    assert at(web, first - 6 * DAY).current_version == 1
    managed = at(web, first - 4 * DAY)
    assert (managed.current_version, managed.not_after, managed.renewal_blocked) == (2, ends, False)
    # There is nothing more to gain.
    at_planned(web)
    for time in (first, ends - HOUR, ends - SECOND, ends + HOUR):
        managed = at(web, time)
        assert (managed.current_version, managed.renewal_blocked) == (2, True)


def test_what_cannot_be_done_from_time_to_time_keeps_nobody_from_looking_for_lost_renewals(web: World) -> None:
    """Request records that cannot be deleted, say."""
    renew(web, key=new_key())
    managed = at_version(web, 2).managed_certificate
    assert managed.not_after is not None

    def spoil(tx: Transaction) -> None:
        tx.execute(delete(schema.jobs))
        tx.execute(
            text("CREATE TRIGGER refuse BEFORE DELETE ON request_records BEGIN SELECT RAISE(ABORT, 'refused'); END")
        )

    web.core.store.write("test.spoil", spoil)
    at(web, managed.not_after - 2 * DAY)
    at_version(web, 3)


def test_no_certificate_becomes_current_without_its_key(web: World) -> None:
    """Another daemon, say, was told that the key is compromised and made another in its place."""
    uid = stands(web).uid

    def forget() -> None:
        web.core.store.write("test.forget", lambda tx: managed_deletion.delete_in_making(tx, uid, 2))

    web.steps.at["renewal.3.planned"] = forget
    assert at_planned(web).current_version == 1
    as_time_goes_by(web, lambda: stands(web).current_version == 2, step=SECOND)
    export(web)
    assert states_of_certificates(web, uid) == [CertificateState.ISSUED, CertificateState.LOST, CertificateState.ISSUED]
