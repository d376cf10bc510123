"""When a managed certificate is renewed: a moment of its own, where few others have theirs.

A few hours of the window are drawn by a hash of certificate and version; the one in which the fewest jobs are due is
taken. The jobs are the calendar, there is no other. In a large fleet every hour has many, and the hash alone decides.
"""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from certd.model.maintenance import next_span
from certd.model.managed_certificate import ManagedCertificate
from certd.model.renewal import RenewalMode, RenewalPolicy, Span, longest_wait, renewal_window
from certd.store import jobs
from certd.store.store import Transaction

_CANDIDATES: Final = 12
_MOST_COUNTED: Final = 50
"""Of the jobs of an hour: looking costs no more in a large fleet."""
_DRAWS: Final = struct.Struct(">16I")
_DRAW_BITS: Final = 32
_HOUR: Final = 3600
_MINUTE: Final = 60
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class RenewalPlan:
    """When a version is replaced."""

    window: Span
    time: datetime


def plan_renewal(
    tx: Transaction,
    *,
    uid: str,
    version: int,
    policy: RenewalPolicy,
    not_before: datetime,
    not_after: datetime,
    now: datetime,
) -> RenewalPlan | None:
    """Returns when a version with this validity is replaced, `now` or later; None when the policy is NEVER.

    The same version of the same certificate has the same hours to choose from, however often it is planned.
    """
    if policy.mode is RenewalMode.NEVER:
        return None
    window = renewal_window(not_before, not_after, policy)
    draws = _draws(uid, version)
    places = _places(policy, window, longest_wait(not_before, not_after, policy), now, draws[:_CANDIDATES])
    if len(places) == 1:
        chosen = places[0]
    else:
        loads = jobs.loads(tx, places, most=_MOST_COUNTED)
        chosen = places[loads.index(min(loads))]
    return RenewalPlan(window, max(_moment(chosen, draws[-1]), now))


def keeps_to_maintenance(policy: RenewalPolicy, not_before: datetime, not_after: datetime) -> bool:
    """Returns whether a certificate with this validity can be renewed during a maintenance window of the policy."""
    windows = policy.maintenance_windows
    start, until = renewal_window(not_before, not_after, policy).start, longest_wait(not_before, not_after, policy)
    return not windows or next_span(windows, start, until=until) is not None


def moment_in(span: Span, managed: ManagedCertificate) -> datetime:
    """Returns the moment of a span that a managed certificate has for its own."""
    return _moment(span, _draws(managed.uid, managed.current_version)[-1])


def _draws(uid: str, version: int) -> tuple[int, ...]:
    return _DRAWS.unpack(hashlib.sha512(f"{uid}/{version}".encode()).digest())


def _moment(span: Span, draw: int) -> datetime:
    """Returns the moment of a span on which a draw falls, in whole seconds from its start."""
    return span.start + _part((span.end - span.start) // _SECOND, draw) * _SECOND


def _places(
    policy: RenewalPolicy, window: Span, until: datetime, now: datetime, draws: Sequence[int]
) -> Sequence[Span]:
    """Returns where the moment may be: one span, or one for each draw."""
    window = Span(max(window.start, now), max(window.end, now))
    windows = policy.maintenance_windows
    if not windows:
        return _hours(window, draws)
    found = []
    for draw in draws:
        span = next_span(windows, _moment(window, draw), until=window.end)
        if span is not None:
            inside = Span(max(span.start, window.start), min(span.end, window.end))
            # Draws that lead to one span are spread over it.
            found += _hours(inside, (_mixed(draw),))
    if found:
        return found
    later = next_span(windows, window.end, until=until)
    if later is not None:
        return (Span(max(later.start, now), max(min(later.end, until), later.start, now)),)
    return _hours(window, draws)


def _hours(span: Span, draws: Sequence[int]) -> list[Span]:
    """Returns the parts of a span into which the draws fall: clock hours, or minutes when it is short."""
    start, end = math.ceil(span.start.timestamp()), math.floor(span.end.timestamp())
    if start >= end:
        return [Span(span.start, span.start)]
    length = _HOUR if end - start >= _CANDIDATES * _HOUR else _MINUTE
    found = []
    for draw in draws:
        begin = (start + _part(end - start, draw)) // length * length
        found.append(Span(_time(max(begin, start)), _time(min(begin + length, end))))
    return found


def _part(whole: int, draw: int) -> int:
    """Returns a number below `whole`, or 0."""
    return whole * draw >> _DRAW_BITS


def _mixed(draw: int) -> int:
    """Returns another draw, as far as anybody can tell."""
    return (draw * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFF_FFFF


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
