"""All that differs between SQLite and PostgreSQL: engines, settings, statements, errors."""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Select,
    Table,
    Text,
    cast,
    create_engine,
    event,
    func,
    literal,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from certd.errors import CertdError, Reason, field_invalid

SQLITE = "sqlite"
POSTGRESQL = "postgresql"
RETRY_AFTER = 1.0
"""Seconds after which a caller may try again."""

_BUSY_MILLISECONDS = 5_000
_READERS = 32
_CONNECTIONS = 24
_POOL_TIMEOUT = 10.0

_log = logging.getLogger("certd.store")

_DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error)

_SQLITE_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk that holds the database is full. Free space there",
    sqlite3.SQLITE_IOERR: "reading or writing the database failed. Look at the disk and at the kernel's log",
    sqlite3.SQLITE_BUSY: "another program holds the database locked. End that program",
    sqlite3.SQLITE_LOCKED: "another program holds the database locked. End that program",
    sqlite3.SQLITE_READONLY: "the database may not be written. Let the daemon's user write the file and its directory",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened. Let the daemon's user write the file and its directory",
    sqlite3.SQLITE_CORRUPT: "the database is damaged. Stop the daemon and restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is no database. Stop the daemon and restore a backup",
    sqlite3.SQLITE_NOMEM: "the machine has no memory left",
    sqlite3.SQLITE_INTERRUPT: "the work was interrupted",
}
# Classes of SQLSTATE that speak of the server and not of what was asked: connection, resources, operator, system.
_POSTGRESQL_STATES = ("08", "53", "55", "57", "58", "XX", "40", "25")


_GROUPS = (64, 32, *range(16, 0, -1))
"""Rows of a statement: what a busy daemon commits at once is mostly one, and many are few."""
_STATEMENTS_KEPT = 512
"""Prepared statements that a connection keeps; more than there are, with one for each number of rows."""


@dataclass(frozen=True, slots=True)
class PerEngine:
    """A statement that each engine's dialect spells."""

    sqlite: Executable
    postgresql: Executable


class Many:
    """A statement that is executed for many rows at once.

    On SQLite the driver executes it, as one statement for many rows: for each statement and each row of
    `executemany` the driver lets go of the interpreter and takes it again, among all who wait for it, and SQLAlchemy
    takes as long as SQLite does.

    Args:
        statement: inserts, or updates by bound names.
        columns: names of the values of a row; for an insert the columns that it sets.
        sqlite_text: for what is no insert, the text for SQLite with `{rows}` where the rows stand, `(?, ?), (?, ?)`.
    """

    __slots__ = ("_columns", "_texts", "statement")

    def __init__(
        self, statement: Executable | PerEngine, *, columns: Sequence[str], sqlite_text: str | None = None
    ) -> None:
        self.statement = statement
        self._columns = tuple(columns)
        group = f"({', '.join('?' * len(self._columns))})"
        text = sqlite_text or self._insert_text(group)
        # Few sizes, so that the driver knows them all.
        self._texts = {size: text.format(rows=", ".join([group] * size)) for size in _GROUPS}

    def _insert_text(self, group: str) -> str:
        spelled = self.statement.sqlite if isinstance(self.statement, PerEngine) else self.statement
        compiled = spelled.compile(dialect=sqlite.dialect(), column_keys=list(self._columns))  # type: ignore[attr-defined]  # Of every statement.
        # The columns stand in the order of the table.
        self._columns = tuple(compiled.positiontup)
        before, found, after = str(compiled).partition(f"VALUES {group}")
        if not found:
            raise TypeError("the statement does not insert rows of these columns")
        return f"{before}VALUES {{rows}}{after}"

    def on_sqlite(self, connection: Connection, rows: Sequence[Mapping[str, object]]) -> int:
        """Executes it for the rows; returns how many were changed."""
        raw, columns, changed, start = raw_sqlite(connection), self._columns, 0, 0
        for size, text in self._texts.items():
            while len(rows) - start >= size:
                part = rows[start : start + size]
                changed += raw.execute(text, [row[name] for row in part for name in columns]).rowcount
                start += size
        return changed


