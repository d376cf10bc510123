"""The agent as a server of secrets, spoken to as Envoy does; the real one is in tests/recipes."""

import logging
import os
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from certd.agent.commands import StoppedError
from certd.agent.config import Sds
from certd.agent.errors import AgentError
from certd.agent.sds import SecretServer
from certd.agent.sds_socket import bind
from certd.agent.sds_subscription import TYPE_URL
from certd.envoy.secrets_pb2 import DeltaDiscoveryRequest, DiscoveryRequest, Secret
from tests.agent.bundles import Minter
from tests.agent.secret_client import NAMES, SecretStream, Start, Told, both_forms, connect, fetch, holds, subscribe
from tests.waiting import eventually


@both_forms
def test_what_is_there_comes_and_what_is_new_comes_unasked(
    path: Path, start: Start, minter: Minter, *, delta: bool
) -> None:
    server, first, second = start(), minter.bundle(version=1), minter.bundle(version=2)
    server.restore(first)
    with SecretStream(path, delta=delta) as stream, ThreadPoolExecutor(1) as worker:
        stream.ask("web")
        assert holds(stream.take(), first)
        deployed = worker.submit(server.deploy, second)
        response = stream.next()
        assert not deployed.done()
        assert holds(stream.answer(response), second)
        assert deployed.result(20)
        # It has it, so that nothing is sent when it is deployed again.
        assert server.deploy(second)


@both_forms
def test_the_roots_are_a_secret_of_their_own(path: Path, start: Start, minter: Minter, *, delta: bool) -> None:
    server = start()
    server.restore(minter.bundle())
    with SecretStream(path, delta=delta) as stream:
        stream.ask("web:roots")
        secret = stream.take()
    (root,) = x509.load_pem_x509_certificates(secret.validation_context.trusted_ca.inline_bytes)
    assert (secret.name, root) == ("web:roots", minter.root)


@both_forms
def test_what_one_refuses_none_keeps(path: Path, start: Start, minter: Minter, told: Told, *, delta: bool) -> None:
    server, good, bad = start(), minter.bundle(version=1), minter.bundle(version=2)
    server.restore(good)
    with (
        SecretStream(path, delta=delta, node="one") as one,
        SecretStream(path, delta=delta, node="two") as two,
        ThreadPoolExecutor(1) as worker,
    ):
        for stream in (one, two):
            stream.ask("web")
            assert holds(stream.take(), good)
        deployed = worker.submit(server.deploy, bad)
        assert holds(one.take(), bad)
        assert holds(two.take(error="KEY_VALUES_MISMATCH"), bad)
        with pytest.raises(AgentError, match="two refused it: KEY_VALUES_MISMATCH"):
            deployed.result(20)
        for stream in (one, two):
            assert holds(stream.take(), good)
        assert eventually(lambda: server.deploy(good))
        # Tried again, it is another secret to them, lest one says that it has it without a look at it.
        again = worker.submit(server.deploy, bad)
        for stream in (one, two):
            assert holds(stream.take(), bad)
        assert again.result(20)
    assert told == []


def test_a_refused_one_with_nothing_before_it_goes_to_nobody_else(path: Path, start: Start, minter: Minter) -> None:
    server, bad = start(), minter.bundle()
    with SecretStream(path, delta=True) as stream, ThreadPoolExecutor(1) as worker:
        subscribe(stream, server, minter)
        deployed = worker.submit(server.deploy, bad)
        stream.take(error="no")
        with pytest.raises(AgentError):
            deployed.result(20)
    with connect(path) as channel:
        assert not fetch(channel, DiscoveryRequest(resource_names=["web"])).resources


def test_while_nobody_asks_it_waits_for_who_comes(path: Path, start: Start, minter: Minter, told: Told) -> None:
    server = start()
    assert not server.deploy(minter.bundle(version=1))
    with SecretStream(path, delta=True) as stream:
        stream.ask("web:roots", "api")
        stream.take()
        # Who asks for the roots alone does not serve it.
        assert not server.deploy(minter.bundle(version=2))
        assert told == []
        stream.ask("web")
        stream.take()
        assert eventually(lambda: told) == [(2, None)]


