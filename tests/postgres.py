"""A PostgreSQL server for tests, where its binaries are found; a directory and a socket of its own, no port.

A conftest gets it by importing `postgres_server` and `postgres_url`.
"""

import contextlib
import functools
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

from certd.store.migration import migrate

_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server that runs."""

    directory: Path
    """Holds its socket."""
    user: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def create_database(self, template: str = "template0") -> str:
        """Makes an empty database, or a copy of another, and returns its URL."""
        name = f"test_{next(self._numbers)}"
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self._url(name)

    @functools.cache  # noqa: B019  # A server lives as long as the process.
    def migrated(self) -> str:
        """Returns the name of a database that has every table and nothing in them, to be copied."""
        url = self.create_database()
        migrate(url)
        return _name(url)

    def _url(self, name: str) -> str:
        return f"postgresql://{self.user}@/{name}?host={self.directory}"

    def drop_database(self, url: str) -> None:
        """Ends who is connected and drops the database."""
        with self.connect("postgres") as connection:
            connection.execute(f'DROP DATABASE "{_name(url)}" WITH (FORCE)')

    def connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        """Returns a connection in autocommit."""
        return psycopg.connect(host=str(self.directory), user=self.user, dbname=database, autocommit=True)


def _name(url: str) -> str:
    return url.rpartition("?")[0].rpartition("/")[2]


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


class _Shared:
    """One server for all who want one at a time: each module that imports the fixture has a fixture of its own."""

    def __init__(self) -> None:
        self._users = 0
        self._stack = contextlib.ExitStack()
        self._server: PostgresServer | None = None

    @contextlib.contextmanager
    def server(self, binaries: Path) -> Iterator[PostgresServer]:
        """Starts it for the first and stops it after the last."""
        if self._server is None:
            self._server = self._stack.enter_context(_running(binaries))
        self._users += 1
        try:
            yield self._server
        finally:
            self._users -= 1
            if self._users == 0:
                self._server = None
                self._stack.close()


_shared = _Shared()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server binaries (initdb, postgres) on this machine")
    with _shared.server(binaries) as server:
        yield server


@contextlib.contextmanager
def _running(binaries: Path) -> Iterator[PostgresServer]:
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
    """The URL of a database that has every table and nothing in them: migrating takes longer than copying."""
    url = postgres_server.create_database(postgres_server.migrated())
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)
