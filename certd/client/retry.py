"""When a failed call is tried again, and how long to wait before. Pure, so that every rule can be tested alone."""

from dataclasses import dataclass
from typing import Final

from certd.client.failure import CallFailed

_ABORTED_REASONS: Final = frozenset({"REQUEST_IN_PROGRESS", "OWNERSHIP_LOST"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds of the retries of one call."""

    total: float = 10.0
    """Seconds from the first try to the last; no try begins later."""
    first_delay: float = 0.1
    """Seconds before the second try; doubled before each further one."""
    longest_delay: float = 2.0
    """Seconds to which the doubling goes. What the server asks for may be longer."""


def delay_before_retry(
    failure: CallFailed, policy: RetryPolicy, *, tries: int, elapsed: float, repeatable: bool, jitter: float
) -> float | None:
    """Returns the seconds to wait before the next try, or None when there is none.

    Args:
        failure: how the last try failed.
        policy: the bounds.
        tries: how many tries there were.
        elapsed: seconds since the first try began.
        repeatable: whether the call may run twice: it reads, or carries a `request_id`. Any other call is repeated only
            when the server asks for it by RetryInfo, which it does for calls that it did not run.
        jitter: from 0 to 1; spreads callers that failed together.
    """
    if not _passing(failure) or not (repeatable or failure.retry_after is not None):
        return None
    own = min(policy.first_delay * 2 ** (tries - 1), policy.longest_delay) * (0.5 + 0.5 * jitter)
    # The server's delay is a lower bound: never earlier, and a little later so that not all come back at once.
    delay = own if failure.retry_after is None else failure.retry_after + 0.25 * own
    return delay if elapsed + delay < policy.total else None


def _passing(failure: CallFailed) -> bool:
    """Whether the failure may pass by waiting."""
    match failure.code:
        case "UNAVAILABLE":
            return True
        case "ABORTED":
            return failure.reason in _ABORTED_REASONS
        case "RESOURCE_EXHAUSTED":
            # Without RetryInfo it is a bound of the transport, such as a message that is too large.
            return failure.retry_after is not None
        case _:
            return False
