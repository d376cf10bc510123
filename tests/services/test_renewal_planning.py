"""Each certificate has a moment of its own, in its window and where few others have theirs."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from certd.model.job import Job, JobKind
from certd.model.renewal import MaintenanceWindow, RenewalMode, RenewalPolicy, Span, longest_wait, renewal_window
from certd.services.renewal_planning import RenewalPlan, maintenance_warnings, plan_renewal
from certd.store import jobs
from certd.store.store import Store
from tests.databases import migrated
from tests.fakes import FakeClock

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
DEFAULT = RenewalPolicy()
SATURDAYS = RenewalPolicy(
    maintenance_windows=(MaintenanceWindow(cron="0 2 * * SAT", time_zone="Europe/Berlin", duration=4 * HOUR),)
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/certd.db"
    migrated(url)
    store = Store.open(url, clock=FakeClock())
    yield store
    store.close()


def plan(store: Store, uid: str = "a", **changes: Any) -> RenewalPlan:
    wanted: dict[str, Any] = {
        "version": 1,
        "policy": DEFAULT,
        "not_before": NOW,
        "not_after": NOW + 30 * DAY,
        "now": NOW,
    }
    with store.read("test") as tx:
        found = plan_renewal(tx, uid=uid, **(wanted | changes))
    assert found is not None
    return found


def put(store: Store, uid: str, time: datetime) -> None:
    job = Job(kind=JobKind.ADVANCE_MANAGED_CERTIFICATE, subject=uid, due_time=time)
    store.write("test", lambda tx: jobs.put(tx, job))


def times(store: Store, count: int, *, puts: bool = True, **changes: Any) -> list[datetime]:
    """Plans so many certificates one after the other."""
    found = []
    for number in range(count):
        found.append(plan(store, f"m{number}", **changes).time)
        if puts:
            put(store, f"m{number}", found[-1])
    return found


@pytest.mark.parametrize("lifetime", [HOUR, DAY, 7 * DAY, 90 * DAY, 3650 * DAY])
def test_the_moment_lies_in_the_window(store: Store, lifetime: timedelta) -> None:
    end = NOW + lifetime
    window = renewal_window(NOW, end, DEFAULT)
    for number in range(50):
        found = plan(store, f"m{number}", not_after=end)
        assert found.window == window
        assert window.start <= found.time < window.end
        assert found.time.microsecond == 0


def test_a_version_has_the_same_moment_whenever_it_is_planned_and_another_one_another(store: Store) -> None:
    assert plan(store) == plan(store)
    assert plan(store, version=2).time != plan(store).time
    assert plan(store, "b").time != plan(store).time


def test_who_is_never_renewed_has_no_moment(store: Store) -> None:
    never = RenewalPolicy(mode=RenewalMode.NEVER)
    with store.read("test") as tx:
        assert plan_renewal(tx, uid="a", version=1, policy=never, not_before=NOW, not_after=NOW + DAY, now=NOW) is None


def test_the_hours_are_evenly_full(store: Store) -> None:
    """Four of each hour of a week's window; a hash alone would put ten or more into some hour."""
    window = renewal_window(NOW, NOW + 7 * DAY, DEFAULT)
    hours = (window.end - window.start) / HOUR
    mean = 4
    planned = times(store, int(mean * hours), not_after=NOW + 7 * DAY)
    busiest = max(Counter(time.replace(minute=0, second=0) for time in planned).values())
    assert busiest < 2 * mean
    # Nor do they come together within their hours.
    assert len({time.replace(hour=0, day=1, month=1) for time in planned}) > len(planned) * 0.9


def test_what_is_planned_together_keeps_apart(store: Store) -> None:
    """A hundred in a window of 67 hours, none of which is in the books yet."""
    planned: list[datetime] = []
    for number in range(100):
        planned.append(plan(store, f"m{number}", not_after=NOW + 7 * DAY, beside=planned).time)
    assert max(Counter(time.replace(minute=0, second=0) for time in planned).values()) <= 3


def test_nobody_is_pushed_to_the_end_of_the_window(store: Store) -> None:
    """Those who come one after the other find its end empty, and do not all take it: half of them are early."""
    shares = []
    for number in range(600):
        begins = NOW + number * timedelta(minutes=30)
        found = plan(store, f"m{number}", not_before=begins, not_after=begins + 7 * DAY, now=begins)
        put(store, f"m{number}", found.time)
        shares.append((found.time - found.window.start) / (found.window.end - found.window.start))
    assert 0.45 < sum(shares) / len(shares) < 0.6
    assert sum(share < 0.25 for share in shares) / len(shares) > 0.1


