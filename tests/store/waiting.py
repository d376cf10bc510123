"""Waiting for conditions, and for threads, never for a length of time alone."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
DEADLINE = 60.0


def wait_until(condition: Callable[[], T], what: str) -> T:
    """Returns the first true answer of `condition`; fails the test after a deadline."""
    deadline = time.monotonic() + DEADLINE
    pause = threading.Event()
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        pause.wait(0.002)
    return answer


def run_together(tasks: Iterable[Callable[[], T]]) -> list[T]:
    """Runs tasks in a thread each and returns their results in order; raises the first error."""
    tasks = list(tasks)
    results: list[Any] = [None] * len(tasks)
    errors: list[BaseException] = []

    def run(position: int, task: Callable[[], T]) -> None:
        try:
            results[position] = task()
        except BaseException as error:  # noqa: BLE001  # Raised below, in the thread of the test.
            errors.append(error)

    threads = [threading.Thread(target=run, args=(position, task)) for position, task in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results
