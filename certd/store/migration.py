"""Migrations: forward only, each able to run under the previous release.

The database says which migration ran last and which is the oldest code that may use it, so that a daemon of the
release before keeps working beside the new tables, and one that would harm them does not start.
"""

import os
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, literal_column, select, text
from sqlalchemy.engine import URL

from certd.errors import CertdError, Reason
from certd.store import dialect
from certd.store.file_lock import FileLock
from certd.store.schema import SCHEMA_NUMBER, schema_compatibility

_DIRECTORY = Path(__file__).parent
# Any number, the same in every certd: two migrations of one PostgreSQL database wait for each other.
_ADVISORY_LOCK = 0x63657274

_SELECT = select(schema_compatibility.c.schema_number, schema_compatibility.c.oldest_code).where(
    schema_compatibility.c.id == literal_column("1")
)


def migrate(url: str) -> None:
    """Brings the database to the newest schema; a SQLite file is made when it is not there, readable by its owner.

    Runs in one transaction. Raises what `Store.open` raises; a SQLite file in use by a daemon is refused.
    """
    parsed = dialect.parse_url(url)
    with dialect.database_errors():
        if dialect.engine_name(parsed) == dialect.SQLITE:
            _migrate_sqlite(parsed)
        else:
            _migrate_postgresql(parsed)


def _migrate_sqlite(url: URL) -> None:
    file = dialect.sqlite_file(url)
    lock = FileLock(file)
    try:
        # Made before SQLite would make it, which leaves it readable by everyone.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        with dialect.sqlite_writer_engine(url).connect() as connection:
            raw = dialect.raw_sqlite(connection)
            raw.execute("BEGIN IMMEDIATE")
            _upgrade(connection, str(file))
            raw.execute("COMMIT")
    finally:
        lock.release()


def _migrate_postgresql(url: URL) -> None:
    engine = dialect.postgresql_engine(url)
    try:
        with dialect.postgresql_read_committed(engine).connect() as connection:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            _upgrade(connection, dialect.shown(url))
            connection.commit()
    finally:
        engine.dispose()


def _upgrade(connection: Connection, shown: str) -> None:
    if inspect(connection).has_table(schema_compatibility.name):
        schema_number, oldest_code = connection.execute(_SELECT).one()
        if schema_number > SCHEMA_NUMBER:
            _refuse_newer(shown, oldest_code)
            return
    script = ScriptDirectory(_DIRECTORY, version_locations=[_DIRECTORY / "migrations"])

    def steps(revision: object, _context: MigrationContext) -> list[RevisionStep]:
        return script._upgrade_revs("head", revision)  # type: ignore[arg-type]  # noqa: SLF001  # What alembic's own commands call; it has no public name.

    with EnvironmentContext(Config(), script, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()


def check_compatible(connection: Connection, shown: str) -> None:
    """Raises STORE_UNAVAILABLE unless this code may use the database, which messages call `shown`."""
    if not inspect(connection).has_table(schema_compatibility.name):
        raise CertdError(Reason.STORE_UNAVAILABLE, f"the database {shown} has no tables yet: run `certd migrate`")
    schema_number, oldest_code = connection.execute(_SELECT).one()
    if schema_number < SCHEMA_NUMBER:
        raise CertdError(
            Reason.STORE_UNAVAILABLE,
            f"the database {shown} has schema {schema_number}, this certd needs {SCHEMA_NUMBER}: run `certd migrate`",
        )
    _refuse_newer(shown, oldest_code)


def _refuse_newer(shown: str, oldest_code: int) -> None:
    if oldest_code > SCHEMA_NUMBER:
        raise CertdError(
            Reason.STORE_UNAVAILABLE,
            f"the database {shown} was migrated by a newer certd and needs code of schema {oldest_code} or later, this "
            f"one knows {SCHEMA_NUMBER}: install the newer release; migrations are not undone",
        )
