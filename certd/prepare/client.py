"""The daemon's side of the prepare processes. With none, the step runs in the thread that asks."""

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from google.protobuf.message import DecodeError

from certd.errors import CertdError, Reason
from certd.ipc.channel import Channel, SpawnedChild
from certd.prepare.messages import Answer, Described, Wanted, items_bytes, parse_response, terms_bytes
from certd.prepare.order import Item, Terms, is_as_told
from certd.prepare.work import answer_item

_logger = logging.getLogger(__name__)

_NAME = "prepare process"
_TIMEOUT = 30.0
_PATIENCE = 15.0
"""Seconds without any answer after which a process that has something to do counts as hanging."""
_NOTHING = Wanted()
QUEUE_LENGTH = 4096
"""Items that may wait besides what the processes have been given."""
_CALLS_AT_ONCE = 2
"""Given to a process: what it works on, and what it finds when it is done with that."""
_LARGEST_CALL = 4
"""Items that go together at most, unless a caller brings more: who is answered together waits for each other."""
_RETRY_AFTER_FULL = 0.1
"""Seconds."""

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


@dataclass(slots=True, eq=False)
class _Worker:
    """A prepare process, and what it has to do."""

    channel: Channel
    calls: int = 0
    """How many it has not answered."""
    items: int = 0
    """How many those have together."""
    heard: float = 0.0
    """When it last answered or, if that is later, got something to do after it had nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class _Submitted:
    """What one caller wants prepared."""

    terms: Terms
    wanted: Wanted
    heard: Heard
    serials: Sequence[int]
    payload: bytes
    """The items, as they go to a process."""

    def goes_with(self, other: "_Submitted") -> bool:
        """Whether both fit into one call."""
        # Those of one authority and one profile come from one cache; others lose nothing but company.
        return (
            self.terms.issuer is other.terms.issuer
            and self.terms.profile is other.terms.profile
            and self.wanted == other.wanted
        )


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
        self._waiting: deque[_Submitted] = deque()
        self._waiting_items = 0

    def start(self) -> None:
        """Starts the processes and returns at once; `wait_settled` waits for them."""
        for worker in self._workers:
            # One that is back takes what waits.
            worker.channel.on_change(partial(self._changed, worker))
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

        What comes while every process has enough to do waits, and goes together with others of the same terms: the more
        callers there are, the less does a call cost. What goes wrong as a whole (PREPARATION_UNAVAILABLE,
        SIGNING_QUEUE_FULL) is told as the error of every item.
        """
        if not self._workers:
            heard([answer_item(terms, item, wanted) for item in items])
            return
        # Written here, so that what cannot be written concerns its caller alone.
        submitted = _Submitted(terms, wanted, heard, [item.serial for item in items], items_bytes(items))
        with self._lock:
            full = self._waiting_items >= QUEUE_LENGTH
            if not full:
                self._waiting.append(submitted)
                self._waiting_items += len(items)
        if full:
            _tell([submitted], [_queue_full() for _ in items])
        self._send()

    def _changed(self, worker: _Worker, _ready: bool, _problem: str) -> None:  # noqa: FBT001  # As a channel calls it.
        self._send(worker)

    def _send(self, only: _Worker | None = None) -> None:
        """Gives the processes, or one of them, what waits, as far as they take it.

        The thread that reads the answers of a process sends to no other: one that takes nothing, because it hangs,
        would hold up the answers of those that work.
        """
        while (given := self._next_call(only)) is not None:
            worker, together = given
            try:
                self._call(worker, together)
            except CertdError as error:
                self._done(worker, together)
                _tell(together, [error.another() for submitted in together for _ in submitted.serials])

    def _call(self, worker: _Worker, together: Sequence[_Submitted]) -> None:
        terms, wanted = together[0].terms, together[0].wanted
        serials = [serial for submitted in together for serial in submitted.serials]

        def answered(outcome: bytes | CertdError) -> None:
            self._done(worker, together)
            # First of all, so that the process is not idle meanwhile.
            self._send(worker)
            _tell(together, answers_of(outcome, terms, serials))

        payload = b"".join((terms_bytes(terms, wanted), *(submitted.payload for submitted in together)))
        worker.channel.submit(payload, timeout=_TIMEOUT, answered=answered)

    def _next_call(self, only: _Worker | None) -> tuple[_Worker, list[_Submitted]] | None:
        """Returns what goes next, and where to; None while nothing waits, or nobody may have more."""
        now = time.monotonic()
        with self._lock:
            for worker in self._workers:
                if worker.calls and now - worker.heard > self._patience and worker.channel.ready:
                    _logger.error("a prepare process answers nothing any more and is started again")
                    worker.heard = now
                    worker.channel.give_up()
            if not self._waiting:
                return None
            ready = [worker for worker in self._workers if worker.channel.ready]
            free = [worker for worker in ready if worker.calls < _CALLS_AT_ONCE and only in {None, worker}]
            if ready and not free:
                return None
            # Where none is ready, what waits is told so.
            worker = min(free or self._workers, key=lambda each: each.items)
            together = [self._waiting.popleft()]
            items = len(together[0].serials)
            while self._waiting and self._waiting[0].goes_with(together[0]):
                if items + len(self._waiting[0].serials) > _LARGEST_CALL:
                    break
                together.append(self._waiting.popleft())
                items += len(together[-1].serials)
            self._waiting_items -= items
            if not worker.calls:
                worker.heard = now
            worker.calls += 1
            worker.items += items
            return worker, together

    def _done(self, worker: _Worker, together: Sequence[_Submitted]) -> None:
        with self._lock:
            worker.calls -= 1
            worker.items -= sum(len(submitted.serials) for submitted in together)
            worker.heard = time.monotonic()


def _tell(together: Sequence[_Submitted], answers: Sequence[Answer]) -> None:
    """Gives each caller the answers to its items."""
    start = 0
    for submitted in together:
        end = start + len(submitted.serials)
        try:
            submitted.heard(answers[start:end])
        except Exception:  # A defect of one caller must not keep the others from hearing.
            _logger.exception("who waited for a prepare process failed")
        start = end


def _queue_full() -> CertdError:
    return CertdError(
        Reason.SIGNING_QUEUE_FULL,
        f"{QUEUE_LENGTH} certificates wait for the prepare processes already; try again",
        retry_after=_RETRY_AFTER_FULL,
    )


def answers_of(outcome: bytes | CertdError, terms: Terms, serials: Sequence[int]) -> Sequence[Answer]:
    """Returns what became of each item; INTERNAL for what a healthy prepare process would never answer."""
    if isinstance(outcome, CertdError):
        return [outcome.another() for _ in serials]
    try:
        answers = parse_response(outcome, terms=terms, serials=serials)
    except (DecodeError, ValueError, OverflowError):
        _logger.exception("a prepare process answered what cannot be read")
        return [_senseless() for _ in serials]
    return [
        answer if isinstance(answer, CertdError) or is_as_told(answer.prepared, terms) else _not_as_told(answer)
        for answer in answers
    ]


def _not_as_told(answer: Described) -> CertdError:
    _logger.error("a prepare process answered serial %x with what was not asked for", answer.prepared.serial)
    return _senseless()


def _senseless() -> CertdError:
    return CertdError(Reason.INTERNAL, "a prepare process answered what makes no sense")


def default_workers() -> int:
    """Returns how many processes suit this machine: one for each core besides the one that the daemon keeps busy."""
    return max(1, min(4, (os.cpu_count() or 1) - 1))
