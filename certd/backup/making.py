"""Makes a backup while the daemon and its token process work.

The order of the parts is the order in which the server makes things, so that no part names what a later one lacks:

1. The database. A row names its key before the token makes it, and whatever a row tells of was made by then.
2. The token. It has every key that the database tells of, and perhaps younger ones, which nobody misses. A key that was
   destroyed in between would be missing: then all is done again.
3. The journals. They tell of every signature in the database, and of those made since, which a restore revokes.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from certd import __version__
from certd.backup import archive, files, token_copy
from certd.backup.archive import ArchiveWriter, Manifest
from certd.clock import Clock
from certd.config import Config, token_settings
from certd.errors import CertdError, Reason, field_invalid
from certd.pki.encrypted_file import Encrypting, Passphrase, Recipient
from certd.services import backup_notes
from certd.services.backup_notes import BackupNote
from certd.store import copies, events, token_keys

_ATTEMPTS: Final = 3

Progress = Callable[[str, int, int], None]
"""Hears what is copied, and how much of how much is done."""


@dataclass(frozen=True, slots=True)
class MadeBackup:
    """A backup that was made."""

    manifest: Manifest
    note: BackupNote


class _KeyDestroyedError(Exception):
    """A key of the token was destroyed between the copy of the database and that of the token."""


def make(
    settings: Config,
    config_file: Path,
    output: Path,
    *,
    to: Passphrase | Recipient,
    clock: Clock,
    progress: Progress = lambda _what, _done, _of: None,
) -> MadeBackup:
    """Makes a backup at `output`, which is there as a whole or not at all, and leaves a note of it.

    Args:
        settings: of the server.
        config_file: from which they come.
        output: must not exist.
        to: who can open it.
        clock: says when.
        progress: hears how far it is.

    Raises:
        CertdError: FIELD_INVALID for a file that exists or cannot be read or written; STORE_UNAVAILABLE;
            TOKEN_UNAVAILABLE while another program holds the token's lock.
    """
    if output.exists() or output.is_symlink():
        raise field_invalid("file", f"{output} exists already; name another file")
    state = settings.tls.certificate.parent
    try:
        with _unnamed(output) as (file, publish):
            counted = _Counted(file)
            for attempt in range(_ATTEMPTS):
                try:
                    manifest = _write(settings, config_file, counted, to=to, clock=clock, progress=progress)
                    break
                except _KeyDestroyedError:
                    if attempt == _ATTEMPTS - 1:
                        raise CertdError(
                            Reason.TOKEN_UNAVAILABLE, "keys are being destroyed all the time; make the backup later"
                        ) from None
                    counted.begin_again()
            file.flush()
            os.fsync(file.fileno())
            publish()
    except OSError as error:
        path = error.filename or output
        raise field_invalid(
            "file", f"{path} cannot be read or written ({error.strerror}); run as root, or as a user who may"
        ) from error
    note = BackupNote(
        time=manifest.time,
        seq=manifest.seq,
        sha256=counted.sha256,
        size=counted.size,
        opened_by=to.public_key.hex() if isinstance(to, Recipient) else "passphrase",
        has_token=manifest.has_token,
    )
    with contextlib.suppress(OSError):
        # The backup is there; that doctor does not know of it shows by itself.
        backup_notes.leave(state, note)
    return MadeBackup(manifest, note)


def _write(
    settings: Config,
    config_file: Path,
    file: "_Counted",
    *,
    to: Passphrase | Recipient,
    clock: Clock,
    progress: Progress,
) -> Manifest:
    work = settings.tls.certificate.parent
    token = token_settings(settings)
    softhsm = settings.token.softhsm_conf
    tokens = None if softhsm is None else files.tokens_folder(softhsm)
    before = frozenset[str]() if tokens is None else token_copy.objects_among(iter(token_copy.listed(tokens)))
    encrypting = Encrypting(file.write, to)
    members = ArchiveWriter(encrypting)
    members.add_bytes(archive.CONFIGURATION, config_file.read_bytes())
    now = clock.now()
    with copies.snapshot(settings.database.url) as books:
        head = events.head(books.transaction)
        keys = token_keys.named(books.transaction)
        for part in books.parts(work, lambda done, of: progress("database", done, of)):
            members.add(part.name, part.file, part.size)
        manifest = Manifest(
            time=now,
            version=__version__,
            engine=books.engine_name,
            schema=books.schema_number,
            seq=head.seq,
            chain_hash=head.chain_hash.hex(),
            token_label=settings.token.label,
            has_token=tokens is not None,
            keys=tuple(
                {"use": one.use.value, "key_id": one.key_id.hex(), "name": one.name} for one in keys if one.made
            ),
        )
    if tokens is not None:
        copy = token_copy.copied(tokens, token, folder=work)
        with copy.file:
            if before - copy.objects:
                raise _KeyDestroyedError
            for number, one in enumerate(copy.files):
                copy.file.seek(one.start)
                members.add(archive.TOKEN + one.name, copy.file, one.size)
                progress("token", number + 1, len(copy.files))
    for key, path in files.files_of(settings).items():
        members.add_bytes(archive.FILES + key, path.read_bytes())
    segments = token_copy.journal_files(token.journal)
    for number, (name, path) in enumerate(segments):
        with path.open("rb") as segment:
            members.add(archive.JOURNAL + name, segment, token_copy.whole_length(segment))
        progress("journal", number + 1, len(segments))
    return members.finish(manifest)


class _Counted:
    """A file whose bytes are counted and hashed as they are written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.begin_again()

    def begin_again(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def _unnamed(output: Path) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """Yields a file, mode 0600, and what gives it its name, durably, unless that is taken. OSError."""
    folder = output.absolute().parent
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT} or not folder.is_dir():
            raise
        with _named(output) as found:
            yield found
        return

    def publish() -> None:
        # linkat(2) follows the link to the nameless file, and does not replace what has the name.
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(f"/proc/self/fd/{descriptor}", output.name, dst_dir_fd=place, follow_symlinks=True)
            os.fsync(place)
        finally:
            os.close(place)

    with os.fdopen(descriptor, "w+b") as file:
        yield file, publish


@contextmanager
def _named(output: Path) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """As `_unnamed` where files have names: a crash leaves `.NAME.unfinished`, which the next one removes."""
    partial = output.with_name(f".{output.name}.unfinished")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def publish() -> None:
        if output.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(output))
        partial.rename(output)
        _sync(output.absolute().parent)

    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file, publish
    finally:
        partial.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
