"""A machine with an agent, and a server beside which it runs."""

from pathlib import Path

import pytest

from tests.agent.machine import Machine, Stranger


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


@pytest.fixture
def server() -> Stranger:
    return Stranger()
