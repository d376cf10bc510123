"""Copies of databases that are in use, and databases made of them."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.store import copies, dialect, events, owners, tenants
from certd.store.schema import SCHEMA_NUMBER
from certd.store.store import Store
from tests.store.samples import LATER, NOW, add_tenant, event


def _parts(url: str, folder: Path) -> tuple[dict[str, Path], int]:
    """Returns the parts of a copy as files, and the number of the last event in it."""
    found = {}
    with copies.snapshot(url) as books:
        seq = events.head(books.transaction).seq
        assert books.schema_number == SCHEMA_NUMBER
        for part in books.parts(folder, lambda _done, _of: None):
            path = folder / part.name.replace("/", "-")
            path.write_bytes(part.file.read())
            assert path.stat().st_size == part.size
            assert copies.is_part(part.name)
            found[part.name] = path
    return found, seq


def test_a_copy_of_a_database_that_is_written_is_of_one_moment(
    tmp_path: Path, database_url: str, empty_postgres_url: str, open_store: Callable[[str], Store]
) -> None:
    store = open_store(database_url)
    add_tenant(store)
    for _ in range(3):
        store.write("test", lambda tx: owners.begin(tx, NOW, LATER))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            store.write("test", lambda tx: tx.event(event()))

    writing = threading.Thread(target=write)
    writing.start()
    folder = tmp_path / "copy"
    folder.mkdir()
    try:
        parts, seq = _parts(database_url, folder)
    finally:
        stop.set()
        writing.join()
    # Nothing of it has a name beside what this test wrote.
    assert sorted(folder.iterdir()) == sorted(parts.values())
    if store.engine_name == dialect.SQLITE:
        url = f"sqlite:///{tmp_path / 'restored.db'}"
        copies.put_sqlite(parts[copies.SQLITE_PART], url=url)
    else:
        url = empty_postgres_url
        copies.check_empty(url)
        copies.put_postgresql(parts, schema_number=SCHEMA_NUMBER, url=url)
        with pytest.raises(CertdError, match="one of certd already"):
            copies.check_empty(url)
    restored = open_store(url)
    with restored.read("test") as tx:
        assert events.head(tx).seq >= seq
        assert events.verify_all(tx) == []
        assert tenants.get(tx, "default") is not None
    # Epochs are never used again.
    assert restored.write("test", lambda tx: owners.begin(tx, NOW, LATER)) == 4


def test_a_damaged_copy_is_refused(tmp_path: Path, open_store: Callable[[str], Store], sqlite_url: str) -> None:
    open_store(sqlite_url).close()
    folder = tmp_path / "copy"
    folder.mkdir()
    parts, _ = _parts(sqlite_url, folder)
    path = parts[copies.SQLITE_PART]
    content = bytearray(path.read_bytes())
    # The pages of some tables and indexes.
    content[8192:40960] = bytes(32768)
    path.write_bytes(bytes(content))
    with pytest.raises(CertdError) as caught:
        copies.put_sqlite(path, url=f"sqlite:///{tmp_path / 'restored.db'}")
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert not (tmp_path / "restored.db").exists()


def test_a_copy_of_another_schema_is_refused(empty_postgres_url: str) -> None:
    with pytest.raises(CertdError, match="release that made it"):
        copies.put_postgresql({}, schema_number=SCHEMA_NUMBER - 1, url=empty_postgres_url)
    copies.check_empty(empty_postgres_url)


def test_what_is_no_database_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(CertdError, match="there is no database"), copies.snapshot(f"sqlite:///{tmp_path / 'none.db'}"):
        pass
    assert list(tmp_path.iterdir()) == []
