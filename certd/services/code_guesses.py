"""Guessing at codes: who comes with wrong ones waits, whoever else comes does not.

A code has 160 random bits, and is looked for by its SHA-256 alone, so that no time tells how much of it is right. With
a million guesses a second at a million codes, one is found in 10^28 years or so: no limit makes codes safer than they
are. What wrong ones cost is work, so there is no limit for all networks together, by which strangers could keep
everybody out. A network from which too many came in a minute is told to wait for the next; a right code lets in from
there all the same, for it may be a neighbour's. For such networks few codes are looked up at once, and for each one.

Enrollment codes and download codes are counted each for themselves, in bounded memory. Right codes are not counted, so
that many machines behind one address may enroll at once.
"""

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.event import Event, EventType
from certd.services.source_networks import network_of, source_of
from certd.store.store import Transaction

T = TypeVar("T")

FROM_A_NETWORK: Final = 10
"""Wrong codes in a minute, from which on wrong ones are told to wait."""
NETWORKS: Final = 4096
"""Most that are remembered; past that the one is forgotten whose last wrong code is the longest ago."""
LOOKS: Final = 4
"""At once, for networks that were told to wait."""
TOLD: Final = 1000
"""Addresses of a minute that have an event each."""
OTHERS: Final = "others"
"""Stands for the addresses past that."""
UNKNOWN_PRINCIPAL: Final = "unknown"
"""Principal of what somebody did who is not known."""
_MINUTE: Final = timedelta(minutes=1)
_MOST_UNTOLD: Final = 10 * TOLD
"""Kept while no event can be written; older ones are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """How often an address was refused in a minute."""

    address: str
    minute: datetime
    """Its beginning."""
    count: int


class Guesses:
    """Counts wrong codes; for any number of threads.

    Args:
        kind: what is guessed at, for messages.
        reason: the one of errors for a code that is wrong.
        from_a_network: wrong codes in a minute.
        networks: most that are remembered.
        told: most addresses of a minute that have an event each.
    """

    def __init__(
        self,
        *,
        kind: str,
        reason: Reason,
        from_a_network: int = FROM_A_NETWORK,
        networks: int = NETWORKS,
        told: int = TOLD,
    ) -> None:
        self._kind = kind
        self._reason = reason
        self._from_a_network = from_a_network
        self._networks = networks
        self._most_told = told
        self._lock = threading.Lock()
        self._minute: datetime | None = None
        self._wrong: dict[str, int] = {}
        """By network; the last to come with a wrong one is the last."""
        self._looking: set[str] = set()
        """Networks that wait, and for which a code is looked up at this moment."""
        self._refused: dict[str, int] = {}
        self._untold: deque[Refused] = deque(maxlen=_MOST_UNTOLD)

    def attempt(self, address: str, clock: Clock, look: Callable[[], T]) -> T:
        """Returns what `look` returns, for a code that somebody shows at an IP address.

        Raises what `look` raises, and counts that when it says that the code is wrong. After too many of these from a
        network RATE_LIMITED takes the place of it, also when more come from there at once than are looked up.
        """
        network = network_of(address)
        if not self._waits(network, clock.now()):
            try:
                return look()
            except CertdError as error:
                self.note(error, address, clock.now())
                raise
        self._begin(network, address, clock.now())
        try:
            return look()
        except CertdError as error:
            if error.reason is not self._reason:
                raise
            self.note(error, address, clock.now())
        finally:
            with self._lock:
                self._looking.discard(network)
        now = clock.now()
        raise CertdError(
            Reason.RATE_LIMITED,
            f"too many wrong {self._kind} came from this network in this minute; a right one still lets in, for others "
            "come again in the next",
            retry_after=max(1.0, (now.replace(second=0, microsecond=0) + _MINUTE - now).total_seconds()),
        )

    def note(self, error: CertdError, address: str, now: datetime) -> None:
        """Counts an error for an address and its network, if it is that of a wrong code."""
        if error.reason is not self._reason:
            return
        network = network_of(address)
        with self._lock:
            self._turn_to(now)
            self._wrong[network] = self._wrong.pop(network, 0) + 1
            if len(self._wrong) > self._networks:
                del self._wrong[next(iter(self._wrong))]
            self._refuse(address)

    def take(self, now: datetime, *, current: bool = False) -> list[Refused]:
        """Returns, once, the refusals of the minutes that have ended; with `current` of the running one as well."""
        with self._lock:
            self._turn_to(now)
            if current:
                self._end()
            taken = list(self._untold)
            self._untold.clear()
        return taken

    def give_back(self, refused: list[Refused]) -> None:
        """Keeps what could not be told."""
        with self._lock:
            self._untold.extendleft(reversed(refused[-_MOST_UNTOLD:]))

    def _waits(self, network: str, now: datetime) -> bool:
        with self._lock:
            self._turn_to(now)
            return self._wrong.get(network, 0) >= self._from_a_network

    def _begin(self, network: str, address: str, now: datetime) -> None:
        """Takes one of the few places for networks that wait; raises RATE_LIMITED when there is none."""
        with self._lock:
            if network not in self._looking and len(self._looking) < LOOKS:
                self._looking.add(network)
                return
            self._turn_to(now)
            self._refuse(address)
        raise CertdError(
            Reason.RATE_LIMITED,
            f"too many wrong {self._kind} came from this network in this minute, and more came while one of them was "
            "looked up; try again",
            retry_after=random.uniform(1.0, 2.0),  # noqa: S311  # Jitter is no secret.
        )

    def _turn_to(self, now: datetime) -> None:
        minute = now.replace(second=0, microsecond=0)
        if minute != self._minute:
            self._end()
            self._minute = minute
            self._wrong = {}

    def _end(self) -> None:
        if self._minute is not None:
            self._untold.extend(
                Refused(address=address, minute=self._minute, count=count) for address, count in self._refused.items()
            )
        self._refused = {}

    def _refuse(self, address: str) -> None:
        source = source_of(address)
        known = source in self._refused or len(self._refused) < self._most_told
        told = source if known else OTHERS
        self._refused[told] = self._refused.get(told, 0) + 1


def record(tx: Transaction, refused: list[Refused], type_: EventType) -> None:
    """Writes an event of each count of refusals."""
    for one in refused:
        tx.event(
            Event(
                time=one.minute,
                type=type_,
                tenant=None,
                principal=UNKNOWN_PRINCIPAL,
                resource="server",
                details={"address": one.address, "count": str(one.count)},
            )
        )
