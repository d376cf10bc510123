"""Walks the files of journals and tells of every record that was changed, removed, moved or cut off."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certd.pki.checkpoint import JournalHead
from certd.token import journal_records
from certd.token.journal_records import CHAIN_START, JournalRecord


@dataclass(slots=True)
class WalkedJournal:
    """A journal that is walked, or was."""

    id: str = ""
    begin_time: str = ""
    """Of its first record."""
    begins_late: bool = False
    """Whether its first segments are not among those that are walked."""
    segment: int = 0
    last_number: int = 0
    chain_hash: bytes = CHAIN_START
    unfinished_bytes: int = 0
    """At its end: of a record that is being written, or that a process which was killed left unfinished."""


@dataclass(slots=True)
class _Segment:
    """A file, and the bytes at its end that are no record, as far as it was read."""

    path: Path
    is_empty: bool = True
    length: int = 0
    has_lines: bool = False
    _hash: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        found: str = self._hash.hexdigest()
        return found

    def left_over(self, data: bytes) -> None:
        self.length += len(data)
        self.has_lines = self.has_lines or b"\n" in data
        self._hash.update(data)

    def forget(self) -> None:
        self.length, self.has_lines, self._hash = 0, False, hashlib.sha256()


@dataclass(slots=True)
class JournalWalk:
    """All journals of some folders.

    Args:
        folders: as in `[token] journal`, of every machine whose token process may have signed.
        known: how far journals were known to go, by id: chain hashes by the numbers of records.
        tell: is called with what is wrong.
        may_begin_late: whether first segments may lie elsewhere, where `certd audit archive` put them.
        skip: where to begin, by id: records up to these numbers are verified and not returned.
    """

    folders: Sequence[Path]
    known: Mapping[str, Mapping[int, bytes]]
    tell: Callable[[str], None]
    may_begin_late: bool = False
    skip: Mapping[str, int] = field(default_factory=dict)
    journals: list[WalkedJournal] = field(default_factory=list)

    def records(self) -> Iterator[tuple[WalkedJournal, JournalRecord]]:
        """Returns every record that follows upon the one before it; OSError when a folder cannot be read."""
        for paths in _journals_in(self.folders):
            journal = WalkedJournal()
            self.journals.append(journal)
            yield from self._walk(journal, paths)
            self._look_at_end(journal)
        seen = {journal.id for journal in self.journals}
        for journal_id, heads in self.known.items():
            if journal_id not in seen and heads:
                self.tell(
                    f"journal {journal_id}: it is in none of the folders, and had {max(heads)} records at least; name "
                    "its folder with --journal if it is that of another machine"
                )

    @property
    def heads(self) -> list[JournalHead]:
        """How far the journals go that were walked."""
        return [
            JournalHead(journal=one.id, number=one.last_number, chain_hash=one.chain_hash)
            for one in self.journals
            if one.id and one.last_number
        ]

    def size(self) -> int:
        """Returns how many bytes there are to read."""
        return sum(path.stat().st_size for paths in _journals_in(self.folders) for path in paths)

    def _walk(self, journal: WalkedJournal, paths: Sequence[Path]) -> Iterator[tuple[WalkedJournal, JournalRecord]]:
        before = _Segment(paths[0])
        for path in paths:
            segment = _Segment(path)
            with path.open("rb") as file:
                while line := file.readline(journal_records.LONGEST_RECORD):
                    record = journal_records.parse(line)
                    if record is None:
                        segment.left_over(line)
                        continue
                    if segment.is_empty:
                        self._look_at_header(journal, record, before, path)
                    self._look_at_place(journal, record, segment)
                    segment.is_empty = False
                    if record.number > self.skip.get(journal.id, 0):
                        yield journal, record
            if segment.is_empty:
                self.tell(f"{path}: there is no record in it")
            if segment.has_lines:
                self.tell(f"{path}: {segment.length} bytes after record {journal.last_number} are no records")
            elif path == paths[-1]:
                journal.unfinished_bytes = segment.length
            before = segment

    def _look_at_place(self, journal: WalkedJournal, record: JournalRecord, segment: "_Segment") -> None:
        """Looks whether a record follows upon the one before it, and goes on from it as it stands."""
        if segment.length:
            self.tell(f"{segment.path}: {segment.length} bytes before record {record.number} are no record")
            segment.forget()
        if not journal_records.follows(record, number=journal.last_number, chain_hash=journal.chain_hash):
            self.tell(
                f"{segment.path}: record {record.number} is not what was written, or does not follow upon record "
                f"{journal.last_number}: one was changed, removed or moved"
            )
        journal.last_number, journal.chain_hash = record.number, record.chain_hash
        expected = self.known.get(journal.id, {}).get(record.number)
        if expected is not None and expected != record.chain_hash:
            self.tell(f"journal {journal.id}: record {record.number} is not what it was known to be")

    def _look_at_header(self, journal: WalkedJournal, header: JournalRecord, before: "_Segment", path: Path) -> None:
        if header.kind != journal_records.SEGMENT:
            self.tell(f"{path}: it does not begin with the record of a segment")
            return
        number = header.count("segment")
        if not journal.id:
            journal.id, journal.begin_time = header.text("journal"), header.text("time")
            if number != 1:
                journal.begins_late = True
                if not self.may_begin_late or self._is_behind(journal.id, header.number):
                    self.tell(
                        f"{path}: the journal begins with segment {number}, and those before are in none of the "
                        "folders; name the one to which they were moved with --journal"
                    )
                journal.last_number, journal.chain_hash = header.number - 1, _hash(header.text("previous"))
        elif (header.text("journal"), number) != (journal.id, journal.segment + 1):
            self.tell(f"{path}: it is not segment {journal.segment + 1} of the journal {journal.id}")
        elif (header.count("unfinished_bytes"), header.text("unfinished_sha256")) != (before.length, before.sha256):
            self.tell(f"{before.path}: its end is not what the segment after it tells: it was cut or added to")
        journal.segment = number

    def _is_behind(self, journal_id: str, first: int) -> bool:
        """Returns whether a journal begins with a record that is not among, nor next to, those that were known."""
        known = self.known.get(journal_id, {})
        return bool(known) and max(known) < first - 1

    def _look_at_end(self, journal: WalkedJournal) -> None:
        farthest = max(self.known.get(journal.id, {}), default=0)
        if journal.last_number < farthest:
            self.tell(
                f"journal {journal.id}: it ends at record {journal.last_number}, and was known to have {farthest}: "
                "its end was cut off"
            )


def _journals_in(folders: Sequence[Path]) -> list[list[Path]]:
    """Returns the segments of each journal in their order, which may lie in several folders.

    Of one that lies in several, as when a journal was copied, the longest is taken: others are as far as it went then.
    """
    found: dict[str, dict[str, Path]] = {}
    for folder in folders:
        for one in journal_records.journals(folder):
            paths = journal_records.segments(one)
            header = journal_records.header_of(paths[0]) if paths else None
            held = found.setdefault(header.text("journal") if header is not None else str(one), {})
            for path in paths:
                other = held.get(path.name)
                if other is None or other.stat().st_size < path.stat().st_size:
                    held[path.name] = path
    return [[held[name] for name in sorted(held)] for held in found.values() if held]


def _hash(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return CHAIN_START


def heads_by_journal(heads: Sequence[JournalHead]) -> dict[str, dict[int, bytes]]:
    """Returns heads by the ids of their journals."""
    found: dict[str, dict[int, bytes]] = {}
    for head in heads:
        found.setdefault(head.journal, {})[head.number] = head.chain_hash
    return found