def test_moments_of_hourly_certificates_are_spread_over_their_minutes(store: Store) -> None:
    planned = times(store, 100, not_after=NOW + HOUR)
    assert max(Counter(time.replace(second=0) for time in planned).values()) <= 2 * 100 / 23


def test_in_a_fleet_that_fills_every_hour_the_hash_decides(store: Store) -> None:
    """Looking ends at as many as are counted, and what is drawn is as even as draws are."""
    window = renewal_window(NOW, NOW + 7 * DAY, DEFAULT)
    hours = int((window.end - window.start) / HOUR)

    def fill(tx: Any) -> None:
        jobs.put_all(
            tx,
            [
                Job(
                    kind=JobKind.ADVANCE_MANAGED_CERTIFICATE,
                    subject=f"{hour}-{number}",
                    due_time=window.start + hour * HOUR,
                )
                for hour in range(hours + 2)
                for number in range(25)
            ],
        )

    store.write("test", fill)
    planned = times(store, 10 * hours, puts=False, not_after=NOW + 7 * DAY)
    # Far above what comes by chance (10 ± 3 in an hour), far below what comes when all choose one.
    assert max(Counter((time - window.start) // HOUR for time in planned).values()) < 26


def test_what_is_planned_late_is_planned_for_what_is_left_of_its_window(store: Store) -> None:
    window = renewal_window(NOW, NOW + 30 * DAY, DEFAULT)
    late = window.start + (window.end - window.start) * 0.75 + timedelta(microseconds=1)
    for number in range(50):
        assert late <= plan(store, f"m{number}", now=late).time < window.end
    past = window.end + DAY
    assert plan(store, now=past) == RenewalPlan(window, past)


def local(time: datetime) -> tuple[int, int]:
    """Day of the week and hour in Berlin, in winter."""
    there = time + HOUR
    return there.isoweekday(), there.hour


def test_a_moment_lies_in_a_maintenance_window(store: Store) -> None:
    window = renewal_window(NOW, NOW + 90 * DAY, SATURDAYS)
    planned = times(store, 100, policy=SATURDAYS, not_after=NOW + 90 * DAY)
    assert all(window.start <= time <= window.end for time in planned)
    assert {local(time)[0] for time in planned} == {6}
    assert {local(time)[1] for time in planned} == {2, 3, 4, 5}
    # Over the Saturdays, too: there are five of them.
    saturdays = Counter(time.date() for time in planned)
    assert len(saturdays) == 5
    assert max(saturdays.values()) < 40


def test_one_after_the_window_is_kept_to_while_there_is_time(store: Store) -> None:
    """The window of a week's certificate, from Friday to Sunday, has no Wednesday."""
    wednesdays = RenewalPolicy(maintenance_windows=(MaintenanceWindow(cron="0 0 * * WED", duration=HOUR),))
    begins = datetime(2030, 1, 2, tzinfo=UTC) - timedelta(days=6.5)
    ends = begins + 7 * DAY
    window, until = renewal_window(begins, ends, wednesdays), longest_wait(begins, ends, wednesdays)
    found = plan(store, policy=wednesdays, not_before=begins, not_after=ends, now=begins)
    assert window.end < found.time < until
    assert (found.time.isoweekday(), found.time.hour) == (3, 0)
    assert maintenance_warnings(wednesdays, begins, ends) == ()


def test_when_none_comes_in_time_they_are_not_kept_to(store: Store) -> None:
    yearly = RenewalPolicy(maintenance_windows=(MaintenanceWindow(cron="0 0 1 6 *", duration=HOUR),))
    found = plan(store, policy=yearly)
    assert found.window.start <= found.time < found.window.end
    (warning,) = maintenance_warnings(yearly, NOW, NOW + 30 * DAY)
    assert warning.field == "managed_certificate.renewal.maintenance_windows"
    assert maintenance_warnings(DEFAULT, NOW, NOW + 30 * DAY) == ()
    assert maintenance_warnings(SATURDAYS, NOW, NOW + 30 * DAY) == ()


def test_late_in_a_maintenance_window_what_is_left_of_it_is_used(store: Store) -> None:
    always = RenewalPolicy(maintenance_windows=(MaintenanceWindow(cron="0 0 * * *", duration=7 * DAY),))
    window = renewal_window(NOW, NOW + 30 * DAY, always)
    past = window.end + HOUR
    found = plan(store, policy=always, now=past)
    assert past <= found.time <= longest_wait(NOW, NOW + 30 * DAY, always)
    assert Span(*found.window) == window
