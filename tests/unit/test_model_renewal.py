"""When a certificate is renewed: the window, for lifetimes from a second to a century."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.model.renewal import REMAINING_PERCENT, RenewalPolicy, longest_wait, renewal_window

START = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)

lifetimes = st.integers(1, 100 * 365 * 86_400)
percents = st.sampled_from(REMAINING_PERCENT)


def left(seconds: int, percent: int) -> tuple[timedelta, timedelta]:
    """Returns how much of a lifetime is left when the window begins, and when it ends."""
    end = START + seconds * SECOND
    window = renewal_window(START, end, RenewalPolicy(remaining_percent=percent))
    return end - window.start, end - window.end


@pytest.mark.parametrize(
    ("lifetime", "percent", "begins", "ends"),
    [
        # A third of a week is 2.31 days.
        (7 * DAY, 33, 319_334 * SECOND, 79_833 * SECOND),
        (timedelta(hours=1), 33, 1900 * SECOND, 475 * SECOND),
        (90 * DAY, 33, 47.52 * DAY, 11.88 * DAY),
        # 130.68 days: at most thirty days from it.
        (396 * DAY, 33, 160.68 * DAY, 100.68 * DAY),
        (3650 * DAY, 33, (1204.5 + 30) * DAY, (1204.5 - 30) * DAY),
        # 1.6 times 80 per cent would be before the certificate was; the first tenth is left out.
        (10 * DAY, 80, 9 * DAY, 3.2 * DAY),
        (100 * DAY, 5, 8 * DAY, 2 * DAY),
        (3650 * DAY, 80, (2920 + 30) * DAY, (2920 - 30) * DAY),
    ],
)
def test_windows(lifetime: timedelta, percent: int, begins: timedelta, ends: timedelta) -> None:
    assert left(lifetime // SECOND, percent) == (begins, ends)


@given(seconds=lifetimes, percent=percents)
def test_a_window_lies_in_the_validity_and_around_its_moment(seconds: int, percent: int) -> None:
    begins, ends = (value // SECOND for value in left(seconds, percent))
    moment = seconds * percent / 100
    assert 0 <= ends <= begins <= seconds
    # At most thirty days to either side; a second for what is cut off.
    assert begins <= moment + 30 * 86_400
    assert ends >= moment - 30 * 86_400 - 1
    assert ends <= moment
    # Not before the first tenth is over, and around the moment otherwise.
    assert begins <= seconds - seconds // 10
    assert begins >= min(moment, seconds * 0.9) - 1
    if begins > moment + 1 and begins < seconds - seconds // 10:
        assert begins == min(seconds * percent * 16 // 1000, seconds * percent // 100 + 30 * 86_400)


@given(seconds=lifetimes, percent=percents)
def test_maintenance_is_waited_for_past_the_window_and_not_past_the_end(seconds: int, percent: int) -> None:
    end, policy = START + seconds * SECOND, RenewalPolicy(remaining_percent=percent)
    assert renewal_window(START, end, policy).end <= longest_wait(START, end, policy) <= end


@given(seconds=lifetimes, percent=percents)
def test_windows_are_in_whole_seconds(seconds: int, percent: int) -> None:
    end, policy = START + seconds * SECOND, RenewalPolicy(remaining_percent=percent)
    times = (*renewal_window(START, end, policy), longest_wait(START, end, policy))
    assert all(time.microsecond == 0 for time in times)
