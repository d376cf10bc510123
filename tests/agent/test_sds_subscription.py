"""The rules of discovery: what a stream is offered, when, and what its answers mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.agent.sds_subscription import (
    MOST_NAMES,
    TYPE_URL,
    Answer,
    NotUnderstood,
    Offer,
    Published,
    Subscription,
    printable,
)
from certd.envoy.secrets_pb2 import DeltaDiscoveryRequest, DiscoveryRequest, Node, Status

KNOWN = ("web", "api", "web:roots")


def secret(name: str = "web", version: str = "1") -> Published:
    return Published(name=name, content=version, version=version, value=f"{name} {version}".encode())


def published(*secrets: Published) -> dict[str, Published]:
    return {each.name: each for each in secrets}


def asked(*names: str, nonce: str = "", version: str = "", error: str | None = None) -> DiscoveryRequest:
    detail = None if error is None else Status(code=13, message=error)
    return DiscoveryRequest(
        type_url=TYPE_URL, resource_names=names, response_nonce=nonce, version_info=version, error_detail=detail
    )


def delta(
    *names: str,
    no_more: tuple[str, ...] = (),
    nonce: str = "",
    error: str | None = None,
    has: dict[str, str] | None = None,
) -> DeltaDiscoveryRequest:
    detail = None if error is None else Status(code=13, message=error)
    return DeltaDiscoveryRequest(
        type_url=TYPE_URL,
        resource_names_subscribe=names,
        resource_names_unsubscribe=no_more,
        response_nonce=nonce,
        error_detail=detail,
        initial_resource_versions=has,
    )


def offered(stream: Subscription, there: dict[str, Published]) -> Offer:
    offer = stream.offer(there)
    assert offer is not None
    return offer


class TestStateOfTheWorld:
    def test_nothing_is_offered_before_it_is_asked_for_and_is_there(self) -> None:
        stream = Subscription(KNOWN)
        assert stream.offer(published(secret())) is None
        stream.take(asked("web"))
        assert stream.offer({}) is None
        assert offered(stream, published(secret("api"), secret())).secret == secret()

    def test_one_offer_at_a_time_and_each_version_once(self) -> None:
        stream = Subscription(KNOWN)
        stream.take(asked("web", "api"))
        there = published(secret(), secret("api"))
        first = offered(stream, there)
        assert stream.offer(there) is None
        assert stream.take(asked("web", "api", nonce=first.nonce, version="1")) == Answer(secret=secret(), refusal=None)
        second = offered(stream, there)
        assert (second.secret.name, second.nonce != first.nonce) == ("api", True)
        stream.take(asked("web", "api", nonce=second.nonce, version="1"))
        assert stream.offer(there) is None
        newer = published(secret(version="2"), secret("api"))
        assert offered(stream, newer).secret == secret(version="2")

    def test_an_answer_about_an_earlier_offer_is_passed_over_with_its_names(self) -> None:
        stream = Subscription(KNOWN)
        stream.take(asked("web"))
        first = offered(stream, published(secret()))
        stream.take(asked("web", nonce=first.nonce, version="1"))
        second = offered(stream, published(secret(version="2")))
        assert stream.take(asked(nonce=first.nonce, version="1")) is None
        assert stream.asks_for("web")
        assert stream.answer(secret(version="2")) is None
        assert stream.take(asked("web", nonce=second.nonce, version="2")) is not None

    def test_names_change_without_an_offer_between(self) -> None:
        stream = Subscription(KNOWN)
        stream.take(asked("web"))
        stream.take(asked("web", "api"))
        assert offered(stream, published(secret("api"))).secret.name == "api"

    def test_who_stops_asking_and_asks_again_gets_it_again(self) -> None:
        stream = Subscription(KNOWN)
        stream.take(asked("web"))
        first = offered(stream, published(secret()))
        stream.take(asked("web", nonce=first.nonce, version="1"))
        stream.take(asked(nonce=first.nonce, version="1"))
        assert not stream.asks_for("web")
        assert stream.offer(published(secret(version="2"))) is None
        stream.take(asked("web", nonce=first.nonce, version="1"))
        assert offered(stream, published(secret())).secret == secret()

    def test_a_stream_that_comes_again_is_sent_what_is_there(self) -> None:
        # Whether that is what it has cannot be told: it names one version for all.
        stream = Subscription(KNOWN)
        stream.take(asked("web", version="1", nonce="7"))
        assert offered(stream, published(secret())).secret == secret()


class TestRefusal:
    def test_it_is_not_offered_again_and_the_one_before_is(self) -> None:
        stream = Subscription(KNOWN)
        stream.take(asked("web"))
        first = offered(stream, published(secret()))
        stream.take(asked("web", nonce=first.nonce, version="1"))
        second = offered(stream, published(secret(version="2")))
        answer = stream.take(asked("web", nonce=second.nonce, version="1", error="bad key"))
        assert answer == Answer(secret=secret(version="2"), refusal="bad key")
        assert stream.answer(secret(version="2")) == answer
        assert stream.offer(published(secret(version="2"))) is None
        third = offered(stream, published(secret()))
        stream.take(asked("web", nonce=third.nonce, version="1"))
        assert stream.answer(secret()) == Answer(secret=secret(), refusal=None)
        # Taken anew after something else, it may be offered once more.
        assert offered(stream, published(secret(version="2"))).secret == secret(version="2")

    def test_the_other_secrets_go_on(self) -> None:
        stream = Subscription(KNOWN)
        stream.take_delta(delta("web", "api"))
        first = offered(stream, published(secret(), secret("api")))
        stream.take_delta(delta(nonce=first.nonce, error="bad key"))
        assert offered(stream, published(secret(), secret("api"))).secret.name == "api"

    def test_the_words_of_a_stranger_are_one_line_and_hold_no_key(self) -> None:
        stream = Subscription(KNOWN)
        stream.take(asked("web"))
        first = offered(stream, published(secret()))
        words = "Failed\nto \x1b[31mload " + "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg" + " it" * 400
        answer = stream.take(asked("web", nonce=first.nonce, error=words))
        assert answer is not None
        assert answer.refusal is not None
        assert answer.refusal.startswith("Failed to [31mload … it it")
        assert len(answer.refusal) <= 512

    def test_one_without_words_is_one_all_the_same(self) -> None:
        stream = Subscription(KNOWN)
        stream.take_delta(delta("web"))
        first = offered(stream, published(secret()))
        answer = stream.take_delta(delta(nonce=first.nonce, error=""))
        assert answer is not None
        assert answer.refusal == "it gave no reason"


class TestDelta:
    def test_names_are_added_and_taken_away(self) -> None:
        stream = Subscription(KNOWN)
        stream.take_delta(delta("web"))
        stream.take_delta(delta("api"))
        assert stream.asks_for("web")
        assert stream.asks_for("api")
        stream.take_delta(delta(no_more=("web",)))
        assert not stream.asks_for("web")
        assert offered(stream, published(secret(), secret("api"))).secret.name == "api"

    def test_what_it_has_from_an_earlier_stream_is_not_sent_again(self) -> None:
        stream = Subscription(KNOWN)
        stream.take_delta(delta("web", "api", has={"web": "1", "api": "0", "gone": "5"}))
        assert stream.answer(secret()) == Answer(secret=secret(), refusal=None)
        assert offered(stream, published(secret(), secret("api"))).secret.name == "api"

    def test_only_the_first_request_tells_what_it_has(self) -> None:
        stream = Subscription(KNOWN)
        stream.take_delta(delta("api"))
        stream.take_delta(delta("web", has={"web": "1"}))
        assert offered(stream, published(secret())).secret == secret()

    def test_who_asks_again_gets_it_again(self) -> None:
        stream = Subscription(KNOWN)
        stream.take_delta(delta("web"))
        first = offered(stream, published(secret()))
        stream.take_delta(delta(nonce=first.nonce))
        assert stream.offer(published(secret())) is None
        stream.take_delta(delta("web"))
        assert offered(stream, published(secret())).secret == secret()

    def test_names_come_while_an_answer_is_awaited(self) -> None:
        stream = Subscription(KNOWN)
        stream.take_delta(delta("web"))
        first = offered(stream, published(secret()))
        assert stream.take_delta(delta("api")) is None
        assert stream.offer(published(secret("api"))) is None
        answer = stream.take_delta(delta(nonce=first.nonce))
        assert answer is not None
        assert offered(stream, published(secret(), secret("api"))).secret.name == "api"

    def test_an_unknown_nonce_answers_nothing(self) -> None:
        stream = Subscription(KNOWN)
        stream.take_delta(delta("web"))
        offered(stream, published(secret()))
        assert stream.take_delta(delta(nonce="99")) is None
        assert stream.answer(secret()) is None


def test_what_there_cannot_be_is_waited_for_and_named() -> None:
    stream = Subscription(KNOWN)
    stream.take(asked("web", "nobody\n", "*"))
    assert set(stream.unknown) == {"nobody", "*"}
    assert not stream.asks_for("nobody\n")


def test_the_other_side_has_a_name() -> None:
    stream = Subscription(KNOWN)
    stream.take(DiscoveryRequest(node=Node(id="edge-1", cluster="edge\n2"), resource_names=["web"]))
    assert stream.node == "edge-1 of cluster edge 2"


def test_too_many_names_are_refused() -> None:
    names = ["web"] * (MOST_NAMES + 1)
    with pytest.raises(NotUnderstood):
        Subscription(KNOWN).take(DiscoveryRequest(resource_names=names))
    for request in (
        DeltaDiscoveryRequest(resource_names_subscribe=names),
        DeltaDiscoveryRequest(resource_names_unsubscribe=names),
    ):
        with pytest.raises(NotUnderstood):
            Subscription(KNOWN).take_delta(request)


def test_nothing_but_secrets_is_served() -> None:
    url = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    with pytest.raises(NotUnderstood):
        Subscription(KNOWN).take(DiscoveryRequest(type_url=url))
    with pytest.raises(NotUnderstood):
        Subscription(KNOWN).take_delta(DeltaDiscoveryRequest(type_url=url))


@given(st.text(), st.integers(min_value=1, max_value=40))
def test_a_line_for_people_is_one(text: str, longest: int) -> None:
    line = printable(text, longest=longest)
    assert len(line) <= longest
    assert line.isprintable()


_ACTIONS = st.lists(
    st.tuples(st.sampled_from(["publish", "ask", "leave", "answer", "refuse"]), st.sampled_from(["web", "api"])),
    max_size=40,
)


@given(_ACTIONS)
def test_whatever_happens_the_other_side_ends_with_what_is_there(actions: list[tuple[str, str]]) -> None:
    """A model of Envoy: what it asks for and does not refuse, it has in the end; and no offer is made for ever."""
    stream = Subscription(KNOWN)
    stream.take_delta(delta())
    there: dict[str, Published] = {}
    has: dict[str, str] = {}
    wants: set[str] = set()
    pending: Offer | None = None
    number = 0

    def settle(*, error: str | None = None) -> None:
        nonlocal pending
        pending = pending or stream.offer(there)
        if pending is None:
            return
        name, version = pending.secret.name, pending.secret.version
        if error is None and name in wants:
            has[name] = version
        stream.take_delta(delta(nonce=pending.nonce, error=error))
        pending = None

    for action, name in actions:
        if action == "publish":
            number += 1
            there[name] = secret(name, str(number))
        elif action == "ask":
            wants.add(name)
            stream.take_delta(delta(name))
        elif action == "leave":
            wants.discard(name)
            has.pop(name, None)
            stream.take_delta(delta(no_more=(name,)))
        else:
            settle(error=None if action == "answer" else "no")
    for name in wants:
        number += 1
        there[name] = secret(name, str(number))
    for _ in range(10):
        settle()
    assert stream.offer(there) is None
    assert {name: has.get(name) for name in wants} == {name: there[name].version for name in wants}
