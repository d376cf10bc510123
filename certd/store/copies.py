"""Copies of a whole database while daemons use it, and databases made of such copies.

Of SQLite the copy is its file, made by the online backup of SQLite within one read transaction. Of PostgreSQL it is
each table as COPY writes it in its binary format, all of one snapshot, and where the sequences stand.
"""

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import Connection, inspect, literal_column, select

from certd.errors import CertdError, Reason
from certd.store import dialect, managed_schema, notification_schema, revocation_schema, schema
from certd.store.columns import metadata
from certd.store.file_lock import FileLock
from certd.store.migration import migrate
from certd.store.transaction import Transaction

SQLITE_PART: Final = "database/certd.db"
SEQUENCES_PART: Final = "database/sequences.json"
_TABLES: Final = "database/tables/"
_PAGES_AT_ONCE: Final = 1024
_PIECE: Final = 1 << 20
_HEAD: Final = select(schema.schema_compatibility.c.schema_number)
# Importing them puts their tables into the metadata.
_MODULES: Final = (schema, managed_schema, notification_schema, revocation_schema)

Progress = Callable[[int, int], None]
"""Hears how much of how much is done."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a copy: a file without a name, at its beginning."""

    name: str
    file: IO[bytes]
    size: int


class Snapshot:
    """A database as it was at one moment.

    Get one by `snapshot`.
    """

    def __init__(self, connection: Connection, engine_name: str) -> None:
        self._connection = connection
        self.engine_name = engine_name
        """SQLITE or POSTGRESQL."""
        self.transaction = Transaction(connection, engine_name)

    @property
    def schema_number(self) -> int:
        """Number of the newest migration that ran."""
        found: int = self.transaction.execute(_HEAD).scalar_one()
        return found

    def parts(self, folder: Path, progress: Progress) -> Iterator[Part]:
        """Yields the parts of the copy, each of use until the next; what they need on disk is in `folder`, nameless."""
        if self.engine_name == dialect.SQLITE:
            yield from self._sqlite(folder, progress)
        else:
            yield from self._postgresql(folder, progress)

    def _sqlite(self, folder: Path, progress: Progress) -> Iterator[Part]:
        # SQLite opens files by name alone; this one has its name for a moment, and is empty then.
        path = folder / ".certd-copy"
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "rb") as file:
            target = sqlite3.connect(path, isolation_level=None)
            try:
                # Without a journal SQLite does not mind that the file loses its name.
                target.execute("PRAGMA journal_mode = OFF").fetchall()
                target.execute("PRAGMA synchronous = OFF")
                path.unlink()
                dialect.raw_sqlite(self._connection).backup(
                    target,
                    pages=_PAGES_AT_ONCE,
                    sleep=0,
                    progress=lambda _status, left, total: progress(total - left, total),
                )
            finally:
                target.close()
            yield Part(SQLITE_PART, file, os.fstat(file.fileno()).st_size)

    def _postgresql(self, folder: Path, progress: Progress) -> Iterator[Part]:
        driver = _driver(self._connection)
        tables = metadata.sorted_tables
        for number, table in enumerate(tables):
            with tempfile.TemporaryFile(dir=folder) as file:
                columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
                statement = sql.SQL("COPY {} ({}) TO STDOUT (FORMAT binary)")
                with (
                    driver.cursor() as cursor,
                    cursor.copy(statement.format(sql.Identifier(table.name), columns)) as copy,
                ):
                    for piece in copy:
                        file.write(piece)
                size = file.tell()
                file.seek(0)
                yield Part(f"{_TABLES}{table.name}.copy", file, size)
            progress(number + 1, len(tables))
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(json.dumps(_sequences(driver)).encode())
            size = file.tell()
            file.seek(0)
            yield Part(SEQUENCES_PART, file, size)


@contextmanager
def snapshot(url: str) -> Iterator[Snapshot]:
    """Yields a database as it is now, beside daemons that use it. Raises STORE_UNAVAILABLE, FIELD_INVALID."""
    parsed = dialect.parse_url(url)
    engine_name = dialect.engine_name(parsed)
    with dialect.database_errors():
        if engine_name == dialect.SQLITE:
            file = dialect.sqlite_file(parsed)
            if not file.exists():
                raise CertdError(Reason.STORE_UNAVAILABLE, f"there is no database {file}: name another certd.toml")
            made = engine = dialect.sqlite_reader_engine(parsed)
        else:
            made = dialect.postgresql_engine(parsed)
            engine = dialect.postgresql_snapshot(made)
        try:
            with engine.connect() as connection:
                if engine_name == dialect.SQLITE:
                    dialect.raw_sqlite(connection).execute("BEGIN")
                found = Snapshot(connection, engine_name)
                number = found.schema_number
                if number != schema.SCHEMA_NUMBER:
                    raise CertdError(
                        Reason.STORE_UNAVAILABLE,
                        f"the database has schema {number} and this certd knows {schema.SCHEMA_NUMBER}: run `certd "
                        "migrate`, or use the certd of the daemon",
                    )
                yield found
                if engine_name == dialect.SQLITE:
                    dialect.raw_sqlite(connection).execute("ROLLBACK")
        finally:
            made.dispose()


