"""Databases with every table: one is made for each process of tests and copied, for migrating takes much longer."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from certd.store import dialect
from certd.store.migration import migrate


def migrated(url: str) -> None:
    """Does what `migrate` does; a SQLite file that is not there becomes a copy of one that was migrated before."""
    parsed = dialect.parse_url(url)
    if dialect.engine_name(parsed) == dialect.SQLITE and not dialect.sqlite_file(parsed).exists():
        file = dialect.sqlite_file(parsed)
        shutil.copy(_template(), file)
    else:
        migrate(url)


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="certd-tables-"))
    atexit.register(shutil.rmtree, folder)
    file = folder / "certd.db"
    migrate(f"sqlite:///{file}")
    return file
