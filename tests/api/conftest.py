"""Fixtures of the edge's tests, and of the clients'."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.edge_server import Edge, running_edge
from tests.certctl import Certctl, settle
from tests.fakes_server import FakeServer, Issued, make_leaf, make_root, running


@pytest.fixture
def edge() -> Iterator[Edge]:
    with running_edge() as running_one:
        yield running_one


@pytest.fixture(scope="module")
def root() -> Issued:
    """Who vouches for the fake server and for those who call it."""
    return make_root()


@pytest.fixture
def fake(root: Issued) -> Iterator[FakeServer]:
    """A server that answers as it is told to."""
    with running(FakeServer(), make_leaf(root, "localhost"), root) as server:
        yield server


@pytest.fixture
def certctl(
    fake: FakeServer,
    root: Issued,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Certctl:
    """certctl, whose settings lead to the fake."""
    settle(tmp_path / "home", fake, root, monkeypatch)
    return Certctl(capsys)
