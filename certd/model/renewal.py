"""When a managed certificate is renewed."""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

REMAINING_PERCENT = range(5, 81)
DEFAULT_REMAINING_PERCENT = 33
MOST_MAINTENANCE_WINDOWS = 10
_SECOND = timedelta(seconds=1)
_FARTHEST = timedelta(days=30) // _SECOND
"""From the moment around which a renewal is planned, in seconds."""


class RenewalMode(enum.StrEnum):
    """Whether it is."""

    ALWAYS = "ALWAYS"
    WHEN_USED = "WHEN_USED"
    """While it is associated with a consumer, or was exported since the last renewal."""
    NEVER = "NEVER"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceWindow:
    """A time that comes again and again."""

    cron: str
    """When it begins, in the five fields of cron."""
    time_zone: str = "UTC"
    """A name of the IANA database."""
    duration: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalPolicy:
    """Whether and around which moment it is renewed."""

    mode: RenewalMode = RenewalMode.ALWAYS
    remaining_percent: int = DEFAULT_REMAINING_PERCENT
    """Of the lifetime that are left at that moment."""
    maintenance_windows: tuple[MaintenanceWindow, ...] = ()
    """The only times at which it may be; none: any time."""


DEFAULT_RENEWAL_POLICY = RenewalPolicy()


class Span(NamedTuple):
    """From one moment to another."""

    start: datetime
    end: datetime


def renewal_window(not_before: datetime, not_after: datetime, policy: RenewalPolicy) -> Span:
    """Returns between which moments a certificate with this validity is renewed, in whole seconds.

    Around the moment when `remaining_percent` of its lifetime are left: from 1.6 times to 0.4 times so much, at most 30
    days from it, and never in the first tenth of the lifetime.
    """
    lifetime = (not_after - not_before) // _SECOND
    remaining = lifetime * policy.remaining_percent // 100
    most = lifetime - lifetime // 10
    earliest = min(lifetime * policy.remaining_percent * 16 // 1000, remaining + _FARTHEST, most)
    latest = max(lifetime * policy.remaining_percent * 4 // 1000, remaining - _FARTHEST)
    return Span(not_after - earliest * _SECOND, not_after - latest * _SECOND)


def longest_wait(not_before: datetime, not_after: datetime, policy: RenewalPolicy) -> datetime:
    """Returns until when a maintenance window is waited for: until a tenth of what `remaining_percent` is is left."""
    lifetime = (not_after - not_before) // _SECOND
    return not_after - (lifetime * policy.remaining_percent // 1000) * _SECOND
