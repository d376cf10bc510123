"""Programs that the recipes are for: found, started in the foreground, and ended by their number."""

import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import eventually

_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
_PLACES = (str(Path(sys.executable).parent), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
_PORTS = range(20_000, 30_000)
"""Below those that systems give to whoever asks for any, so that one that is free stays free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that serves."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def runs(self) -> bool:
        return self.process.poll() is None


def find_program(name: str) -> str:
    """Returns where a program is; fails when scripts/test did not install it."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_PLACES))
    found = shutil.which(name, path=path)
    assert found is not None, f"{name} is not installed; run scripts/test once, which installs it"
    return found


def free_port() -> int:
    """Returns a port that nobody has."""

    def found() -> int | None:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return None
        return port

    return eventually(found)


@contextmanager
def serving(arguments: Sequence[str | Path], *, port: int, folder: Path, user: str | None = None) -> Iterator[Program]:
    """Runs a program until the block ends; yields when it listens on the port.

    Args:
        arguments: of the program.
        port: on loopback.
        folder: where its output goes.
        user: whom to run it as.
    """
    log = folder / f"{Path(arguments[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, arguments)), stdin=subprocess.DEVNULL, stdout=output, stderr=output, user=user, cwd=folder
        )

    def listens() -> bool:
        assert process.poll() is None, f"{arguments[0]} ended: {log.read_text()[-4000:]}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        eventually(listens, within=_START_SECONDS)
        yield Program(process=process, log=log)
        assert process.poll() is None, f"{arguments[0]} ended: {log.read_text()[-4000:]}"
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
