"""certctl, run many times without Python being started for each.

A process that has certctl imported and does nothing else forks for each run: half a second of work less. What runs is
certctl as always, in a process of its own with the environment, the arguments and the files that it is given.
"""

import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

from certd import client
from certd.cli import certctl
from tests.zygote import zygote_of


def run_certctl(
    arguments: Sequence[str], *, environment: Mapping[str, str], stdin: bytes, timeout: float
) -> "subprocess.CompletedProcess[str]":
    """Runs certctl to its end, as `subprocess.run` does."""
    with contextlib.ExitStack() as stack:
        given, output, errors = files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        given.write(stdin)
        given.seek(0)
        wanted = {"arguments": list(arguments), "environment": dict(environment), "directory": str(Path.cwd())}
        code = _run(wanted, files, timeout=timeout)
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(
            ["certctl", *arguments], code, output.read().decode(), errors.read().decode()
        )


def _run(wanted: Mapping[str, object], files: Sequence[IO[bytes]], *, timeout: float) -> int:
    """Returns the exit code, or the negative number of the signal that ended it."""
    with zygote_of(__name__).connected(timeout) as connection:
        socket.send_fds(connection, [b"0"], [file.fileno() for file in files])
        connection.sendall(json.dumps(wanted).encode())
        connection.shutdown(socket.SHUT_WR)
        answers = connection.makefile("r")
        process_id = int(answers.readline())
        try:
            return int(answers.readline() or -signal.SIGKILL)
        except TimeoutError:
            os.kill(process_id, signal.SIGKILL)
            raise subprocess.TimeoutExpired("certctl", timeout) from None


def serve(descriptor: int) -> None:
    """Forks for whoever connects to the listening socket, until standard input ends."""
    # As certctl has it before it imports the library.
    os.environ["GRPC_VERBOSITY"] = "NONE"
    for package in (certctl, client):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    assert threading.active_count() == 1, "a process that has threads must not fork"
    listener = socket.socket(fileno=descriptor)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _be_certctl(connection)
        connection.close()
        # Those that have ended meanwhile; their callers know by themselves.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _be_certctl(connection: socket.socket) -> NoReturn:
    code = 1
    try:
        _, files, _, _ = socket.recv_fds(connection, 1, 3)
        wanted = json.loads(connection.makefile("rb").read())
        connection.sendall(b"%d\n" % os.getpid())
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(wanted["environment"])
        os.chdir(wanted["directory"])
        sys.argv = ["certctl", *wanted["arguments"]]
        certctl.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:  # noqa: BLE001  # As Python itself ends.
        traceback.print_exc()
    finally:
        # As Python ends: what was registered is done, what was printed is written.
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        with contextlib.suppress(OSError):
            connection.sendall(b"%d\n" % code)
        os._exit(code)
