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
    restore: int = 0
    """Number of the event of the restore that lost what was signed; 0: none did."""


@dataclass(frozen=True, slots=True)
class EndedCertificate:
    """A certificate of which an event tells that it is not good any more."""

    name: str
    seq: int
    """Of the event."""
    state: str
    """Which the certificate has since."""
    sha256: bytes
    """Of what was signed, where the event alone knows it; empty elsewhere."""


class SignatureIndex:
    """Signatures by hash, and what events tell of certificates and CRLs. SQLite keeps it in a file without a name."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        run = self._connection.execute
        run(f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
        run("PRAGMA journal_mode = OFF")
        run("PRAGMA synchronous = OFF")
        run(
            "CREATE TABLE signatures (sha256 BLOB PRIMARY KEY, key_id TEXT, signed TEXT, what TEXT, place TEXT,"
            " number INTEGER, chain_hash TEXT, restore INTEGER) WITHOUT ROWID"
        )
        run("CREATE TABLE ended (name TEXT PRIMARY KEY, seq INTEGER, state TEXT, sha256 BLOB) WITHOUT ROWID")
        run("CREATE TABLE crls (name TEXT, key INTEGER, number INTEGER, PRIMARY KEY (name, key, number)) WITHOUT ROWID")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def add(self, found: Iterable[IndexedSignature]) -> None:
        """Adds signatures; of several of the same bytes the first stays."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO signatures VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (one.sha256, one.key_id, one.signed, one.what, one.place, one.number, one.chain_hash, one.restore)
                for one in found
            ],
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

    def add_ended(self, found: Iterable[EndedCertificate]) -> None:
        """Adds what events tell of certificates; of several of one certificate the first stays."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO ended VALUES (?, ?, ?, ?)",
            [(one.name, one.seq, one.state, one.sha256) for one in found],
        )

    def take_ended(self, names: Sequence[str]) -> dict[str, EndedCertificate]:
        """Removes what events tell of these certificates, and returns it by their names."""
        found: dict[str, EndedCertificate] = {}
        for start in range(0, len(names), _AT_ONCE):
            part = names[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            rows = self._connection.execute(f"SELECT * FROM ended WHERE name IN ({marks})", part)  # noqa: S608  # Marks alone.
            found.update((row[0], EndedCertificate(*row)) for row in rows.fetchall())
            self._connection.execute(f"DELETE FROM ended WHERE name IN ({marks})", part)  # noqa: S608  # As above.
        return found

    def rest_ended(self) -> Iterator[EndedCertificate]:
        """Returns what was not taken of what events tell of certificates."""
        for row in self._connection.execute("SELECT * FROM ended ORDER BY seq"):
            yield EndedCertificate(*row)

    def add_crls(self, published: Iterable[tuple[str, int, int]]) -> None:
        """Adds CRLs that events tell were published: name of the authority, number of its key, and CRL number."""
        self._connection.executemany("INSERT OR IGNORE INTO crls VALUES (?, ?, ?)", published)

    def is_published(self, name: str, key: int, number: int) -> bool:
        """Returns whether an event tells that a CRL was published."""
        found = self._connection.execute(
            "SELECT 1 FROM crls WHERE name = ? AND key = ? AND number = ?", (name, key, number)
        )
        return found.fetchone() is not None
