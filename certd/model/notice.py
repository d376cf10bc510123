"""Notices: what is told before a certificate ends, and of whom."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from certd.clock import rfc3339
from certd.model.managed_certificate import RENEWAL_BLOCKED, ManagedCertificate, ManagedCertificateType
from certd.model.renewal import RenewalMode
from certd.model.renewal_steps import NextStep, next_step

ENDED: Final = 0
"""In place of a number of days: it has ended."""
AUTHORITY_NOTICE_DAYS: Final = (365, 180, 90, 45, 30, 15, 7, 3, 1)
"""Of authorities, whose successors take longer to bring about, and whom nobody renews but people."""
ROTATION_NOTICE_DAYS: Final = (14600, 10950, 7300, 5475, 3650, 2555, 1825, 1460, 1095, 730, 545)
"""Of authorities that issue for long: their next key should sign while what it issues can still live as long."""
_ALL_OF_AUTHORITIES: Final = (*ROTATION_NOTICE_DAYS, *AUTHORITY_NOTICE_DAYS)
_ROTATION_SHARE: Final = 1.5
"""Of the longest lifetime of what an authority issues: when so much is left of its own, its next key is due."""
_PATIENCE: Final = timedelta(hours=1)
"""A renewal that is due is not said to be missing before that: a daemon that was away has many to make."""


class NoticeKind(enum.StrEnum):
    """Whose end is told."""

    MANAGED_CERTIFICATE = "managed-certificate"
    AUTHORITY = "authority"


@dataclass(frozen=True, slots=True)
class NotRenewed:
    """Why a managed certificate is not renewed before it ends."""

    reason: str
    """Machine-readable: an ErrorReason where a failure is behind it."""
    message: str
    """For people: what to do."""


def nearest(days: Iterable[int], not_after: datetime, now: datetime) -> int | None:
    """Returns the last of these days before an end that have passed, ENDED past it; None before all of them.

    It alone is told. A daemon that was away while a certificate came from 60 days before its end to 10 would tell of
    45, 30 and 15 days at once, of which two were wrong and none said more than the last; and with thousands of
    certificates the one line that matters is lost among the others.
    """
    if not_after < now:
        return ENDED
    return min((number for number in days if not_after < now + timedelta(days=number)), default=None)


def rotation_is_due(days: int, longest: timedelta | None) -> bool:
    """Returns whether an authority is told of its end at one of ROTATION_NOTICE_DAYS: the next would be too late.

    `longest` is the longest lifetime among what it issued and is alive; None: nothing is.
    """
    following = max((number for number in _ALL_OF_AUTHORITIES if number < days), default=ENDED)
    return longest is not None and _ROTATION_SHARE * longest > timedelta(days=following)


def longest_in_time(left: timedelta) -> timedelta:
    """Returns how long what an authority with so much time left may live; for longer ones its next key is due."""
    return left / _ROTATION_SHARE


def why_not_renewed(managed: ManagedCertificate, now: datetime, *, since: datetime) -> NotRenewed | None:
    """Returns why a managed certificate is not going to be renewed before it ends; None when it is.

    `since` says since when this daemon makes renewals.
    """
    if managed.type is ManagedCertificateType.IMPORTED:
        return NotRenewed(
            "Imported",
            "It was imported, and what was made elsewhere is never renewed here; import a new version in time"
            " (ImportManagedCertificate).",
        )
    for condition in managed.conditions:
        if condition.type == RENEWAL_BLOCKED and condition.status:
            return NotRenewed(condition.reason, condition.message)
    step = next_step(managed, now)
    if step is NextStep.NOTHING:
        return NotRenewed(
            "NotPlanned", "Its renewal policy is NEVER; renew it (RenewManagedCertificate) or change the policy."
        )
    if managed.renewal.mode is RenewalMode.WHEN_USED and not managed.used and not managed.forced:
        return NotRenewed(
            "NotUsed",
            "It is renewed when it is used, and is not: associate it with a consumer, export it, or let it end.",
        )
    return _overdue(managed, step, now, since)


def _overdue(managed: ManagedCertificate, step: NextStep, now: datetime, since: datetime) -> NotRenewed | None:
    planned = managed.next_attempt_time
    # No plan goes past the end, but for one that was made by a clock that was ahead.
    if step is NextStep.WAIT and planned is not None and managed.not_after is not None and planned <= managed.not_after:
        return None
    if managed.renewal_window is not None and now <= managed.renewal_window[1]:
        return None
    due = managed.update_time if planned is None or planned > now else planned
    if now - max(due, since) <= _PATIENCE:
        return None
    return NotRenewed(
        "Overdue",
        f"Its renewal was due at {rfc3339(due)} and is neither made nor refused; the log of the server tells more.",
    )
