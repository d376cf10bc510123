"""Reads of a database: each sees one snapshot and cannot write."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from sqlalchemy import Engine

from certd.errors import CertdError, Reason
from certd.store import dialect
from certd.store.migration import check_compatible
from certd.store.transaction import Transaction


class Reader:
    """A database that is open for reading alone, beside a daemon that uses it or without one.

    Get one by `Reader.open`; the constructor takes what that has made.
    """

    def __init__(self, engine_name: str, engine: Engine, close: Callable[[], None]) -> None:
        self._engine_name = engine_name
        self._engine = engine
        self._close = close

    @classmethod
    def open(cls, url: str) -> Self:
        """Opens a database. Raises what `Store.open` raises, but not that another certd uses it."""
        parsed = dialect.parse_url(url)
        with dialect.database_errors():
            engine_name = dialect.engine_name(parsed)
            if engine_name == dialect.SQLITE:
                file = dialect.sqlite_file(parsed)
                if not file.exists():
                    raise CertdError(Reason.STORE_UNAVAILABLE, f"there is no database {file}: name another certd.toml")
                made = engine = dialect.sqlite_reader_engine(parsed)
                shown = str(file)
            else:
                made = dialect.postgresql_engine(parsed)
                engine, shown = dialect.postgresql_snapshot(made), dialect.shown(parsed)
            try:
                with made.connect() as connection:
                    check_compatible(connection, shown)
            except BaseException:
                made.dispose()
                raise
        return cls(engine_name, engine, made.dispose)

    @contextmanager
    def read(self, _name: str) -> Iterator[Transaction]:
        """Yields a transaction that sees one snapshot and cannot write. Raises STORE_UNAVAILABLE."""
        with dialect.database_errors(), self._engine.connect() as connection:
            if self._engine_name == dialect.SQLITE:
                dialect.raw_sqlite(connection).execute("BEGIN")
            transaction = Transaction(connection, self._engine_name)
            try:
                yield transaction
            finally:
                transaction.end()
                # After an I/O error SQLite has rolled back by itself.
                if self._engine_name == dialect.SQLITE and dialect.raw_sqlite(connection).in_transaction:
                    dialect.raw_sqlite(connection).execute("ROLLBACK")

    def close(self) -> None:
        """Lets go of the database."""
        self._close()
