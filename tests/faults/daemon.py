"""`certd serve` with a step hook that kills: a program, run by `rounds.py`.

A line on standard input arms it: `STEP OCCURRENCE VICTIM`, with the victim `daemon`, `token` or `prepare`. When the
step is done for that many times from then on, the victim gets SIGKILL. It answers that it is armed.
"""

import contextlib
import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # grpc reads it at its import.

from certd import config, log, main
from certd import daemon as serving
from certd.clock import SystemClock

if TYPE_CHECKING:
    from certd.core import Core


class Killer:
    """The hook."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step = ""
        self._left = 0
        self._victim = ""
        self.core: Core | None = None

    def listen(self) -> None:
        for line in sys.stdin:
            with self._lock:
                self._step, left, self._victim = line.split()
                self._left = int(left)
            sys.stdout.write(f"ARMED {line}")
            sys.stdout.flush()

    def __call__(self, name: str) -> None:
        with self._lock:
            if name != self._step:
                return
            self._left -= 1
            if self._left > 0:
                return
            self._step = ""
            for pid in self._victims():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _victims(self) -> tuple[int, ...]:
        if self._victim == "daemon" or self.core is None:
            return (os.getpid(),)
        if self._victim == "prepare":
            return self.core.preparer.process_ids
        token = self.core.token.process_id
        return () if token is None else (token,)


def run(config_file: Path) -> None:
    settings = config.load(config_file)
    log.configure(level="warning", style="text")
    killer = Killer()
    core = main.assemble(settings, clock=SystemClock(), step=killer)
    killer.core = core
    daemon = serving.Daemon(core)
    signal.signal(signal.SIGTERM, lambda *_: daemon.request_stop())
    try:
        ready = daemon.start()
        daemon.take_process()
        sys.stdout.write(f"READY {json.dumps(asdict(ready))}\n")
        sys.stdout.flush()
        threading.Thread(target=killer.listen, daemon=True).start()
        daemon.wait()
    finally:
        daemon.stop()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
