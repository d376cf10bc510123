"""How the processes of a daemon fare: their memory, threads and descriptors, and whether they are still the same."""

from dataclasses import dataclass

import psutil

from certd.config import Limits
from tests.daemon import RunningDaemon

_MEBIBYTE = 1 << 20
MORE_DESCRIPTORS = 16
"""Connections to the database that are opened when two callers read at once."""
MORE_THREADS = Limits().concurrent_calls + 4
"""The pool's, which start when one more is needed for a moment, and some of gRPC's; far fewer than there are calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """How much the memory of a process may grow."""

    part: float
    """Of what it had before."""
    mebibytes: float
    """Past that."""


SINCE_WARM_UP = Bound(part=0.25, mebibytes=128)
"""Caches with bounds fill, and each thread keeps room for the largest messages that it saw, of megabytes here."""
IN_THE_SECOND_HALF = Bound(part=0.1, mebibytes=64)
"""By then most of that has happened; what still grows is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """Of one process at one moment."""

    role: str
    mebibytes: float
    threads: int
    descriptors: int


def vitals(daemon: RunningDaemon) -> dict[int, Vitals]:
    """Returns what every process of the daemon has, by process id."""
    found = {}
    for process in (psutil.Process(daemon.pid), *psutil.Process(daemon.pid).children(recursive=True)):
        words = process.cmdline()
        role = (
            "token process" if "certd.token" in words else "prepare process" if "certd.prepare" in words else "daemon"
        )
        found[process.pid] = Vitals(
            role=role,
            mebibytes=round(process.memory_info().rss / _MEBIBYTE, 1),
            threads=process.num_threads(),
            descriptors=process.num_fds(),
        )
    return found


def complaints(before: dict[int, Vitals], after: dict[int, Vitals], bound: Bound) -> list[str]:
    """Returns what grew that should not, and who died."""
    wrong = [f"{one.role} {pid} died" for pid, one in before.items() if pid not in after]
    wrong += [f"{one.role} {pid} is new" for pid, one in after.items() if pid not in before]
    for pid, then in before.items():
        now = after.get(pid)
        if now is None:
            continue
        if now.mebibytes > then.mebibytes * (1 + bound.part) + bound.mebibytes:
            wrong.append(f"the memory of the {then.role} grew from {then.mebibytes} to {now.mebibytes} MiB")
        if now.threads > then.threads + MORE_THREADS:
            wrong.append(f"the threads of the {then.role} grew from {then.threads} to {now.threads}")
        if now.descriptors > then.descriptors + MORE_DESCRIPTORS:
            wrong.append(f"the descriptors of the {then.role} grew from {then.descriptors} to {now.descriptors}")
    return wrong
