"""Writes the journal: every use of a key is in it, on disk, before the answer leaves the process.

A process that dies or a disk that is full leaves at most an unfinished line, which the next segment tells of; nothing
that was written is ever changed. While nothing can be written no answer leaves, and what was done until then is written
once it can be.
"""

import fcntl
import hashlib
import logging
import os
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.pki.checkpoint import Checkpoint, JournalHead
from certd.token import journal_records
from certd.token.durable import make_durable
from certd.token.journal_records import CHAIN_START, SEGMENT, JournalRecord, Scan, Value

_logger = logging.getLogger(__name__)

SEGMENT_BYTES: Final = 16 << 20
"""A segment that is as long is followed by another."""
SIGNED: Final = "sign"
"""Kind of the record of a signature."""
_MOST_JOURNALS: Final = 64
"""Of processes that run side by side on one token."""
_MOST_CHECKPOINT_KEYS: Final = 64
_MOST_READ: Final = 1 << 20
"""Bytes of records in one answer; there is one at least."""
_LONGEST_TEXT: Final = 2048
"""Characters of one value. As many as the longest names have; what a few of them take is below the longest record."""
_RETRY_AFTER: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Use:
    """A use of a key that is not in a file yet."""

    time: datetime
    kind: str
    fields: Mapping[str, Value]


