"""A PostgreSQL server for tests, where its binaries are found; a directory and a socket of its own, no port.

A conftest gets it by importing `postgres_server` and `postgres_url`.
"""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server that runs."""

    directory: Path
    """Holds its socket."""
    user: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def create_database(self) -> str:
        """Makes an empty database and returns its URL."""
        name = f"test_{next(self._numbers)}"
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql://{self.user}@/{name}?host={self.directory}"

    def drop_database(self, url: str) -> None:
        """Ends who is connected and drops the database."""
        name = url.rpartition("?")[0].rpartition("/")[2]
        with self.connect("postgres") as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        """Returns a connection in autocommit."""
        return psycopg.connect(host=str(self.directory), user=self.user, dbname=database, autocommit=True)


def find_binaries() -> Path | None:
    """Returns the directory of `initdb` and `postgres`, the newest release first; None when there is none."""
    candidates = []
    if (config := shutil.which("pg_config")) is not None:
        answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(Path(answer.stdout.strip()))
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True)
    candidates += [Path(directory) for directory in os.environ.get("PATH", "").split(os.pathsep)]
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


def unprivileged_user() -> str | None:
    """Returns the user to run the server as when we are root, which it refuses to run as; None when we are not."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server binaries (initdb, postgres) on this machine")
    user = unprivileged_user()
    # Not under tmp_path, which is closed to other users and too long for the path of a socket.
    directory = Path(tempfile.mkdtemp(prefix="certd-postgres-"))
    try:
        if user is not None:
            shutil.chown(directory, user)
        data = directory / "data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "certd", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"],
            user=user,
            cwd=directory,
            check=True,
            capture_output=True,
        )
        with (directory / "log").open("wb") as log:
            settings = {
                "listen_addresses": "",
                "unix_socket_directories": str(directory),
                # The tests kill our processes and never the machine.
                "fsync": "off",
                "shared_buffers": "32MB",
            }
            process = subprocess.Popen(
                [binaries / "postgres", "-D", data, *(f"--{key}={value}" for key, value in settings.items())],
                user=user,
                cwd=directory,
                stdout=log,
                stderr=log,
            )
        try:
            server = PostgresServer(directory, "certd")
            _wait_until_ready(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(directory)


def _wait_until_ready(server: PostgresServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.connect("postgres").close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start:\n{(server.directory / 'log').read_text()}")
            try:
                process.wait(timeout=0.05)
            except subprocess.TimeoutExpired:
                continue
        else:
            return


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)
