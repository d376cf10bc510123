"""OCSP over a real socket: both methods, the short way and the long one, what caches may do, and garbage."""

import base64
import contextlib
import http.client
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import quote

import pytest
from starlette.applications import Starlette

from certd.errors import CertdError, Reason
from certd.pki import der
from certd.pki.ocsp_request import LONGEST_REQUEST, OcspRequest
from certd.services.ocsp import INTERNAL_ERROR, MALFORMED
from certd.services.ocsp_memory import Answer, AnswerMemory
from certd.web.app import out_of_bounds
from certd.web.ocsp import REQUEST_TYPE, RESPONSE_TYPE, asked_of, routes
from certd.web.ocsp_shortcut import shortcut
from certd.web.server import WebServer, serve
from tests.fakes import FakeClock

_UID = "0f5c6d7e8a9b0c1d2e3f405162738495"
_PATH = f"/ocsp/{_UID}/1"
_SHA1 = bytes.fromhex("300906052b0e03021a0500")


def _request(serial: int, hashed: bytes = bytes(range(0xEB, 0xFF))) -> bytes:
    named = der.sequence(_SHA1, der.octet_string(hashed), der.octet_string(hashed), der.integer(serial))
    return der.sequence(der.sequence(der.sequence(der.sequence(named))))


KEPT, PASSING, FOREIGN, BROKEN = _request(1), _request(2), _request(3), _request(4)


