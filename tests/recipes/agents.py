"""certd-agent as people run it, with the blocks of the README in its configuration."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.recipes.estate import Estate, copy_identity
from tests.recipes.recipe import adapted, block
from tests.waiting import eventually

_STOP_SECONDS = 30.0
_PROGRAM = "from certd.agent.program import main; main(prog_name='certd-agent')"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningAgent:
    """An agent that runs."""

    process: "subprocess.Popen[bytes]"
    config: Path
    log: Path

    def again(self) -> None:
        """Has it read its configuration, and try again what failed."""
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def agent(estate: Estate, folder: Path, text: str) -> Iterator[RunningAgent]:
    """Runs an agent with certificates as a block of the README has them; a clean stop is part of the test."""
    top = adapted(
        block("/etc/certd-agent/agent.toml: at the top"),
        {"ca.example.internal:8443": estate.daemon.grpc, "ca.example.internal:8444": estate.daemon.enrollment},
    )
    state, config, log = folder / "state", folder / "agent.toml", folder / "agent.log"
    copy_identity(estate, state)
    config.write_text(f'{top}state_directory = "{state}"\n{text}')
    ready = folder / "ready"
    with ready.open("wb") as output, log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "run", "--config", config],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        return ready.read_text().startswith("READY ")

    try:
        eventually(is_ready)
        yield RunningAgent(process=process, config=config, log=log)
        assert process.poll() is None, log.read_text()
        process.terminate()
        assert process.wait(_STOP_SECONDS) == 0, log.read_text()
    except BaseException:
        # pytest shows it with the failure.
        sys.stderr.write(log.read_text())
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    for line in ("Traceback", "PRIVATE KEY"):
        assert line not in log.read_text()
