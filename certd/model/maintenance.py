"""Maintenance windows: times that come again and again, written as cron has it, in a time zone.

A clock that is put forward skips what cron expects at a fixed time: that comes a moment later. One that is put back
shows a time twice: that comes the first time. Durations are of time that passes, whatever clocks show.
"""

import functools
import importlib.resources
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from certd.errors import field_invalid
from certd.model.renewal import MaintenanceWindow, Span

SHORTEST_DURATION: Final = timedelta(minutes=15)
LONGEST_DURATION: Final = timedelta(days=7)
DURATION_RULE: Final = f"must be from 15 minutes to {LONGEST_DURATION.days} days"
_LONGEST_CRON: Final = 128
_CRON_FIELDS: Final = 5
_SOME_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)


def check_cron(field: str, cron: str) -> str:
    """Returns five fields of cron; raises FIELD_INVALID for anything else, and for a time that never comes."""
    rule = "must be the five fields of cron: minute, hour, day of the month, month, day of the week, as in 0 2 * * SAT"
    if len(cron) > _LONGEST_CRON or not cron.isascii() or len(cron.split()) != _CRON_FIELDS:
        raise field_invalid(field, rule)
    try:
        # Whether a time comes does not depend on where one looks from.
        comes = next(CronSim(cron, _SOME_TIME), None)
    except CronSimError as error:
        problem = str(error)
        raise field_invalid(field, f"{rule}; {problem[:1].lower()}{problem[1:]}") from error
    if comes is None:
        raise field_invalid(field, "names a time that never comes")
    return cron


def check_time_zone(field: str, name: str) -> str:
    """Returns the name of a time zone; raises FIELD_INVALID for one that the IANA database does not have."""
    if name not in _zone_names():
        raise field_invalid(field, "must be the name of a time zone in the IANA database, as in Europe/Berlin or UTC")
    return name


def check_duration(field: str, duration: timedelta) -> timedelta:
    """Returns how long a window lasts; raises FIELD_INVALID when that is too short or too long."""
    if not SHORTEST_DURATION <= duration <= LONGEST_DURATION:
        raise field_invalid(field, DURATION_RULE)
    return duration


def next_span(windows: Sequence[MaintenanceWindow], after: datetime, *, until: datetime) -> Span | None:
    """Returns the span of a window that lasts at `after`, or that begins first; None when none does by `until`."""
    found: Span | None = None
    for window in windows:
        start = next(_starts(window, after - window.duration), None)
        # One that lasts begins now, as far as anybody can still use it.
        if start is not None and start <= until and (found is None or max(start, after) < max(found.start, after)):
            found = Span(start, start + window.duration)
    return found


def _starts(window: MaintenanceWindow, after: datetime) -> Iterator[datetime]:
    """Yields when a window begins, after a moment."""
    for found in CronSim(window.cron, after.astimezone(_zone(window.time_zone))):
        start = found.astimezone(UTC)
        # While a clock shows times for the second time, the one that it showed first is over.
        if start > after:
            yield start


@functools.lru_cache(maxsize=256)
def _zone(name: str) -> tzinfo:
    # Of UTC cron knows that it has no gaps.
    return UTC if name == "UTC" else ZoneInfo(name)


@functools.cache
def _zone_names() -> frozenset[str]:
    """Returns the names of the database that is installed with certd, the same on every machine."""
    return frozenset(importlib.resources.files("tzdata").joinpath("zones").read_text("ascii").split())
