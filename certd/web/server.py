"""The HTTP listeners: the application in a thread of its own, metrics in another."""

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import h11
import uvicorn
from prometheus_client import REGISTRY, CollectorRegistry, start_wsgi_server
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from certd.errors import CertdError, Reason, field_invalid

HEAD_BYTES: Final = 16 * 1024
"""Most of a request's head that is waited for."""
CONNECTIONS: Final = 512
_HEAD_SECONDS: Final = 10.0
_READ_SECONDS: Final = 10.0
"""In this time a client reads some fifty kilobytes of what it is sent."""
_KEEP_ALIVE_SECONDS: Final = 5
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10


Shortcut = Callable[[bytes], bytes | None]
"""Returns the whole response to what is one whole request, or None when it has to go the long way."""


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that closes connections whose request does not come in time, and those that do not read what they get.

    uvicorn lets them stand for ever, and a CRL is large enough to be left lying.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # As uvicorn has it.
        """As asyncio has it."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._close)

    def data_received(self, data: bytes) -> None:
        """As asyncio has it."""
        super().data_received(data)
        waiting = self.conn.their_state is h11.IDLE
        if waiting and self._head_timer is None and self.timeout_keep_alive_task is None:
            self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._close)
        elif not waiting:
            self._forget_timer()

    def answer_at_once(self, response: bytes) -> None:
        """Sends a whole response to what the parser has not seen, and waits for the next request."""
        self._forget_timer()
        self._unset_keepalive_if_required()
        self.server_state.total_requests += 1
        self.transport.write(response)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, which raises where nothing can be said: in the answer to a HEAD, or after one that has begun.

        What cannot be read comes late when it is a body. Whatever the application answers meanwhile is not sent.
        """
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.close()

    def pause_writing(self) -> None:
        """As asyncio has it: some of the answer waits to be read."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(_READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """As asyncio has it."""
        self._forget_read_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio has it."""
        self._forget_timer()
        self._forget_read_timer()
        super().connection_lost(exc)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _forget_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _close(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()


def protocol_with(shortcut: Shortcut) -> type[ImpatientProtocol]:
    """Returns the protocol in which what comes in one piece, to a connection that waits for it, may go a short way."""

    class Protocol(ImpatientProtocol):
        def data_received(self, data: bytes) -> None:
            """As asyncio has it."""
            if (
                self.conn.their_state is h11.IDLE
                and self.conn.our_state is h11.IDLE
                and not self.flow.write_paused
                and not self.transport.is_closing()
                and not self.conn.trailing_data[0]
                and (response := shortcut(data)) is not None
            ):
                self.answer_at_once(response)
            else:
                super().data_received(data)

    return Protocol


class Server(uvicorn.Server):
    """uvicorn that tells when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and tells."""
        await super().startup(sockets=sockets)
        self.serving.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class WebServer:
    """A listener that is bound and answers."""

    port: int
    stop: Callable[[], None]
    """Answers what has begun, at most ten seconds long, and ends."""


def serve(app: Starlette, *, host: str, port: int, shortcut: Shortcut | None = None) -> WebServer:
    """Binds and starts a listener for the application; port 0 takes a free one. Raises FIELD_INVALID."""
    listener = bound("listen.http", host, port)
    protocol = ImpatientProtocol if shortcut is None else protocol_with(shortcut)
    server = Server(configuration(app, http=protocol, limit_concurrency=CONNECTIONS))
    return started(server, listener, name="http")


def configuration(
    app: Starlette, *, http: type[asyncio.Protocol], limit_concurrency: int | None = None
) -> uvicorn.Config:
    """Returns how uvicorn serves an application: HTTP/1.1 alone, nothing of a request in any log."""
    return uvicorn.Config(
        app,
        http=http,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=limit_concurrency,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )


def started(server: Server, listener: socket.socket, *, name: str) -> WebServer:
    """Starts a server in a thread of its own and returns when it serves."""
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name=name, daemon=True)
    thread.start()
    if not server.serving.wait(_START_SECONDS):
        server.should_exit = True
        listener.close()
        raise CertdError(Reason.INTERNAL, f"the listener for {name} did not start")

    def stop() -> None:
        server.should_exit = True
        thread.join()
        listener.close()

    return WebServer(port=listener.getsockname()[1], stop=stop)


def serve_metrics(*, host: str, port: int, registry: CollectorRegistry = REGISTRY) -> WebServer:
    """Binds and starts a listener for metrics in the text format of Prometheus. Raises FIELD_INVALID."""
    try:
        server, thread = start_wsgi_server(port, addr=host, registry=registry)
    except OSError as error:
        raise _not_bound("listen.metrics", host, port, error) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return WebServer(port=server.server_port, stop=stop)


def bound(field: str, host: str, port: int) -> socket.socket:
    """Returns a socket that listens; raises FIELD_INVALID with the key of the configuration that named its address."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise _not_bound(field, host, port, error) from error
    # What is accepted has it from here: asyncio sets it only for sockets that name their protocol. Without it a body
    # waits for the acknowledgement of its head, which a client puts off for 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _not_bound(field: str, host: str, port: int, error: OSError) -> CertdError:
    return field_invalid(field, f"{host}:{port} cannot be bound: {error.strerror or error}; choose another address")
