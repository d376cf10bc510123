"""The child's side: connections, one bounded queue, and answers.

A reader thread per connection feeds one queue; a single thread of the child's program takes everything that waits,
works, and answers together, so a busy caller is served in batches by itself.
"""

import logging
import os
import queue
import socket
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from certd.errors import CertdError, Reason
from certd.internal.ipc_pb2 import Call, Frame, Readiness, Reply
from certd.ipc.frames import FrameReader, encode, failure_of
from certd.ipc.peer import limit_send_time, peer_user_id

_logger = logging.getLogger(__name__)

_SEND_SECONDS = 2
_RETRY_AFTER_FULL = 0.1
# A reply that is ready waits at most this long, in seconds, for others that go out with it.
_LONGEST_GROUPING = 0.002


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """The one connection of a spawned child; its end of file ends the child."""

    descriptor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixListener:
    """A unix socket that many may connect to, if their user may."""

    path: Path
    allowed_user_ids: frozenset[int]
    """Users whose processes may connect, as the kernel reports them."""
    mode: int = 0o660
    """Mode of the socket file."""
    maximum_connections: int = 16


Endpoint = InheritedSocket | UnixListener


class Connection:
    """A connection to a caller. Sending is safe from any thread."""

    def __init__(self, connection: socket.socket) -> None:
        limit_send_time(connection, _SEND_SECONDS)
        self._connection = connection
        self._lock = threading.Lock()
        self.closed = False

    def send(self, frames: list[Frame]) -> None:
        """Sends `frames` together. A caller that is gone or does not read loses the connection, silently."""
        data = encode(frames)
        with self._lock:
            if self.closed:
                return
            try:
                self._connection.sendall(data)
            except OSError:
                self._shut()

    def close(self) -> None:
        """Ends the connection; its reader sees the end of file."""
        with self._lock:
            self._shut()

    def _shut(self) -> None:
        self.closed = True
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            _logger.debug("the connection was already gone")


