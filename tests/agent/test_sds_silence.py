"""Envoys that do not answer, or that open too many streams: they hold up nobody else."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from certd.agent.errors import AgentError
from certd.envoy.secrets_pb2 import DiscoveryRequest, Secret
from tests.agent.bundles import Minter
from tests.agent.secret_client import SecretStream, Start, Told, both_forms, connect, fetch, holds
from tests.waiting import eventually

_TIMEOUT = 3.0
"""Seconds in which who answers does, and which it costs to wait for one that does not."""


def _refused(stream: SecretStream) -> grpc.RpcError:
    """Waits for a stream to be ended with an error."""
    with pytest.raises(grpc.RpcError) as refused:
        stream.next()
    return refused.value


@both_forms
def test_who_was_silent_through_a_deployment_is_not_waited_for_until_it_answers(
    path: Path,
    start: Start,
    minter: Minter,
    told: Told,
    caplog: pytest.LogCaptureFixture,
    *,
    delta: bool,
) -> None:
    caplog.set_level(logging.INFO)
    server = start(timeout=_TIMEOUT)
    first, second, third, fourth = (minter.bundle(version=version) for version in (1, 2, 3, 4))
    server.restore(first)
    with (
        SecretStream(path, delta=delta, node="lively") as lively,
        SecretStream(path, delta=delta, node="hung") as hung,
        ThreadPoolExecutor(1) as worker,
    ):
        for stream in (lively, hung):
            stream.ask("web")
            assert holds(stream.take(), first)
        deployed = worker.submit(server.deploy, second)
        assert holds(lively.take(), second)
        with pytest.raises(AgentError, match=r"^hung did not answer within 3 s"):
            deployed.result(20)
        assert holds(lively.take(), first)
        # It would fail again, were the silent one waited for.
        for bundle in (second, third):
            deployed = worker.submit(server.deploy, bundle)
            assert holds(lively.take(), bundle)
            assert deployed.result(20)
        assert "hung has long been silent and was not waited for" in caplog.text
        # What it was sent long ago it takes now, and is sent what counts.
        assert holds(hung.take(), second)
        assert holds(hung.take(error="too big"), third)
        assert eventually(lambda: told) == [(3, "hung refused it: too big")]
        assert "hung took version 2-" in caplog.text
        assert "hung refused version 3-" in caplog.text
        # From then on it counts, as before.
        deployed = worker.submit(server.deploy, fourth)
        assert holds(lively.take(), fourth)
        eventually(lambda: "lively took version 4-" in caplog.text)
        assert holds(hung.take(error="still too big"), fourth)
        with pytest.raises(AgentError, match="hung refused it: still too big"):
            deployed.result(20)


def test_who_left_unanswered_what_it_was_sent_long_before_holds_up_no_deployment_at_all(
    path: Path, start: Start, minter: Minter
) -> None:
    server, second = start(timeout=_TIMEOUT), minter.bundle(version=2)
    server.restore(minter.bundle())
    server.restore(minter.bundle("api"))
    with (
        SecretStream(path, delta=False, node="looks on") as onlooker,
        SecretStream(path, delta=True, node="hung") as hung,
        SecretStream(path, delta=True, node="lively") as lively,
        ThreadPoolExecutor(1) as worker,
    ):
        onlooker.ask("web")
        onlooker.next()
        lively.ask("web")
        lively.take()
        hung.ask("api")
        hung.take()
        # Which takes as long as anybody is waited for.
        with pytest.raises(AgentError, match="hung did not answer"):
            server.deploy(minter.bundle("api", version=2))
        deployed = worker.submit(server.deploy, second)
        assert holds(lively.take(), second)
        assert deployed.result(20)


def test_while_all_are_silent_each_deployment_ends_in_time_and_says_so(
    path: Path, start: Start, minter: Minter
) -> None:
    server, first = start(timeout=0.5), minter.bundle()
    server.restore(first)
    with (
        SecretStream(path, delta=False, node="one") as one,
        SecretStream(path, delta=True, node="two") as two,
        SecretStream(path, delta=True, node="roots") as roots,
    ):
        # Who has the roots alone serves nothing: the others are waited for beside it.
        roots.ask("web:roots")
        roots.take()
        for stream in (one, two):
            stream.ask("web")
            stream.next()
        for version in (2, 3):
            with pytest.raises(AgentError, match=r"^one, two did not answer within 0\.5 s"):
                server.deploy(minter.bundle(version=version))
            with connect(path) as channel:
                (resource,) = fetch(channel, DiscoveryRequest(resource_names=["web"])).resources
            assert holds(Secret.FromString(resource.value), first)


def test_who_is_silent_about_the_roots_alone_is_no_reason_to_fail(path: Path, start: Start, minter: Minter) -> None:
    server = start(timeout=0.5)
    server.restore(minter.bundle())
    with SecretStream(path, delta=True, node="roots") as roots:
        roots.ask("web:roots")
        roots.next()
        # Its time is over before that of the deployment is. Nobody who would serve the certificate is there.
        assert not server.deploy(minter.bundle(version=2))


@both_forms
def test_a_node_has_so_many_streams_and_others_have_theirs(
    path: Path, start: Start, minter: Minter, *, delta: bool
) -> None:
    server = start(most_streams=8, most_streams_of_one=2)
    server.restore(minter.bundle())

    def comes(node: str) -> bool:
        with SecretStream(path, delta=delta, node=node) as stream:
            stream.ask("web")
            try:
                return stream.take().name == "web"
            except grpc.RpcError:
                return False

    with (
        SecretStream(path, delta=delta, node="greedy") as one,
        SecretStream(path, delta=delta, node="greedy") as two,
        SecretStream(path, delta=delta, node="greedy") as three,
    ):
        for stream in (one, two):
            stream.ask("web")
            stream.take()
        three.ask("web")
        refused = _refused(three)
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.details() == "greedy has 2 streams, the most that one may have"
        assert comes("modest")
        assert not comes("greedy")
        two.close()
        assert eventually(lambda: comes("greedy"))


def test_a_stream_that_asks_for_nothing_is_ended(path: Path, start: Start, minter: Minter) -> None:
    server, second = start(ask_within=2.0), minter.bundle(version=2)
    server.restore(minter.bundle())
    with (
        SecretStream(path, delta=True) as asking,
        SecretStream(path, delta=True) as mute,
        ThreadPoolExecutor(1) as worker,
    ):
        asking.ask("web")
        asking.take()
        refused = _refused(mute)
        assert refused.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "nothing was asked for within 2 s" in str(refused.details())
        deployed = worker.submit(server.deploy, second)
        assert holds(asking.take(), second)
        assert deployed.result(20)