def is_part(name: str) -> bool:
    """Returns whether this is the name of a part of a copy."""
    return name in {SQLITE_PART, SEQUENCES_PART} or name in {f"{_TABLES}{table.name}.copy" for table in _all_tables()}


def put_sqlite(copy: Path, *, url: str) -> None:
    """Makes a copy of SQLite, a file, the database of a URL of SQLite, which has none yet; verifies all its pages.

    Raises STORE_UNAVAILABLE when the copy is damaged.
    """
    target = dialect.sqlite_file(dialect.parse_url(url))
    with dialect.database_errors():
        connection = sqlite3.connect(copy)
        try:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
        finally:
            connection.close()
    if found != ["ok"]:
        raise CertdError(
            Reason.STORE_UNAVAILABLE, f"the database in the backup is damaged: {'; '.join(found)}; use another backup"
        )
    for suffix in ("-wal", "-shm"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    copy.replace(target)
    target.chmod(0o600)


def check_empty(url: str) -> None:
    """Refuses a database of PostgreSQL in which there is anything of certd. Raises STORE_UNAVAILABLE."""
    parsed = dialect.parse_url(url)
    if dialect.engine_name(parsed) == dialect.SQLITE:
        # The folder of its file is looked at.
        return
    with dialect.database_errors():
        engine = dialect.postgresql_engine(parsed)
        try:
            with engine.connect() as connection:
                if not inspect(connection).has_table(schema.owners.name):
                    return
                # Whoever has ever served the database has a row in the first of them.
                for table in (schema.owners, schema.tenants, schema.events, schema.unnumbered_events):
                    if connection.execute(select(literal_column("1")).select_from(table).limit(1)).first() is not None:
                        raise CertdError(
                            Reason.STORE_UNAVAILABLE,
                            f"the database {dialect.shown(parsed)} is one of certd already: name an empty one with "
                            "--database-url",
                        )
        finally:
            engine.dispose()


def put_postgresql(parts: Mapping[str, Path], *, schema_number: int, url: str) -> None:
    """Fills an empty database of PostgreSQL with the parts of a copy, by their names, all or nothing.

    Raises STORE_UNAVAILABLE, also for a copy of another schema than this certd has.
    """
    if schema_number != schema.SCHEMA_NUMBER:
        raise CertdError(
            Reason.STORE_UNAVAILABLE,
            f"the backup has schema {schema_number}, and this certd makes databases of schema {schema.SCHEMA_NUMBER}: "
            "restore with the release that made it, and run `certd migrate` of this one after that",
        )
    check_empty(url)
    migrate(url)
    parsed = dialect.parse_url(url)
    with dialect.database_errors():
        engine = dialect.postgresql_engine(parsed)
        try:
            with dialect.postgresql_read_committed(engine).connect() as connection:
                driver = _driver(connection)
                _fill(driver, parts)
                # SQLAlchemy knows of no transaction, for the driver alone was spoken to.
                driver.commit()
        except psycopg.Error as error:
            raise CertdError(
                Reason.STORE_UNAVAILABLE,
                f"the database {dialect.shown(parsed)} does not take the copy: {error.diag.message_primary}",
            ) from None
        finally:
            engine.dispose()


def _fill(driver: "psycopg.Connection[Any]", parts: Mapping[str, Path]) -> None:
    tables = _all_tables()
    with driver.cursor() as cursor:
        names = sql.SQL(", ").join(sql.Identifier(table.name) for table in tables)
        # What the migrations put in.
        cursor.execute(sql.SQL("TRUNCATE {}").format(names))
        for table in tables:
            columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
            statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)")
            with (
                parts[f"{_TABLES}{table.name}.copy"].open("rb") as file,
                cursor.copy(statement.format(sql.Identifier(table.name), columns)) as copy,
            ):
                while piece := file.read(_PIECE):
                    copy.write(piece)
        for name, number in json.loads(parts[SEQUENCES_PART].read_bytes()).items():
            cursor.execute("SELECT setval(pg_get_serial_sequence(%s, %s), %s)", (*name.split("."), number))


def _all_tables() -> list[Any]:
    return list(metadata.sorted_tables)


def _sequences(driver: "psycopg.Connection[Any]") -> dict[str, int]:
    """Returns the last number that each sequence gave, by table and column."""
    found: dict[str, int] = {}
    with driver.cursor() as cursor:
        for table in _all_tables():
            for column in table.columns:
                name = cursor.execute("SELECT pg_get_serial_sequence(%s, %s)", (table.name, column.name)).fetchone()
                if name is None or name[0] is None:
                    continue
                # Quoted by the server itself.
                row = cursor.execute(
                    sql.SQL("SELECT last_value, is_called FROM {}").format(sql.SQL(name[0]))
                ).fetchone()
                if row is not None and row[1]:
                    found[f"{table.name}.{column.name}"] = int(row[0])
    return found


def _driver(connection: Connection) -> "psycopg.Connection[Any]":
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("the connection is not one of PostgreSQL")
    return driver


@contextmanager
def unused(url: str) -> Iterator[None]:
    """Holds a SQLite database that no daemon uses for the length of a `with`; does nothing on PostgreSQL."""
    parsed = dialect.parse_url(url)
    if dialect.engine_name(parsed) != dialect.SQLITE:
        yield
        return
    lock = FileLock(dialect.sqlite_file(parsed))
    try:
        yield
    finally:
        lock.release()
