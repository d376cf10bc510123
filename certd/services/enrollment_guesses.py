"""Guessing at codes: so many wrong ones in a minute from an address and in all, counted and told as events.

Enrollment codes and download codes are counted each for themselves.

Right codes are not counted, so that many machines behind one address may enroll at once.
"""

import ipaddress
import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from certd.errors import CertdError, Reason
from certd.model.event import Event, EventType
from certd.store.store import Transaction

FROM_AN_ADDRESS: Final = 10
"""Wrong codes in a minute."""
IN_ALL: Final = 1000
"""Wrong codes in a minute, and so the most addresses that are remembered."""
OTHERS: Final = "others"
"""Stands for the addresses past that."""
UNKNOWN: Final = "unknown"
"""Stands for a peer whose address is not told."""
UNKNOWN_PRINCIPAL: Final = "unknown"
"""Principal of what somebody did who is not known."""
_MINUTE: Final = timedelta(minutes=1)
_MOST_UNTOLD: Final = 10 * IN_ALL
"""Kept while no event can be written; older ones are forgotten."""
_NETWORK_OF_ONE: Final = 64
"""Bits of IPv6 that tell one network from another; the rest its owner chooses."""


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
        from_an_address: wrong codes in a minute.
        in_all: wrong codes in a minute, of all addresses.
    """

    def __init__(
        self, *, kind: str = "enrollment codes", from_an_address: int = FROM_AN_ADDRESS, in_all: int = IN_ALL
    ) -> None:
        self._kind = kind
        self._from_an_address = from_an_address
        self._in_all = in_all
        self._lock = threading.Lock()
        self._minute: datetime | None = None
        self._wrong: dict[str, int] = {}
        self._wrong_in_all = 0
        self._refused: dict[str, int] = {}
        self._untold: deque[Refused] = deque(maxlen=_MOST_UNTOLD)

    def admit(self, address: str, now: datetime) -> None:
        """Raises RATE_LIMITED when too many wrong codes came in this minute, from this address or in all."""
        source = source_of(address)
        with self._lock:
            minute = self._turn_to(now)
            if self._wrong.get(source, 0) < self._from_an_address and self._wrong_in_all < self._in_all:
                return
            self._refuse(source)
        raise CertdError(
            Reason.RATE_LIMITED,
            f"too many {self._kind} that do not let in came in this minute; try again in the next",
            retry_after=max(1.0, (minute + _MINUTE - now).total_seconds()),
        )

    def wrong(self, address: str, now: datetime) -> None:
        """Notes a code that did not let in."""
        source = source_of(address)
        with self._lock:
            self._turn_to(now)
            self._wrong_in_all += 1
            if source in self._wrong or len(self._wrong) < self._in_all:
                self._wrong[source] = self._wrong.get(source, 0) + 1
            self._refuse(source)

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

    def _turn_to(self, now: datetime) -> datetime:
        minute = now.replace(second=0, microsecond=0)
        if minute != self._minute:
            self._end()
            self._minute = minute
            self._wrong = {}
            self._wrong_in_all = 0
        return minute

    def _end(self) -> None:
        if self._minute is not None:
            self._untold.extend(
                Refused(address=address, minute=self._minute, count=count) for address, count in self._refused.items()
            )
        self._refused = {}

    def _refuse(self, source: str) -> None:
        known = source in self._refused or len(self._refused) < self._in_all
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


def source_of(address: str) -> str:
    """Returns what counts as one: an address of IPv4, a network of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return UNKNOWN
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed), _NETWORK_OF_ONE), strict=False))
    return str(parsed)
