"""What a daemon's books and its log hold, read past the daemon."""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.daemon import Installation

_TABLES = (
    "tenants",
    "grants",
    "authorities",
    "authority_keys",
    "certificates",
    "wrapping_keys",
    "managed_certificates",
    "managed_certificate_versions",
    "sealed_keys",
    "request_records",
    "jobs",
    "events",
)

_WITHOUT = {"jobs": "kind != 'sign-checkpoint'", "events": "type != 'checkpoint.signed'"}
"""Checkpoints are signed from time to time, whoever does what."""


def rows(database: Path, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Returns what a query finds in the database of a daemon, which may run."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as connection:
        return connection.execute(statement, parameters).fetchall()


def database_of(installation: Installation) -> Path:
    """Returns the file that `certd init` makes unless told otherwise."""
    return installation.data / "certd.db"


def books(database: Path) -> dict[str, tuple[int, str]]:
    """Returns how many rows each table has, and a hash over them: equal when nothing was changed."""
    found = {}
    for table in _TABLES:
        # In the order of all columns: tables without a row number have no other that is sure.
        content = sorted(map(repr, rows(database, f"SELECT * FROM {table} WHERE {_WITHOUT.get(table, 'true')}")))
        found[table] = (len(content), hashlib.sha256("\n".join(content).encode()).hexdigest())
    return found


@contextmanager
def unchanged(database: Path) -> Iterator[None]:
    """Fails when what happens inside leaves a trace in the books."""
    before = books(database)
    yield
    assert books(database) == before


def defects(log: str) -> list[str]:
    """Returns the lines of a daemon's log that tell of a defect."""
    return [line for line in log.splitlines() if "Traceback" in line or " defect" in line or "INTERNAL" in line]
