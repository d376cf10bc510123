"""certd as people run it: `certd init` and `certd serve` as processes, in a directory of the test's own."""

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.forked import run_certctl
from tests.waiting import eventually

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_COMMAND_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What `certd init` made."""

    data: Path
    credentials: Path

    @property
    def config(self) -> Path:
        return self.data / "certd.toml"

    @property
    def certificate(self) -> Path:
        """Of the first administrator, PEM."""
        return self.credentials / "admin.pem"

    @property
    def private_key(self) -> Path:
        return self.credentials / "admin.key"

    @property
    def trust_bundle(self) -> Path:
        """The system root, PEM."""
        return self.credentials / "root.pem"

    @property
    def log(self) -> Path:
        """Standard error of the daemon and of its token process, every run after the other."""
        return self.data / "daemon.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningDaemon:
    """A daemon that serves."""

    installation: Installation
    process: "subprocess.Popen[bytes]"
    grpc: str
    """host:port, as are the next two."""
    http: str
    metrics: str
    enrollment: str
    pid: int
    token_pid: int
    bearer: str = ""
    """host:port for callers with tokens; empty where nobody listens for them."""
    devices: str = ""
    """host:port for downloads; empty where nobody listens for them."""

    def certctl(self, *arguments: str | Path, stdin: bytes = b"") -> "subprocess.CompletedProcess[str]":
        """Runs certctl as the first administrator and returns how it ended."""
        environment = {
            "CERTCTL_CONFIG": str(self.installation.credentials / "certctl.toml"),
            "CERTCTL_ADDRESS": self.grpc,
        }
        return run_program("certctl", *arguments, environment=environment, stdin=stdin)

    def stop(self) -> int:
        """Stops it as an operator does, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)

    def kill(self) -> None:
        """Kills it as a crash does; its token process ends by itself."""
        self.process.kill()
        self.process.wait(_STOP_SECONDS)


def run_program(
    name: str, *arguments: str | Path, environment: Mapping[str, str] | None = None, stdin: bytes = b""
) -> "subprocess.CompletedProcess[str]":
    """Runs `certd` or `certctl` to its end."""
    words = [str(argument) for argument in arguments]
    everything = {**_environment(), **(environment or {})}
    if name == "certctl":
        return run_certctl(words, environment=everything, stdin=stdin, timeout=_COMMAND_SECONDS)
    ended = subprocess.run(
        [*_program(name), *words],
        env=everything,
        input=stdin,
        capture_output=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def initialise(folder: Path, *options: str) -> Installation:
    """Makes a server below `folder`, with every listener on a port that the system chooses at each start."""
    installation = Installation(data=folder / "data", credentials=folder / "credentials")
    ended = run_program(
        *("certd", "init", "--data-dir", installation.data, "--credentials-dir", installation.credentials),
        *("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"),
        *("--enrollment-address", "127.0.0.1:0"),
        *options,
    )
    assert ended.returncode == 0, ended.stderr
    return installation


def installed(folder: Path) -> Installation:
    """Copies what `initialise` made once for all: servers with one system authority, for tests of one server."""
    made = _template()
    copied = Installation(data=folder / "data", credentials=folder / "credentials")
    for before, after in ((made.data, copied.data), (made.credentials, copied.credentials)):
        shutil.copytree(before, after)
    for file in (copied.config, copied.data / "token" / "softhsm2.conf", copied.credentials / "certctl.toml"):
        file.write_text(file.read_text().replace(str(made.data.parent), str(folder)))
    return copied


@functools.cache
def _template() -> Installation:
    folder = Path(tempfile.mkdtemp(prefix="certd-installed-"))
    atexit.register(shutil.rmtree, folder)
    return initialise(folder)


def start(installation: Installation) -> RunningDaemon:
    """Starts the daemon and returns when it says READY; fails with its log when it does not."""
    ready_file = installation.data / "ready"
    with ready_file.open("wb") as output, installation.log.open("ab") as log:
        process = subprocess.Popen(
            [*_program("certd"), "serve", "--config", str(installation.config)],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
        )

    def ready_line() -> str | None:
        assert process.poll() is None, installation.log.read_text()[-4000:]
        lines = ready_file.read_text().splitlines(keepends=True)
        return next((line for line in lines if line.startswith("READY ") and line.endswith("\n")), None)

    try:
        line = eventually(ready_line, within=_START_SECONDS)
    except BaseException:
        process.kill()
        process.wait()
        raise
    assert line is not None
    ready = json.loads(line.removeprefix("READY "))
    return RunningDaemon(
        installation=installation,
        process=process,
        grpc=ready["grpc"],
        http=ready["http"],
        metrics=ready["metrics"],
        enrollment=ready["enrollment"],
        pid=ready["daemon_pid"],
        token_pid=ready["token_pid"],
        bearer=ready["bearer"] or "",
        devices=ready["devices"] or "",
    )


@contextmanager
def running(installation: Installation) -> Iterator[RunningDaemon]:
    """Runs a daemon; a clean stop is part of every test that uses it, unless the test ended it itself."""
    daemon = start(installation)
    try:
        yield daemon
    except BaseException:
        daemon.kill()
        raise
    if daemon.process.poll() is None:
        assert daemon.stop() == 0, installation.log.read_text()[-4000:]


def _program(name: str) -> list[str]:
    module = {"certd": "certd.cli.server", "certctl": "certd.cli.certctl"}[name]
    return [sys.executable, "-c", f"import sys; sys.argv[0] = {name!r}; from {module} import main; main()"]


def _environment() -> dict[str, str]:
    """The environment of this process without what would lead a program to another server, or to a real home."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CERTD_", "CERTCTL_", "SOFTHSM2_"))}
    return {**kept, "HOME": "/nonexistent", "PYTHONPATH": str(Path(__file__).parent.parent)}
