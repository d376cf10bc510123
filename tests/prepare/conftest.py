"""Fixtures of the prepare processes' tests."""

from collections.abc import Iterator

import pytest

from certd.prepare.client import Preparer
from tests.prepare.asking import running_preparer
from tests.unit.memory_authority import MemoryAuthority, root


@pytest.fixture(scope="session")
def authority() -> MemoryAuthority:
    return root()


@pytest.fixture(scope="session")
def preparer() -> Iterator[Preparer]:
    """One process, which the tests leave alive."""
    with running_preparer() as running:
        yield running
