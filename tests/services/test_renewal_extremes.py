"""Renewals where something is extreme: lifetimes, clocks, how much is held back at once."""

from datetime import timedelta

import pytest

from certd.model.renewal import RenewalPolicy
from tests.services.conftest import World
from tests.services.managed_books import stands
from tests.services.renewals import SECOND, at_planned, planned, settle


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
