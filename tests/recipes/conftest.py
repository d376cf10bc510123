"""One daemon for all recipes; each has a folder that other users can enter."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import initialise, running
from tests.recipes.estate import Estate, administrator, establish


@pytest.fixture(scope="session")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    """A daemon with the managed certificate `web` and the identity `web-1`."""
    with running(initialise(tmp_path_factory.mktemp("daemon"))) as daemon, administrator(daemon) as client:
        yield establish(daemon, client, tmp_path_factory.mktemp("machine"))


@pytest.fixture
def place() -> Iterator[Path]:
    # Not under tmp_path, which is closed to the users of programs, and too long for the path of a socket.
    with tempfile.TemporaryDirectory(prefix="certd-recipe-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
