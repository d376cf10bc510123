"""Maintenance windows: what cron means in a time zone, also on the days on which clocks are changed."""

import itertools
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.model import maintenance
from certd.model.renewal import MaintenanceWindow, Span

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
BERLIN = "Europe/Berlin"
ZONES = ("UTC", BERLIN, "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Havana", "Pacific/Apia")
CRONS = (
    "0 2 * * SAT",
    "30 2 * * *",
    "*/7 * * * *",
    "0 0 1 * *",
    "15 3 29 2 *",
    "0 */6 * * 1-5",
    "0 0 * * 5#1",
    "5 4 L * *",
)

windows = st.builds(
    MaintenanceWindow,
    cron=st.sampled_from(CRONS),
    time_zone=st.sampled_from(ZONES),
    duration=st.integers(15 * 60, 7 * 86_400).map(lambda seconds: timedelta(seconds=seconds)),
)
moments = st.datetimes(
    datetime(2025, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)  # noqa: DTZ001  # hypothesis wants it so.
)  # fmt: skip


def window(cron: str, time_zone: str = "UTC", duration: timedelta = 2 * HOUR) -> MaintenanceWindow:
    return MaintenanceWindow(cron=cron, time_zone=time_zone, duration=duration)


def first(after: datetime, *several: MaintenanceWindow, until: datetime | None = None) -> Span | None:
    return maintenance.next_span(several, after, until=until or after + 40 * 366 * DAY)


def spans(after: datetime, one: MaintenanceWindow, count: int) -> list[Span]:
    """Returns so many spans, one after the other."""
    found: list[Span] = []
    for _ in range(count):
        span = first(after, one)
        assert span is not None
        found.append(span)
        after = span.end
    return found


def test_the_span_that_lasts_or_the_one_that_begins_first() -> None:
    saturdays = window("0 2 * * SAT")
    start = datetime(2030, 1, 5, 2, tzinfo=UTC)
    expected = Span(start, start + 2 * HOUR)
    for after in (start - 3 * DAY, start, start + HOUR, start + 2 * HOUR - timedelta(microseconds=1)):
        assert first(after, saturdays) == expected
    assert first(start + 2 * HOUR, saturdays) == Span(start + 7 * DAY, start + 7 * DAY + 2 * HOUR)


def test_none_begins_by_a_moment() -> None:
    saturdays = window("0 2 * * SAT")
    start = datetime(2030, 1, 5, 2, tzinfo=UTC)
    assert first(start - DAY, saturdays, until=start - timedelta(seconds=1)) is None
    assert first(start - DAY, saturdays, until=start) is not None
    assert first(start - DAY) is None


def test_of_several_windows_the_one_that_can_be_used_first() -> None:
    monday = datetime(2030, 1, 7, tzinfo=UTC)
    weekly, daily = window("0 0 * * MON", duration=7 * DAY), window("0 2 * * *")
    assert first(monday + 3 * DAY, daily, weekly) == Span(monday, monday + 7 * DAY)
    assert first(monday - 7 * DAY, daily, window("0 3 * * *")) == first(monday - 7 * DAY, daily)


