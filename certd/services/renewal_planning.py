"""When a managed certificate is renewed: a moment of its own, where few others have theirs.

A few hours of the window are drawn by a hash of certificate and version; the one in which the fewest jobs are due is
taken. The jobs are the calendar, there is no other. In a large fleet every hour has many, and the hash alone decides.
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

_CANDIDATES: Final = 12
_DRAWS: Final = struct.Struct(">16I")
_DRAW_BITS: Final = 32
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
) -> RenewalPlan | None:
    """Returns when a version with this validity is replaced, `now` or later; None when the policy is NEVER.

    The same version of the same certificate has the same hours to choose from, however often it is planned.
    """
    if policy.mode is RenewalMode.NEVER:
        return None
    window, draws = renewal_window(not_before, not_after, policy), _draws(uid, version)
    left = Span(max(window.start, now), max(window.end, now))
    spans = _maintenance(policy, left, longest_wait(not_before, not_after, policy), draws) or {
        left: draws[:_CANDIDATES]
    }
    length = _HOUR if left.end - left.start >= _CANDIDATES * _HOUR else _MINUTE
    places = [(_begin(span, draw, length), span) for span, of_span in spans.items() for draw in of_span]
    loads = jobs.loads(tx, [begin for begin, _ in places], length)
    begin, span = places[loads.index(min(loads))]
    return RenewalPlan(window, _moment(Span(max(begin, span.start), min(begin + length, span.end)), draws[-1]))


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
    return _moment(span, _draws(managed.uid, managed.current_version)[-1])


def _draws(uid: str, version: int) -> tuple[int, ...]:
    return _DRAWS.unpack(hashlib.sha512(f"{uid}/{version}".encode()).digest())


def _moment(span: Span, draw: int) -> datetime:
    """Returns the moment of a span on which a draw falls, in whole seconds from its start."""
    return span.start + _part((span.end - span.start) // _SECOND, draw) * _SECOND


def _maintenance(
    policy: RenewalPolicy, left: Span, until: datetime, draws: Sequence[int]
) -> dict[Span, Sequence[int]] | None:
    """Returns the maintenance windows that may be used, with draws of places in each; None: any time may be."""
    windows, found = policy.maintenance_windows, dict[Span, list[int]]()
    if not windows:
        return None
    for draw in draws[:_CANDIDATES]:
        span = next_span(windows, _moment(left, draw), until=left.end)
        if span is not None:
            # Draws that lead to one span are spread over it.
            found.setdefault(Span(max(span.start, left.start), min(span.end, left.end)), []).append(_mixed(draw))
    if found:
        return dict(found)
    later = next_span(windows, left.end, until=until)
    return (
        None if later is None else {Span(max(later.start, left.end), max(min(later.end, until), left.end)): draws[:1]}
    )


def _begin(span: Span, draw: int, length: timedelta) -> datetime:
    """Returns where the clock hour or minute begins into which a draw falls."""
    moment = _moment(span, draw)
    whole = int(length.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // whole * whole, UTC)


def _part(whole: int, draw: int) -> int:
    """Returns a number below `whole`, or 0."""
    return whole * draw >> _DRAW_BITS


def _mixed(draw: int) -> int:
    """Returns another draw, as far as anybody can tell."""
    return (draw * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFF_FFFF
