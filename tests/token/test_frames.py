"""Frames on a socket, and the two ends of a channel that know nothing of tokens."""

import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from certd.errors import CertdError, Reason, Violation
from certd.internal.ipc_pb2 import Call, Failure, Frame
from certd.ipc.channel import Channel, SpawnedChild
from certd.ipc.frames import MAXIMUM_FRAME_BYTES, FrameReader, encode, error_of, failure_of
from tests.waiting import eventually

_ECHO = """
import sys
from certd.errors import CertdError, Reason
from certd.ipc.child import Child, InheritedSocket, ReceivedCall, Replies

child = Child(InheritedSocket(int(sys.argv[2])))
child.start()
child.set_readiness(ready=True)
replies = Replies()
while (items := child.take(None)) is not None:
    # Last come, first served: replies may come in any order.
    for item in reversed(items):
        if item.payload == b"fail":
            replies.add(item, CertdError(Reason.RATE_LIMITED, "slower", retry_after=1.5, metadata={"a": "b"}))
        elif item.payload == b"unready":
            child.set_readiness(ready=False, problem="It is tired.")
        else:
            replies.add(item, item.payload)
    replies.flush()
"""


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def echo() -> Iterator[Channel]:
    channel = Channel(SpawnedChild((sys.executable, "-c", _ECHO)), name="echo", unavailable=Reason.SHUTTING_DOWN)
    channel.start()
    try:
        assert channel.wait_ready(20), channel.problem
        yield channel
    finally:
        channel.stop()


def frames(*payloads: bytes) -> list[Frame]:
    return [Frame(call=Call(call_id=number, payload=payload)) for number, payload in enumerate(payloads)]


def test_frames_arrive_whole_however_they_are_cut(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    sent = frames(b"", b"x" * 100_000, b"y")
    data = encode(sent)
    reader = FrameReader(theirs)

    def send() -> None:
        for start in range(0, len(data), 7_919):
            ours.sendall(data[start : start + 7_919])
        ours.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = []
    while whole := reader.read():
        received += whole
    sender.join(20)
    assert received == sent


def test_a_frame_that_ends_in_the_middle_is_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.sendall(encode(frames(b"abc"))[:-1])
    ours.shutdown(socket.SHUT_WR)
    assert FrameReader(theirs).read() == []


@pytest.mark.parametrize("garbage", [(MAXIMUM_FRAME_BYTES + 1).to_bytes(4), b"\0\0\0\1\xff"])
def test_what_is_no_frame_aborts(pair: tuple[socket.socket, socket.socket], garbage: bytes) -> None:
    ours, theirs = pair
    ours.sendall(garbage)
    with pytest.raises(ConnectionAbortedError):
        FrameReader(theirs).read()


def test_an_error_survives_the_journey() -> None:
    error = CertdError(
        Reason.FIELD_INVALID,
        "wrong",
        metadata={"ckr": "CKR_OK"},
        violations=(Violation("a.b", "must be c"),),
        retry_after=0.0001,
    )
    found = error_of(Failure.FromString(failure_of(error).SerializeToString()))
    assert (found.reason, found.message, found.metadata, found.violations) == (
        error.reason,
        error.message,
        error.metadata,
        error.violations,
    )
    assert found.retry_after == 0.001
    assert error_of(Failure(reason="OF_THE_FUTURE", message="what")).reason is Reason.INTERNAL
    assert error_of(Failure(reason="INTERNAL")).retry_after is None


def test_every_caller_gets_its_own_answer(echo: Channel) -> None:
    answers: dict[bytes, bytes] = {}

    def ask(number: int) -> None:
        payload = str(number).encode() * (number + 1)
        answers[payload] = echo.call(payload, timeout=20)

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert len(answers) == 64
    assert all(asked == answered for asked, answered in answers.items())


def test_the_child_s_failure_is_raised(echo: Channel) -> None:
    with pytest.raises(CertdError, match="slower") as caught:
        echo.call(b"fail", timeout=20)
    assert (caught.value.reason, caught.value.retry_after, caught.value.metadata) == (
        Reason.RATE_LIMITED,
        1.5,
        {"a": "b"},
    )


def test_large_answers_pass_and_too_large_requests_do_not(echo: Channel) -> None:
    large = b"z" * (8 * 1024 * 1024)
    assert echo.call(large, timeout=20) == large
    with pytest.raises(CertdError, match="exceeds") as caught:
        echo.call(b"z" * (MAXIMUM_FRAME_BYTES + 1), timeout=20)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert echo.call(b"still here", timeout=20) == b"still here"


def test_a_child_that_says_it_is_not_ready_gets_no_calls(echo: Channel) -> None:
    with pytest.raises(CertdError) as caught:
        echo.call(b"unready", timeout=0.05)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    eventually(lambda: not echo.ready)
    assert echo.problem == "It is tired."
    with pytest.raises(CertdError, match=r"It is tired\.") as caught:
        echo.call(b"anything", timeout=20)
    assert (caught.value.reason, caught.value.retry_after is not None) == (Reason.SHUTTING_DOWN, True)


def test_a_listener_that_fails_harms_nobody(echo: Channel, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[bool] = []

    def fail(_ready: bool, _problem: str) -> None:  # noqa: FBT001  # The channel's callbacks take it by position.
        raise ValueError("a bug")

    echo.on_change(fail)
    echo.on_change(lambda ready, _problem: heard.append(ready))
    with pytest.raises(CertdError):
        echo.call(b"unready", timeout=0.05)
    eventually(lambda: heard == [False])
    assert "a listener of the echo failed" in caplog.text
