"""Webhooks, posted to a real receiver over HTTPS."""

import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from certd import __version__
from certd.api.events import event_message
from certd.errors import CertdError, Reason
from certd.model.delivery import Answer, Outcome, event_document
from certd.model.event import Event, EventType, NumberedEvent
from certd.model.subscription import WebhookTarget
from certd.outbound import webhook
from certd.outbound.addresses import Reach, SocketAddress, system_resolve
from certd.outbound.message import Message
from certd.outbound.webhook import Webhooks
from certd.v1 import event_pb2
from tests.fakes_server import make_leaf, make_root
from tests.webhooks import Receiver, answering, listening, running_receiver, send

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
EVENT = NumberedEvent(
    seq=42,
    event=Event(
        time=NOW,
        type=EventType.MANAGED_CERTIFICATE_RENEWED,
        tenant="default",
        principal="certd",
        resource="tenants/default/managedCertificates/web",
        details={"version": "2", "name": "Straße \N{SNOWMAN}"},
    ),
    chain_hash=bytes(range(32)),
)
MESSAGE = Message(message_id="events/42:abc", event=EVENT, secrets=(b"new" * 8, b"old" * 8))
LOOPBACK = Reach(networks=(ipaddress.IPv4Network("127.0.0.1/32"),), resolve=lambda _host, port: [("127.0.0.1", port)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("receiver")


@pytest.fixture
def receiver(folder: Path) -> Iterator[Receiver]:
    with running_receiver(folder) as running:
        yield running


def _post(receiver: Receiver, *, reach: Reach = LOOPBACK, url: str = "", roots: str | None = None) -> Answer:
    target = WebhookTarget(url=url or receiver.url, trusted_roots=receiver.roots if roots is None else roots)
    with Webhooks(reach).session() as session:
        return session.post(target, MESSAGE, NOW)


def test_an_event_is_posted_signed(receiver: Receiver) -> None:
    assert _post(receiver) == Answer(outcome=Outcome.TAKEN)
    (received,) = receiver.taken
    assert received.path == "/hook?key=1"
    assert received.headers["host"] == f"localhost:{receiver.port}"
    assert received.headers["user-agent"] == f"certd/{__version__}"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["webhook-id"] == "events/42:abc"
    assert received.headers["webhook-timestamp"] == str(int(NOW.timestamp()))
    assert len(received.headers["webhook-signature"].split(" ")) == 2
    assert received.signed_by(b"new" * 8)
    assert received.signed_by(b"old" * 8)
    assert not received.signed_by(b"other")
    event = json_format.Parse(received.body, event_pb2.Event())
    assert (event.name, event.seq, event.details["name"]) == ("events/42", 42, "Straße \N{SNOWMAN}")


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    seq=st.integers(1, 2**63 - 1),
    moment=st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001  # Bounds are naive.
    tenant=st.none() | st.just("default"),
    texts=st.tuples(_TEXT, _TEXT),
    details=st.dictionaries(_TEXT, _TEXT, max_size=4),
    chain_hash=st.binary(max_size=40),
)
def test_the_body_is_the_json_mapping_of_the_message(
    seq: int,
    moment: datetime,
    tenant: str | None,
    texts: tuple[str, str],
    details: dict[str, str],
    chain_hash: bytes,
) -> None:
    event = Event(
        time=moment,
        type=EventType.CALL_REFUSED,
        tenant=tenant,
        principal=texts[0],
        resource=texts[1],
        details=details,
    )
    numbered = NumberedEvent(seq=seq, event=event, chain_hash=chain_hash)
    assert event_document(numbered) == json_format.MessageToDict(event_message(numbered))


def test_no_other_root_and_no_other_name_will_do(receiver: Receiver, folder: Path) -> None:
    other = make_root("Another").certificate_pem.decode()
    for roots in (other, ""):
        answer = _post(receiver, roots=roots)
        assert answer.outcome is Outcome.AWAY
        assert "certificate is not trusted" in answer.error
    answer = _post(receiver, url=f"https://other.example:{receiver.port}/")
    assert "certificate is not trusted" in answer.error
    assert "mismatch" in answer.error
    expired = folder / "expired"
    expired.mkdir()
    root = make_root()
    (expired / "receiver-root.pem").write_bytes(root.certificate_pem)
    leaf = make_leaf(root, "localhost", days=-1)
    (expired / "receiver.pem").write_bytes(leaf.key_pem + leaf.certificate_pem)
    with running_receiver(expired) as late:
        assert "expired" in _post(late).error
        assert not late.received
    assert not receiver.received


def test_old_tls_is_not_spoken() -> None:
    context = webhook._trust("", 0)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
def test_redirections_are_not_followed(receiver: Receiver, status: int) -> None:
    receiver.answer = answering(status, Location=receiver.url)
    answer = _post(receiver)
    assert answer.outcome is Outcome.REFUSED
    assert f"{status}" in answer.error
    assert "redirections are not followed" in answer.error
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Outcome.TAKEN) for status in (200, 201, 202, 204, 299)),
        *((status, Outcome.REFUSED) for status in (400, 401, 403, 404, 410, 413, 422, 451)),
        *((status, Outcome.AWAY) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
    ],
)
def test_what_an_answer_means(receiver: Receiver, status: int, outcome: Outcome) -> None:
    receiver.answer = answering(status, b"" if status == 204 else b"as\r\nit\x00 is")
    answer = _post(receiver)
    assert answer.outcome is outcome
    assert answer.error == "" if outcome is Outcome.TAKEN else answer.error.endswith(": as it is")
    assert answer.perhaps_the_event == (status == 500)


