"""Callers in Go: the load that costs the machine least, so that the daemon has the rest of it."""

import json
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.load.messages import Connect, Listing, Outcome, Run, Settle, Target

_MODULE = Path(__file__).parents[3] / "clients" / "go"
_STOP_SECONDS = 20.0


class GoConnection:
    """Speaks to the program as `multiprocessing` speaks to a load generator in Python."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._answers_run = False

    def send(self, order: Connect | Run | Listing | Settle) -> None:
        """Sends an order. Those that are no load are for a load generator in Python."""
        now = time.monotonic()
        match order:
            case Connect(callers=callers):
                line: dict[str, Any] = {"connect": callers}
            case Run():
                # Its clock is another one, so that times go as distances.
                times = {"start": order.start, "measure_from": order.measure_from, "until": order.until}
                line = {"kind": order.kind.value, **{name: at - now for name, at in times.items()}}
            case _:
                raise TypeError(f"{order} is no order for callers in Go")
        self._answers_run = isinstance(order, Run)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        self._process.stdin.flush()

    def poll(self, timeout: float) -> bool:
        """Returns whether an answer, or the end, has come after at most so many seconds."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return bool(selector.select(timeout))

    def recv(self) -> Outcome | None:
        """Returns the answer; raises EOFError when the program has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EOFError
        answer = json.loads(line)
        if not self._answers_run:
            return None
        return Outcome(
            latencies=answer["latencies"] or [],
            serials=answer["serials"] or [],
            requested=answer["requested"],
            failures=answer["failures"] or [],
            retries=0,
        )


@contextmanager
def go_program() -> Iterator[Path]:
    """Builds the program."""
    with tempfile.TemporaryDirectory(prefix="certd-load-") as folder:
        program = Path(folder) / "load"
        built = subprocess.run(["go", "build", "-o", program, "./cmd/load"], cwd=_MODULE, check=False)
        if built.returncode != 0:
            raise SystemExit("bench: the load generator in Go could not be built; see above, or use --client python")
        yield program


@contextmanager
def go_callers(program: Path, target: Target) -> Iterator[tuple[GoConnection, int]]:
    """Runs the program; yields what speaks to it, and its process id."""
    process = subprocess.Popen(
        [
            str(program),
            *("-address", target.address, "-authority", target.authority),
            *("-cert", str(target.certificate), "-key", str(target.private_key), "-root", str(target.trust_bundle)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield GoConnection(process), process.pid
        assert process.stdin is not None
        process.stdin.close()
        process.wait(_STOP_SECONDS)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
