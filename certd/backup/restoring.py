"""Restores a backup into an empty data directory. There is a whole server in the end, or nothing.

Everything is put together beside the data directory, in `.NAME.restoring`, and gets its name by one rename. What an
earlier try left there goes first. A database of PostgreSQL is filled in one transaction; should the rename after it
never come to be, it is made anew by hand before another try.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from certd import config
from certd.backup import archive, files, token_copy
from certd.backup.archive import Manifest, Sink, read_archive
from certd.clock import Clock
from certd.config import Config, token_settings
from certd.errors import CertdError, Reason, field_invalid
from certd.pki.checkpoint import JournalHead
from certd.pki.encrypted_file import Decrypting, Passphrase
from certd.services import restored_books
from certd.services.journal_verification import JournalWalk
from certd.services.restored_books import RestoredBooks
from certd.store import copies, dialect
from certd.store.store import Store
from certd.token import journal_records
from certd.token.client import TokenClient, connect, start_child
from certd.token.durable import make_durable
from certd.token.journal_records import JournalRecord
from certd.token.settings import TokenSettings

_TOKEN_SECONDS: Final = 60.0
_DATABASE: Final = "certd.db"
_JOURNAL: Final = "token-journal"
_TOKENS: Final = "token/tokens"
_WORK: Final = ".work"

Progress = Callable[[str, int, int], None]


@dataclass(slots=True, kw_only=True)
class Restored:
    """What was restored."""

    config_file: Path
    manifest: Manifest
    books: RestoredBooks
    missing: list[str] = field(default_factory=list)
    """Keys that the books name and the token does not have, each with what it is for."""
    token_unknown: str = ""
    """Why nobody knows which keys the token has; empty: it was asked."""
    taken_out: tuple[str, ...] = ()
    """Keys of certd.toml that a restored server does without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be restored, and where."""

    file: Path
    secret: Passphrase | X25519PrivateKey = field(repr=False)
    data: Path
    """Absolute; it does not exist, or is empty."""
    database_url: str | None
    """Of an empty PostgreSQL database; None: that of the backup."""
    token: Config | None
    """Whose token the server is to have; None: that of the backup."""
    journal: Path | None
    """Folder of younger journals than those of the backup."""
    revocation_lists: tuple[bytes, ...] = ()
    """Younger CRLs than the backup, in DER or PEM."""


def restore(order: Order, *, clock: Clock, progress: Progress = lambda _what, _done, _of: None) -> Restored:
    """Restores a backup.

    Raises:
        CertdError: FIELD_INVALID for a directory that is not empty, and for a backup or a journal that is not whole or
            does not fit; STORE_UNAVAILABLE for a database that is damaged or cannot be filled; TOKEN_UNAVAILABLE when
            the token of the backup does not open.
    """
    if order.data.exists() and (not order.data.is_dir() or any(order.data.iterdir())):
        raise field_invalid("--data-dir", f"{order.data} is not empty; name another, or move what is there away")
    staged = order.data.with_name(f".{order.data.name}.restoring")
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(mode=0o700, parents=True)
        try:
            restored = _Restoring(order, staged, clock, progress).run()
            shutil.rmtree(staged / _WORK)
            make_durable(staged)
            staged.rename(order.data)
            make_durable(order.data.parent, deep=False)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    except OSError as error:
        raise field_invalid(
            "--data-dir", f"{error.filename or order.data} cannot be read or written ({error.strerror or error})"
        ) from error
    return restored


class _Restoring:
    """One restore."""

    def __init__(self, order: Order, staged: Path, clock: Clock, progress: Progress) -> None:
        self._order = order
        self._staged = staged
        self._work = staged / _WORK
        self._clock = clock
        self._progress = progress

    def run(self) -> Restored:
        self._work.mkdir(mode=0o700)
        manifest = self._unpack()
        settings, taken_out = self._write_configuration(manifest)
        heads = self._journal()
        missing, unknown = self._missing_keys(manifest, settings)
        url = self._put_database(manifest, settings)
        store = Store.open(url, clock=self._clock)
        try:
            books = restored_books.put_right(
                store,
                self._records(),
                heads=heads,
                whole=self._order.journal is not None,
                lists=self._order.revocation_lists,
                backup_time=manifest.time,
                clock=self._clock,
                progress=lambda done: self._progress("journal", done, done),
            )
        finally:
            store.close()
        return Restored(
            config_file=self._order.data / archive.CONFIGURATION,
            manifest=manifest,
            books=books,
            missing=missing,
            token_unknown=unknown,
            taken_out=taken_out,
        )

    def _unpack(self) -> Manifest:
        """Unpacks everything to its place; what is not verified in the end is thrown away by whoever calls."""
        with self._order.file.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return read_archive(
                Decrypting(file, self._order.secret),
                self._open,
                lambda done: self._progress("unpacked", min(done, size), size),
            )

    def _open(self, name: str) -> Sink:
        path = self._place(name)
        _make_private(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "wb")

    def _place(self, name: str) -> Path:
        if name.startswith(archive.TOKEN):
            # Not unpacked beside another token, for a server has one.
            where = self._work / "token" if self._order.token is not None else self._staged / _TOKENS
            return where / name.removeprefix(archive.TOKEN)
        if name.startswith(archive.JOURNAL):
            return self._staged / _JOURNAL / name.removeprefix(archive.JOURNAL)
        if name.startswith(archive.FILES):
            key = name.removeprefix(archive.FILES)
            return self._work / key if key == files.SOFTHSM else self._staged / files.place(key)
        return self._work / name

    def _write_configuration(self, manifest: Manifest) -> tuple[Config, tuple[str, ...]]:
        """Writes certd.toml for the place where the server will be; FIELD_INVALID when that cannot be done."""
        data, other = self._order.data, self._order.token
        text = (self._work / archive.CONFIGURATION).read_text(encoding="utf-8")
        keys = {name.removeprefix(archive.FILES) for name in manifest.parts if name.startswith(archive.FILES)}
        values: dict[str, str | None] = {key: str(data / files.place(key)) for key in keys if key != files.OFFICER_PIN}
        values["token.journal"] = str(data / _JOURNAL)
        # Two users are a matter of the machine, and set up again there.
        values["token.socket"] = None
        if self._order.database_url is not None:
            values["database.url"] = self._order.database_url
        elif manifest.engine == dialect.SQLITE:
            values["database.url"] = f"sqlite:///{data / _DATABASE}"
        if other is not None:
            values |= {
                "token.module": str(other.token.module),
                "token.label": other.token.label,
                "token.pin_file": str(other.token.pin_file),
                "token.softhsm_conf": None if other.token.softhsm_conf is None else str(other.token.softhsm_conf),
            }
        # They lie beside the PIN by default, which is another's here.
        beside = frozenset({"token.journal", "token.system_roots", "token.softhsm_conf"})
        written = files.rewritten(text, values, added=beside if other is not None else frozenset())
        path = self._staged / archive.CONFIGURATION
        path.touch(mode=0o600)
        path.write_text(written, encoding="utf-8")
        settings = config.load(path)
        self._check(settings, values)
        configuration = self._work / files.SOFTHSM
        if other is None and configuration.exists():
            place = self._staged / files.place(files.SOFTHSM)
            place.touch(mode=0o600)
            place.write_text(files.with_tokens_folder(configuration.read_text(), data / _TOKENS))
        before = config.load(self._work / archive.CONFIGURATION)
        return settings, ("token.socket",) if before.token.socket is not None else ()

    def _check(self, settings: Config, values: dict[str, str | None]) -> None:
        """FIELD_INVALID unless the settings have the values: certd.toml may be written in a way that was not found."""
        for key in ("tls.certificate", "tls.private_key", "token.pin_file", "token.softhsm_conf", "database.url"):
            section, name = key.split(".")
            value = getattr(getattr(settings, section), name)
            if key in values and values[key] != (None if value is None else str(value)):
                raise field_invalid(
                    "file",
                    f"has a certd.toml in which {key} does not stand as a line of its own, so that it cannot be set to "
                    f"{values[key]}; restore by hand, as README tells",
                )

    def _journal(self) -> list[JournalHead]:
        """Has the journals in place; returns how far they go. FIELD_INVALID for one that does not fit."""
        own, given = self._staged / _JOURNAL, self._order.journal
        own.mkdir(mode=0o700, exist_ok=True)
        walk = self._walked(own, {})
        if given is None:
            return walk.heads
        if not given.is_dir():
            raise field_invalid("--journal", f"{given} is no folder of journals, such as token-journal")
        known = {head.journal: {head.number: head.chain_hash} for head in walk.heads}
        self._walked(given, known, option="--journal")
        before = self._work / _JOURNAL
        own.rename(before)
        for name, path in token_copy.journal_files(given):
            _put(path, own / name)
        self._put_back(before, own)
        return self._walked(own, known, option="--journal").heads

    def _put_back(self, before: Path, own: Path) -> None:
        """Puts first segments of the backup's journals to the younger ones, if those were archived since."""
        places = {_journal_id(folder): folder for folder in journal_records.journals(own)}
        for folder in journal_records.journals(before):
            place = places.get(_journal_id(folder))
            first = min((path.name for path in journal_records.segments(place)), default="") if place else ""
            for path in journal_records.segments(folder):
                if place is not None and path.name < first:
                    _put(path, place / path.name)

    def _walked(self, folder: Path, known: dict[str, dict[int, bytes]], *, option: str = "file") -> JournalWalk:
        """Verifies journals. FIELD_INVALID with what is wrong with them."""
        problems: list[str] = []
        walk = JournalWalk([folder], known, problems.append, may_begin_late=True)
        for _ in walk.records():
            pass
        if problems:
            raise field_invalid(option, f"has journals of the token process that do not fit: {problems[0]}")
        return walk

    def _records(self) -> Iterator[JournalRecord]:
        walk = JournalWalk([self._staged / _JOURNAL], {}, lambda _problem: None, may_begin_late=True)
        for _, record in walk.records():
            yield record

    def _missing_keys(self, manifest: Manifest, settings: Config) -> tuple[list[str], str]:
        """Returns the keys that the token does not have, and why that is not known if it is not."""
        own = self._order.token is None and manifest.has_token
        client = self._own_token(settings) if own else self._other_token(settings)
        try:
            if not client.wait_ready(_TOKEN_SECONDS):
                if own:
                    raise CertdError(
                        Reason.TOKEN_UNAVAILABLE, f"the token of the backup does not open: {client.problem}"
                    )
                return [], client.problem or "it does not answer"
            present = {one.key_id.hex() for one in client.list_keys()}
        finally:
            client.stop()
        return [
            f"{key['use']} {key['key_id']}: {key['name']}" for key in manifest.keys if key["key_id"] not in present
        ], ""

    def _own_token(self, settings: Config) -> TokenClient:
        """Starts a token process on the token where it is now; what it would write of itself is thrown away."""
        configuration = self._work / "check-softhsm2.conf"
        configuration.write_text(
            files.with_tokens_folder((self._work / files.SOFTHSM).read_text(), self._staged / _TOKENS)
        )
        token = TokenSettings(
            module=settings.token.module,
            label=settings.token.label,
            pin_file=self._staged / files.place("token.pin_file"),
            softhsm_conf=configuration,
            lock_file=self._work / "lock",
            journal_folder=self._work / "journal",
            log_level="error",
        )
        return start_child(token)

    def _other_token(self, settings: Config) -> TokenClient:
        other = self._order.token
        if other is not None and other.token.socket is not None:
            return connect(other.token.socket)
        token = token_settings(settings if other is None else other)
        folder = tempfile.mkdtemp(dir=self._work)
        return start_child(
            TokenSettings(
                module=token.module,
                label=token.label,
                pin_file=token.pin_file if other is not None else self._staged / files.place("token.pin_file"),
                softhsm_conf=token.softhsm_conf,
                lock_file=token.lock if other is not None else self._work / "lock",
                journal_folder=Path(folder),
                log_level="error",
            )
        )

    def _put_database(self, manifest: Manifest, settings: Config) -> str:
        """Puts the database in place; returns the URL under which it is now."""
        if manifest.engine == dialect.SQLITE:
            url = f"sqlite:///{self._staged / _DATABASE}"
            if self._order.database_url is not None:
                raise field_invalid("--database-url", "is for backups of PostgreSQL, and this one is of SQLite")
            copies.put_sqlite(self._work / copies.SQLITE_PART, url=url)
            return url
        url = settings.database.url
        parts = {name: self._work / name for name in manifest.parts if copies.is_part(name)}
        copies.put_postgresql(parts, schema_number=manifest.schema, url=url)
        return url


def _journal_id(folder: Path) -> str:
    paths = journal_records.segments(folder)
    header = journal_records.header_of(paths[0]) if paths else None
    return str(folder) if header is None else header.text("journal")


def _put(path: Path, place: Path) -> None:
    _make_private(place.parent)
    shutil.copyfile(path, place)
    place.chmod(0o600)


def _make_private(folder: Path) -> None:
    """Makes a folder, and those above it that are missing, for their owner alone."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700)