def test_who_comes_late_and_refuses_is_told_of(path: Path, start: Start, minter: Minter, told: Told) -> None:
    server, bundle = start(), minter.bundle(version=1)
    assert not server.deploy(bundle)
    with SecretStream(path, delta=False) as stream:
        stream.ask("web")
        stream.take(error="bad")
        assert eventually(lambda: told) == [(1, "edge-1 refused it: bad")]
        # So whoever is woken by that learns why, at once.
        with pytest.raises(AgentError, match="bad"):
            server.deploy(bundle)


def test_who_does_not_answer_fails_it_in_time(path: Path, start: Start, minter: Minter) -> None:
    server, first = start(timeout=0.2), minter.bundle(version=1)
    server.restore(first)
    with SecretStream(path, delta=False, node="deaf") as stream:
        stream.ask("web")
        assert holds(stream.take(), first)
        with pytest.raises(AgentError, match=r"deaf did not answer within 0\.2 s"):
            server.deploy(minter.bundle(version=2))
        stream.take()
        # It took it too late, and is sent what counts.
        assert holds(stream.take(), first)


def test_who_goes_is_not_waited_for(path: Path, start: Start, minter: Minter) -> None:
    server = start()
    with SecretStream(path, delta=False) as stream, ThreadPoolExecutor(1) as worker:
        subscribe(stream, server, minter)
        deployed = worker.submit(server.deploy, minter.bundle())
        stream.next()
        stream.close()
        assert deployed.result(20) is False


def test_a_stop_ends_streams_and_who_waits(path: Path, start: Start, minter: Minter) -> None:
    server = start()
    with SecretStream(path, delta=True) as stream, ThreadPoolExecutor(1) as worker:
        subscribe(stream, server, minter)
        deployed = worker.submit(server.deploy, minter.bundle())
        stream.next()
        server.stop()
        with pytest.raises(StoppedError):
            deployed.result(20)
        with pytest.raises((grpc.RpcError, StopIteration)):
            stream.next()
    assert not path.exists()


def test_a_stream_that_comes_again_is_not_sent_what_it_has(path: Path, start: Start, minter: Minter) -> None:
    server = start()
    server.restore(minter.bundle())
    server.restore(minter.bundle("api"))
    with SecretStream(path, delta=True) as stream:
        stream.ask("web")
        (resource,) = (response := stream.next()).resources
        stream.answer(response)
    with SecretStream(path, delta=True) as stream:
        stream.ask("web", "api", has={"web": resource.version, "api": "0"})
        assert stream.take().name == "api"


def test_fetch_answers_with_what_is_there(path: Path, start: Start, minter: Minter) -> None:
    server, bundle = start(), minter.bundle()
    server.restore(bundle)
    with connect(path) as channel:
        answer = fetch(channel, DiscoveryRequest(type_url=TYPE_URL, resource_names=["web", "nobody", "api", "web"]))
        assert [holds(Secret.FromString(each.value), bundle) for each in answer.resources] == [True]
        with pytest.raises(grpc.RpcError) as refused:
            fetch(channel, DiscoveryRequest(type_url="type.googleapis.com/x.Y", resource_names=["web"]))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@both_forms
def test_what_envoy_would_not_send_ends_the_stream(path: Path, start: Start, *, delta: bool) -> None:
    start()
    url = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    with SecretStream(path, delta=delta) as stream:
        stream.send(DeltaDiscoveryRequest(type_url=url) if delta else DiscoveryRequest(type_url=url))
        with pytest.raises(grpc.RpcError) as refused:
            stream.next()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "secrets" in str(refused.value.details())


