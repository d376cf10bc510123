"""One daemon for the tests that do not harm it; `installation` for those that start and end their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Installation, RunningDaemon, installed, running


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that serves for the whole session. Tests choose names of their own and leave it as it is.

    What a module makes in it has its scope as well, for a worker may come back to the module.
    """
    installation = installed(tmp_path_factory.mktemp("daemon"))
    # As an operator takes the mark of the comment away.
    text = installation.config.read_text()
    commented = '# devices = "0.0.0.0:8446"'
    assert commented in text
    installation.config.write_text(text.replace(commented, 'devices = "127.0.0.1:0"'))
    with running(installation) as started:
        yield started


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """What `certd init` made for this test alone; start it with `tests.daemon.running`."""
    return installed(tmp_path)
