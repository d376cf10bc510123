from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.cli.certctl.durations import days_left, format_duration, format_time, parse_duration, parse_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        ("10y", timedelta(days=3650)),
        ("2w", timedelta(days=14)),
        ("45m", timedelta(minutes=45)),
        ("30s", timedelta(seconds=30)),
        ("1d12h", timedelta(hours=36)),
    ],
)
def test_a_duration_is_read(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "90", "d", "-1d", "1.5h", "1D", " 1d", "1d ", "P1D", "0d", "9999999999d", "\u0661d"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_a_duration_past_all_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than"):
        parse_duration("999999999y")


@given(st.integers(1, 10**9 - 1))
def test_a_duration_reads_as_it_is_written(seconds: int) -> None:
    value = timedelta(seconds=seconds)
    assert parse_duration(format_duration(value)) == value


def test_a_time_is_read_in_utc() -> None:
    assert parse_time("2027-01-31T12:00:00+02:00") == datetime(2027, 1, 31, 10, tzinfo=UTC)
    assert format_time(parse_time("2027-01-31T12:00:00Z")) == "2027-01-31T12:00:00Z"


@pytest.mark.parametrize("text", ["2027-01-31", "2027-01-31T12:00:00", "tomorrow", "", "2027-01-31 12:00:00Z"])
def test_what_is_no_rfc_3339_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_time(text)


def test_days_left_are_whole_days() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert days_left(now + timedelta(days=90), now) == "90"
    assert days_left(now + timedelta(days=90, seconds=-1), now) == "89"
    assert days_left(now, now) == "0"
    assert days_left(now - timedelta(seconds=1), now) == "expired"
