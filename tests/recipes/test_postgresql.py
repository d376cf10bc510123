"""PostgreSQL: SIGHUP, for the sessions to come."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from certd.v1.managed_certificate_pb2 import Deployment
from tests.postgres import find_binaries, unprivileged_user
from tests.recipes.agents import agent
from tests.recipes.clients import context, knocking, shown
from tests.recipes.estate import HOST, Estate
from tests.recipes.programs import Program, free_port, serving
from tests.recipes.recipe import adapted, block
from tests.waiting import eventually

_MAIN = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
fsync = off
shared_buffers = '16MB'
include '{own}'
"""
_SSL_REQUEST = (8).to_bytes(4) + (80_877_103).to_bytes(4)


@pytest.fixture
def binaries() -> Path:
    found = find_binaries()
    if found is None:
        pytest.skip("no PostgreSQL server binaries (initdb, postgres) on this machine")
    return found


@contextmanager
def postgresql(binaries: Path, place: Path, port: int) -> Iterator[Program]:
    """Runs a server with the block of the README."""
    user, home = unprivileged_user(), place / "postgresql"
    home.mkdir()
    if user is not None:
        shutil.chown(home, user)
    data, own = home / "data", place / "own.conf"
    initdb: list[str | Path] = [
        binaries / "initdb",
        "-D",
        data,
        "-U",
        "certd",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "-N",
    ]
    subprocess.run(initdb, user=user, cwd=home, check=True, capture_output=True, timeout=60)
    changes = {"/etc/ssl/web": str(place / "web")}
    own.write_text(adapted(block("/etc/postgresql/17/main/postgresql.conf"), changes))
    (data / "postgresql.conf").write_text(_MAIN.format(port=port, own=own))
    with serving([binaries / "postgres", "-D", data], port=port, folder=place, user=user) as program:
        yield program


def session(port: int, root: Path) -> psycopg.Connection[tuple[object, ...]]:
    """Opens a session whose server is verified, name and all."""
    return psycopg.connect(
        host=HOST,
        hostaddr="127.0.0.1",
        port=port,
        user="certd",
        dbname="postgres",
        sslmode="verify-full",
        sslrootcert=str(root),
        autocommit=True,
        connect_timeout=20,
    )


def shown_anew(port: int, root: str) -> bytes:
    """Returns what a new handshake shows; TLS begins when both sides have agreed to it."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(_SSL_REQUEST)
        assert raw.recv(1) == b"S"
        with context(root).wrap_socket(raw, server_hostname=HOST) as connection:
            return shown(connection)


def test_a_renewed_certificate_is_served_and_no_session_is_dropped(estate: Estate, place: Path, binaries: Path) -> None:
    port, root, user = free_port(), place / "root.pem", unprivileged_user()
    root.write_text(estate.root)
    changes = {
        "/etc/ssl/web": str(place / "web"),
        "/var/lib/postgresql/17/main": str(place / "postgresql" / "data"),
        ":5432": f":{port}",
        'owner = "postgres"\n': "" if user is None else f'owner = "{user}"\n',
        'probe_protocol = "postgresql"\n': 'probe_protocol = "postgresql"\nprobe_timeout = 3.0\n',
    }
    text = adapted(block("/etc/certd-agent/agent.toml: PostgreSQL"), changes)

    def knock() -> bytes:
        with session(port, root) as connection:
            assert connection.execute("SELECT 7").fetchone() == (7,)
        return shown_anew(port, estate.root)

    with agent(estate, place, text) as running:
        # The files are there before PostgreSQL can be.
        assert "postmaster.pid" in estate.reported(Deployment.FAILED).message
        with postgresql(binaries, place, port):
            running.again()
            estate.reported(Deployment.SERVING)
            first = estate.current().certificate.der
            assert shown_anew(port, estate.root) == first
            with session(port, root) as holder, session(port, root) as held, ThreadPoolExecutor(1) as worker:
                holder.execute("SELECT pg_advisory_lock(1)")
                query = worker.submit(lambda: held.execute("SELECT pg_advisory_lock(1), 'held'").fetchone())
                with knocking(knock) as knocks:
                    second = estate.renew().certificate.der
                    assert estate.reported(Deployment.SERVING).certificate_sha256
                    assert shown_anew(port, estate.root) == second
                    eventually(lambda: knocks.has_seen(second))
                assert knocks.has_seen(first)
                # Its query began before the reload and ends after it.
                assert not query.done()
                holder.execute("SELECT pg_advisory_unlock(1)")
                assert query.result(20) == ("", "held")
            # A configuration that it does not take keeps the old one, until it is mended.
            own = place / "own.conf"
            good = own.read_text()
            own.write_text(f"{good}ssl_crl_file = '{place}/nowhere.crl'\n")
            third = estate.renew().certificate.der
            # It tells nobody but its log; what it shows tells.
            assert f"127.0.0.1:{port} shows" in estate.reported(Deployment.FAILED).message
            assert shown_anew(port, estate.root) == second
            own.write_text(good)
            running.again()
            estate.reported(Deployment.SERVING)
            assert shown_anew(port, estate.root) == third