@dataclass(frozen=True, slots=True)
class ReceivedCall:
    """A call that waits for its answer."""

    connection: Connection
    call_id: int
    deadline: float
    """In the time of `time.monotonic`; the caller no longer waits after it."""
    payload: bytes

    @property
    def expired(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.connection.closed or time.monotonic() >= self.deadline

    def answer(self, outcome: bytes | CertdError) -> None:
        """Sends the answer at once, from any thread."""
        self.connection.send([self.frame(outcome)])

    def frame(self, outcome: bytes | CertdError) -> Frame:
        """Returns the frame of an answer."""
        if isinstance(outcome, CertdError):
            return Frame(reply=Reply(call_id=self.call_id, failure=failure_of(outcome)))
        return Frame(reply=Reply(call_id=self.call_id, payload=outcome))


class Replies:
    """Answers on their way out, grouped by connection. For the working thread alone.

    Args:
        before_leaving: is called before answers leave, and when none wait as well; what it returns leaves instead of
            every answer that is not a failure already.
    """

    def __init__(self, before_leaving: Callable[[], CertdError | None] = lambda: None) -> None:
        self._before_leaving = before_leaving
        self._waiting: list[tuple[ReceivedCall, bytes | CertdError]] = []
        self._oldest = 0.0

    def add(self, call: ReceivedCall, outcome: bytes | CertdError) -> None:
        """Adds an answer, and sends all when the oldest has waited long enough."""
        if not self._waiting:
            self._oldest = time.monotonic()
        self._waiting.append((call, outcome))
        if time.monotonic() - self._oldest > _LONGEST_GROUPING:
            self.flush()

    def flush(self) -> None:
        """Sends everything."""
        failure = self._before_leaving()
        frames: dict[Connection, list[Frame]] = {}
        for call, outcome in self._waiting:
            told = outcome if failure is None or isinstance(outcome, CertdError) else failure
            frames.setdefault(call.connection, []).append(call.frame(told))
        self._waiting.clear()
        for connection, together in frames.items():
            connection.send(together)


Step = Callable[[], None]
"""Something that has to happen on the working thread, between calls."""


class Child:
    """The server of a child.

    Args:
        endpoint: whom to serve.
        queue_length: how many calls may wait; further ones fail with SIGNING_QUEUE_FULL.
    """

    def __init__(self, endpoint: Endpoint, *, queue_length: int = 1024) -> None:
        self._endpoint = endpoint
        self._queue_length = queue_length
        self._queue: queue.SimpleQueue[ReceivedCall | Step | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._readiness: Readiness | None = None
        """None while nothing is known yet; nothing is told then."""
        self._listener: socket.socket | None = None
        self._stopped = False

    def start(self) -> None:
        """Begins to serve.

        TOKEN_UNAVAILABLE when another process already serves the socket's path; OSError when it cannot be made.
        """
        if isinstance(self._endpoint, InheritedSocket):
            self._serve(socket.socket(fileno=self._endpoint.descriptor), ends_child=True)
        else:
            self._listener = _listen(self._endpoint)
            arguments = (self._listener, self._endpoint)
            threading.Thread(target=self._accept, args=arguments, name="accept", daemon=True).start()

    def take(self, timeout: float | None) -> list[ReceivedCall | Step] | None:
        """Waits for work at most `timeout` seconds and returns all that waits, perhaps nothing; None: stop now."""
        if self._stopped:
            return None
        taken: list[ReceivedCall | Step] = []
        try:
            item = self._queue.get(timeout=timeout)
            while item is not None:
                taken.append(item)
                item = self._queue.get_nowait()
        except queue.Empty:
            return taken
        # The stop stands behind what came before it, which is still worked on.
        self._stopped = True
        return taken or None

    def post(self, step: Step) -> None:
        """Has `step` run on the working thread. From any thread."""
        self._queue.put(step)

    def request_stop(self) -> None:
        """Makes `take` return None once what waits has been taken. From any thread."""
        self._queue.put(None)

    def set_readiness(self, *, ready: bool, problem: str = "") -> None:
        """Tells every connection, and those to come, whether calls will be worked on."""
        readiness = Readiness(ready=ready, problem=problem)
        with self._lock:
            if readiness == self._readiness:
                return
            self._readiness = readiness
            for connection in self._connections:
                connection.send([Frame(readiness=readiness)])

    def close(self) -> None:
        """Closes listener and connections and removes the socket's file."""
        if self._listener is not None and isinstance(self._endpoint, UnixListener):
            self._endpoint.path.unlink(missing_ok=True)
            # Closing alone does not wake the thread that accepts.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()

    def _serve(self, accepted: socket.socket, *, ends_child: bool) -> None:
        connection = Connection(accepted)
        with self._lock:
            self._connections.add(connection)
            if self._readiness is not None:
                connection.send([Frame(readiness=self._readiness)])
        arguments = (accepted, connection, ends_child)
        threading.Thread(target=self._read, args=arguments, name="reader", daemon=True).start()

    def _read(self, accepted: socket.socket, connection: Connection, ends_child: bool) -> None:  # noqa: FBT001  # The target of a thread takes its arguments by position.
        reader = FrameReader(accepted)
        try:
            while frames := reader.read():
                for frame in frames:
                    if not frame.HasField("call"):
                        raise ConnectionAbortedError("the caller sent a frame that is not a call")
                    self._enqueue(connection, frame.call)
        except OSError as error:
            _logger.warning("a connection broke: %s", error)
        with self._lock:
            self._connections.discard(connection)
        connection.close()
        accepted.close()
        if ends_child:
            self.request_stop()

    def _enqueue(self, connection: Connection, call: Call) -> None:
        deadline = time.monotonic() + call.timeout_milliseconds / 1000
        received = ReceivedCall(connection, call.call_id, deadline, call.payload)
        # Readers may pass this line together; the queue then exceeds its length by their number, which is bounded too.
        if self._queue.qsize() >= self._queue_length:
            message = f"{self._queue_length} calls already wait; try again in a moment."
            received.answer(CertdError(Reason.SIGNING_QUEUE_FULL, message, retry_after=_RETRY_AFTER_FULL))
        else:
            self._queue.put(received)

    def _accept(self, listener: socket.socket, endpoint: UnixListener) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            problem = self._refusal(accepted, endpoint)
            if problem is None:
                self._serve(accepted, ends_child=False)
                continue
            _logger.warning("refused a connection: %s", problem)
            with accepted:
                Connection(accepted).send([Frame(readiness=Readiness(ready=False, problem=problem))])

    def _refusal(self, accepted: socket.socket, endpoint: UnixListener) -> str | None:
        """Returns why a connection is refused, for its end to read; None when it is not."""
        try:
            user_id = peer_user_id(accepted)
        except OSError:
            return "The kernel does not say which user connects."
        if user_id not in endpoint.allowed_user_ids:
            return (
                f"The process behind {endpoint.path} does not serve the user with id {user_id}. "
                "Name the daemon's user in [token] allowed_users of the certd.toml with which that process runs."
            )
        with self._lock:
            if len(self._connections) >= endpoint.maximum_connections:
                return f"The process behind {endpoint.path} has {endpoint.maximum_connections} connections already."
        return None


def _listen(endpoint: UnixListener) -> socket.socket:
    path = os.fspath(endpoint.path)
    _remove_stale(endpoint.path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody may connect before the mode is the one asked for.
        previous = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(previous)
        endpoint.path.chmod(endpoint.mode)
        listener.listen(endpoint.maximum_connections)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Removes the socket file of a process that no longer runs."""
    if not path.exists():
        return
    if stat.S_ISSOCK(path.lstat().st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attempt:
            try:
                attempt.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink()
                return
    message = f"{path} is in use by another process or is not a socket. Stop that process or choose another path."
    raise CertdError(Reason.TOKEN_UNAVAILABLE, message)
