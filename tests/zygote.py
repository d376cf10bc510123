"""A process that has a program imported and does nothing else, and forks whenever somebody connects to it.

Python's start and the imports are most of the life of a short program; a fork has them done.
"""

import atexit
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

_TOP = Path(__file__).parents[1]
_lock = threading.Lock()


class Zygote:
    """The process that forks; it ends with this one."""

    def __init__(self, module: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="certd-forked-"))
        self._address = str(self._folder / "socket")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._address)
        listener.listen(64)
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {module} import serve; serve({listener.fileno()})"],
            cwd=_TOP,
            env={**os.environ, "PYTHONPATH": str(_TOP)},
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
        listener.close()

    def connected(self, timeout: float) -> socket.socket:
        """Returns a connection, for which it forks."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(self._address)
        except BaseException:
            connection.close()
            raise
        return connection

    def stop(self) -> None:
        """Ends it, by the end of its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        shutil.rmtree(self._folder)


def zygote_of(module: str) -> Zygote:
    """Returns the one whose forks `serve` of a module makes; it takes the number of the socket that listens."""
    with _lock:
        return _started(module)


@functools.cache
def _started(module: str) -> Zygote:
    zygote = Zygote(module)
    atexit.register(zygote.stop)
    return zygote
