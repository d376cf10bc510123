"""HAProxy: over its runtime API, in the process that runs."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certd.agent import config, formats
from certd.agent.errors import AgentError
from certd.agent.haproxy import HAProxyTarget
from certd.v1.managed_certificate_pb2 import Deployment
from tests.agent.bundles import Minter
from tests.recipes.agents import agent
from tests.recipes.clients import connect, exchange, knocking, over_http, shown, shown_anew
from tests.recipes.estate import Estate
from tests.recipes.programs import Program, find_program, free_port, serving
from tests.recipes.recipe import adapted, block
from tests.waiting import eventually

_APP = """
backend app
    http-request return status 200 content-type text/plain string served
"""
_OTHER = """
frontend other
    bind unix@{place}/other.sock ssl crt {place}/other.pem
    default_backend app
"""
_COMBINED = config.File(path="web.pem", format="combined", mode=0o600)


@pytest.fixture(scope="module")
def minter() -> Minter:
    return Minter()


def command(place: Path, text: str) -> str:
    """Says something to the runtime API, as an operator does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(place / "admin.sock"))
        connection.sendall(f"{text}\n".encode())
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    return answer.decode()


@contextmanager
def haproxy(place: Path, folder: Path, port: int, *, level: str = "admin") -> Iterator[Program]:
    """Runs HAProxy with the block of the README, and another frontend with a certificate of its own."""
    changes = {
        "/etc/ssl/web/current": str(folder),
        "/run/haproxy": str(place),
        ":443": f"127.0.0.1:{port}",
        "level admin": f"level {level}",
    }
    main, app = place / "haproxy.cfg", place / "app.cfg"
    main.write_text(adapted(block("/etc/haproxy/haproxy.cfg"), changes))
    app.write_text(_APP + _OTHER.format(place=place))
    (place / "other.pem").write_bytes(formats.content(Minter().bundle(), _COMBINED))
    arguments = (find_program("haproxy"), "-db", "-f", main, "-f", app)
    with serving(arguments, port=port, folder=place) as program:
        # It gets its name a little later than the port is bound.
        eventually((place / "admin.sock").exists)
        yield program
    (place / "admin.sock").unlink(missing_ok=True)


def test_a_renewed_certificate_is_served_and_no_connection_is_dropped(estate: Estate, place: Path) -> None:
    port, folder = free_port(), place / "web"
    changes = {"/etc/ssl/web": str(folder), "/run/haproxy": str(place), ":443": f":{port}"}
    text = adapted(block("/etc/certd-agent/agent.toml: HAProxy"), changes)
    with agent(estate, place, text) as running:
        # The file is there before HAProxy can be.
        assert "cannot be reached" in estate.reported(Deployment.FAILED).message
        with haproxy(place, folder / "current", port):
            running.again()
            estate.reported(Deployment.SERVING)
            first = estate.current().certificate.der
            assert shown_anew(port, estate.root) == first
            with knocking(lambda: over_http(port, estate.root)) as knocks, connect(port, estate.root) as held:
                assert exchange(held) == b"served"
                second = estate.renew().certificate.der
                assert estate.reported(Deployment.SERVING).certificate_sha256
                assert shown_anew(port, estate.root) == second
                eventually(lambda: knocks.has_seen(second))
                assert exchange(held) == b"served"
                assert shown(held) == first
            assert knocks.has_seen(first)
            # Somebody is about to replace another certificate: ours must not go into its place.
            other = place / "other.pem"
            assert "created" in command(place, f"set ssl cert {other} <<\n{other.read_text()}")
            third = estate.renew().certificate.der
            assert f"abort ssl cert {other}" in estate.reported(Deployment.FAILED).message
            assert shown_anew(port, estate.root) == second
            assert "aborted" in command(place, f"abort ssl cert {other}")
            running.again()
            estate.reported(Deployment.SERVING)
            assert shown_anew(port, estate.root) == third
        # What starts anew reads the same from the disk, and is not touched by an agent that does.
        with haproxy(place, folder / "current", port):
            assert shown_anew(port, estate.root) == third


class TestTarget:
    """The real program, without a server."""

    def target(self, place: Path, name: Path, timeout: float = 20.0) -> HAProxyTarget:
        return HAProxyTarget(config.HAProxy(socket=str(place / "admin.sock"), certificate=str(name), timeout=timeout))

    def test_what_it_refuses_leaves_the_old_one_and_no_transaction(self, minter: Minter, place: Path) -> None:
        port, name = free_port(), place / "web.pem"
        first = minter.bundle(version=1)
        name.write_bytes(formats.content(first, _COMBINED))
        with haproxy(place, place, port):
            target = self.target(place, name)
            target.restore(first)
            bad = minter.bundle(version=2, key=ec.generate_private_key(ec.SECP256R1()))
            with pytest.raises(AgentError, match="inconsistencies between private key and certificate"):
                target.deploy(bad)
            assert shown_anew(port, minter.pem) == first.certificate
            assert "transaction" not in command(place, "show ssl cert")
            second = minter.bundle(version=3)
            target.deploy(second)
            assert shown_anew(port, minter.pem) == second.certificate
            # It has another one than was deployed: it was started before the file was written.
            target.restore(first)
            assert shown_anew(port, minter.pem) == first.certificate
            for unknown in (place / "nowhere.pem", place / "unused.pem"):
                with pytest.raises(AgentError, match=r"not referenced by the configuration|has no certificate"):
                    self.target(place, unknown).deploy(second)
            with pytest.raises(AgentError, match="has no certificate"):
                self.target(place, place / "nowhere.pem").restore(second)

    def test_what_it_may_not_or_cannot_says_what_to_do(self, minter: Minter, place: Path) -> None:
        port, name = free_port(), place / "web.pem"
        bundle = minter.bundle()
        name.write_bytes(formats.content(bundle, _COMBINED))
        with haproxy(place, place, port, level="operator"), pytest.raises(AgentError, match='needs "level admin"'):
            self.target(place, name).deploy(bundle)
        long = replace(bundle, chain=(minter.bundle().certificate,) * 100)
        with haproxy(place, place, port), pytest.raises(AgentError, match=r"must fit in its tune\.bufsize"):
            self.target(place, name).deploy(long)
        with pytest.raises(AgentError, match="cannot be reached"):
            self.target(place, name).deploy(bundle)

    def test_who_does_not_answer_is_not_waited_for(self, minter: Minter, place: Path) -> None:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(place / "admin.sock"))
            deaf.listen()
            with pytest.raises(AgentError, match=r"did not answer within 0\.1 s"):
                self.target(place, place / "web.pem", timeout=0.1).deploy(minter.bundle())
