"""Programs of this machine: run without a shell, for a limited time, what they say kept short."""

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Final

from certd.agent.config import Command
from certd.agent.errors import AgentError

KEPT_OUTPUT: Final = 1024
"""Bytes, the last ones."""
_GRACE: Final = 2.0
"""Seconds from asking a program to end to ending it."""
_TICK: Final = 0.2
_DRAIN: Final = 0.2
"""Seconds in which what a program said last is still read. Who it started may hold its output open for ever."""


class StoppedError(AgentError):
    """The agent ends, so the program was ended too."""


def run(command: Command, *, environment: Mapping[str, str], stop: threading.Event) -> None:
    """Runs a program to its end; raises AgentError with the last of its output when it fails or takes too long.

    Args:
        command: what to run.
        environment: added to that of the agent.
        stop: set when the agent ends: the program is ended as well, and StoppedError is raised.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    name = command.arguments[0]
    try:
        process = subprocess.Popen(  # noqa: S603  # What the configuration names, without a shell.
            command.arguments,
            env={**inherited, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise AgentError(f"{name} cannot be run: {(error.strerror or str(error)).lower()}") from error
    with process.stdout or open(os.devnull, "rb") as stdout:  # noqa: PTH123  # A pipe, always.
        said, ended = _follow(process, stdout, deadline=time.monotonic() + command.timeout, stop=stop)
        if not ended:
            _end(process)
    if not ended and stop.is_set():
        raise StoppedError(f"{name} was ended with the agent")
    if not ended:
        raise AgentError(_with_output(f"{name} did not end within {command.timeout:g} seconds", said))
    if process.returncode:
        raise AgentError(_with_output(f"{name} {_how(process.returncode)}", said))


def _follow(
    process: "subprocess.Popen[bytes]", stdout: IO[bytes], *, deadline: float, stop: threading.Event
) -> tuple[bytes, bool]:
    """Returns the last that a program said, and whether it has ended."""
    said, open_ = b"", True
    os.set_blocking(stdout.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None
            if ended and open_:
                deadline = min(deadline, time.monotonic() + _DRAIN)
            if (ended and not open_) or time.monotonic() >= deadline or stop.is_set():
                return said, ended
            if not open_:
                # It closed its output and runs on.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(min(_TICK, max(0.0, deadline - time.monotonic())))
            elif selector.select(0.02 if ended else min(_TICK, max(0.0, deadline - time.monotonic()))):
                more = os.read(stdout.fileno(), 65_536)
                said = (said + more)[-KEPT_OUTPUT:]
                open_ = bool(more)
            elif ended:
                return said, True


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a program with what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            return


def _how(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _with_output(what: str, said: bytes) -> str:
    text = " ".join("".join(each if each.isprintable() else " " for each in said.decode(errors="replace")).split())
    return f"{what}: {text}" if text else what
