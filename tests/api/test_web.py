"""HTTP over a real socket: authority certificates, conditional requests, health, metrics, limits."""

import contextlib
import hashlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

import pytest
import structlog
from cryptography import x509
from prometheus_client import CollectorRegistry, Counter
from starlette.applications import Starlette

from certd.errors import CertdError, Reason
from certd.model.revocation_list import RevocationList
from certd.pki.ocsp_request import OcspRequest
from certd.services.ocsp_memory import AnswerMemory
from certd.web import server, status
from certd.web.app import LONGEST_PATH, application
from certd.web.server import WebServer, serve, serve_metrics
from tests.api.edge_server import LEAF, TENANT_ROOT
from tests.fakes import FakeClock

_UID = "0f5c6d7e8a9b0c1d2e3f405162738495"


class Books:
    """Chains of one authority, and health."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.found: list[str] = []
        self.troubles: list[str] = []

    def authority_chain(self, uid: str, key_number: int) -> tuple[bytes, ...]:
        if self.error is not None:
            raise self.error
        if (uid, key_number) != (_UID, 1):
            raise CertdError(Reason.AUTHORITY_NOT_FOUND, "no authority has this uid and key number")
        return (LEAF.der, TENANT_ROOT.der)

    def problems(self) -> list[str]:
        if self.error is not None:
            raise self.error
        return self.found

    def complaints(self) -> list[str]:
        return self.troubles

    def find(self, uid: str, key_number: int, partition: int) -> RevocationList:
        raise CertdError(Reason.REVOCATION_LIST_NOT_FOUND, f"no CRL {partition} of {uid} and {key_number}")

    def content(self, found: RevocationList) -> bytes:
        raise CertdError(Reason.REVOCATION_LIST_NOT_FOUND, f"no CRL {found.key}")


class Unanswering:
    """Answers about the status of no certificate."""

    memory = AnswerMemory()

    def submit(self, authority_uid: str, key_number: int, request: OcspRequest, asked: bytes) -> Future[Any]:
        raise CertdError(Reason.AUTHORITY_NOT_FOUND, f"no {request} of {authority_uid}, {key_number}: {asked!r}")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        parsed: dict[str, object] = json.loads(self.body)
        return parsed


@dataclass
class Web:
    listener: WebServer
    books: Books
    connections: list[http.client.HTTPConnection] = field(default_factory=list)

    def connection(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.listener.port, timeout=20)
        self.connections.append(connection)
        return connection

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = self.connection()
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def _application(books: Books) -> Starlette:
    return application(chains=books, lists=books, answers=Unanswering(), health=books, clock=FakeClock())


@contextlib.contextmanager
def _running() -> Iterator[Web]:
    books = Books()
    running = Web(serve(_application(books), host="127.0.0.1", port=0), books)
    try:
        yield running
    finally:
        for connection in running.connections:
            connection.close()
        running.listener.stop()


@pytest.fixture(scope="module")
def listening() -> Iterator[Web]:
    """One listener for all: its stop takes a fifth of a second."""
    with _running() as running:
        yield running


@pytest.fixture
def web(listening: Web) -> Iterator[Web]:
    listening.books.error, listening.books.found = None, []
    yield listening
    for connection in listening.connections:
        connection.close()
    listening.connections.clear()


def test_a_certificate_comes_as_der(web: Web) -> None:
    answer = web.get(f"/ca/{_UID}/1.cer")
    assert (answer.status, answer.body) == (200, LEAF.der)
    assert answer.headers["content-type"] == "application/pkix-cert"
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.headers["etag"] == f'"{hashlib.sha256(LEAF.der).hexdigest()[:32]}"'
    assert answer.headers["last-modified"] == format_datetime(LEAF.certificate.not_valid_before_utc, usegmt=True)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-length"] == str(len(LEAF.der))
    assert "server" not in answer.headers


def test_a_chain_comes_as_pem_the_certificate_first(web: Web) -> None:
    answer = web.get(f"/ca/{_UID}/1.pem")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/pem-certificate-chain"
    assert x509.load_pem_x509_certificates(answer.body) == [LEAF.certificate, TENANT_ROOT.certificate]
    assert answer.headers["etag"] != web.get(f"/ca/{_UID}/1.cer").headers["etag"]


def test_head_has_the_headers_alone(web: Web) -> None:
    answer = web.get(f"/ca/{_UID}/1.cer", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(LEAF.der))


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', '{}, "other"', "*"])
def test_who_has_it_is_not_sent_it_again(web: Web, form: str) -> None:
    tag = web.get(f"/ca/{_UID}/1.cer").headers["etag"]
    answer = web.get(f"/ca/{_UID}/1.cer", If_None_Match=form.format(tag))
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["etag"] == tag
    assert answer.headers["cache-control"] == "public, max-age=3600"


def test_dates_decide_where_there_is_no_tag(web: Web) -> None:
    modified = web.get(f"/ca/{_UID}/1.cer").headers["last-modified"]

    def status_of(**headers: str) -> int:
        return web.get(f"/ca/{_UID}/1.cer", **headers).status

    assert status_of(If_Modified_Since=modified) == 304
    assert status_of(If_Modified_Since="Fri, 01 Jan 2100 00:00:00 -0000") == 304
    assert status_of(If_Modified_Since="Fri, 01 Jan 2100 00:00:00 +9999999999999") == 200
    assert status_of(If_Modified_Since="Fri, 01 Jan 99999999999999999999 00:00:00 GMT") == 200
    assert status_of(If_Modified_Since="Thu, 01 Jan 2015 00:00:00 GMT") == 200
    assert status_of(If_Modified_Since="yesterday") == 200
    assert status_of(If_Modified_Since="Thu, 99 Jan 2015 00:00:00 GMT") == 200
    # The tag wins.
    assert status_of(If_Modified_Since=modified, If_None_Match='"other"') == 200


@pytest.mark.parametrize(
    "path",
    [
        "/ca/unknown/1.cer",
        f"/ca/{_UID}/2.cer",
        f"/ca/{_UID}/0.cer",
        f"/ca/{_UID}/01.cer",
        f"/ca/{_UID}/-1.cer",
        f"/ca/{_UID}/9999999999999999999999.cer",
        f"/ca/{_UID}/%31%00.cer",
        f"/ca/{_UID.upper()}/1.cer",
        f"/ca/{'a' * 65}/1.pem",
        "/ca/..%2f..%2fetc/1.cer",
        f"/ca/{_UID}/1.crt",
        f"/ca/{_UID}/1.cer/",
        "/",
        "/docs",
        "/openapi.json",
        "/metrics",
    ],
)
def test_what_is_not_there_is_not_found_in_one_form(web: Web, path: str) -> None:
    answer = web.get(path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json["status"] == 404
    assert answer.json["detail"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "BREW"])
def test_other_methods_are_not_allowed(web: Web, method: str) -> None:
    answer = web.get(f"/ca/{_UID}/1.cer", method)
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert answer.json["detail"] == "only GET and HEAD are served here, and POST for OCSP"


def test_every_reason_has_a_status() -> None:
    assert set(status.STATUSES) == set(Reason)


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.INTERNAL])
def test_every_reason_is_answered(web: Web, reason: Reason) -> None:
    web.books.error = CertdError(reason, "the check failed; the remedy")
    answer = web.get(f"/ca/{_UID}/1.cer")
    assert answer.status == status.STATUSES[reason]
    assert answer.json == {
        "status": answer.status,
        "title": HTTPStatus(answer.status).phrase,
        "detail": "the check failed; the remedy",
        "reason": reason,
    }
    assert ("retry-after" in answer.headers) == (answer.status in {429, 503})


def test_a_failure_says_when_to_come_again(web: Web) -> None:
    web.books.error = CertdError(Reason.STORE_UNAVAILABLE, "later", retry_after=2.2)
    assert web.get(f"/ca/{_UID}/1.cer").headers["retry-after"] == "3"


@pytest.mark.parametrize("error", [RuntimeError("correct-horse"), CertdError(Reason.INTERNAL, "correct-horse")])
@pytest.mark.parametrize("path", [f"/ca/{_UID}/1.cer", "/readyz"])
def test_a_defect_shows_an_id_and_its_place_is_in_the_log(web: Web, error: Exception, path: str) -> None:
    web.books.error = error
    with structlog.testing.capture_logs() as logs:
        answer = web.get(path)
    assert answer.status == 500
    assert b"correct-horse" not in answer.body
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert answer.json["error_id"] == line["error_id"]
    assert line["exc_info"] is error


def test_health(web: Web) -> None:
    assert (web.get("/healthz").status, web.get("/healthz").json) == (200, {"status": "alive"})
    answer = web.get("/readyz")
    assert (answer.status, answer.json) == (200, {"status": "ready", "problems": []})
    # What another daemon does no better keeps none from being asked.
    web.books.troubles = ["1 CRLs could not be signed again"]
    answer = web.get("/readyz")
    assert (answer.status, answer.json) == (200, {"status": "ready", "problems": web.books.troubles})
    web.books.troubles = []
    web.books.found = ["the token does not answer: PIN locked"]
    answer = web.get("/readyz")
    assert answer.status == 503
    assert answer.json == {"status": "not ready", "problems": ["the token does not answer: PIN locked"]}
    assert answer.headers["cache-control"] == "no-store"
    assert web.get("/healthz").status == 200


def test_a_long_path_is_refused(web: Web) -> None:
    assert web.get(f"/ca/{'a' * LONGEST_PATH}/1.cer").status == 414


def test_many_headers_are_refused_also_in_one_piece(web: Web) -> None:
    headers = {f"X-{number}": "y" * 200 for number in range(90)}
    assert web.get("/healthz", **headers).status == 431


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"a" * (server.HEAD_BYTES + 1),
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Filler: " + b"a" * server.HEAD_BYTES,
        b"\x16\x03\x01\x00\xa5\x01",
        b"\x00\x00\x00\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["target", "header", "TLS", "zeros", "length", "no host"],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(web: Web, request_: bytes) -> None:
    with socket.create_connection(("127.0.0.1", web.listener.port), timeout=20) as connection:
        connection.sendall(request_ + b"\r\n")
        received = b""
        try:
            while part := connection.recv(4096):
                received += part
        except ConnectionResetError:
            # The server did not read all of it.
            pass
    assert received.startswith(b"HTTP/1.1 400 ")
    assert web.get("/healthz").status == 200


def test_a_connection_serves_many_requests(web: Web) -> None:
    connection = web.connection()
    for _ in range(3):
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        assert connection.sock is not None


@pytest.mark.parametrize("beginning", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
@pytest.mark.parametrize("before", [False, True], ids=["first request", "later request"])
def test_a_connection_whose_request_does_not_come_is_closed(
    monkeypatch: pytest.MonkeyPatch, beginning: bytes, *, before: bool
) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 0.2)
    monkeypatch.setattr(server, "_KEEP_ALIVE_SECONDS", 1)
    with _running() as web, socket.create_connection(("127.0.0.1", web.listener.port), timeout=20) as connection:
        if before:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b'{"status":"alive"}' not in received:
                received += connection.recv(4096)
        connection.sendall(beginning)
        assert connection.recv(4096) == b""


def test_a_stop_answers_what_has_begun() -> None:
    begun, release = threading.Event(), threading.Event()

    def problems() -> list[str]:
        begun.set()
        assert release.wait(20)
        return []

    with _running() as web:
        web.books.problems = problems  # type: ignore[method-assign]
        answers: list[Answer] = []
        asking = threading.Thread(target=lambda: answers.append(web.get("/readyz")))
        asking.start()
        assert begun.wait(20)
        stopping = threading.Thread(target=web.listener.stop)
        stopping.start()
        release.set()
        asking.join(20)
        stopping.join(20)
        assert [answer.status for answer in answers] == [200]
        assert not stopping.is_alive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", web.listener.port), timeout=20)


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "no such host"])
def test_an_address_that_cannot_be_bound_is_named(web: Web, host: str) -> None:
    starts: list[tuple[Callable[[], WebServer], str]] = [
        (lambda: serve(Starlette(), host=host, port=web.listener.port), "listen.http"),
        (lambda: serve_metrics(host=host, port=web.listener.port), "listen.metrics"),
    ]
    for start, field_ in starts:
        with pytest.raises(CertdError) as raised:
            start()
        assert [violation.field for violation in raised.value.violations] == [field_]
        assert f"{host}:{web.listener.port}" in raised.value.message


def test_ipv6() -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    books = Books()
    listener = serve(_application(books), host="::1", port=0)
    try:
        connection = http.client.HTTPConnection("::1", listener.port, timeout=20)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        listener.stop()


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_metrics_have_a_listener_of_their_own() -> None:
    registry = CollectorRegistry()
    Counter("certd_test", "A test.", registry=registry).inc(3)
    listener = serve_metrics(host="127.0.0.1", port=0, registry=registry)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=20)
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        assert "text/plain" in (response.getheader("Content-Type") or "")
        assert b"certd_test_total 3.0" in response.read()
        connection.close()
    finally:
        listener.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", listener.port), timeout=20)
