"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T | None], *, within: float = 20.0, pause: float = 0.005) -> T:
    """Returns the first true value of `condition`; fails when there is none within so many seconds.

    `pause` is that between two looks, for a condition that is dear to look at.
    """
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"the condition did not come true within {within} s; last value: {value!r}")
        time.sleep(pause)
