"""The daemon's side of a child: spawn or connect, watch, restart, call.

One long-lived thread per channel starts the child, reads its frames, sees its death as end of file, and starts it
again. It is long-lived because a parent-death signal fires when the thread that spawned the child ends.
"""

import itertools
import logging
import os
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from certd.errors import CertdError, Reason
from certd.internal.ipc_pb2 import Call, Frame, Reply
from certd.ipc.frames import FrameReader, encode, error_of
from certd.ipc.peer import limit_send_time, peer_user_id
from certd.ipc.processor import on_any_processor

_logger = logging.getLogger(__name__)

_FIRST_DELAY = 0.05
_LONGEST_DELAY_SPAWNING = 5.0
# Connecting costs nothing, and a token process that its own supervisor restarts should be found again within a second.
_LONGEST_DELAY_CONNECTING = 0.5
_GRACE_OF_STOP = 10.0
"""Seconds that a child has to end by itself once we have closed its socket."""
_GRACE_OF_DEATH = 2.0
"""The same for one that closed the socket itself."""
_SEND_SECONDS = 10
_RETRY_AFTER_DEATH = 0.25
_RETRY_AFTER_PROBLEM = 2.0


@dataclass(frozen=True, slots=True)
class SpawnedChild:
    """A child that this channel starts and restarts."""

    argv: tuple[str, ...]
    """The program and its arguments; `--fd N --parent-process-id P` is appended."""


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A process that somebody else runs, behind a unix socket."""

    path: Path


Endpoint = SpawnedChild | UnixSocket


Answered = Callable[[bytes | CertdError], None]
"""Is called with the answer of a call, or with its failure."""


@dataclass(slots=True)
class _Waiting:
    """A caller who waits for the reply."""

    done: threading.Event = field(default_factory=threading.Event)
    outcome: bytes | CertdError = b""

    def finish(self, outcome: bytes | CertdError) -> None:
        self.outcome = outcome
        self.done.set()


@dataclass(slots=True, eq=False)
class _Link:
    """A live connection."""

    connection: socket.socket
    process: subprocess.Popen[bytes] | None
    user_id: int
    sending: threading.Lock = field(default_factory=threading.Lock)
    outbox: deque[bytes] = field(default_factory=deque)
    """What is to be sent by whoever sends at the moment, or sends next."""
    waiting: dict[int, Answered] = field(default_factory=dict)
    """Who waits for the reply to a call, by the call's number."""
    buried: bool = False
    """Whether those who waited have been told that there will be no reply."""

    def send(self, data: bytes) -> None:
        """Sends, or leaves it to the thread that sends already; who is told nothing of a failure hears of the end.

        A thread that finds another one at it goes on: so those that come together share one call of the kernel.
        """
        self.outbox.append(data)
        while self.outbox and self.sending.acquire(blocking=False):
            try:
                parts = [self.outbox.popleft() for _ in range(len(self.outbox))]
                if parts:
                    self.connection.sendall(b"".join(parts))
            except OSError:
                # A frame that went out in part ends the connection: nothing after it could be read.
                self.shut()
                return
            finally:
                self.sending.release()

    def shut(self) -> None:
        """Makes both sides see the end of file; the watching thread buries the link."""
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            _logger.debug("the connection was already gone")


