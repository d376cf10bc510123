"""What holds for every test."""

import os
import sys
from collections.abc import Iterator

import pytest

# grpc reads it at its import, and its fork handlers may hang a child that is started while a server of a test serves.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


@pytest.fixture(scope="module", autouse=True)
def _processors() -> Iterator[None]:
    """A daemon in this process must not keep the tests after it on one processor."""
    if not sys.platform.startswith("linux"):
        yield
        return
    before = os.sched_getaffinity(0)
    yield
    assert os.sched_getaffinity(0) == before
