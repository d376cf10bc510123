"""A prepare process that tells what it can still reach: `probe.py FILE --fd N --parent-process-id P`.

It writes to FILE, opened before it may open nothing, a line of JSON for each thing that it tried once it was ready.
"""

import ctypes
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from certd.ipc.child import InheritedSocket
from certd.prepare.process import run

_PR_GET_DUMPABLE = 3


def _attempts() -> dict[str, Callable[[], object]]:
    return {
        "read a file": lambda: Path("/etc/hostname").read_bytes(),
        "read its own program": lambda: Path(__file__).read_bytes(),
        "write a file": lambda: Path(sys.argv[1] + "-other").write_bytes(b""),
        "list a folder": lambda: list(Path("/").iterdir()),
        "connect by TCP": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
        "send by UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "open a unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        "make a pipe": os.pipe,
        "copy a descriptor": lambda: os.dup(2),
        "start a program": lambda: subprocess.run(["/bin/true"], check=True),
        "become another's memory": lambda: Path("/proc/1/mem").open("rb"),
    }


def _probe(output: int, ready: Callable[[], bool]) -> None:
    while not ready():
        time.sleep(0.005)
    told: dict[str, object] = {
        "dumpable": ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    }
    for name, attempt in _attempts().items():
        try:
            attempt()
        except OSError as error:
            told[name] = type(error).__name__ if error.errno is None else os.strerror(error.errno)
        else:
            told[name] = "done"
    os.write(output, json.dumps(told).encode() + b"\n")


def main() -> None:
    output = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
    descriptor, parent = int(sys.argv[3]), int(sys.argv[5])

    def ready() -> bool:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 0

    threading.Thread(target=_probe, args=(output, ready), daemon=True).start()
    run(InheritedSocket(descriptor), parent_process_id=parent)


if __name__ == "__main__":
    main()
