"""How the processes of a daemon share the processors. Linux only; elsewhere nothing happens.

The threads of the daemon keep to one processor. Of the threads of an interpreter one runs at a time, and they hand over
to each other many times in a call. Between two processors each time costs a wake-up, and what the caches held; on one
it costs a switch. The children, which do what can be done beside each other, run wherever the system lets them.

And nobody interrupts. Who hands work over still holds what the woken thread needs first, the interpreter's lock: one
that starts in the middle of that stops at once, and both have been switched for nothing.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_before: set[int] = set()
"""The processors that the process may use, once its threads are kept on one of them."""


def keep_on_one_processor() -> int | None:
    """Moves every thread of the process, and those they will start, to one processor; returns its number.

    None where that cannot be, or where there is one alone.
    """
    if not sys.platform.startswith("linux"):
        return None
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        return None
    # Two daemons of a machine hardly have the same one.
    chosen = sorted(allowed)[os.getpid() % len(allowed)]
    _before.update(allowed)
    for thread in _threads():
        # A thread may have ended meanwhile.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread, {chosen})
    return chosen


def interrupt_nobody() -> None:
    """Has every thread of the process, and those they will start, wait for a turn when it is woken (SCHED_BATCH).

    They get as much of the processors as before. A policy that an operator chose for the process stays.
    """
    if not sys.platform.startswith("linux"):
        return
    for thread in _threads():
        # A thread may have ended meanwhile; where it is forbidden, all is a little slower and nothing else.
        with contextlib.suppress(OSError):
            if os.sched_getscheduler(thread) == os.SCHED_OTHER:
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


def _threads() -> list[int]:
    return [int(thread.name) for thread in Path("/proc/self/task").iterdir()]


@contextlib.contextmanager
def on_any_processor() -> Iterator[None]:
    """Lets this thread, and the child that it starts meanwhile, run on every processor that the process may use."""
    if not _before or not sys.platform.startswith("linux"):
        yield
        return
    kept = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, kept)
