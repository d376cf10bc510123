"""Envoy: the agent as its server of secrets, in both forms of discovery."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certd.agent.config import Sds
from certd.agent.errors import AgentError
from certd.agent.sds import SecretServer
from certd.v1.managed_certificate_pb2 import Deployment
from certd.v1.x509_pb2 import SubjectAlternativeNames
from tests.agent.bundles import Minter
from tests.recipes.agents import agent
from tests.recipes.clients import comes, connect, exchange, knocking, over_http, shown, shown_anew
from tests.recipes.estate import Estate
from tests.recipes.programs import Program, find_program, free_port, serving
from tests.recipes.recipe import adapted, block
from tests.waiting import eventually

both_forms = pytest.mark.parametrize("form", ["GRPC", "DELTA_GRPC"])


@pytest.fixture(scope="session")
def mail(estate: Estate) -> str:
    """A certificate that Envoy does not take, for it has the name of no host."""
    names = SubjectAlternativeNames(email_addresses=["somebody@example.internal"])
    estate.request("mail", names, profile="email")
    return "mail"


@contextmanager
def envoy(place: Path, port: int, form: str, *, more: str = "") -> Iterator[Program]:
    """Runs Envoy with the block of the README; with `more`, a listener for another secret beside."""
    text = block("/etc/envoy/envoy.yaml")
    changes = {"/run/certd-agent": str(place), "api_type: GRPC": f"api_type: {form}", "0.0.0.0": "127.0.0.1"}
    text = adapted(text, changes)
    if more:
        listener = text[text.index("    - name: https\n") :]
        text += adapted(
            listener, {"name: https": f"name: {more}", "- name: web\n": f"- name: {more}\n", "443": str(free_port())}
        )
    main = place / "envoy.yaml"
    main.write_text(text.replace("443", str(port), 1))
    arguments = (find_program("envoy"), "-c", main, "--concurrency", "1", "--disable-hot-restart", "-l", "warning")
    with serving(arguments, port=port, folder=place) as program:
        yield program


@both_forms
def test_a_renewed_certificate_is_served_and_no_connection_is_dropped(
    estate: Estate, place: Path, mail: str, form: str
) -> None:
    port = free_port()
    changes = {"/run/certd-agent": str(place), 'owner = "envoy"': f'owner = "{os.getuid()}"'}
    text = adapted(block("/etc/certd-agent/agent.toml: Envoy"), changes)
    text += adapted(text[text.index("[[certificate]]") :], {'"web"': f'"{mail}"', "/web/": f"/{mail}/"})
    with agent(estate, place, text) as running:
        # While no Envoy asks nothing has failed, and nothing is served.
        eventually(lambda: "no Envoy has asked for it yet" in running.log.read_text())
        with envoy(place, port, form, more=mail):
            estate.reported(Deployment.SERVING)
            first = estate.current().certificate.der
            assert shown_anew(port, estate.root) == first
            with knocking(lambda: over_http(port, estate.root)) as knocks, connect(port, estate.root) as held:
                assert exchange(held) == b"served\n"
                second = estate.renew().certificate.der
                assert estate.reported(Deployment.SERVING).certificate_sha256
                comes(port, estate.root, second)
                eventually(lambda: knocks.has_seen(second))
                assert exchange(held) == b"served\n"
                assert shown(held) == first
            assert knocks.has_seen(first)
            # What it does not take is told with its own words, and the other is served all the same.
            failed = estate.reported(Deployment.FAILED, mail)
            assert "edge-1 of cluster edge refused it" in failed.message
            assert "neither subject CN nor SAN names" in failed.message
        # One that starts anew is given what counts.
        with envoy(place, port, form):
            comes(port, estate.root, second)


@both_forms
def test_a_bad_key_is_refused_while_the_old_certificate_stays(place: Path, form: str) -> None:
    port, minter = free_port(), Minter()
    listen, names = Sds(socket=place / "sds.sock", timeout=20), ["web"]
    first, second, third = (minter.bundle(version=version) for version in (1, 3, 4))
    bad = minter.bundle(version=2, key=ec.generate_private_key(ec.SECP256R1()))
    server = SecretServer(listen, names)
    server.start()
    try:
        server.restore(first)
        with envoy(place, port, form):
            eventually(lambda: server.deploy(first))
            assert shown_anew(port, minter.pem) == first.certificate
            with connect(port, minter.pem) as held, knocking(lambda: over_http(port, minter.pem)) as knocks:
                exchange(held)
                # Again and again: Envoy takes the same one for taken when it comes a second time.
                for _ in range(2):
                    with pytest.raises(AgentError, match="KEY_VALUES_MISMATCH"):
                        server.deploy(bad)
                    assert shown_anew(port, minter.pem) == first.certificate
                assert server.deploy(first)
                assert server.deploy(second)
                comes(port, minter.pem, second.certificate)
                assert not knocks.has_seen(bad.certificate)
                # Without an agent it goes on with what it has, and comes to the next one by itself.
                server.stop()
                comes(port, minter.pem, second.certificate)
                server = SecretServer(listen, names)
                server.start()
                server.restore(second)
                eventually(lambda: server.deploy(second))
                assert server.deploy(third)
                comes(port, minter.pem, third.certificate)
                exchange(held)
    finally:
        server.stop()


@both_forms
def test_what_it_refused_it_is_not_believed_to_have_later(place: Path, form: str) -> None:
    """Envoy says that it has a secret which it refused before, when the same comes again with nothing between."""
    port, minter = free_port(), Minter()
    listen, names = Sds(socket=place / "sds.sock", timeout=20), ["web"]
    bad = minter.bundle(key=ec.generate_private_key(ec.SECP256R1()))
    server = SecretServer(listen, names)
    server.start()
    try:
        assert not server.deploy(bad)
        with envoy(place, port, form):
            with pytest.raises(AgentError, match="KEY_VALUES_MISMATCH"):
                server.deploy(bad)
            # Another agent, which knows nothing of that.
            server.stop()
            server = SecretServer(listen, names)
            server.start()

            def told() -> str | None:
                try:
                    assert not server.deploy(bad), "Envoy took what it had refused"
                except AgentError as error:
                    return error.message
                return None

            assert "KEY_VALUES_MISMATCH" in eventually(told)
    finally:
        server.stop()


def test_two_have_it_both_or_none(place: Path) -> None:
    """Two Envoys on one socket, each in another form."""
    minter = Minter()
    ports = [free_port(), free_port()]
    server = SecretServer(Sds(socket=place / "sds.sock", timeout=20), ["web"])
    server.start()
    try:
        first, second = minter.bundle(version=1), minter.bundle(version=2)
        server.restore(first)
        (place / "other").mkdir()
        (place / "other" / "sds.sock").symlink_to(place / "sds.sock")
        with envoy(place, ports[0], "GRPC"), envoy(place / "other", ports[1], "DELTA_GRPC"):
            for port in ports:
                assert shown_anew(port, minter.pem) == first.certificate
            with ThreadPoolExecutor(1) as worker:
                assert worker.submit(server.deploy, second).result(30)
            for port in ports:
                comes(port, minter.pem, second.certificate)
    finally:
        server.stop()


@both_forms
def test_one_that_hangs_holds_up_the_other_once_and_catches_up(place: Path, form: str) -> None:
    minter = Minter()
    ports = [free_port(), free_port()]
    server = SecretServer(Sds(socket=place / "sds.sock", timeout=5), ["web"])
    server.start()
    try:
        first, second, third, fourth = (minter.bundle(version=version) for version in (1, 2, 3, 4))
        server.restore(first)
        (place / "other").mkdir()
        (place / "other" / "sds.sock").symlink_to(place / "sds.sock")
        with envoy(place, ports[0], form), envoy(place / "other", ports[1], form) as hung:
            for port in ports:
                comes(port, minter.pem, first.certificate)
            hung.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(AgentError, match="did not answer within 5 s"):
                    server.deploy(second)
                comes(ports[0], minter.pem, first.certificate)
                # Were it waited for, these would fail as well.
                for bundle in (second, third):
                    assert server.deploy(bundle)
                    comes(ports[0], minter.pem, bundle.certificate)
            finally:
                hung.process.send_signal(signal.SIGCONT)
            comes(ports[1], minter.pem, third.certificate)
            assert server.deploy(fourth)
            for port in ports:
                comes(port, minter.pem, fourth.certificate)
    finally:
        server.stop()
