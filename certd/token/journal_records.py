"""The journal of a token process as it lies in files: every use of a key, in records that are chained by hashes.

A journal is a folder of segments, `00000001.jsonl` and so on, whose lines are records in UTF-8: JSON objects (RFC
8259) with `number` (from 1, without gaps over all segments), `time`, `kind`, what the kind has beside, and `chain` as
the last member. The chain hash of a record is SHA-256 over the 32 bytes of the one before it and the bytes of the line
before `,"chain":`; before the first record it is 32 zeros.

The first record of each segment is of the kind `segment`: the id of the journal, the number of the segment, the chain
hash before it, and how many bytes at the end of the segment before are no record. There are some when the process was
killed or the disk was full while it wrote; the answer to what they would have told never left. What is unfinished has
no line feed, and nothing else is excused.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

CHAIN_START: Final = bytes(32)
SEGMENT: Final = "segment"
"""Kind of the first record of a segment."""
LONGEST_RECORD: Final = 65_536
"""In bytes, with its line feed."""
_SEGMENT_NAME: Final = re.compile(r"\d{8}\.jsonl")
_CHAIN: Final = b',"chain":"'
_END: Final = re.compile(rb'(?s)(\{.*),"chain":"([0-9a-f]{64})"\}\n')
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

Value = str | int | bool | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """A record."""

    number: int
    kind: str
    fields: Mapping[str, Any]
    """All of its members but `chain`."""
    chain_hash: bytes
    line: bytes
    """As it lies in the file, with its line feed."""

    def text(self, name: str) -> str:
        """Returns a member that is text; empty when there is none."""
        found = self.fields.get(name)
        return found if isinstance(found, str) else ""

    def count(self, name: str) -> int:
        """Returns a member that is a whole number; -1 when there is none."""
        found = self.fields.get(name)
        return found if isinstance(found, int) and not isinstance(found, bool) else -1


@dataclass(slots=True)
class Scan:
    """What was found in a segment, while it is read and after."""

    path: Path
    header: JournalRecord | None = None
    """None: the file does not begin with a record of its kind."""
    last: JournalRecord | None = None
    length: int = 0
    """Of the records that follow upon each other, in bytes."""
    remainder_length: int = 0
    """Of what comes after these."""
    remainder_has_lines: bool = False
    """Whether that is more than one unfinished line: somebody changed the file, or the disk did."""
    _remainder_hash: Any = field(default_factory=hashlib.sha256)

    @property
    def remainder_sha256(self) -> str:
        """Of what comes after the records, in hexadecimal."""
        found: str = self._remainder_hash.hexdigest()
        return found

    def left_over(self, data: bytes) -> None:
        """Adds what is no record that follows."""
        self.remainder_length += len(data)
        self.remainder_has_lines = self.remainder_has_lines or b"\n" in data
        self._remainder_hash.update(data)


def encode(number: int, time: datetime, kind: str, fields: Mapping[str, Value], previous: bytes) -> tuple[bytes, bytes]:
    """Returns the line of a record and its chain hash; ValueError for one that is too long."""
    moment = time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    said = _JSON.encode({"number": number, "time": moment, "kind": kind, **fields}).encode()[:-1]
    chain_hash = hashlib.sha256(previous + said).digest()
    line = b'%b,"chain":"%b"}\n' % (said, chain_hash.hex().encode())
    if len(line) > LONGEST_RECORD:
        raise ValueError(f"a record of the journal has {len(line)} bytes, which are too many")
    return line, chain_hash


def parse(line: bytes) -> JournalRecord | None:
    """Parses a line, whatever its hash is; None when it is no record."""
    found = _END.fullmatch(line)
    if found is None:
        return None
    try:
        fields = json.loads(found[1] + b"}")
        number, kind = fields["number"], fields["kind"]
    except (ValueError, KeyError, RecursionError):
        return None
    if type(number) is not int or type(kind) is not str:
        return None
    return JournalRecord(number, kind, fields, bytes.fromhex(found[2].decode()), line)


def follows(record: JournalRecord, *, number: int, chain_hash: bytes) -> bool:
    """Returns whether a record is the one after another, of which number and chain hash are given."""
    said = record.line[: -len(_CHAIN) - 64 - len(b'"}\n')]
    return record.number == number + 1 and hashlib.sha256(chain_hash + said).digest() == record.chain_hash


def segments(folder: Path) -> list[Path]:
    """Returns the segments of a journal, in their order; OSError when the folder cannot be read."""
    return sorted(path for path in folder.iterdir() if _SEGMENT_NAME.fullmatch(path.name))


def segment_path(folder: Path, number: int) -> Path:
    """Returns where a segment lies."""
    return folder / f"{number:08d}.jsonl"


def journals(folder: Path) -> list[Path]:
    """Returns the folders of journals below a folder, which processes that ran side by side have each for itself."""
    return sorted(
        (path for path in folder.iterdir() if path.name.isdigit() and path.is_dir()), key=lambda path: int(path.name)
    )


def header_of(path: Path) -> JournalRecord | None:
    """Returns the first record of a segment; None when it begins with something else."""
    with path.open("rb") as file:
        record = parse(file.readline(LONGEST_RECORD))
    return record if record is not None and record.kind == SEGMENT else None


def records(scan: Scan) -> Iterator[JournalRecord]:
    """Returns the records of a segment that follow upon each other, and fills in the scan; OSError when unreadable.

    Where one does not follow, the rest of the file is left over. Whether the first one follows upon the segment before
    is not looked at: the number and chain hash that it names are believed.
    """
    with scan.path.open("rb") as file:
        first = file.readline(LONGEST_RECORD)
        header = parse(first)
        if header is None or header.kind != SEGMENT or not follows(header, **_before(header)):
            scan.left_over(first)
        else:
            scan.header = scan.last = header
            scan.length = len(first)
            yield header
            while line := file.readline(LONGEST_RECORD):
                record = parse(line)
                last = scan.last
                if record is None or not follows(record, number=last.number, chain_hash=last.chain_hash):
                    scan.left_over(line)
                    break
                scan.last = record
                scan.length += len(line)
                yield record
        while rest := file.read(LONGEST_RECORD):
            scan.left_over(rest)


def _before(header: JournalRecord) -> dict[str, Any]:
    try:
        previous = bytes.fromhex(header.text("previous"))
    except ValueError:
        previous = b""
    return {"number": header.number - 1, "chain_hash": previous}
