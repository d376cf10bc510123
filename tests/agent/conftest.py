"""A machine with an agent, and a server beside which it runs; the server of secrets that Envoys come to."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from certd.agent.config import Sds
from certd.agent.sds import ASK_WITHIN, MOST_STREAMS_OF_ONE, SecretServer
from tests.agent.bundles import Minter
from tests.agent.machine import Machine, Stranger
from tests.agent.secret_client import NAMES, Start, Told


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


@pytest.fixture
def server() -> Stranger:
    return Stranger()


@pytest.fixture(scope="module")
def minter() -> Minter:
    return Minter()


@pytest.fixture
def path() -> Iterator[Path]:
    """Of the socket; not under tmp_path, which is too long for one on some systems."""
    with tempfile.TemporaryDirectory(prefix="certd-sds-") as folder:
        yield Path(folder) / "sds.sock"


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def start(path: Path, told: Told) -> Iterator[Start]:
    started: list[SecretServer] = []

    def begin(
        *,
        timeout: float = 20.0,
        most_streams: int = 8,
        most_streams_of_one: int = MOST_STREAMS_OF_ONE,
        ask_within: float = ASK_WITHIN,
    ) -> SecretServer:
        server = SecretServer(
            Sds(socket=path, timeout=timeout),
            NAMES,
            told=lambda bundle, problem: told.append((bundle.version, problem)),
            most_streams=most_streams,
            most_streams_of_one=most_streams_of_one,
            ask_within=ask_within,
        )
        server.start()
        started.append(server)
        return server

    yield begin
    for server in started:
        server.stop()
