"""When a managed certificate is renewed."""

import enum
from dataclasses import dataclass
from datetime import timedelta

REMAINING_PERCENT = range(5, 81)
DEFAULT_REMAINING_PERCENT = 33
MOST_MAINTENANCE_WINDOWS = 10


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
