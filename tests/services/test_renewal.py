"""Managed certificates are renewed in their windows, by every policy."""

from dataclasses import replace
from datetime import datetime

import pytest
from cryptography import x509
from sqlalchemy import delete, update

from certd.model.managed_certificate import ManagedCertificateState, VersionState
from certd.model.renewal import DEFAULT_RENEWAL_POLICY, MaintenanceWindow, RenewalPolicy, renewal_window
from certd.services.authority_changes import Change
from certd.store import managed_schema, schema
from tests.services.batches import CA
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.consumers import WEB, active, associate, consumer
from tests.services.managed_books import (
    at_version,
    get,
    jobs_of,
    renew,
    rewrite,
    stands,
    versions,
)
from tests.services.renewals import (
    BLOCKED,
    DAY,
    HOUR,
    NEVER,
    RENEWED,
    SECOND,
    WHEN_USED,
    at,
    at_planned,
    blocked,
    change_policy,
    due_times,
    events,
    export,
    planned,
    request,
    settle,
)
from tests.waiting import eventually


@pytest.fixture
def web(ca: World) -> World:
    active(ca)
    return ca


def steps_of_renewal(world: World) -> list[str]:
    """Those that were done, without the ones of telling people of what ends, which go on beside."""
    return [step for step in world.steps.seen if not step.startswith(("notices.", "job."))]


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
    steps = steps_of_renewal(ca)
    at(ca, ends - HOUR)
    assert jobs_of(ca, stands(ca).uid) == 0
    assert steps_of_renewal(ca) == steps
