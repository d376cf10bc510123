"""What restores from backups lost, as their events tell: gaps in the books that are known, and no damage.

A restore takes the books back. What was signed between the backup and the restore is in the journals and in no row, and
checkpoints that were kept elsewhere tell of events that are gone. The event `books.restored` says from when on, and how
far each journal went; it stands in the chain, so that no gap becomes larger afterwards.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from certd.clock import rfc3339
from certd.model.event import EventType, NumberedEvent
from certd.pki.checkpoint import Checkpoint, JournalHead
from certd.token.journal_records import JournalRecord

_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"
"""As records of journals have it: times of this form compare as text does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """A restore, and what it accounts for."""

    seq: int
    """Of its event."""
    time: datetime
    backup_time: datetime
    backup_seq: int
    """Of the last event in the backup."""
    numbers: Mapping[str, int]
    """Of the last record that it read of each journal, by the journal's id."""

    def __str__(self) -> str:
        return (
            f"event {self.seq}: the books were restored {rfc3339(self.time)} as of event {self.backup_seq}, from a "
            f"backup of {rfc3339(self.backup_time)}"
        )

    def lost_record(self, journal: str, record: JournalRecord) -> bool:
        """Returns whether what a record tells of was done between the backup and the restore."""
        begin = self.backup_time.strftime(_TIME)
        return record.number <= self.numbers.get(journal, 0) and record.text("time") >= begin

    def lost_checkpoint(self, said: Checkpoint) -> bool:
        """Returns whether a checkpoint was signed between the backup and the restore, of events that are gone."""
        return said.seq > self.backup_seq and self.backup_time <= said.time <= self.time

    def unread(self, head: JournalHead) -> int:
        """Returns how many records a journal had, by a checkpoint that is lost, that the restore did not read."""
        return max(0, head.number - self.numbers.get(head.journal, 0))


def details_of_heads(heads: Iterable[JournalHead]) -> str:
    """Returns how the event of a restore tells how far journals went: ids and numbers, with a space between two."""
    return " ".join(f"{head.journal}:{head.number}" for head in heads)


def restores_among(page: Sequence[NumberedEvent]) -> list[Restore]:
    """Returns the restores that events tell of; an event that says in no known form what was lost excuses nothing."""
    return [
        found for one in page if one.event.type is EventType.BOOKS_RESTORED and (found := _restore(one)) is not None
    ]


def _restore(one: NumberedEvent) -> Restore | None:
    details = one.event.details
    try:
        pairs = [told.split(":") for told in details.get("journals", "").split()]
        return Restore(
            seq=one.seq,
            time=one.event.time,
            backup_time=datetime.fromisoformat(details["backup_time"]).astimezone(UTC),
            backup_seq=int(details["sequence"]),
            numbers={journal: int(number) for journal, number in pairs},
        )
    except (KeyError, ValueError):
        return None
