"""Coverage of the processes that tests start."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "COVERAGE_PROCESS_CONFIG"


@contextmanager
def uncovered_children() -> Iterator[None]:
    """Processes that are started within it are not measured.

    For what hundreds of tests start that are not about it, and others measure: to be measured costs such a process half
    as much again as its whole life.
    """
    kept = os.environ.pop(_VARIABLE, None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ[_VARIABLE] = kept
