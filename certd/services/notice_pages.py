"""What comes near its end, page by page, whatever it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from certd.model.event import Event
from certd.store.notices import Mark
from certd.store.store import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Come:
    """A page of what has come near its end."""

    to_tell: Sequence[str]
    """Uids of those that are to be told of."""
    last: tuple[datetime, str] | None
    """End and uid of the last one; None when there is nothing behind the page."""


class Endings(Protocol):
    """What ends of one kind, and of whom that is told."""

    def come(self, tx: Transaction, mark: Mark, until: datetime, now: datetime, *, limit: int) -> Come:
        """Returns a page of what ends before `until`, from behind a mark."""

    def tell(self, tx: Transaction, uids: Sequence[str], days: int, now: datetime) -> Iterator[Event]:
        """Records that those are told of that still are to be, and yields their events."""
