"""What a backup leaves behind for the daemon, which records it, and for `certd doctor`, which tells when it is old.

On SQLite nobody but the daemon writes to the books while it runs. So whoever makes a backup leaves a note, and the
daemon makes an event of it.
"""

import contextlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from certd.clock import Clock
from certd.credential_files import write
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.store.store import Store

_log = logging.getLogger("certd.backups")

_NAME: Final = "last-backup.json"
_UNTOLD: Final = "last-backup-untold.json"
_LONGEST: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupNote:
    """A backup that was made."""

    time: datetime
    """Of its copy of the database."""
    seq: int
    """Number of the last event in it."""
    sha256: str
    """Of the file, in hexadecimal."""
    size: int
    """Of the file, in bytes."""
    opened_by: str
    """`passphrase`, or the recovery key in hexadecimal."""
    has_token: bool

    def event(self, now: datetime) -> Event:
        """Returns the event that tells of it."""
        return Event(
            time=now,
            type=EventType.BACKUP_MADE,
            tenant=None,
            principal=SYSTEM_PRINCIPAL,
            resource="server",
            details={
                "backup_time": self.time.isoformat(),
                "sequence": str(self.seq),
                "sha256": self.sha256,
                "size": str(self.size),
                "opened_by": self.opened_by,
                "token": "included" if self.has_token else "not included",
            },
        )


def leave(folder: Path, note: BackupNote) -> None:
    """Leaves a note in the folder of the server, of the owner of that. OSError."""
    fields = {**asdict(note), "time": note.time.astimezone(UTC).isoformat()}
    owner = folder.stat()
    # What the daemon has not told yet comes first, lest a crash leaves the other alone.
    for name in (_UNTOLD, _NAME):
        write(folder / name, json.dumps(fields).encode(), mode=0o600)
        if os.geteuid() == 0:
            os.chown(folder / name, owner.st_uid, owner.st_gid)


def last(folder: Path) -> BackupNote | None:
    """Returns the note of the last backup; None when there is none that can be read."""
    return _read(folder / _NAME)


class BackupNotes:
    """Makes events of the notes.

    Args:
        folder: of the server, in which notes are left.
        store: gets the events.
        clock: says when.
    """

    def __init__(self, folder: Path, *, store: Store, clock: Clock) -> None:
        self._path = folder / _UNTOLD
        self._store = store
        self._clock = clock

    def look(self) -> None:
        """Records a backup that nobody has recorded; to be called every few seconds. Raises STORE_UNAVAILABLE.

        A crash right after may have it recorded twice, and never not at all.
        """
        if not self._path.exists():
            return
        note = _read(self._path)
        if note is not None:
            event = note.event(self._clock.now())
            self._store.write("backups.made", lambda tx: tx.event(event))
            _log.info("a backup was made, of the books up to event %d", note.seq)
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _read(path: Path) -> BackupNote | None:
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(_LONGEST))
        return BackupNote(
            time=datetime.fromisoformat(fields["time"]),
            seq=int(fields["seq"]),
            sha256=str(fields["sha256"]),
            size=int(fields["size"]),
            opened_by=str(fields["opened_by"]),
            has_token=bool(fields["has_token"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
