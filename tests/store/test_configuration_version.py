"""The version by which daemons know that what they keep in memory is outdated."""

from collections.abc import Callable

import pytest

from certd.store.store import Store, Transaction
from tests.store.waiting import wait_until


def _change(tx: Transaction) -> None:
    tx.configuration_changed()


def _change_and_fail(tx: Transaction) -> None:
    tx.configuration_changed()
    raise ValueError("no")


def test_it_grows_with_a_work_that_changes_the_configuration_and_with_no_other(store: Store) -> None:
    before = store.configuration_version
    store.write("test.nothing", lambda _tx: None)
    assert store.configuration_version == before
    store.write("test.change", _change)
    assert store.configuration_version == before + 1


def test_a_work_that_fails_changes_nothing(store: Store) -> None:
    before = store.configuration_version
    with pytest.raises(ValueError, match="no"):
        store.write("test.fail", _change_and_fail)
    assert store.configuration_version == before


def test_it_is_durable(database_url: str, open_store: Callable[[str], Store]) -> None:
    first = open_store(database_url)
    first.write("test.change", _change)
    version = first.configuration_version
    first.close()
    assert open_store(database_url).configuration_version == version


def test_another_daemon_sees_it_grow(postgres_url: str, open_store: Callable[[str], Store]) -> None:
    one, other = open_store(postgres_url), open_store(postgres_url)
    before = other.configuration_version
    one.write("test.change", _change)
    wait_until(lambda: other.configuration_version == before + 1, "the other sees the change")