class Journal:
    """The journal of this process. For the thread of the module.

    Args:
        folder: holds the journals of all processes that use the token on this machine, one folder each.
        clock: says when keys were used.
        segment_bytes: length after which a segment is followed by another.
    """

    def __init__(self, folder: Path, clock: Clock, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._root = folder
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._lock: int | None = None
        self._folder = folder
        self._file: int | None = None
        self._length = 0
        self._segment = 0
        self._id = ""
        self._number = 0
        self._chain_hash = CHAIN_START
        self._waiting: deque[_Use] = deque()
        self._checkpoints: dict[str, tuple[int, str]] = {}
        """The highest sequence number that each key signed, and its chain hash."""
        self._looked_at: dict[Path, int] = {}
        """How long the last segments of other journals were when they were read."""
        self._firsts: list[tuple[int, Path]] = []
        """Number of the first record of each segment."""
        self._read_until: tuple[Path, int, int] | None = None
        """Segment, number of the record and offset with which a reader that goes on begins."""
        self._problem: CertdError | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can be written, as far as is known."""
        return self._file is not None

    @property
    def problem(self) -> CertdError:
        """Why it is not open."""
        return self._problem or CertdError(Reason.TOKEN_UNAVAILABLE, "The journal is not open yet.")

    @property
    def head(self) -> JournalHead:
        """How far it goes on disk."""
        return JournalHead(journal=self._id, number=self._number, chain_hash=self._chain_hash)

    def open(self) -> None:
        """Opens it, or makes it, and writes what waits; TOKEN_UNAVAILABLE when that cannot be done."""
        try:
            self._find_folder()
            self._continue()
        except OSError as error:
            self._fail(error)
            raise self.problem from error
        failure = self.commit()
        if failure is not None:
            raise failure

    def record(self, kind: str, **fields: Value) -> None:
        """Adds a use of a key; `commit` writes it. Of a text that is long the beginning is told."""
        told = {name: value[:_LONGEST_TEXT] if isinstance(value, str) else value for name, value in fields.items()}
        self._waiting.append(_Use(self._clock.now(), kind, told))

    def commit(self) -> CertdError | None:
        """Writes what waits, to the disk; returns why that cannot be done, and then no answer may leave."""
        if self._file is None:
            return self.problem
        if not self._waiting:
            return None
        lines, number, chain_hash = [], self._number, self._chain_hash
        for use in self._waiting:
            number += 1
            line, chain_hash = journal_records.encode(number, use.time, use.kind, use.fields, chain_hash)
            lines.append(line)
        try:
            self._write(b"".join(lines))
        except OSError as error:
            self._fail(error)
            return self._problem
        self._number, self._chain_hash = number, chain_hash
        self._waiting.clear()
        if self._length >= self._segment_bytes:
            try:
                self._begin_segment(None)
            except OSError as error:
                # What was to be written is written; the next one waits until it can be.
                self._fail(error)
        return None

    def check_checkpoint(self, key_id: bytes, checkpoint: Checkpoint) -> None:
        """TOKEN_POLICY_FORBIDS for a checkpoint that goes back behind one that the key signed, or contradicts it.

        Whichever process signed that one: those beside this one may have since it looked. TOKEN_UNAVAILABLE when their
        journals cannot be read.
        """
        try:
            self._recall_checkpoints_of_others()
        except OSError as error:
            raise self._unavailable(error, "be read") from error
        if len(self._checkpoints) >= _MOST_CHECKPOINT_KEYS and key_id.hex() not in self._checkpoints:
            raise _forbid(f"{_MOST_CHECKPOINT_KEYS} keys have signed checkpoints already")
        seq, chain_hash = self._checkpoints.get(key_id.hex(), (0, ""))
        if checkpoint.seq < seq:
            raise _forbid(f"the sequence number {checkpoint.seq} is below {seq}, which this key has signed")
        if checkpoint.seq == seq and checkpoint.chain_hash.hex() != chain_hash:
            raise _forbid(f"this key has signed another chain hash for the sequence number {seq}")

    def remember_checkpoint(self, key_id: bytes, checkpoint: Checkpoint) -> None:
        """Remembers a checkpoint that is signed, from the record on that comes next."""
        self._checkpoints[key_id.hex()] = (checkpoint.seq, checkpoint.chain_hash.hex())

    def read(self, *, position: int, limit: int) -> list[bytes]:
        """Returns up to `limit` lines of the records after number `position`, of those on disk.

        They are not looked at: whoever reads verifies. Fewer than there are come when a segment ends, or many bytes are
        told. TOKEN_UNAVAILABLE when a file cannot be read.
        """
        held = [place for place in self._firsts if place[0] <= position + 1]
        if not held or position >= self._number:
            return []
        first, path = held[-1]
        end = self._firsts[len(held)][0] if len(held) < len(self._firsts) else self._number + 1
        number, offset = first, 0
        if self._read_until is not None and self._read_until[0] == path and self._read_until[1] <= position + 1:
            _, number, offset = self._read_until
        lines: list[bytes] = []
        size = 0
        try:
            with path.open("rb") as file:
                file.seek(offset)
                while number < end and len(lines) < limit and size < _MOST_READ:
                    line = file.readline(journal_records.LONGEST_RECORD)
                    if not line.endswith(b"\n"):
                        break
                    if number > position:
                        lines.append(line)
                        size += len(line)
                    number += 1
                self._read_until = (path, number, file.tell())
        except OSError as error:
            raise self._unavailable(error, "be read") from error
        return lines

    def close(self) -> None:
        """Closes the file and lets others have the journal."""
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._lock = None

    def _find_folder(self) -> None:
        """Takes the first journal that no living process writes."""
        if self._lock is not None:
            return
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(1, _MOST_JOURNALS + 1):
            folder = self._root / str(number)
            folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            except BaseException:
                os.close(descriptor)
                raise
            self._lock, self._folder = descriptor, folder
            make_durable(self._root, deep=False)
            return
        raise BlockingIOError(0, f"{_MOST_JOURNALS} processes write journals there already")

    def _continue(self) -> None:
        """Goes on where the last process, or this one, left off."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._recall_checkpoints_of_others()
        paths = journal_records.segments(self._folder)
        if not paths:
            self._id = secrets.token_hex(16)
            self._number, self._chain_hash, self._segment, self._firsts = 0, CHAIN_START, 0, []
            self._begin_segment(None)
            return
        self._firsts = self._firsts_of(paths)
        scan, written = self._scan(paths[-1])
        header, last = scan.header, scan.last
        if header is None or last is None:
            raise OSError(0, f"{paths[-1].name} does not begin as a segment does: it was changed; put it back")
        self._id, self._segment = header.text("journal"), header.count("segment")
        # What was written when the disk failed and is there all the same is written no second time.
        for _ in range(written):
            self._waiting.popleft()
        self._number, self._chain_hash = last.number, last.chain_hash
        if scan.remainder_length or scan.length >= self._segment_bytes:
            self._begin_segment(scan)
        else:
            self._open_file(paths[-1], scan.length)

    def _scan(self, path: Path) -> tuple[Scan, int]:
        """Reads a segment; returns also how much of what waits is in it."""
        scan, written = Scan(path), 0
        for record in journal_records.records(scan):
            self._recall_checkpoint(record)
            written += record.kind != SEGMENT and record.number > self._number
        if scan.remainder_length:
            level = logging.ERROR if scan.remainder_has_lines else logging.WARNING
            what = "was changed" if scan.remainder_has_lines else "ends in an unfinished record"
            _logger.log(level, "the journal %s %s: %d bytes are none", path, what, scan.remainder_length)
        return scan, min(written, len(self._waiting))

    def _recall_checkpoint(self, record: JournalRecord) -> None:
        """Takes from a record what this or another process remembered."""
        found: dict[str, tuple[int, str]] = {}
        if record.kind == SEGMENT:
            held = record.fields.get("checkpoints")
            found = {key: (seq, text) for key, (seq, text) in held.items()} if isinstance(held, dict) else {}
        elif record.kind == SIGNED and record.count("sequence") > 0:
            found = {record.text("key"): (record.count("sequence"), record.text("chain_hash"))}
        for key, (seq, chain_hash) in found.items():
            if seq > self._checkpoints.get(key, (0, ""))[0]:
                self._checkpoints[key] = (seq, chain_hash)

    def _recall_checkpoints_of_others(self) -> None:
        """Looks into the last segments of other journals, which begin with all that was to be remembered by then."""
        for folder in journal_records.journals(self._root):
            paths = journal_records.segments(folder)
            if folder == self._folder or not paths:
                continue
            length = paths[-1].stat().st_size
            if self._looked_at.get(paths[-1]) == length:
                continue
            for record in journal_records.records(Scan(paths[-1])):
                self._recall_checkpoint(record)
            self._looked_at[paths[-1]] = length

    def _firsts_of(self, paths: list[Path]) -> list[tuple[int, Path]]:
        headers = [(journal_records.header_of(path), path) for path in paths]
        return [(header.number, path) for header, path in headers if header is not None]

    def _begin_segment(self, before: Scan | None) -> None:
        """Makes the next segment, whole or not at all."""
        fields: dict[str, Value] = {
            "journal": self._id,
            "segment": self._segment + 1,
            "previous": self._chain_hash.hex(),
            "unfinished_bytes": before.remainder_length if before is not None else 0,
            "unfinished_sha256": (before.remainder_sha256 if before is not None else hashlib.sha256().hexdigest()),
            "checkpoints": {key: [seq, chain_hash] for key, (seq, chain_hash) in self._checkpoints.items()},
        }
        number = self._number + 1
        line, chain_hash = journal_records.encode(number, self._clock.now(), SEGMENT, fields, self._chain_hash)
        path = journal_records.segment_path(self._folder, self._segment + 1)
        unfinished = path.with_name(f"{path.name}.new")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        unfinished.replace(path)
        make_durable(self._folder, deep=False)
        self._open_file(path, len(line))
        self._segment += 1
        self._number, self._chain_hash = number, chain_hash
        self._firsts.append((number, path))

    def _open_file(self, path: Path, length: int) -> None:
        before = self._file
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            # A process that was killed may have left it in memory alone.
            os.fdatasync(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._file, self._length, self._problem = descriptor, length, None
        if before is not None:
            os.close(before)

    def _write(self, data: bytes) -> None:
        assert self._file is not None  # noqa: S101  # Who calls has looked.
        _write_all(self._file, data)
        os.fdatasync(self._file)
        self._length += len(data)

    def _fail(self, error: OSError) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._problem = self._unavailable(error, "be written")
        _logger.error("%s", self._problem.message)

    def _unavailable(self, error: OSError, what: str) -> CertdError:
        message = (
            f"The journal in {self._folder} cannot {what}: {error.strerror or error}. Nothing is signed or opened "
            "without it. Make room there, give the folder to the token process's user, or name another with [token] "
            "journal."
        )
        return CertdError(Reason.TOKEN_UNAVAILABLE, message, retry_after=_RETRY_AFTER)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _forbid(finding: str) -> CertdError:
    return CertdError(Reason.TOKEN_POLICY_FORBIDS, f"The token process refuses to sign a checkpoint: {finding}.")
