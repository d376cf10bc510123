"""When a managed certificate is renewed: at a moment of its own, where few others have theirs.

A hash of certificate and version draws a moment of the window. Of the twelve hours around it that one is taken in which
the fewest jobs are due. So what comes together by chance is spread, and what is planned is spread over the window as
evenly as the hash is. To look for the emptiest hour of the whole window would have all take its end, which nobody else
can have taken yet.

The jobs are the calendar, there is no other. In a large fleet every hour has many, and the hash alone decides.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from certd.clock import rfc3339
from certd.model.maintenance import next_span
from certd.model.managed_certificate import ManagedCertificate
from certd.model.renewal import RenewalMode, RenewalPolicy, Span, longest_wait, renewal_window
from certd.pki.preparation import Warning  # noqa: A004  # The API's word.
from certd.store import jobs
from certd.store.store import Transaction

_DRAWS: Final = struct.Struct(">3I20x")
_DRAW_BITS: Final = 32
_PLACES: Final = 12
_MOST_COUNTED: Final = 300
"""Jobs in all places together. Where there are more it makes no difference which is taken, and counting has an end."""
_HOUR: Final = timedelta(hours=1)
_MINUTE: Final = timedelta(minutes=1)
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
    beside: Sequence[datetime] = (),
) -> RenewalPlan | None:
    """Returns when a version with this validity is replaced, `now` or later; None when the policy is NEVER.

    The same version of the same certificate is drawn the same moment, however often it is planned. `beside` are moments
    that were planned just now, and are not in the books yet.
    """
    if policy.mode is RenewalMode.NEVER:
        return None
    window = renewal_window(not_before, not_after, policy)
    left = Span(max(window.start, now), max(window.end, now))
    in_window, in_span, in_place = _draws(uid, version)
    span, moment = left, _moment(left, in_window)
    if policy.maintenance_windows:
        span = _maintenance(policy, moment, left, longest_wait(not_before, not_after, policy)) or left
        moment = _moment(span, in_span)
    return RenewalPlan(window, _less_busy(tx, span, moment, in_place, beside))


def maintenance_warnings(policy: RenewalPolicy, not_before: datetime, not_after: datetime) -> tuple[Warning, ...]:
    """Returns a warning when a certificate with this validity cannot be renewed during a window of the policy."""
    windows = policy.maintenance_windows
    start, until = renewal_window(not_before, not_after, policy).start, longest_wait(not_before, not_after, policy)
    if not windows or next_span(windows, start, until=until) is not None:
        return ()
    told = f"none begins from {rfc3339(start)} to {rfc3339(until)}, so the certificate is renewed at another time"
    return (Warning("managed_certificate.renewal.maintenance_windows", told),)


def moment_in(span: Span, managed: ManagedCertificate) -> datetime:
    """Returns the moment of a span that a managed certificate has for its own."""
    return _moment(span, _draws(managed.uid, managed.current_version)[0])


def _draws(uid: str, version: int) -> tuple[int, int, int]:
    in_window, in_span, in_place = _DRAWS.unpack(hashlib.sha256(f"{uid}/{version}".encode()).digest())
    return in_window, in_span, in_place


def _moment(span: Span, draw: int) -> datetime:
    """Returns the moment of a span on which a draw falls, in whole seconds from its start."""
    return span.start + ((span.end - span.start) // _SECOND * draw >> _DRAW_BITS) * _SECOND


def _maintenance(policy: RenewalPolicy, moment: datetime, left: Span, until: datetime) -> Span | None:
    """Returns the part of a maintenance window that may be used; None when none comes in time.

    The next one from the moment on, or else from the beginning of what is left of the renewal's window; after that the
    next one for as long as there is time.
    """
    windows = policy.maintenance_windows
    found = next_span(windows, moment, until=left.end) or next_span(windows, left.start, until=left.end)
    if found is not None:
        return Span(max(found.start, left.start), max(min(found.end, left.end), left.start))
    later = next_span(windows, left.end, until=until)
    return None if later is None else Span(max(later.start, left.end), max(min(later.end, until), left.end))


def _less_busy(tx: Transaction, span: Span, moment: datetime, draw: int, beside: Sequence[datetime]) -> datetime:
    """Returns the moment, or one in an hour around it in which fewer jobs are due; of a short span, in a minute."""
    if span.start == span.end:
        return moment
    length = _HOUR if span.end - span.start >= _PLACES * _HOUR else _MINUTE
    around = max(min(moment - length * (_PLACES // 2), span.end - length * (_PLACES - 1)), span.start)
    first = _whole(around, length)
    loads = jobs.loads(tx, first, length, _PLACES, most=_MOST_COUNTED)
    if loads is None:
        return moment
    for other in beside:
        place = (other - first) // length
        if 0 <= place < _PLACES:
            loads[place] += 1
    # Its own hour comes first: it is left only for one that has less to do.
    usable, own = loads[: -(-(span.end - first) // length)], (moment - first) // length
    in_order = usable[own:] + usable[:own]
    chosen = in_order.index(min(in_order))
    if chosen == 0:
        return moment
    begin = first + (own + chosen) % len(usable) * length
    return _moment(Span(max(begin, span.start), min(begin + length, span.end)), draw)


def _whole(moment: datetime, length: timedelta) -> datetime:
    """Returns the beginning of the clock hour, or minute, of a moment."""
    seconds = int(length.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // seconds * seconds, UTC)
