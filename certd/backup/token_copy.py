"""Copies of a SoftHSM token and of the journals of token processes, while these work.

SoftHSM keeps each object in a file of its own, and every program of certd makes, changes and destroys objects under one
lock (`token.lock`). Under that lock the files are consistent.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from certd.errors import CertdError, Reason
from certd.token import journal_records, lock
from certd.token.settings import TokenSettings

_MOST_BYTES: Final = 1 << 30
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file of a token, in a file of many."""

    name: str
    """Below the folder of tokens."""
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class TokenCopy:
    """The files of a token, as they were at one moment."""

    file: IO[bytes]
    """Without a name, on disk."""
    files: tuple[CopiedFile, ...]

    @property
    def objects(self) -> frozenset[str]:
        """Names of the files that are objects."""
        return objects_among(one.name for one in self.files)


def objects_among(names: Iterator[str]) -> frozenset[str]:
    """Returns those names that are of objects."""
    return frozenset(name for name in names if name.endswith(".object"))


def listed(tokens: Path) -> list[str]:
    """Returns the names of the files of a token, below the folder of tokens. OSError."""
    # The locks of SoftHSM are made anew by whoever needs them.
    return sorted(
        str(path.relative_to(tokens))
        for path in tokens.rglob("*")
        if path.is_file() and not path.is_symlink() and path.suffix != ".lock"
    )


def copied(tokens: Path, settings: TokenSettings, *, folder: Path) -> TokenCopy:
    """Copies a token under its lock; the copy is in `folder`, without a name. OSError; TOKEN_UNAVAILABLE."""
    keep_owner(settings.lock, like=settings.pin_file)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # The copy has it.
    files = []
    with lock.held(settings.lock):
        for name in listed(tokens):
            start = file.tell()
            with (tokens / name).open("rb") as source:
                while piece := source.read(_PIECE):
                    file.write(piece)
            files.append(CopiedFile(name, start, file.tell() - start))
            if file.tell() > _MOST_BYTES:
                raise CertdError(
                    Reason.TOKEN_UNAVAILABLE, f"{tokens} holds more than 1 GiB, which is no token of certd"
                )
    return TokenCopy(file, tuple(files))


def keep_owner(path: Path, *, like: Path) -> None:
    """Makes a lock file that is not there yet with the owner of another file, for root makes it for its user."""
    if path.exists() or os.geteuid() != 0:
        return
    owner = like.stat()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)


def journal_files(folder: Path) -> list[tuple[str, Path]]:
    """Returns the segments of all journals of a folder, with their names below it; none when there is none. OSError."""
    if not folder.exists():
        return []
    return [
        (f"{journal.name}/{segment.name}", segment)
        for journal in journal_records.journals(folder)
        for segment in journal_records.segments(journal)
    ]


def whole_length(file: IO[bytes]) -> int:
    """Returns how many bytes of a segment are whole records; who writes it may be in the middle of the next."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - journal_records.LONGEST_RECORD))
    tail = file.read(size - file.tell())
    file.seek(0)
    return size - (len(tail) - (tail.rfind(b"\n") + 1))