def test_when_to_come_again(receiver: Receiver) -> None:
    for text, expected in (
        ("7", timedelta(seconds=7)),
        ("99999999", timedelta(days=1)),
        (format_datetime(NOW + timedelta(minutes=2), usegmt=True), timedelta(minutes=2)),
        (format_datetime(NOW - timedelta(minutes=2), usegmt=True), None),
        ("-1", None),
        ("soon", None),
        ("\N{SUPERSCRIPT TWO}", None),
    ):
        receiver.answer = answering(429, Retry_After=text)
        assert _post(receiver).retry_after == expected, text
    receiver.answer = answering(400, Retry_After="7")
    assert _post(receiver).retry_after is None


def test_a_huge_answer_is_not_read(receiver: Receiver) -> None:
    gone = threading.Event()

    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(500, "x" * 2000)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"y" * 65_536)
        except OSError:
            gone.set()

    receiver.answer = flood
    answer = _post(receiver)
    assert len(answer.error) < 400
    assert "y" * webhook.MOST_READ not in answer.error
    assert gone.wait(10)


@pytest.mark.parametrize("before", [b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"])
def test_what_comes_in_drips_ends_with_the_deadline(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    """What was said before the drips counts: a status that came whole is an answer."""
    gone = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(before)
        try:
            while not gone.wait(0.02):
                handler.wfile.write(b"a")
        except OSError:
            gone.set()

    target = WebhookTarget(url=receiver.url, trusted_roots=receiver.roots)
    with Webhooks(LOOPBACK).session() as session:
        # A handshake may take as long as the time that the drips get.
        assert session.post(target, MESSAGE, NOW).outcome is Outcome.TAKEN
        monkeypatch.setattr(webhook, "LONGEST", 0.3)
        receiver.answer = drip
        began = time.monotonic()
        answer = session.post(target, MESSAGE, NOW)
    assert time.monotonic() - began < 5
    if before.endswith(b"\r\n\r\n"):
        assert answer == Answer(outcome=Outcome.TAKEN)
    else:
        assert answer == Answer(outcome=Outcome.AWAY, error="the target does not answer in time")
    assert gone.wait(5)


def test_who_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the handshake nor the answer."""
    monkeypatch.setattr(webhook, "LONGEST", 0.2)
    with listening() as silent:
        answer = _post(Receiver(port=silent.getsockname()[1]))
    assert (answer.outcome, answer.error) == (Outcome.AWAY, "the target does not answer in time")


@pytest.mark.parametrize(
    "words", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 999999 \r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a:b\r\n" * 200]
)
def test_what_is_no_http_is_no_answer(receiver: Receiver, words: bytes) -> None:
    def speak(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(words)
        handler.close_connection = True

    receiver.answer = speak
    assert _post(receiver).outcome is Outcome.AWAY


def test_nobody_there(receiver: Receiver) -> None:
    with listening() as gone:
        url = f"https://localhost:{gone.getsockname()[1]}/"
    answer = _post(receiver, url=url)
    assert (answer.outcome, answer.error) == (Outcome.AWAY, "the target cannot be reached: Connection refused")
    nowhere = Reach(resolve=lambda _host, _port: [])
    assert _post(receiver, reach=nowhere).error == "the target's name has no address"


@pytest.mark.parametrize(
    "url", ["http://localhost/", "https://", "https://user:word@localhost/", "https://localhost:99999/", "ftp://x/"]
)
def test_what_is_no_target(receiver: Receiver, url: str) -> None:
    answer = _post(receiver, url=url)
    assert (answer.outcome, answer.error) == (
        Outcome.AWAY,
        "the target's URL or its trusted_roots are not what they must be",
    )
    assert _post(receiver, roots="no PEM").outcome is Outcome.AWAY


def test_a_blocked_address_looks_the_same_whether_something_listens(receiver: Receiver) -> None:
    with listening() as gone:
        port = gone.getsockname()[1]
    inside = Reach(resolve=system_resolve)
    listens = _post(receiver, reach=inside)
    does_not = _post(receiver, reach=inside, url=f"https://localhost:{port}/hook")
    assert listens == does_not
    assert listens.outcome is Outcome.AWAY
    assert listens.error.startswith("TARGET_NOT_ALLOWED: ")
    assert "127.0.0.1" not in listens.error
    assert receiver.connections == 0
    with pytest.raises(CertdError) as raised:
        Webhooks(inside).check(receiver.url)
    assert raised.value.reason is Reason.TARGET_NOT_ALLOWED
    Webhooks(LOOPBACK).check(receiver.url)
    Webhooks(Reach(resolve=lambda _host, _port: [])).check(receiver.url)


def test_names_that_take_long_hold_few_who_check_them() -> None:
    goes_on, asked = threading.Event(), threading.Semaphore(0)

    def slowly(_host: str, _port: int) -> list[SocketAddress]:
        asked.release()
        goes_on.wait(10)
        return [("127.0.0.1", 443)]

    def check() -> None:
        with suppress(CertdError):
            Webhooks(Reach(resolve=slowly)).check("https://slow.example/")

    first = [threading.Thread(target=check) for _ in range(4)]
    for each in first:
        each.start()
    try:
        for _ in first:
            assert asked.acquire(timeout=10)
        # The next one is not looked at; whether anything goes there is decided when it is delivered.
        Webhooks(Reach(resolve=lambda _host, _port: [("127.0.0.1", 443)])).check("https://inside.example/")
    finally:
        goes_on.set()
        for each in first:
            each.join(10)
    with pytest.raises(CertdError, match="TARGET_NOT_ALLOWED"):
        Webhooks(Reach(resolve=lambda _host, _port: [("127.0.0.1", 443)])).check("https://inside.example/")


def test_a_name_that_means_something_else_a_moment_later_gains_nothing(folder: Path) -> None:
    """The second look would lead to another receiver; there is no second look."""
    with (
        running_receiver(folder) as outside,
        running_receiver(folder, host="127.0.0.2", port=outside.port) as inside,
    ):
        looks: list[str] = []

        def rebinding(host: str, port: int) -> Sequence[SocketAddress]:
            looks.append(host)
            return [("127.0.0.1" if len(looks) == 1 else "127.0.0.2", port)]

        reach = Reach(networks=LOOPBACK.networks, resolve=rebinding)
        assert _post(outside, reach=reach).outcome is Outcome.TAKEN
        assert looks == ["localhost"]
        assert (outside.connections, inside.connections) == (1, 0)
        assert _post(outside, reach=reach).error.startswith("TARGET_NOT_ALLOWED")
        assert inside.connections == 0


def test_events_of_one_run_go_over_one_connection(receiver: Receiver) -> None:
    target = WebhookTarget(url=receiver.url, trusted_roots=receiver.roots)
    refusing = answering(400, b"no")
    with Webhooks(LOOPBACK).session() as session:
        for answer in (None, refusing, None):
            receiver.answer = answer
            session.post(target, MESSAGE, NOW)
        assert (len(receiver.received), receiver.connections) == (3, 1)
        # A connection of which not all was read is not used again.
        receiver.answer = answering(200, b"x" * (webhook.MOST_READ + 1))
        assert session.post(target, MESSAGE, NOW).outcome is Outcome.TAKEN
        receiver.answer = None
        assert session.post(target, MESSAGE, NOW).outcome is Outcome.TAKEN
        assert receiver.connections == 2
        other = replace(target, trusted_roots=make_root("Another").certificate_pem.decode())
        assert "not trusted" in session.post(other, MESSAGE, NOW).error
        assert session.post(target, MESSAGE, NOW).outcome is Outcome.TAKEN
        assert receiver.connections == 4


def test_a_connection_that_was_ended_there_is_made_again(receiver: Receiver) -> None:
    target = WebhookTarget(url=receiver.url, trusted_roots=receiver.roots)

    def answer_once(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 204)
        handler.close_connection = True

    receiver.answer = answer_once
    with Webhooks(LOOPBACK).session() as session:
        for _ in range(3):
            assert session.post(target, MESSAGE, NOW).outcome is Outcome.TAKEN
    assert (len(receiver.received), receiver.connections) == (3, 3)


def test_no_proxy_of_the_environment_is_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as proxy:
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert _post(receiver).outcome is Outcome.TAKEN


def test_no_secret_shows(receiver: Receiver) -> None:
    assert "newnew" not in repr(MESSAGE)
    assert b"newnew" not in json.dumps(event_document(EVENT)).encode()
    _post(receiver)
    assert b"newnew" not in receiver.received[0].body
