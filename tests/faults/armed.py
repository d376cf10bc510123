"""A daemon that kills itself or a child of its own at a step, run as a process of its own (`daemon.py`)."""

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.coverage import uncovered_children
from tests.daemon import Installation
from tests.waiting import eventually


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmedDaemon:
    """One that serves."""

    process: "subprocess.Popen[bytes]"
    address: str
    """Of the gRPC API."""
    token_pid: int
    output: Path
    """What it writes: that it serves, then each time that it is armed."""

    def arm(self, step: str, occurrence: int, victim: str) -> None:
        """Has the victim, `daemon`, `token` or `prepare`, die when the step was done so many times from now on."""
        before = self.output.read_text().count("\n")
        assert self.process.stdin is not None
        self.process.stdin.write(f"{step} {occurrence} {victim}\n".encode())
        self.process.stdin.flush()
        # Otherwise the step could be over before it knows.
        eventually(lambda: self.output.read_text().count("\n") > before or self.process.poll() is not None)

    def end(self) -> None:
        """Kills it unless it is dead."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.close_input()

    def close_input(self) -> None:
        """Lets go of a daemon that is dead."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()


def start(installation: Installation) -> ArmedDaemon:
    """Starts one and returns when it serves."""
    ready_file = installation.data / "ready"
    # Who is killed writes no figures of coverage, and to be measured takes a third of such a life.
    with ready_file.open("wb") as output, installation.log.open("ab") as errors, uncovered_children():
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.daemon", str(installation.config)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
        )

    def ready() -> dict[str, str] | None:
        assert process.poll() is None, f"exit {process.returncode}: {installation.log.read_text()[-4000:]}"
        text = ready_file.read_text()
        return dict(json.loads(text.removeprefix("READY "))) if text.endswith("\n") else None

    found = eventually(ready, within=60)
    return ArmedDaemon(process=process, address=found["grpc"], token_pid=int(found["token_pid"]), output=ready_file)


def children(pid: int, program: str) -> list[psutil.Process]:
    """Returns the children of a process that run a program such as `certd.token` and live."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if program in child.cmdline():
                found.append(child)
    return found
