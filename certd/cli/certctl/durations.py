"""Durations and times as a person writes them: `90d`, `12h`, `10y`; RFC 3339."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(hours=24),
    "w": timedelta(days=7),
    "y": timedelta(days=365),
}
_DURATION: Final = re.compile(r"(?:[0-9]{1,9}[smhdwy])+")
_PART: Final = re.compile(r"([0-9]+)([smhdwy])")


def parse_duration(text: str) -> timedelta:
    """Returns a duration, greater than zero: numbers with `s`, `m`, `h`, `d` (24 h), `w`, `y` (365 d), added up.

    Raises ValueError with a sentence for people.
    """
    if not _DURATION.fullmatch(text):
        message = f"{text!r} is no duration; write for example 90d, 12h, 10y or 1d12h"
        raise ValueError(message)
    try:
        total = sum((int(number) * _UNITS[unit] for number, unit in _PART.findall(text)), timedelta())
    except OverflowError:
        message = f"{text!r} is longer than any certificate may live"
        raise ValueError(message) from None
    if not total:
        message = f"{text!r} is no time at all; a duration is at least a second"
        raise ValueError(message)
    return total


def parse_time(text: str) -> datetime:
    """Returns an aware time from RFC 3339, for example `2027-01-31T12:00:00Z`; raises ValueError with a sentence."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        value = None
    if value is None or value.tzinfo is None or "T" not in text.upper():
        message = f"{text!r} is no time of RFC 3339; write for example 2027-01-31T12:00:00Z"
        raise ValueError(message)
    return value.astimezone(UTC)


def format_time(value: datetime) -> str:
    """Returns an aware time in RFC 3339, in UTC, to the second."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_duration(value: timedelta) -> str:
    """Returns a duration in the largest unit that fits it exactly, for example `90d`."""
    for unit in reversed(_UNITS):
        if value >= _UNITS[unit] and not value % _UNITS[unit]:
            return f"{value // _UNITS[unit]}{unit}"
    return f"{value.total_seconds():g}s"


def days_left(end: datetime, now: datetime) -> str:
    """Returns the whole days from `now` to `end`; `expired` after it."""
    return "expired" if now > end else str((end - now).days)
