"""The journals that token processes of a test wrote."""

from pathlib import Path

from certd.token import journal_records
from certd.token.journal_records import JournalRecord, Scan


def records_below(folder: Path) -> list[JournalRecord]:
    """Every record of every journal somewhere below a folder, each of which must be whole."""
    found: list[JournalRecord] = []
    for path in sorted(folder.rglob("*.jsonl")):
        scan = Scan(path)
        found += journal_records.records(scan)
        assert scan.remainder_length == 0, path
    return found


def uses(folder: Path, *kinds: str) -> list[JournalRecord]:
    """The records of these kinds; of all that tell of keys when none is named."""
    return [
        one for one in records_below(folder) if one.kind in kinds or (not kinds and one.kind != journal_records.SEGMENT)
    ]