@pytest.mark.parametrize(
    ("cron", "local_day", "begins"),
    [
        # 2030-03-31, 02:00 → 03:00: what would begin in the hour that is not there begins when it is over.
        ("30 2 * * *", date(2030, 3, 31), datetime(2030, 3, 31, 1, 0, tzinfo=UTC)),
        ("0 3 * * *", date(2030, 3, 31), datetime(2030, 3, 31, 1, 0, tzinfo=UTC)),
        ("0 4 * * *", date(2030, 3, 31), datetime(2030, 3, 31, 2, 0, tzinfo=UTC)),
        # 2030-10-27, 03:00 → 02:00: the first of the two.
        ("30 2 * * *", date(2030, 10, 27), datetime(2030, 10, 27, 0, 30, tzinfo=UTC)),
        ("30 1 * * *", date(2030, 10, 27), datetime(2030, 10, 26, 23, 30, tzinfo=UTC)),
        ("30 3 * * *", date(2030, 10, 27), datetime(2030, 10, 27, 2, 30, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_days_on_which_clocks_are_changed(cron: str, local_day: date, begins: datetime) -> None:
    midnight = datetime.combine(local_day, time(), ZoneInfo(BERLIN)).astimezone(UTC)
    one = window(cron, BERLIN)
    assert first(midnight, one) == Span(begins, begins + 2 * HOUR)
    # Once on that day, and again on the next one.
    again = first(begins + 2 * HOUR, one)
    assert again is not None
    assert again.start.astimezone(ZoneInfo(BERLIN)).date() == local_day + DAY


def test_an_hour_that_comes_twice_has_its_windows_once() -> None:
    """From every minute of the two hours one finds a start after it, never one that is over."""
    one = window("30 2 * * *", BERLIN, duration=timedelta(minutes=15))
    midnight = datetime(2030, 10, 26, 22, tzinfo=UTC)
    found = {first(midnight + minute * timedelta(minutes=1), one) for minute in range(26 * 60)}
    assert {span.start for span in found if span is not None} == {
        datetime(2030, 10, 27, 0, 30, tzinfo=UTC),
        datetime(2030, 10, 28, 1, 30, tzinfo=UTC),
    }


def test_what_comes_every_few_minutes_comes_so_on_every_day() -> None:
    quarter = window("*/30 * * * *", BERLIN, duration=timedelta(minutes=15))
    for day in (datetime(2030, 3, 30, 22, tzinfo=UTC), datetime(2030, 10, 26, 20, tzinfo=UTC)):
        starts = [span.start for span in spans(day, quarter, 20)]
        assert {later - sooner for sooner, later in itertools.pairwise(starts)} == {timedelta(minutes=30)}


@given(window=windows, after=moments)
def test_a_span_lasts_at_the_moment_or_comes_next(window: MaintenanceWindow, after: datetime) -> None:
    span = first(after, window)
    assert span is not None
    assert span.end == span.start + window.duration
    assert span.end > after
    # From its end on it is another one, which begins later.
    another = first(span.end, window)
    assert another is not None
    assert another.start > span.start
    # Between the moment and its start there is nothing.
    if span.start > after:
        assert first(after, window, until=span.start - timedelta(microseconds=1)) is None
        assert first(span.start - (span.start - after) / 2, window) == span


@pytest.mark.parametrize(
    "cron", [*CRONS, "0 2 * * sat", "  0   2 * *  SAT ", "0 0 LW * *", "59 23 31 12 7", "1,2,3-5/2 * * * *"]
)
def test_what_cron_has(cron: str) -> None:
    assert maintenance.check_cron("f", cron) == cron


@pytest.mark.parametrize(
    "cron",
    [
        "", "* * * *", "* * * * * *", "0 0 0 2 * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *",
        "* * * 13 *", "* * * * 8", "@daily", "0 2 * * SATURDAY", "5-1 * * * *", "*/0 * * * *", "-1 * * * *",
        "1.5 * * * *", "a b c d e", "0 0 31 2 *", "0 0 30 2 *", "0 0 */31 2 MON#5", "\u0663 * * * *", "* * * * \u0661",
        "0\x000 * * *", ", * * * *", "1/ * * * *", "* * * * 5#6", "* * * * L", "* * L-3 * *", "* " * 500,
        "9" * 5000 + " * * * *",
    ],
)  # fmt: skip
def test_what_cron_does_not_have(cron: str) -> None:
    with pytest.raises(CertdError) as refused:
        maintenance.check_cron("renewal.maintenance_windows[0].cron", cron)
    assert refused.value.reason is Reason.FIELD_INVALID
    assert refused.value.violations[0].field == "renewal.maintenance_windows[0].cron"


@given(st.text(alphabet="0123456789*/,-#LW SATJN", max_size=40))
def test_any_text_is_taken_or_refused(cron: str) -> None:
    reason = None
    try:
        maintenance.check_cron("f", cron)
    except CertdError as error:
        reason = error.reason
    if reason is None:
        assert first(datetime(2030, 1, 1, tzinfo=UTC), window(cron), until=datetime(2130, 1, 1, tzinfo=UTC))
    assert reason in {None, Reason.FIELD_INVALID}


@pytest.mark.parametrize("name", ["UTC", BERLIN, "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
def test_time_zones(name: str) -> None:
    assert maintenance.check_time_zone("f", name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", "Berlin", "europe/berlin", "../../etc/passwd", "/etc/localtime", "America", "localtime", "posixrules",
        "tzdata.zi", "UTC\0",
    ],
)  # fmt: skip
def test_what_is_no_time_zone(name: str) -> None:
    with pytest.raises(CertdError) as refused:
        maintenance.check_time_zone("f", name)
    assert refused.value.reason is Reason.FIELD_INVALID


def test_every_zone_of_the_database_can_be_used() -> None:
    for name in sorted(maintenance._zone_names()):
        assert first(datetime(2030, 3, 1, tzinfo=UTC), window("30 2 * * *", name)) is not None, name


@pytest.mark.parametrize("minutes", [15, 7 * 24 * 60])
def test_durations(minutes: int) -> None:
    duration = timedelta(minutes=minutes)
    assert maintenance.check_duration("f", duration) == duration


@pytest.mark.parametrize("minutes", [14.99, 7 * 24 * 60 + 1])
def test_durations_out_of_bounds(minutes: float) -> None:
    with pytest.raises(CertdError) as refused:
        maintenance.check_duration("f", timedelta(minutes=minutes))
    assert refused.value.reason is Reason.FIELD_INVALID
