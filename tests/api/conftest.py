"""Fixtures of the edge's tests."""

from collections.abc import Iterator

import pytest

from tests.api.edge_server import Edge, running_edge


@pytest.fixture
def edge() -> Iterator[Edge]:
    with running_edge() as running:
        yield running