def test_past_the_last_stream_one_is_told_to_come_later(path: Path, start: Start, minter: Minter) -> None:
    server = start(most_streams=2)
    server.restore(minter.bundle())
    with SecretStream(path, delta=True) as one, SecretStream(path, delta=False) as two:
        for stream in (one, two):
            stream.ask("web")
            stream.take()
        with SecretStream(path, delta=True) as three:
            three.ask("web")
            with pytest.raises(grpc.RpcError) as refused:
                three.next()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        two.close()

        def comes() -> bool:
            with SecretStream(path, delta=True) as later:
                later.ask("web")
                try:
                    return later.take().name == "web"
                except grpc.RpcError:
                    return False

        assert eventually(comes)


def test_a_key_stands_in_no_log(path: Path, start: Start, minter: Minter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server, bundle = start(), minter.bundle()
    with SecretStream(path, delta=True) as stream, ThreadPoolExecutor(1) as worker:
        stream.ask("nobody")
        subscribe(stream, server, minter)
        deployed = worker.submit(server.deploy, bundle)
        response = stream.next()
        key = stream.answer(response, error="x").tls_certificate.private_key.inline_bytes.decode()
        with pytest.raises(AgentError):
            deployed.result(20)
    assert "refused version 1-" in caplog.text
    assert "not configured here: nobody" in caplog.text
    lines = key.splitlines()[1:-1]
    assert lines
    assert not [line for line in lines if line in caplog.text]


class TestSocket:
    def test_only_its_owner_may_connect(self, path: Path, start: Start) -> None:
        before = os.umask(0)
        try:
            start()
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_mode_and_group_are_those_of_the_configuration(self, path: Path) -> None:
        path = path.with_name("a socket of 100%.sock")
        server = SecretServer(Sds(socket=path, mode=0o660, group=str(os.getgid())), NAMES)
        server.start()
        try:
            assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o660, os.getgid())
        finally:
            server.stop()

    def test_its_folder_is_made(self, path: Path) -> None:
        server = SecretServer(Sds(socket=path.parent / "run" / "sds.sock"), NAMES)
        server.start()
        server.stop()
        assert stat.S_IMODE((path.parent / "run").stat().st_mode) & 0o022 == 0

    def test_its_folder_lets_envoy_through_whatever_the_mask_of_the_process(self, path: Path) -> None:
        server = SecretServer(Sds(socket=path.parent / "run" / path.name), NAMES)
        before = os.umask(0o077)
        try:
            server.start()
        finally:
            os.umask(before)
        server.stop()
        assert stat.S_IMODE((path.parent / "run").stat().st_mode) == 0o755

    def test_who_owns_its_folder_cannot_have_something_else_given_away(self, path: Path) -> None:
        victim = path.parent / "victim"
        victim.write_text("secret")
        victim.chmod(0o600)

        # Somebody replaced the socket as soon as it was there.
        with pytest.raises(AgentError, match="something else"):
            bind(lambda _: path.symlink_to(victim), Sds(socket=path, mode=0o660))
        assert stat.S_IMODE(victim.stat().st_mode) == 0o600

    def test_what_a_killed_agent_left_is_taken_over(self, path: Path, start: Start, minter: Minter) -> None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        start().restore(minter.bundle())
        with SecretStream(path, delta=True) as stream:
            stream.ask("web")
            assert stream.take().name == "web"

    def test_that_of_another_agent_is_not(self, start: Start) -> None:
        start()
        with pytest.raises(AgentError, match="somebody listens"):
            start()

    def test_a_file_stays(self, path: Path, start: Start) -> None:
        path.write_text("mine")
        with pytest.raises(AgentError, match="no socket"):
            start()
        assert path.read_text() == "mine"

    @pytest.mark.parametrize(
        ("sds", "problem"),
        [
            (Sds(socket=Path("/nonexistent/folder/sds.sock")), "folder is there"),
            (Sds(socket=Path("/tmp") / ("x" * 120)), "at most 10[37] bytes"),
            (Sds(socket=Path("/tmp/unused.sock"), group="nobody-of-this-name"), "there is no group"),
        ],
    )
    def test_what_cannot_be_says_why(self, sds: Sds, problem: str) -> None:
        threads = threading.active_count()
        with pytest.raises(AgentError, match=problem):
            SecretServer(sds, NAMES).start()
        assert threading.active_count() == threads
