"""How often a caller may call, and all callers of a tenant together.

By the generic cell rate algorithm (GCRA): for each of them one number is kept, the moment at which all that it was let
in for would have been spread out evenly. A call is let in while that moment lies less than the burst ahead.

What callers of a tenant share is kept fair: its last quarter is for those who take less than an eighth of the rate, so
that one who takes all they can get does not shut out the others.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Final

from certd.errors import CertdError, Reason
from certd.pki.names import parse_spiffe_id

DEFAULT_CALLS_PER_SECOND: Final = 2000
DEFAULT_BURST: Final = 4000

_MOST: Final = 65_536
_TENANT_BURST_SECONDS: Final = 2.0
_SHARES: Final = 8
_KEPT_FOR_OTHERS: Final = 0.25
_HAIR: Final = 1e-7
"""Seconds that do not matter, for what is added up in floating point."""


class _Spent:
    """What was let in of one caller, in seconds of the clock."""

    __slots__ = ("own", "share", "tenant")

    def __init__(self, tenant: str | None) -> None:
        self.tenant = tenant
        self.own = 0.0
        """Up to when it used its own rate."""
        self.share = 0.0
        """Up to when it used an equal part of its tenant's."""


class Rates:
    """Counts calls, for any number of threads, in memory: each daemon counts its own.

    Args:
        calls_per_second: of each caller.
        burst: calls that a caller may make at once after a pause.
        of_tenant: returns the calls per second of all callers of a tenant together, None for no limit.
        clock: returns seconds that never go back.
        most: callers that are kept; more than that forget who did nothing lately.
    """

    def __init__(
        self,
        *,
        calls_per_second: float = DEFAULT_CALLS_PER_SECOND,
        burst: int = DEFAULT_BURST,
        of_tenant: Callable[[str], float | None] = lambda _tenant: None,
        clock: Callable[[], float] = time.monotonic,
        most: int = _MOST,
    ) -> None:
        self._calls_per_second = calls_per_second
        self._interval = 1.0 / calls_per_second
        self._tolerance = (burst - 1) * self._interval
        self._of_tenant = of_tenant
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self._spent: dict[str, _Spent] = {}
        self._spent_by_tenants: dict[str, float] = {}

    def take(self, principal: str) -> None:
        """Counts a call of a caller; raises RATE_LIMITED, with when to come again, and counts none that it refuses."""
        now = self._clock()
        spent = self._spent.get(principal) or self._new(principal, now)
        tenant = spent.tenant
        limit = None if tenant is None else self._of_tenant(tenant)
        with self._lock:
            own = max(now, spent.own)
            ahead = own - now - self._tolerance
            of_tenant = 0.0
            if ahead <= _HAIR:
                if tenant is not None and limit is not None:
                    of_tenant = self._take_of_tenant(tenant, spent, limit, now)
                if of_tenant <= 0:
                    spent.own = own + self._interval
                    return
        if ahead > _HAIR:
            raise _limited(
                f"{principal} makes more than {self._calls_per_second:g} calls in a second", principal, ahead
            )
        raise _limited(
            f"the callers of tenants/{tenant} together make more than {limit:g} calls in a second",
            f"tenants/{tenant}",
            of_tenant,
        )

    def _take_of_tenant(self, tenant: str, spent: _Spent, limit: float, now: float) -> float:
        """Counts a call of a tenant and returns 0, or returns how many seconds it comes too early."""
        interval = 1.0 / limit
        burst = max(_TENANT_BURST_SECONDS, _SHARES * interval)
        used = max(self._spent_by_tenants.get(tenant, now), now)
        share = max(spent.share, now)
        takes_much = share - now > 1.0
        room = burst * (1.0 - _KEPT_FOR_OTHERS) if takes_much else burst
        ahead = used + interval - now - room
        if ahead > _HAIR:
            return ahead
        self._spent_by_tenants[tenant] = used + interval
        spent.share = share + interval * _SHARES
        return 0.0

    def _new(self, principal: str, now: float) -> _Spent:
        with self._lock:
            if len(self._spent) >= self._most:
                live = {name: spent for name, spent in self._spent.items() if max(spent.own, spent.share) > now}
                # More than half at once are more than a daemon answers; the oldest of them begin anew.
                self._spent = dict(list(live.items())[-(self._most // 2) :])
                self._spent_by_tenants = {name: used for name, used in self._spent_by_tenants.items() if used > now}
            return self._spent.setdefault(principal, _Spent(tenant_of(principal)))


def tenant_of(principal: str) -> str | None:
    """Returns the id of the tenant whose identity a principal is; None for one of the server and for others."""
    try:
        path = parse_spiffe_id(principal).path
    except CertdError:
        return None
    words = path.strip("/").split("/")
    return words[1] if len(words) == 4 and words[0] == "tenants" and words[2] == "identities" else None


def _limited(problem: str, subject: str, seconds: float) -> CertdError:
    """Those who are refused together do not return together."""
    return CertdError(
        Reason.RATE_LIMITED,
        f"{problem}; call less often, or let an administrator allow more",
        resource=subject,
        retry_after=max(0.01, seconds) * random.uniform(1.0, 2.0),  # noqa: S311  # Jitter is no secret.
    )
