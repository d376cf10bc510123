"""Fleets that live for weeks and months: nothing expires, nothing is renewed twice, no hour has too much to do.

The long form is `scripts/bench decade`.
"""

from datetime import timedelta

from tests.services.conftest import World
from tests.services.simulated_fleet import Fleet, Group

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def test_for_weeks_no_hour_has_twice_as_much_to_do_as_the_mean(world: World) -> None:
    """About four renewals an hour.

    Of a mean below three, one hour or another has twice as many by chance, however well they are spread. The fleet came
    to be in the course of five days, as one that moves in does: of one that is made in an hour the first renewals fill
    the three days of their window, and are for that time nearly twice the mean.
    """
    groups = [Group(count=420, lifetime=7 * DAY), Group(count=30, lifetime=30 * DAY)]
    fleet = Fleet(world=world, groups=groups, step=HOUR)
    fleet.request(over=5 * DAY)
    fleet.live(11 * DAY)
    assert fleet.unwell == []
    assert fleet.out_of_window() == []
    mean, busiest = fleet.busy()
    assert mean >= 3
    assert busiest < 2 * mean


def test_for_months_nothing_expires_and_nothing_is_renewed_twice(world: World) -> None:
    """Looked at twice a day, for the step is nothing to a window of three days."""
    groups = [Group(count=40, lifetime=7 * DAY), Group(count=20, lifetime=30 * DAY)]
    fleet = Fleet(world=world, groups=groups, step=12 * HOUR)
    fleet.request(over=HOUR)
    fleet.live(90 * DAY)
    assert fleet.unwell == []
    assert fleet.out_of_window() == []
    # One of a week lives for 4.7 days in the mean, and is then replaced; one of thirty days for twenty.
    expected = 40 * 90 / 4.69 + 20 * 90 / 20.1
    assert 0.9 * expected < sum(fleet.renewals) < 1.1 * expected
