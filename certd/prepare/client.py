"""The daemon's side of the prepare processes. With none, the step runs in the thread that asks."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from certd.errors import CertdError, Reason
from certd.ipc.channel import Channel, SpawnedChild
from certd.prepare.messages import Answer, Wanted, parse_response, request_bytes
from certd.prepare.order import Item, Terms, is_as_told
from certd.prepare.work import answer_item

_logger = logging.getLogger(__name__)

_NAME = "prepare process"
_TIMEOUT = 30.0
_PATIENCE = 15.0
"""Seconds without any answer after which a process that has something to do counts as hanging."""
_NOTHING = Wanted()

Heard = Callable[[Sequence[Answer]], None]
"""Is called with what became of the items, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparerState:
    """How the prepare processes are."""

    configured: int
    ready: int
    problem: str
    """Why one of them is not ready, and the remedy; empty when all are."""

    @property
    def works(self) -> bool:
        """Whether anything is prepared: with one process at least, or by the daemon itself."""
        return self.ready > 0 or not self.configured


@dataclass(slots=True)
class _Worker:
    """A prepare process, and how many items it has to do."""

    channel: Channel
    items: int = 0
    heard: float = 0.0
    """When it last answered or, if that is later, got something to do after it had nothing."""


class Preparer:
    """Has certificates prepared.

    Args:
        workers: prepare processes to start; with none the step runs in the daemon.
        arguments: of their command lines, see `certd.prepare.__main__`.
        patience: seconds without any answer after which one that has something to do is started again.
    """

    def __init__(self, workers: int, arguments: Sequence[str] = (), *, patience: float = _PATIENCE) -> None:
        # -I: neither the working directory nor the environment chooses what reads strangers' bytes.
        argv = (sys.executable, "-I", "-m", "certd.prepare", *arguments)
        self._workers = [
            _Worker(Channel(SpawnedChild(argv), name=_NAME, unavailable=Reason.PREPARATION_UNAVAILABLE))
            for _ in range(workers)
        ]
        self._patience = patience
        self._lock = threading.Lock()

    def start(self) -> None:
        """Starts the processes and returns at once; `wait_settled` waits for them."""
        for worker in self._workers:
            worker.channel.start()

    def wait_settled(self, timeout: float) -> bool:
        """Waits until every process works or has failed, at most `timeout` seconds each; returns whether all do."""
        return all(worker.channel.wait_settled(timeout) for worker in self._workers)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Process ids of those that run."""
        found = [worker.channel.process_id for worker in self._workers]
        return tuple(each for each in found if each is not None)

    @property
    def state(self) -> PreparerState:
        """How the processes are at the moment."""
        channels = [worker.channel for worker in self._workers]
        problems = (channel.problem for channel in channels if not channel.ready)
        return PreparerState(
            configured=len(channels), ready=sum(channel.ready for channel in channels), problem=next(problems, "")
        )

    def on_change(self, callback: Callable[[bool, str], None]) -> None:
        """Calls `callback(ready, problem)` at every change of one process, on a thread not to be blocked."""
        for worker in self._workers:
            worker.channel.on_change(callback)

    def stop(self) -> None:
        """Ends the processes. Who waits hears PREPARATION_UNAVAILABLE."""
        for worker in self._workers:
            worker.channel.stop()

    def submit(self, terms: Terms, items: Sequence[Item], heard: Heard, *, wanted: Wanted = _NOTHING) -> None:
        """Has items prepared. `heard` is called once, on a thread not to be blocked; without processes on this one.

        What goes wrong as a whole (PREPARATION_UNAVAILABLE, SIGNING_QUEUE_FULL) is told as the error of every item.
        """
        worker = self._least_busy(len(items))
        if worker is None:
            heard([answer_item(terms, item, wanted) for item in items])
            return
        serials = [item.serial for item in items]

        def answered(outcome: bytes | CertdError) -> None:
            self._done(worker, len(serials))
            heard(answers_of(outcome, terms, serials))

        try:
            worker.channel.submit(request_bytes(terms, items, wanted), timeout=_TIMEOUT, answered=answered)
        except CertdError as error:
            answered(error)

    def _least_busy(self, items: int) -> _Worker | None:
        if not self._workers:
            return None
        now = time.monotonic()
        with self._lock:
            for worker in self._workers:
                if worker.items and now - worker.heard > self._patience and worker.channel.ready:
                    _logger.error("a prepare process answers nothing any more and is started again")
                    worker.heard = now
                    worker.channel.give_up()
            ready = [worker for worker in self._workers if worker.channel.ready] or self._workers
            worker = min(ready, key=lambda each: each.items)
            if not worker.items:
                worker.heard = now
            worker.items += items
            return worker

    def _done(self, worker: _Worker, items: int) -> None:
        with self._lock:
            worker.items -= items
            worker.heard = time.monotonic()


def answers_of(outcome: bytes | CertdError, terms: Terms, serials: Sequence[int]) -> Sequence[Answer]:
    """Returns what became of each item; INTERNAL for what a healthy prepare process would never answer."""
    if isinstance(outcome, CertdError):
        return [outcome.another() for _ in serials]
    try:
        answers = parse_response(outcome, terms=terms, serials=serials)
    except (DecodeError, ValueError):
        return [_senseless() for _ in serials]
    return [
        answer if isinstance(answer, CertdError) or is_as_told(answer.prepared, terms) else _senseless()
        for answer in answers
    ]


def _senseless() -> CertdError:
    return CertdError(Reason.INTERNAL, "a prepare process answered what makes no sense")


def default_workers() -> int:
    """Returns how many processes suit this machine: one for each core besides the one that the daemon keeps busy."""
    return max(1, min(4, (os.cpu_count() or 1) - 1))