@dataclass
class Answers:
    """One certificate whose answer may be kept, one whose may not, one of nobody, and a defect."""

    clock: FakeClock
    memory: AnswerMemory = field(default_factory=AnswerMemory)
    asked: int = 0

    def submit(self, authority_uid: str, key_number: int, request: OcspRequest, asked: bytes) -> Future[Answer]:
        assert (authority_uid, key_number) == (_UID, 1)
        self.asked += 1
        future: Future[Answer] = Future()
        match request.certificates[0].serial:
            case 1:
                now = self.clock.now()
                answer = Answer(b"front", b"back", now, now + timedelta(days=2), '"tag"')
                self.memory.put(asked, "01", answer, version=self.memory.version)
                future.set_result(answer)
            case 2:
                future.set_result(Answer(b"passing"))
            case 3:
                future.set_exception(CertdError(Reason.AUTHORITY_NOT_FOUND, "nobody answers"))
            case _:
                future.set_exception(ValueError("a defect"))
        return future


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    listener: WebServer
    answers: Answers

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.listener.port, timeout=60)) as connection:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, told, response.read())

    def post(self, content: bytes, path: str = _PATH, **headers: str) -> Reply:
        headers.setdefault("Content_Type", REQUEST_TYPE)
        return self.ask("POST", path, content, **headers)

    def get(self, content: bytes, **headers: str) -> Reply:
        return self.ask("GET", f"{_PATH}/{quote(base64.b64encode(content), safe='')}", None, **headers)

    def raw(self, *pieces: bytes, replies: int = 1) -> list[Reply]:
        """Sends pieces, one after the other; returns so many replies, fewer if the server hangs up."""
        found: list[Reply] = []
        received = b""
        with socket.create_connection(("127.0.0.1", self.listener.port), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                connection.sendall(piece)
            while len(found) < replies and (part := connection.recv(65536)):
                received += part
                while (reply := _reply(received)) is not None:
                    found.append(reply[0])
                    received = reply[1]
        return found


def _reply(received: bytes) -> tuple[Reply, bytes] | None:
    """Returns the first reply and what comes after it; None when it is not whole."""
    head, end, rest = received.partition(b"\r\n\r\n")
    if not end:
        return None
    lines = head.decode().split("\r\n")
    told = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    # What the parser of HTTP refuses has no length: the connection ends after it.
    length = int(told.get("content-length", len(rest)))
    return None if len(rest) < length else (Reply(int(lines[0].split()[1]), told, rest[:length]), rest[length:])


@pytest.fixture(scope="module")
def listening() -> Iterator[Web]:
    answers = Answers(FakeClock())
    app = Starlette(routes=list(routes(answers, answers.clock, out_of_bounds)))
    quick = shortcut(answers.memory, answers.clock)
    running = Web(serve(app, host="127.0.0.1", port=0, shortcut=quick), answers)
    yield running
    running.listener.stop()


@pytest.fixture
def web(listening: Web) -> Web:
    listening.answers.memory.clear()
    listening.answers.asked = 0
    return listening


def _head(*headers: str, path: str = _PATH, length: int = len(KEPT)) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {REQUEST_TYPE}", f"Content-Length: {length}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_an_answer_that_was_signed_ahead_is_given_with_what_caches_need(web: Web) -> None:
    now = web.answers.clock.now()
    replies = [web.post(KEPT), web.post(KEPT), web.get(KEPT), web.get(KEPT)]
    assert web.answers.asked == 1
    for reply in replies:
        assert (reply.status, reply.body) == (200, b"frontback")
        told = reply.headers
        assert told["content-type"] == RESPONSE_TYPE
        assert told["cache-control"] == "max-age=172800, public, no-transform, must-revalidate"
        assert told["etag"] == '"tag"'
        assert told["last-modified"] == f"{now:%a, %d %b %Y %H:%M:%S} GMT"
        assert told["expires"] == f"{now + timedelta(days=2):%a, %d %b %Y %H:%M:%S} GMT"
        assert told["x-content-type-options"] == "nosniff"


def test_the_short_way_gives_what_the_long_one_does(web: Web) -> None:
    long = web.post(KEPT, Cookie="goes-the-long-way=1")
    short = web.raw(_head() + KEPT)[0]
    assert web.answers.asked == 1
    for reply in (long, short):
        reply.headers.pop("date")
    assert short == long


def test_the_age_shrinks_and_an_answer_at_its_end_is_signed_anew(web: Web) -> None:
    web.post(KEPT)
    web.answers.clock.advance(timedelta(days=1))
    assert web.post(KEPT).headers["cache-control"].startswith("max-age=86400,")
    web.answers.clock.advance(timedelta(days=1))
    assert web.post(KEPT).headers["cache-control"].startswith("max-age=172800,")
    assert web.answers.asked == 2


def test_nothing_else_may_be_kept(web: Web) -> None:
    for reply in (web.post(PASSING), web.get(PASSING), web.post(b"garbage")):
        assert (reply.status, reply.headers["cache-control"]) == (200, "no-store")
        assert "etag" not in reply.headers


def test_base64_may_stand_in_the_path_as_it_is(web: Web) -> None:
    plain = base64.b64encode(KEPT).decode()
    assert "/" in plain or "+" in plain
    for text in (plain, quote(plain, safe=""), quote(plain, safe="/+="), plain.replace("=", "%3d")):
        assert web.ask("GET", f"{_PATH}/{text}").body == b"frontback", text
    assert web.answers.asked == 1


def test_who_has_an_answer_is_told_so(web: Web) -> None:
    for tag in ('"tag"', 'W/"tag"', '"other", "tag"', "*"):
        reply = web.get(KEPT, If_None_Match=tag)
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", '"tag"')
    assert web.get(KEPT, If_None_Match='"other"').status == 200
    assert web.post(KEPT, If_None_Match='"tag"').status == 200
    assert web.ask("HEAD", f"{_PATH}/{quote(base64.b64encode(KEPT), safe='')}").status == 200


@pytest.mark.parametrize("content", [b"", b"\x30\x00", KEPT[:-1], KEPT + b"\x00", bytes(LONGEST_REQUEST)])
def test_what_is_no_request_is_malformed(web: Web, content: bytes) -> None:
    assert (web.post(content).status, web.post(content).body) == (200, MALFORMED.body)
    if 0 < len(content) < 1000:
        assert web.get(content).body == MALFORMED.body


@pytest.mark.parametrize("text", ["@", "MA", "M===", "MA==MA==", "MA%3D%3D%0A", "%00", "%FF%FE", "MA==/"])
def test_what_is_no_base64_is_malformed(web: Web, text: str) -> None:
    reply = web.ask("GET", f"{_PATH}/{text}")
    assert (reply.status, reply.body) == (200, MALFORMED.body)


def test_http_has_its_own_refusals(web: Web) -> None:
    assert web.post(KEPT, Content_Type="application/json").status == 415
    assert web.post(bytes(LONGEST_REQUEST + 1)).status == 413
    assert web.raw(_head(length=10**30))[0].status in {400, 413}
    assert web.ask("GET", f"{_PATH}/{'A' * 3000}").status == 414
    for path in ("/ocsp/UPPER/1", f"/ocsp/{_UID}/0", f"/ocsp/{_UID}/01", f"/ocsp/{_UID}/1.5"):
        assert web.post(KEPT, path).status == 404
    assert web.post(FOREIGN).status == 404
    assert web.ask("PUT", _PATH, KEPT).status == 405
    assert web.answers.asked == 1


def test_a_defect_is_an_answer_of_ocsp(web: Web) -> None:
    reply = web.post(BROKEN)
    assert (reply.status, reply.body, reply.headers["cache-control"]) == (200, INTERNAL_ERROR.body, "no-store")


def test_requests_in_pieces_or_behind_each_other_are_all_answered(web: Web) -> None:
    whole = _head() + KEPT
    assert [one.body for one in web.raw(whole)] == [b"frontback"]
    assert [one.body for one in web.raw(whole, whole, replies=2)] == [b"frontback"] * 2
    assert [one.body for one in web.raw(whole + whole + whole, replies=3)] == [b"frontback"] * 3
    assert [one.body for one in web.raw(whole[:30], whole[30:-7], whole[-7:] + whole, replies=2)] == [b"frontback"] * 2
    chunked = _head("Transfer-Encoding: chunked").replace(f"Content-Length: {len(KEPT)}\r\n".encode(), b"")
    body = f"{len(KEPT):x}\r\n".encode() + KEPT + b"\r\n0\r\n\r\n"
    assert [one.body for one in web.raw(chunked + body, whole, replies=2)] == [b"frontback"] * 2


@pytest.mark.parametrize(
    "headers",
    [
        ("Transfer-Encoding: chunked",),
        ("Content-Length: 5",),
        (f"Content-Length : {len(KEPT)}",),
        ("Connection: close",),
        ("Expect: 100-continue",),
        ("Upgrade: websocket", "Connection: upgrade"),
        (" folded",),
        ("Host: other",),
    ],
)
def test_what_means_something_in_http_goes_the_long_way(web: Web, headers: tuple[str, ...]) -> None:
    web.post(KEPT)
    quick = shortcut(web.answers.memory, web.answers.clock)
    assert quick(_head() + KEPT) is not None
    assert quick(_head(*headers) + KEPT) is None
    line = _head().partition(b"\r\n")[2]
    for first in (f"POST {_PATH} HTTP/1.0", f"POST {_PATH}?x HTTP/1.1", f"post {_PATH} HTTP/1.1", f"POST {_PATH}"):
        assert quick(first.encode() + b"\r\n" + line + KEPT) is None
    assert quick(_head().replace(b"Host: x\r\n", b"") + KEPT) is None
    assert quick(_head() + KEPT + b"P") is None


def test_memory_has_a_bound_and_forgets_what_has_become_wrong() -> None:
    memory = AnswerMemory(largest=10_000)
    now = FakeClock().now()
    for number in range(100):
        answer = Answer(bytes(100), b"", now, now + timedelta(days=1), '"x"')
        memory.put(asked_of(b"/p", bytes([number])), f"{number:02x}", answer, version=memory.version)
        assert memory.size <= 10_000
    assert memory.get(asked_of(b"/p", b"\x00")) is None
    last = asked_of(b"/p", bytes([99]))
    version = memory.version
    assert memory.get(last) is not None
    memory.forget(("uid", 1, f"{99:02x}"))
    assert memory.get(last) is None
    # What was read before is not kept any more, whatever it is about.
    memory.put(last, f"{99:02x}", Answer(b"late", b"", now, now), version=version)
    assert memory.get(last) is None
    memory.clear()
    assert memory.size == 0
