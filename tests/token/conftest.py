"""Tokens and token processes for the tests of this directory."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from certd.token.client import TokenClient, start_child
from certd.token.settings import TokenSettings
from tests.softhsm import make_token
from tests.waiting import eventually


@pytest.fixture(scope="session", autouse=True)
def _no_process_left() -> Iterator[None]:
    # Whoever started one before this, as a daemon for the whole session does, also ends it later.
    before = _token_processes()
    yield
    eventually(lambda: all(process in before for process in _token_processes()))


def _token_processes() -> list[psutil.Process]:
    found = []
    for child in psutil.Process(os.getpid()).children(recursive=True):
        # One that ends while it is looked at is not left over.
        with contextlib.suppress(psutil.NoSuchProcess):
            if "certd.token" in child.cmdline():
                found.append(child)
    return found


@pytest.fixture
def settings(tmp_path: Path) -> TokenSettings:
    return make_token(tmp_path)


@pytest.fixture
def client(settings: TokenSettings) -> Iterator[TokenClient]:
    """A token process of this test alone."""
    started = start_child(settings)
    try:
        assert started.wait_ready(20), started.problem
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenClient]:
    """A token process that the tests of a file share, for tests that change nothing of it."""
    started = start_child(make_token(tmp_path_factory.mktemp("token")))
    try:
        assert started.wait_ready(20), started.problem
        yield started
    finally:
        started.stop()
