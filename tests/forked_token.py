"""Token processes, started many times without Python being started for each.

A process that has the program imported and does nothing else forks for each start: four fifths of it saved. What runs
is the token process as always, in a session of its own with the arguments, the socket and the log that it is given.
Only where what a test is about is not how a token process comes to life; `tests/token` starts them as the daemon does.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest import mock

from certd.ipc import channel
from tests.zygote import zygote_of

_PROGRAM = ("-I", "-m", "certd.token")
_ANSWER_SECONDS = 60.0


@contextlib.contextmanager
def forked_token_processes() -> Iterator[None]:
    """Token processes that are started within it are forked; those that follow them later are started as always."""
    if not hasattr(os, "pidfd_open"):
        yield
        return
    started = SimpleNamespace(**{**vars(subprocess), "Popen": _popen})
    with mock.patch.object(channel, "subprocess", started):
        yield


def _popen(arguments: Sequence[str], **options: Any) -> "subprocess.Popen[bytes] | _Forked":
    if tuple(arguments[1:4]) != _PROGRAM:
        return subprocess.Popen(arguments, **options)
    (descriptor,) = options["pass_fds"]
    wanted = {"arguments": list(arguments[4:]), "environment": dict(os.environ)}
    connection = zygote_of(__name__).connected(_ANSWER_SECONDS)
    try:
        socket.send_fds(connection, [b"0"], [descriptor, 2])
        connection.sendall(json.dumps(wanted).encode())
        connection.shutdown(socket.SHUT_WR)
        return _Forked(connection)
    except BaseException:
        connection.close()
        raise


class _Forked:
    """What `subprocess.Popen` is for a child, as far as a channel asks."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._answers = connection.makefile("rb")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        with self._lock:
            if self.returncode is None:
                if not select.select([self._connection], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired("certd.token", timeout or 0.0)
                self.returncode = int(self._answers.readline())
                self._answers.close()
                self._connection.close()
            return self.returncode

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def serve(listener_descriptor: int) -> None:
    """Forks for whoever connects to the listening socket, until standard input ends; tells how each child ended."""
    from certd.token import __main__ as program  # noqa: F401  # What is imported here nobody imports again.

    assert threading.active_count() == 1, "a process that has threads must not fork"
    listener = socket.socket(fileno=listener_descriptor)
    callers: dict[int, tuple[int, socket.socket]] = {}
    while True:
        ready = select.select([listener, sys.stdin, *callers], [], [])[0]
        if sys.stdin in ready:
            return
        for pidfd in callers.keys() & set(ready):
            _tell_end(pidfd, *callers.pop(pidfd))
        if listener in ready:
            connection, _ = listener.accept()
            process_id = os.fork()
            if process_id == 0:
                for _, other in callers.values():
                    other.close()
                listener.close()
                _be_token_process(connection)
            connection.sendall(b"%d\n" % process_id)
            callers[os.pidfd_open(process_id)] = (process_id, connection)


def _tell_end(pidfd: int, process_id: int, connection: socket.socket) -> None:
    os.close(pidfd)
    _, status = os.waitpid(process_id, 0)
    # Whoever started it may be gone.
    with connection, contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _be_token_process(connection: socket.socket) -> NoReturn:
    code = 1
    try:
        _, (inherited, log), _, _ = socket.recv_fds(connection, 1, 2)
        wanted = json.loads(connection.makefile("rb").read())
        connection.close()
        os.setsid()
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        for number in (1, 2):
            os.dup2(log, number)
        os.close(log)
        _become(wanted["arguments"], wanted["environment"], inherited)
        from certd.token.__main__ import main  # Imported before.

        code = main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:  # noqa: BLE001  # As Python itself ends.
        traceback.print_exc()
    finally:
        # As Python ends: what was registered is done, what was printed is written.
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _become(arguments: Sequence[str], environment: Mapping[str, str], inherited: int) -> None:
    """Has the program see what it would have been started with, but for two numbers that are others here."""
    os.environ.clear()
    os.environ.update(environment)
    kept = arguments[: list(arguments).index("--fd")]
    sys.argv = [*_PROGRAM[2:], *kept, "--fd", str(inherited), "--parent-process-id", str(os.getppid())]
