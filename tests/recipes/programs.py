"""Programs that the recipes are for: found, started in the foreground on a free port, and ended by their number."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import eventually

_TRIES = 5
_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
_PLACES = (str(Path(sys.executable).parent), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that serves."""

    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


class PortTaken(Exception):  # noqa: N818  # What happened, not a fault.
    """Somebody else has the port."""


def find_program(name: str) -> str:
    """Returns where a program is; fails when scripts/test did not install it."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_PLACES))
    found = shutil.which(name, path=path)
    assert found is not None, f"{name} is not installed; run scripts/test once, which installs it"
    return found


def free_port() -> int:
    """Returns a port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    command: Callable[[int], Sequence[str | Path]],
    *,
    folder: Path,
    taken: str = "ddress already in use",
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """Runs a program that listens on the port that it is given, until the block ends.

    Args:
        command: the arguments, for a port. Called again with another one when somebody took it meanwhile.
        folder: where its output goes.
        taken: what it says then.
        user: whom to run it as.
        environment: added to that of the tests.
    """
    for left in reversed(range(_TRIES)):
        try:
            program = _start(command, folder=folder, taken=taken, user=user, environment=environment)
        except PortTaken:
            assert left, "no port is free for long enough"
            continue
        try:
            yield program
        finally:
            _end(program.process)
        return


def _start(
    command: Callable[[int], Sequence[str | Path]],
    *,
    folder: Path,
    taken: str,
    user: str | None,
    environment: Mapping[str, str] | None,
) -> Program:
    port = free_port()
    arguments = command(port)
    log = folder / f"{Path(arguments[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, arguments)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=user,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )

    def listens() -> bool:
        if process.poll() is not None:
            said = log.read_text()
            if taken in said:
                raise PortTaken
            raise AssertionError(f"{arguments[0]} ended: {said[-4000:]}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        eventually(listens, within=_START_SECONDS)
    except BaseException:
        _end(process)
        raise
    return Program(port=port, process=process, log=log)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