class Channel:
    """Calls a child.

    Args:
        endpoint: what to start or connect to.
        name: of the child, for messages: "token process".
        unavailable: reason of the error that callers get while the child is not there or not ready.
    """

    def __init__(self, endpoint: Endpoint, *, name: str, unavailable: Reason = Reason.TOKEN_UNAVAILABLE) -> None:
        self._endpoint = endpoint
        self._name = name
        self._unavailable_reason = unavailable
        self._state = threading.Condition()
        self._link: _Link | None = None
        self._ready = False
        self._problem = f"The {name} has not been started."
        self._last_words = ""
        self._heard = False
        self._call_ids = itertools.count(1)
        self._callbacks: list[Callable[[bool, str], None]] = []
        self._stopping = threading.Event()
        self._grace_of_stop = _GRACE_OF_STOP
        self._thread: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        """Whether calls will be worked on."""
        return self._ready

    @property
    def problem(self) -> str:
        """Why the child is not ready, and the remedy; empty when it is."""
        return self._problem

    @property
    def peer_user_id(self) -> int | None:
        """User of the child; None while there is no connection."""
        link = self._link
        return None if link is None else link.user_id

    @property
    def process_id(self) -> int | None:
        """Process id of a spawned child; None while there is none, and for one behind a unix socket."""
        link = self._link
        return None if link is None or link.process is None else link.process.pid

    def on_change(self, callback: Callable[[bool, str], None]) -> None:
        """Calls `callback(ready, problem)` at every change, on the watching thread; it must not block."""
        self._callbacks.append(callback)

    def start(self) -> None:
        """Begins to watch; returns at once."""
        self._problem = f"The {self._name} is starting."
        self._thread = threading.Thread(target=self._watch, name=f"{self._name} watch", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout: float) -> bool:
        """Waits until the child is ready, at most `timeout` seconds; returns whether it is."""
        with self._state:
            return self._state.wait_for(lambda: self._ready, timeout)

    def wait_settled(self, timeout: float) -> bool:
        """Waits until the child has said whether it is ready, at most `timeout` seconds; returns whether it is."""
        with self._state:
            self._state.wait_for(lambda: self._ready or self._heard, timeout)
            return self._ready

    def stop(self, *, grace: float = _GRACE_OF_STOP) -> None:
        """Closes the socket, so that the child ends by itself; kills it after `grace` seconds. Waiting calls fail."""
        self._grace_of_stop = grace
        self._stopping.set()
        with self._state:
            link = self._link
        if link is not None:
            link.shut()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def give_up(self) -> None:
        """Ends a child that lives and does not answer; it is started again, and who waits is told."""
        link = self._link
        if link is not None:
            link.shut()

    def call(self, payload: bytes, *, timeout: float) -> bytes:
        """Sends a request and waits at most `timeout` seconds for the answer.

        Raises the reason given as `unavailable`, with `retry_after`, when the child is not ready or dies before it
        answers; DEADLINE_EXCEEDED; FIELD_INVALID when the request is too large for a frame; or the child's own failure.
        """
        deadline = time.monotonic() + timeout
        waiting = _Waiting()
        call_id = self.submit(payload, timeout=timeout, answered=waiting.finish)
        if not waiting.done.wait(max(0.0, deadline - time.monotonic())):
            self._forget(call_id)
            raise self._late()
        if isinstance(waiting.outcome, CertdError):
            raise waiting.outcome
        return waiting.outcome

    def call_all(self, payloads: Sequence[bytes], *, timeout: float) -> list[bytes | CertdError]:
        """As `call` for each, all on their way at once; returns an answer or a failure for each, in order."""
        deadline = time.monotonic() + timeout
        sent: list[tuple[_Waiting, int]] = []
        for payload in payloads:
            waiting, call_id = _Waiting(), 0
            try:
                call_id = self.submit(payload, timeout=timeout, answered=waiting.finish)
            except CertdError as error:
                waiting.finish(error)
            sent.append((waiting, call_id))
        outcomes: list[bytes | CertdError] = []
        for waiting, call_id in sent:
            if waiting.done.wait(max(0.0, deadline - time.monotonic())):
                outcomes.append(waiting.outcome)
            else:
                self._forget(call_id)
                outcomes.append(self._late())
        return outcomes

    def submit(self, payload: bytes, *, timeout: float, answered: Answered) -> int:
        """Sends a request and returns its number; `answered` hears once, on the watching thread, and must not block.

        Nobody watches the clock for it: a child that lives and does not answer leaves it unheard. Raises the reason
        given as `unavailable` while the child is not ready, and FIELD_INVALID as `call`; then `answered` hears nothing.
        """
        link = self._link
        if link is None or not self._ready:
            raise self._unavailable()
        call_id = next(self._call_ids)
        milliseconds = min(max(0, int(timeout * 1000)), 0xFFFF_FFFF)
        data = encode([Frame(call=Call(call_id=call_id, timeout_milliseconds=milliseconds, payload=payload))])
        # Single steps on a dictionary need no lock. Who is entered after the burial is not told by it, and says so.
        link.waiting[call_id] = answered
        if link.buried and link.waiting.pop(call_id, None) is not None:
            raise self._unavailable()
        link.send(data)
        return call_id

    def _forget(self, call_id: int) -> None:
        link = self._link
        if link is not None:
            link.waiting.pop(call_id, None)

    def _late(self) -> CertdError:
        return CertdError(Reason.DEADLINE_EXCEEDED, f"The {self._name} did not answer in time.")

    def _unavailable(self) -> CertdError:
        retry_after = _RETRY_AFTER_DEATH if self._link is None else _RETRY_AFTER_PROBLEM
        problem = self._problem or f"The {self._name} is gone and will be back in a moment."
        return CertdError(self._unavailable_reason, problem, retry_after=retry_after)

    def _watch(self) -> None:
        failures = 0
        spawned = isinstance(self._endpoint, SpawnedChild)
        longest = _LONGEST_DELAY_SPAWNING if spawned else _LONGEST_DELAY_CONNECTING
        while not self._stopping.is_set():
            served = False
            try:
                link = self._open()
            except OSError as error:
                self._change(ready=False, problem=f"The {self._name} cannot be reached: {error}.")
            else:
                served = self._read_until_death(link)
                status = self._bury(link)
                if status is not None and not served and not self._last_words and not self._stopping.is_set():
                    problem = f"The {self._name} ended with status {status} before it said anything; see its log."
                    self._change(ready=False, problem=problem)
            # The first restart after a child that worked is immediate; one that never does is tried less and less.
            failures = 0 if served else failures + 1
            if failures:
                self._stopping.wait(min(_FIRST_DELAY * 2 ** min(failures - 1, 16), longest))

    def _open(self) -> _Link:
        if isinstance(self._endpoint, UnixSocket):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(os.fspath(self._endpoint.path))
                return self._adopt(connection, None)
            except OSError:
                connection.close()
                raise
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = ["--fd", str(theirs.fileno()), "--parent-process-id", str(os.getpid())]
            try:
                with on_any_processor():
                    process = subprocess.Popen(  # noqa: S603  # The program is our own, named by the composition root.
                        [*self._endpoint.argv, *arguments],
                        stdin=subprocess.DEVNULL,
                        # Standard output belongs to the daemon alone; what a child prints goes to the log.
                        stdout=2,
                        pass_fds=[theirs.fileno()],
                        # Control-C at a terminal is for the daemon, which drains before it lets its children go.
                        start_new_session=True,
                    )
            except OSError:
                ours.close()
                raise
        return self._adopt(ours, process)

    def _adopt(self, connection: socket.socket, process: subprocess.Popen[bytes] | None) -> _Link:
        limit_send_time(connection, _SEND_SECONDS)
        link = _Link(connection, process, peer_user_id(connection))
        with self._state:
            self._link = link
        self._last_words = ""
        if self._stopping.is_set():
            link.shut()
        return link

    def _read_until_death(self, link: _Link) -> bool:
        """Dispatches frames until the end of file; returns whether the child was ever ready."""
        reader = FrameReader(link.connection)
        served = False
        try:
            while frames := reader.read():
                for frame in frames:
                    if frame.HasField("reply"):
                        self._finish(link, frame.reply)
                    elif frame.HasField("readiness"):
                        served |= frame.readiness.ready
                        self._last_words = frame.readiness.problem
                        self._heard = True
                        self._change(ready=frame.readiness.ready, problem=frame.readiness.problem)
        except OSError as error:
            _logger.warning("the connection to the %s broke: %s", self._name, error)
        return served

    def _finish(self, link: _Link, reply: Reply) -> None:
        answered = link.waiting.pop(reply.call_id, None)
        if answered is None:
            return
        self._tell(answered, error_of(reply.failure) if reply.HasField("failure") else reply.payload)

    def _tell(self, answered: Answered, outcome: bytes | CertdError) -> None:
        try:
            answered(outcome)
        except Exception:  # A caller's bug must not end the thread that watches the child.
            _logger.exception("who waited for the %s failed", self._name)

    def _bury(self, link: _Link) -> int | None:
        """Tells everybody that waits, makes sure that nothing is left of the child, and returns its exit status."""
        with self._state:
            self._link = None
        link.buried = True
        stopping = self._stopping.is_set()
        gone = f"The {self._name} {'has been stopped' if stopping else 'is gone and is being started again'}."
        # What it last complained of says more than that it is gone, for example that it refuses this user.
        self._change(ready=False, problem=gone if stopping else self._last_words or gone)
        for call_id in list(link.waiting):
            answered = link.waiting.pop(call_id, None)
            if answered is not None:
                self._tell(answered, CertdError(self._unavailable_reason, gone, retry_after=_RETRY_AFTER_DEATH))
        link.shut()
        # Not under somebody who sends: the number of a closed socket may be another one's the next moment.
        with link.sending:
            link.connection.close()
        if link.process is None:
            return None
        status = _reap(link.process, self._grace_of_stop if stopping else _GRACE_OF_DEATH)
        if not stopping:
            _logger.warning("the %s (process %d) ended with status %d", self._name, link.process.pid, status)
        return status

    def _change(self, *, ready: bool, problem: str) -> None:
        with self._state:
            changed = (self._ready, self._problem) != (ready, problem)
            self._ready, self._problem = ready, problem
            self._state.notify_all()
        if not changed:
            return
        for callback in self._callbacks:
            try:
                callback(ready, problem)
            except Exception:  # A listener's bug must not end the thread that watches the child.
                _logger.exception("a listener of the %s failed", self._name)


def _reap(process: subprocess.Popen[bytes], grace: float) -> int:
    try:
        return process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
