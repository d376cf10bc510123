"""A body that cannot be read, before the answer, in it and after it."""

import asyncio
import logging
import socket
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from certd.web import server
from certd.web.server import ImpatientProtocol, serve

_CHUNKED = b"Host: x\r\nTransfer-Encoding: chunked\r\n\r\n"
_NO_CHUNK = b"no chunk\r\n"
_BODY = b"the whole answer"


@pytest.fixture
def port() -> Iterator[int]:
    """Of an application that answers without reading what it is sent."""
    app = Starlette(routes=[Route("/", lambda _request: Response(_BODY))])
    listener = serve(app, host="127.0.0.1", port=0)
    yield listener.port
    listener.stop()


def _exchanged(port: int, first: bytes, awaited: bytes = b"", then: bytes = b"") -> bytes:
    """Sends `first`, waits for `awaited`, sends `then`, and returns all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(first)
        received = b""
        while awaited not in received:
            part = connection.recv(4096)
            assert part, received
            received += part
        connection.sendall(then)
        return received + _all_of(connection)


def _all_of(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(4096):
        received += part
    return received


def test_a_body_that_cannot_be_read_is_no_defect(port: int, caplog: pytest.LogCaptureFixture) -> None:
    # The head of the answer to a HEAD may say 400, but nothing follows it.
    received = _exchanged(port, b"HEAD / HTTP/1.1\r\n" + _CHUNKED + _NO_CHUNK)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.endswith(b"\r\n\r\n")
    # Behind the whole answer nothing can be said any more.
    answer = _exchanged(port, b"GET / HTTP/1.1\r\n" + _CHUNKED, _BODY, _NO_CHUNK)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


class _SlowTransport(asyncio.Transport):
    """Remembers what is written, and is closing for as long as the test lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_what_is_answered_after_a_refusal_is_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    async def exchange() -> _SlowTransport:
        begun, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
            begun.set()
            await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"late"})
            ended.set()

        config = server.configuration(Starlette(), http=ImpatientProtocol)
        config.load()
        config.loaded_app = app
        transport = _SlowTransport()
        protocol = ImpatientProtocol(config=config, server_state=ServerState(), app_state={})
        protocol.connection_made(transport)
        protocol.data_received(b"GET / HTTP/1.1\r\n" + _CHUNKED)
        await begun.wait()
        protocol.data_received(_NO_CHUNK)
        release.set()
        await asyncio.wait_for(ended.wait(), 20)
        protocol.connection_lost(None)
        return transport

    transport = asyncio.run(exchange())
    assert transport.closed
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert b"late" not in transport.written
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
