"""CRLs over a real socket: bytes, conditional requests, ages, and readers that do not read."""

import contextlib
import hashlib
import http.client
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from certd.errors import CertdError, Reason
from certd.model.revocation_list import RevocationList, RevocationListKey
from certd.web import server
from certd.web.app import guarded
from certd.web.revocation_lists import endpoints
from certd.web.server import WebServer, serve
from tests.fakes import FakeClock

_UID = "0f5c6d7e8a9b0c1d2e3f405162738495"
_LARGE = bytes(range(256)) * (40 << 12)


@dataclass
class Books:
    """CRLs of one key: the complete one, a large one, and one that is being replaced."""

    clock: FakeClock
    contents: dict[int, bytes] = field(default_factory=lambda: {0: b"complete", 3: _LARGE, 4: b"replaced"})
    lifetime: timedelta = timedelta(days=7)
    read: int = 0

    def find(self, uid: str, key_number: int, partition: int) -> RevocationList:
        if (uid, key_number) != (_UID, 2) or partition not in self.contents:
            raise CertdError(Reason.REVOCATION_LIST_NOT_FOUND, "there is none")
        content, now = self.contents[partition], FakeClock().now()
        return RevocationList(
            key=RevocationListKey(uid, key_number, partition),
            number=5,
            claimed_number=5,
            this_update=now,
            next_update=now + self.lifetime,
            entry_count=0,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).digest(),
            urls=(),
            changed_time=None,
            last_error="",
            final=False,
        )

    def content(self, found: RevocationList) -> bytes:
        self.read += 1
        if found.key.partition == 4:
            raise CertdError(Reason.REVOCATION_LIST_NOT_FOUND, "another took its place")
        return self.contents[found.key.partition]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    listener: WebServer
    books: Books

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.listener.port, timeout=60)) as connection:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, told, response.read())


@pytest.fixture(scope="module")
def listening() -> Iterator[Web]:
    books = Books(FakeClock())
    served = endpoints(books, books.clock)
    app = Starlette(routes=[Route(path, guarded(one), methods=["GET"]) for path, one in served.items()])
    running = Web(serve(app, host="127.0.0.1", port=0), books)
    yield running
    running.listener.stop()


@pytest.fixture
def web(listening: Web) -> Web:
    listening.books.lifetime, listening.books.read = timedelta(days=7), 0
    return listening


def test_one_comes_as_it_was_signed(web: Web) -> None:
    answer = web.get(f"/crl/{_UID}/2.crl")
    assert (answer.status, answer.body) == (200, b"complete")
    assert answer.headers["content-type"] == "application/pkix-crl"
    assert answer.headers["content-length"] == "8"
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert answer.headers["etag"] == f'"{hashlib.sha256(b"complete").hexdigest()[:32]}"'
    assert answer.headers["last-modified"] == "Tue, 01 Jan 2030 00:00:00 GMT"


def test_a_partition_of_forty_megabytes(web: Web) -> None:
    answer = web.get(f"/crl/{_UID}/2/3.crl")
    assert (answer.status, len(answer.body), answer.body == _LARGE) == (200, 40 << 20, True)


def test_the_head_of_one_reads_none(web: Web) -> None:
    answer = web.get(f"/crl/{_UID}/2/3.crl", "HEAD")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, str(40 << 20), b"")
    assert web.books.read == 0


@pytest.mark.parametrize("header", ["tag", "date", "other tag", "older date"])
def test_who_has_it_gets_no_other(web: Web, header: str) -> None:
    tag = web.get(f"/crl/{_UID}/2.crl").headers["etag"]
    made = FakeClock().now()
    asked = {
        "tag": {"If_None_Match": f'"x", W/{tag}'},
        "date": {"If_Modified_Since": format_datetime(made, usegmt=True)},
        "other tag": {"If_None_Match": '"x"', "If_Modified_Since": format_datetime(made, usegmt=True)},
        "older date": {"If_Modified_Since": format_datetime(made - timedelta(seconds=1), usegmt=True)},
    }[header]
    answer = web.get(f"/crl/{_UID}/2.crl", **asked)
    has_it = header in {"tag", "date"}
    assert (answer.status, answer.body) == ((304, b"") if has_it else (200, b"complete"))
    assert answer.headers["etag"] == tag


@pytest.mark.parametrize(("lifetime", "age"), [(timedelta(seconds=9), 9), (timedelta(seconds=-9), 0)])
def test_no_cache_keeps_one_past_its_next_update(web: Web, lifetime: timedelta, age: int) -> None:
    web.books.lifetime = lifetime
    assert web.get(f"/crl/{_UID}/2.crl").headers["cache-control"] == f"public, max-age={age}"


@pytest.mark.parametrize(
    "path",
    [
        *("x/2.crl", f"{_UID}/1.crl", f"{_UID}/0.crl", f"{_UID}/02.crl", f"{_UID}/2/0.crl", f"{_UID}/2/9.crl"),
        *(f"{_UID}/2/../2.crl", f"{_UID}/{'9' * 40}.crl", f"{_UID}/2/{'9' * 40}.crl", f"{_UID}/%00.crl"),
    ],
)
def test_what_is_not_there_is_not_found_and_not_cached(web: Web, path: str) -> None:
    answer = web.get(f"/crl/{path}")
    assert (answer.status, answer.headers.get("cache-control", "no-store")) == (404, "no-store")


def test_one_that_is_being_replaced_is_asked_for_again(web: Web) -> None:
    answer = web.get(f"/crl/{_UID}/2/4.crl")
    assert (answer.status, answer.headers["retry-after"], answer.headers["cache-control"]) == (503, "1", "no-store")


def test_who_does_not_read_is_cut_off(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_READ_SECONDS", 0.5)
    lost, tell = threading.Event(), server.ImpatientProtocol.connection_lost
    with socket.create_connection(("127.0.0.1", web.listener.port), timeout=60) as lazy:
        name = lazy.getsockname()

        def connection_lost(self: server.ImpatientProtocol, exc: Exception | None) -> None:
            tell(self, exc)
            # The listener may only now notice the end of a connection of an earlier test.
            if self.client == name:
                lost.set()

        monkeypatch.setattr(server.ImpatientProtocol, "connection_lost", connection_lost)
        lazy.sendall(f"GET /crl/{_UID}/2/3.crl HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert lost.wait(60)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := lazy.recv(1 << 20):
                received += len(piece)
        # What the kernels of both sides held comes, and no more.
        assert received < len(_LARGE)
