"""One daemon for the tests that do not harm it; `installation` for those that start and end their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Installation, RunningDaemon, initialise, running


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that serves for the whole session. Tests choose names of their own and leave it as it is."""
    with running(initialise(tmp_path_factory.mktemp("daemon"))) as started:
        yield started


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """What `certd init` made for this test alone; start it with `tests.daemon.running`."""
    return initialise(tmp_path)
