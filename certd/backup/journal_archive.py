"""Moves old segments of journals elsewhere, so that the disk of the token process need not hold all that was ever done.

A segment that another follows is never written again. It is copied, compared and durable in the archive before it goes
here; whatever dies in between leaves it in both places, and the next run goes on from there. The archive has the layout
of `[token] journal`, so that `certd audit verify` walks both as one.
"""

import filecmp
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from certd.errors import field_invalid
from certd.services.journal_verification import JournalWalk
from certd.token import journal_records
from certd.token.durable import make_durable

_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True)
class ArchivedSegment:
    """A segment that lies in the archive, and there alone."""

    place: Path
    size: int


def archive(journal: Path, to: Path, *, before: datetime) -> Iterator[ArchivedSegment]:
    """Moves segments whose records are all older than `before`; yields each when it is moved. The newest always stay.

    Args:
        journal: folder of journals, as `[token] journal` names it; token processes may run.
        to: folder of the archive; made where it is missing.
        before: the time.

    Raises:
        CertdError: FIELD_INVALID for journals that were changed, of which nothing is moved then; for an archive that
            has another journal or another segment in that place; and for folders that cannot be read or written.
    """
    try:
        if to.resolve().is_relative_to(journal.resolve()):
            raise field_invalid("folder", f"{to} lies in the folder of the journals; name another")
        _check(journal)
        for folder in journal_records.journals(journal):
            yield from _archive(folder, to / folder.name, before)
    except OSError as error:
        raise field_invalid(
            "folder", f"{error.filename or to} cannot be read or written ({error.strerror or error})"
        ) from error


def _check(journal: Path) -> None:
    problems: list[str] = []
    for _ in JournalWalk([journal], {}, problems.append, may_begin_late=True).records():
        pass
    if problems:
        raise field_invalid(
            "journal", f"was changed, and is left as it is: {problems[0]}; certd audit verify tells all"
        )


def _archive(folder: Path, to: Path, before: datetime) -> Iterator[ArchivedSegment]:
    limit = before.astimezone(UTC).strftime(_TIME)
    paths = journal_records.segments(folder)
    for path, following in pairwise(paths):
        header = journal_records.header_of(following)
        # What a segment has is older than the first record of the one after it.
        if header is None or header.text("time") >= limit:
            return
        _check_place(path, to)
        _make_private(to)
        place = to / path.name
        if not place.exists():
            _copy(path, place)
        size = path.stat().st_size
        path.unlink()
        make_durable(folder, deep=False)
        yield ArchivedSegment(place, size)


def _check_place(path: Path, to: Path) -> None:
    """FIELD_INVALID unless a segment may lie in a folder: of the same journal, and itself if it is there already."""
    own = journal_records.header_of(path)
    others = journal_records.segments(to) if to.exists() else []
    held = journal_records.header_of(others[0]) if others else own
    if own is None or held is None or held.text("journal") != own.text("journal"):
        raise field_invalid("folder", f"{to} has another journal than {path.parent}; name another folder")
    place = to / path.name
    if place.exists() and not filecmp.cmp(path, place, shallow=False):
        raise field_invalid("folder", f"{place} is not what {path} is; look which of them certd audit verify accepts")


def _make_private(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        make_durable(folder.parent, deep=False)


def _copy(path: Path, place: Path) -> None:
    """Copies a file, whole and durable or not at all."""
    unfinished = place.with_name(f"{place.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with path.open("rb") as source, os.fdopen(descriptor, "wb") as target:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(descriptor)
    if not filecmp.cmp(path, unfinished, shallow=False):
        raise OSError(0, "the copy is not what was copied", str(unfinished))
    unfinished.rename(place)
    make_durable(place.parent, deep=False)
