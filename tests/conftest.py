"""What holds for every test."""

import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How fast a machine makes up examples says nothing about what is tested.
settings.register_profile("certd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("certd")

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


_WORKING = ("certd.api.", "certd.ipc.channel", "certd.scheduler", "certd.services.", "certd.store.", "certd.web.")
"""Modules whose threads work by themselves, and so among other tests."""
_END_SECONDS = 60.0
_of_the_session: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


class _SessionThreads:
    """Notes the threads of what all modules share, whichever of them asks for it first."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Any:
        """Compares the threads before and after what has the scope of the session."""
        if fixturedef.scope != "session":
            return (yield)
        before = set(threading.enumerate())
        result = yield
        _of_the_session.update(set(threading.enumerate()) - before)
        return result


def pytest_configure(config: pytest.Config) -> None:
    """Registers what a file of this name cannot do: fixtures of the session belong to no folder of tests."""
    config.pluginmanager.register(_SessionThreads())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:  # noqa: ARG001  # The names of the hook.
    """Makes what was captured text that one process can tell another: strangers' strings are not always."""
    report: pytest.TestReport = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="module", autouse=True)
def _no_thread_left() -> Iterator[None]:
    """A store or a scheduler that a module leaves running would write and count beside the tests after it."""
    before = set(threading.enumerate())
    yield

    def left() -> list[threading.Thread]:
        if any(thread.is_alive() and _works(thread) for thread in _of_the_session):
            # What the session shares begins threads when it needs them, and nobody can tell whose a new one is.
            return []
        return [thread for thread in threading.enumerate() if thread not in before and _works(thread)]

    # Some end a moment after whoever stopped them.
    deadline = time.monotonic() + _END_SECONDS
    while found := left():
        assert time.monotonic() < deadline, f"left running: {', '.join(thread.name for thread in found)}"
        found[0].join(0.1)


def _works(thread: threading.Thread) -> bool:
    return str(getattr(getattr(thread, "_target", None), "__module__", "")).startswith(_WORKING)
