"""A temporary file of signatures that are yet to be found elsewhere: however many there are, memory stays flat."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

_CACHE_KIBIBYTES: Final = 65_536
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class IndexedSignature:
    """A signature that a journal tells of."""

    sha256: bytes
    """Of what was signed."""
    key_id: str
    """CKA_ID in hexadecimal."""
    signed: str
    """Name of a `SignatureKind`, or what the kind of the record is."""
    what: str
    place: str
    """Journal and record, for people."""
    number: int
    """CRL number or sequence number; -1: none."""
    chain_hash: str
    """Of a checkpoint, in hexadecimal."""


class SignatureIndex:
    """Signatures by hash, and serials that were revoked. SQLite keeps them in a file without a name."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        run = self._connection.execute
        run(f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
        run("PRAGMA journal_mode = OFF")
        run("PRAGMA synchronous = OFF")
        run(
            "CREATE TABLE signatures (sha256 BLOB PRIMARY KEY, key_id TEXT, signed TEXT, what TEXT, place TEXT,"
            " number INTEGER, chain_hash TEXT) WITHOUT ROWID"
        )
        run("CREATE TABLE revoked (serial TEXT PRIMARY KEY, seq INTEGER) WITHOUT ROWID")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def add(self, found: Iterable[IndexedSignature]) -> None:
        """Adds signatures; of several of the same bytes the first stays."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO signatures VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(one.sha256, one.key_id, one.signed, one.what, one.place, one.number, one.chain_hash) for one in found],
        )

    def take(self, hashes: Sequence[bytes]) -> dict[bytes, str]:
        """Removes signatures; returns those that were there, with their keys."""
        found: dict[bytes, str] = {}
        for start in range(0, len(hashes), _AT_ONCE):
            part = hashes[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            rows = self._connection.execute(f"SELECT sha256, key_id FROM signatures WHERE sha256 IN ({marks})", part)  # noqa: S608  # Marks alone.
            found.update(rows.fetchall())
            self._connection.execute(f"DELETE FROM signatures WHERE sha256 IN ({marks})", part)  # noqa: S608  # As above.
        return found

    def rest(self) -> Iterator[IndexedSignature]:
        """Returns what was not taken."""
        for row in self._connection.execute("SELECT * FROM signatures"):
            yield IndexedSignature(*row)

    def add_revoked(self, revoked: Iterable[tuple[str, int]]) -> None:
        """Adds serials that events tell were revoked, with the numbers of the events."""
        self._connection.executemany("INSERT OR IGNORE INTO revoked VALUES (?, ?)", revoked)

    def revoked(self, serials: Sequence[str]) -> dict[str, int]:
        """Returns which of the serials were revoked, with the number of the event."""
        found: dict[str, int] = {}
        for start in range(0, len(serials), _AT_ONCE):
            part = serials[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            rows = self._connection.execute(f"SELECT serial, seq FROM revoked WHERE serial IN ({marks})", part)  # noqa: S608  # Marks alone.
            found.update(rows.fetchall())
        return found