class Query:
    """A query for bound values by name.

    On SQLite the driver executes it: of one that is asked for every certificate SQLAlchemy takes several times as long
    as SQLite.
    """

    __slots__ = ("_constants", "_names", "_text", "statement")

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement
        compiled = statement.compile(dialect=sqlite.dialect())
        self._text = str(compiled)
        # In the order in which they stand; SQLAlchemy adds some of its own.
        self._names = tuple(compiled.positiontup or ())
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}

    def on_sqlite(self, connection: Connection, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Executes it; returns the rows."""
        known = {**self._constants, **values}
        rows: list[Sequence[Any]] = (
            raw_sqlite(connection).execute(self._text, [known[name] for name in self._names]).fetchall()
        )
        return rows


def parse_url(text: str) -> URL:
    """Parses `sqlite:///FILE` or `postgresql://…`; raises FIELD_INVALID without the text, which may hold a password."""
    remedy = "must be sqlite:///FILE (four slashes before an absolute path) or postgresql://USER@HOST/DATABASE"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise field_invalid("database.url", remedy) from None
    match url.get_backend_name():
        case "sqlite" if url.database and url.database != ":memory:":
            return URL.create("sqlite+pysqlite", database=url.database)
        case "postgresql" if url.database:
            return url.set(drivername="postgresql+psycopg")
    raise field_invalid("database.url", remedy)


def engine_name(url: URL) -> str:
    """Returns SQLITE or POSTGRESQL."""
    return url.get_backend_name()


def shown(url: URL) -> str:
    """Returns what an operator may read about the database: the file, or the URL without its password."""
    return str(sqlite_file(url)) if engine_name(url) == SQLITE else url.render_as_string(hide_password=True)


def sqlite_file(url: URL) -> Path:
    """Returns the file of a SQLite database."""
    # Resolved, so that two ways to one file meet at one lock.
    return Path(url.database or "").resolve()


def sqlite_writer_engine(url: URL) -> Engine:
    """Returns the engine of the one connection that writes; transactions are begun and ended by its user."""
    return _sqlite_engine(url, poolclass=NullPool)


def sqlite_reader_engine(url: URL) -> Engine:
    """Returns the engine of the connections that read and cannot write."""
    engine = _sqlite_engine(url, pool_size=_READERS, max_overflow=0, pool_timeout=_POOL_TIMEOUT, pool_use_lifo=True)

    @event.listens_for(engine, "connect")
    def forbid_writing(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA query_only = ON")

    return engine


def _sqlite_engine(url: URL, **options: Any) -> Engine:  # noqa: ANN401  # Options of create_engine.
    # AUTOCOMMIT keeps the driver from beginning transactions by itself, at moments and in a mode of its own choice.
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        connect_args={"check_same_thread": False, "cached_statements": _STATEMENTS_KEPT},
        **options,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_size_limit = 67108864")

    return engine


def raw_sqlite(connection: Connection) -> sqlite3.Connection:
    """Returns the driver's connection, on which BEGIN, SAVEPOINT and COMMIT cost what they cost and no more."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, sqlite3.Connection):
        raise TypeError("the connection is not one of SQLite")
    return raw


def postgresql_engine(url: URL) -> Engine:
    """Returns the engine whose transactions are SERIALIZABLE, so that works may assume what they may on SQLite."""
    engine = create_engine(
        url,
        isolation_level="SERIALIZABLE",
        hide_parameters=True,
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=_POOL_TIMEOUT,
        pool_use_lifo=True,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:  # noqa: ANN401  # A connection of psycopg, whose generics say nothing here.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = on")
            cursor.execute("SET lock_timeout = '10s'")
            cursor.execute("SET idle_in_transaction_session_timeout = '60s'")
        connection.autocommit = False

    return engine


def postgresql_snapshot(engine: Engine) -> Engine:
    """Returns the same pool for reads of one snapshot."""
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def postgresql_read_committed(engine: Engine) -> Engine:
    """Returns the same pool for those who lock the rows they decide on."""
    return engine.execution_options(isolation_level="READ COMMITTED")


def insert_if_absent(table: Table) -> PerEngine:
    """Returns INSERT … ON CONFLICT DO NOTHING; its row count tells whether the row is new."""
    options = {"preserve_rowcount": True}
    return PerEngine(
        sqlite=sqlite.insert(table).on_conflict_do_nothing().execution_options(**options),
        postgresql=postgresql.insert(table).on_conflict_do_nothing().execution_options(**options),
    )


def insert_or_replace(
    table: Table,
    *,
    key: Sequence[str],
    replaced: Sequence[str],
    where: Callable[[ReadOnlyColumnCollection[str, Any]], ColumnElement[bool]] | None = None,
) -> PerEngine:
    """Returns INSERT … ON CONFLICT (key) DO UPDATE, which replaces the columns `replaced`.

    `where` is handed the new columns and says which rows are replaced; the others stay as they are.
    """
    for_sqlite = sqlite.insert(table)
    for_postgresql = postgresql.insert(table)
    return PerEngine(
        sqlite=for_sqlite.on_conflict_do_update(
            index_elements=key,
            set_={column: for_sqlite.excluded[column] for column in replaced},
            where=None if where is None else where(for_sqlite.excluded),
        ),
        postgresql=for_postgresql.on_conflict_do_update(
            index_elements=key,
            set_={column: for_postgresql.excluded[column] for column in replaced},
            where=None if where is None else where(for_postgresql.excluded),
        ),
    )


def has_member(engine: str, column: ColumnElement[str], key: str, value: str | None) -> ColumnElement[bool]:
    """Returns whether the JSON object in a column has the key, and under it the string `value` unless that is None.

    Key and value are bound, so they may have any character. The answer is true or false, never unknown.
    """
    if engine == SQLITE:
        members = func.json_each(column).table_valued("key", "value")
        found = select(literal(1)).select_from(members).where(members.c.key == key)
        return (found if value is None else found.where(members.c.value == value)).exists()
    member = json.dumps({key: value}, ensure_ascii=False)
    as_json = cast(column, postgresql.JSONB)
    if value is None:
        return func.jsonb_exists(as_json, cast(key, Text))
    return as_json.contains(cast(literal(member, Text), postgresql.JSONB))


def _origin(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error


def breaks_batch(error: BaseException) -> bool:
    """Returns whether SQLite failed as a whole (disk full, I/O and kin), not the one statement."""
    origin = _origin(error)
    return isinstance(origin, sqlite3.Error) and _primary_code(origin) in _SQLITE_ADVICE


def _primary_code(error: sqlite3.Error) -> int:
    # Errors that the driver itself makes have no code.
    return (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF


def may_run_again(error: BaseException) -> bool:
    """Returns whether PostgreSQL undid a transaction only because of others beside it."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in {"40001", "40P01"}


def lost_connection(error: BaseException) -> bool:
    """Returns whether the connection to PostgreSQL broke."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def unavailable(error: BaseException) -> CertdError | None:
    """Returns STORE_UNAVAILABLE for a failure of the database, None for a mistake of the program."""
    origin = _origin(error)
    if isinstance(origin, sqlite3.Error):
        advice = _SQLITE_ADVICE.get(_primary_code(origin))
        if advice is None:
            return None
        detail = f"{advice}; nothing was changed"
    elif isinstance(error, PoolTimeoutError):
        detail = "all connections to the database are busy"
    elif isinstance(error, DBAPIError) and not isinstance(error, IntegrityError) and _server_failed(error):
        detail = "the database server does not answer or is out of resources; the daemon's log has its words"
    else:
        return None
    # The driver's words may name hosts and users: for the operator, not for callers.
    _log.warning("database unavailable: %s", str(origin).strip())
    return CertdError(
        Reason.STORE_UNAVAILABLE, f"the database is unavailable: {detail}, then try again", retry_after=RETRY_AFTER
    )


def _server_failed(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or state is None or state.startswith(_POSTGRESQL_STATES)


def mapped(error: BaseException) -> BaseException:
    """Returns the error that the caller gets in place of `error`, which may be itself."""
    known = isinstance(error, _DATABASE_ERRORS)
    return (unavailable(error) if known else None) or error


@contextmanager
def database_errors() -> Iterator[None]:
    """Raises STORE_UNAVAILABLE in place of a failure of the database; mistakes of the program pass as they are."""
    try:
        yield
    except _DATABASE_ERRORS as error:
        failure = unavailable(error)
        if failure is None:
            raise
        raise failure from error
