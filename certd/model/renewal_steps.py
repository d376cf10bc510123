"""What is to be done with a managed certificate when its job is due."""

import enum
from datetime import datetime, timedelta
from typing import Final

from certd.model.maintenance import next_span
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateState, ManagedCertificateType
from certd.model.renewal import RenewalMode, Span, longest_wait

_SHORTEST_WAIT: Final = timedelta(hours=1)
_WAIT_AFTER_EXPIRY: Final = timedelta(days=1)
_PART_OF_WHAT_IS_LEFT: Final = 10


class NextStep(enum.Enum):
    """What comes next."""

    MAKE_VERSION = enum.auto()
    """The first one, or one in place of the current one."""
    PLAN = enum.auto()
    """Nobody has found out yet when it is renewed."""
    WAIT = enum.auto()
    """Until `next_attempt_time`."""
    WAIT_FOR_USE = enum.auto()
    """It would be renewed now if it were used."""
    NOTHING = enum.auto()
    """Unless somebody asks for it."""


def next_step(managed: ManagedCertificate, now: datetime) -> NextStep:
    """Returns what comes next at `now`; whether that is the time of a maintenance window is another question."""
    if managed.state is ManagedCertificateState.PENDING:
        return NextStep.MAKE_VERSION
    if managed.forced:
        waits = managed.next_attempt_time is not None and managed.next_attempt_time > now
        return NextStep.WAIT if waits else NextStep.MAKE_VERSION
    ended = managed.state in {ManagedCertificateState.FAILED, ManagedCertificateState.REVOKED}
    if ended or managed.type is ManagedCertificateType.IMPORTED or managed.renewal.mode is RenewalMode.NEVER:
        return NextStep.NOTHING
    if managed.renewal_window is None or managed.next_attempt_time is None:
        return NextStep.PLAN
    if managed.next_attempt_time > now:
        return NextStep.WAIT
    unused = managed.renewal.mode is RenewalMode.WHEN_USED and not managed.used
    return NextStep.WAIT_FOR_USE if unused else NextStep.MAKE_VERSION


def next_look(managed: ManagedCertificate, now: datetime) -> datetime:
    """Returns when to look again whether it is used: after a tenth of what is left, an hour at least."""
    left = (managed.not_after or now) - now
    if left <= timedelta(0):
        return now + _WAIT_AFTER_EXPIRY
    return now + max(left / _PART_OF_WHAT_IS_LEFT, _SHORTEST_WAIT)


def awaited_maintenance(managed: ManagedCertificate, now: datetime) -> Span | None:
    """Returns the maintenance window that a renewal which is due waits for; None when it is to go on.

    So it is during one, and when none begins while there is time; and when somebody wants it now.
    """
    windows = managed.renewal.maintenance_windows
    if not windows or managed.forced or managed.current_version == 0 or managed.not_after is None:
        return None
    began = managed.issue_time or managed.create_time
    until = longest_wait(began, managed.not_after, managed.renewal)
    span = next_span(windows, now, until=until)
    return None if span is None or span.start <= now else Span(span.start, min(span.end, until))
