"""The places of the port for devices: so many connections may be open, and who takes most of them gives way.

While there is room, a connection that says nothing keeps its place until its time is over. Where there is none, the
next one gets the place of one that waits: of a handshake, of a request that has not come, or of the next one. That is
one of the site, and in it of the address, that has most; where the next one has as many, one that has waited for some
seconds. So few addresses cannot keep all others out by saying nothing, nor by saying it slowly. What is being answered
keeps its place, for it may have used a code.
"""

from collections import Counter
from typing import TYPE_CHECKING, Final

from certd.services.source_networks import site_of, source_of

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS: Final = 512
"""Open at once, handshakes included."""
CONNECTIONS_OF_A_SITE: Final = 256
"""The same of one /24 of IPv4, or of one /48 of IPv6."""
CONNECTIONS_OF_AN_ADDRESS: Final = 128
"""The same of one address of IPv4, or of one /64 of IPv6."""
PATIENCE_SECONDS: Final = 3.0
"""How long a connection may wait, where there is no room, before one gets its place whose site has as many."""


class Place:
    """One of the connections that may be open.

    Args:
        places: all of them.
        address: IP address of the peer.
        now: seconds of the clock of the event loop.
    """

    def __init__(self, places: "Places", address: str, now: float) -> None:
        self._places = places
        self.source = source_of(address)
        self.site = site_of(address)
        self.since = now
        """Since when it waits, unless it is answered."""
        self.answered: Callable[[], bool] = _never
        """Whether a request of it is being answered."""
        self.close: Callable[[], object] = _nothing
        """Ends the connection at once; the place is left before."""

    def leave(self) -> None:
        """Makes room for another one; the second time nothing happens."""
        self._places.forget(self)

    @property
    def none_left(self) -> bool:
        """Whether every place is taken."""
        return self._places.full


class Places:
    """Counts connections; used by the thread of the listener alone."""

    def __init__(self) -> None:
        self._taken: set[Place] = set()
        self._of_sites: Counter[str] = Counter()
        self._of_sources: Counter[str] = Counter()

    @property
    def full(self) -> bool:
        """Whether every place is taken."""
        return len(self._taken) >= CONNECTIONS

    def take(self, address: str, now: float) -> Place | None:
        """Returns a place, if need be that of another one, which is closed; None when nobody gives way."""
        place = Place(self, address, now)
        among = self._rivals(place)
        if among is not None:
            other = self._that_gives_way(place, among, now)
            if other is None:
                return None
            other.leave()
            other.close()
        self._taken.add(place)
        self._of_sites[place.site] += 1
        self._of_sources[place.source] += 1
        return place

    def forget(self, place: Place) -> None:
        """Gives a place back, once."""
        if place not in self._taken:
            return
        self._taken.remove(place)
        for counted, name in ((self._of_sites, place.site), (self._of_sources, place.source)):
            counted[name] -= 1
            if not counted[name]:
                del counted[name]

    def _rivals(self, place: Place) -> set[Place] | None:
        """Returns those of which one has to give way; None when there is room."""
        if self._of_sources[place.source] >= CONNECTIONS_OF_AN_ADDRESS:
            return {other for other in self._taken if other.source == place.source}
        if self._of_sites[place.site] >= CONNECTIONS_OF_A_SITE:
            return {other for other in self._taken if other.site == place.site}
        return self._taken if self.full else None

    def _that_gives_way(self, place: Place, among: set[Place], now: float) -> Place | None:
        def share(other: Place) -> tuple[int, int, float]:
            return self._of_sites[other.site], self._of_sources[other.source], now - other.since

        waiting = [other for other in among if not other.answered()]
        most = max(waiting, key=share, default=None)
        if most is not None and self._has_more(most, place):
            return most
        late = [other for other in waiting if now - other.since >= PATIENCE_SECONDS]
        return max(late, key=share, default=None)

    def _has_more(self, other: Place, place: Place) -> bool:
        """Whether the other's site, or its address in the same site, has as many still when it has given way."""
        if other.site == place.site:
            return self._of_sources[other.source] > self._of_sources[place.source] + 1
        return self._of_sites[other.site] > self._of_sites[place.site] + 1


def _never() -> bool:
    return False


def _nothing() -> None:
    pass
