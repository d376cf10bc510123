"""The contract suite runs on SQLite, and on PostgreSQL where its server is found."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from certd.clock import SystemClock
from certd.store.migration import migrate
from certd.store.store import Store
from tests.databases import migrated
from tests.postgres import empty_postgres_url, postgres_server, postgres_url

__all__ = ["empty_postgres_url", "postgres_server", "postgres_url"]


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'certd.db'}"
    migrated(url)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database that has every table and nothing in them."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
def open_store() -> Iterator[Callable[[str], Store]]:
    """Migrates and opens databases, and closes them after the test."""
    stores: list[Store] = []

    def opened(url: str) -> Store:
        migrate(url)
        stores.append(Store.open(url, clock=SystemClock()))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def store(database_url: str, open_store: Callable[[str], Store]) -> Store:
    return open_store(database_url)


@pytest.fixture
def sqlite_store(sqlite_url: str, open_store: Callable[[str], Store]) -> Store:
    return open_store(sqlite_url)


@pytest.fixture
def postgres_store(postgres_url: str, open_store: Callable[[str], Store]) -> Store:
    return open_store(postgres_url)
