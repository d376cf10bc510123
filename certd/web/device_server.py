"""The listener for devices: HTTPS in a thread of its own, client certificates where a client has one.

Its connections are accepted here, not by uvicorn, which has no limits for those that say nothing: so many at once in
all, of one site and of one address (`device_places`), a time for the handshake, one for the head of a request, and one
for the whole connection.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any, Final

from starlette.applications import Starlette

from certd.errors import field_invalid
from certd.web.device_places import Place, Places
from certd.web.server import ImpatientProtocol, Server, WebServer, bound, configuration, started

PEER_CERTIFICATE: Final = "peer_certificate"
"""Name in a request's state of the DER of the client's certificate, which the handshake verified; None without one."""
_HANDSHAKE_SECONDS: Final = 10.0
_CONNECTION_SECONDS: Final = 300.0
_SHUTDOWN_SECONDS: Final = 5.0
_PAUSE: Final = 0.1
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of TLS 1.3 are all as good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceServer:
    """A listener for devices that is bound and answers."""

    listener: WebServer
    reload: Callable[[ssl.SSLContext], None]
    """Handshakes from now on use this."""


def tls_context(certificate: Path, private_key: Path, *, client_roots: bytes) -> ssl.SSLContext:
    """Returns TLS 1.2 and later with a certificate and its key, and the roots (PEM) of the certificates of clients.

    Raises FIELD_INVALID when the files cannot work.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = ssl.CERT_OPTIONAL
    # A session that is taken up again would bring an identity that was looked at long ago.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    try:
        # Without a password it would ask for one on the terminal.
        context.load_cert_chain(certificate, private_key, password=lambda: "")
        context.load_verify_locations(cadata=client_roots.decode("ascii"))
    except (OSError, ValueError) as error:
        raise field_invalid(
            "tls.certificate",
            f"{certificate} and {private_key} cannot be used for the port of devices: {error}; both must be PEM, and "
            "belong to one another",
        ) from error
    return context


def serve_devices(app: Starlette, *, host: str, port: int, context: ssl.SSLContext) -> DeviceServer:
    """Binds and starts the listener; port 0 takes a free one. Raises FIELD_INVALID."""
    listener = bound("listen.devices", host, port)
    server = _DeviceServer(app, context)
    return DeviceServer(listener=started(server, listener, name="devices"), reload=server.reload)


class _DeviceProtocol(ImpatientProtocol):
    """HTTP/1.1 that knows the certificate of its peer, gives its place to others, and ends."""

    place: Place
    _end_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # As uvicorn has it.
        super().connection_made(transport)
        peer = transport.get_extra_info("ssl_object")
        # Copied into the scope of every request of this connection.
        self.app_state = {PEER_CERTIFICATE: peer.getpeercert(binary_form=True) or None}
        self._end_timer = self.loop.call_later(_CONNECTION_SECONDS, transport.abort)
        self.place.answered = self._answers
        self.place.close = transport.abort

    def on_response_complete(self) -> None:
        """As uvicorn's; where there is no room for others, it is the last one of this connection."""
        self.place.since = self.loop.time()
        if self.place.none_left:
            self.transport.close()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
        self.place.leave()
        super().connection_lost(exc)

    def _answers(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete


class _Accepting:
    """Takes connections from a socket. What uvicorn wants of a server."""

    def __init__(self, listener: socket, serve: Callable[[socket, Place], Any]) -> None:
        self._listener = listener
        self._serve = serve
        self._places = Places()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._task = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        self._task.cancel()
        for handshake in self._handshakes:
            handshake.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(self._task, *self._handshakes, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError:
                # It went away by itself, or there are no descriptors left, which takes time to change.
                await asyncio.sleep(_PAUSE)
                continue
            place = self._places.take(str(address[0]), loop.time())
            if place is None:
                connection.close()
                continue
            handshake = loop.create_task(self._serve(connection, place))
            place.close = handshake.cancel
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)
            # It begins before another one may end it, and those that are open have their turn.
            await asyncio.sleep(0)


class _DeviceServer(Server):
    """uvicorn behind sockets of our own."""

    def __init__(self, app: Starlette, context: ssl.SSLContext) -> None:
        super().__init__(configuration(app, http=_DeviceProtocol))
        self._context = context

    def reload(self, context: ssl.SSLContext) -> None:
        """Handshakes from now on use `context`."""
        self._context = context

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """As uvicorn's, for one socket."""
        await self.lifespan.startup()
        (listener,) = sockets or []
        listener.setblocking(False)
        self.servers = [_Accepting(listener, self._serve_connection)]  # type: ignore[list-item]  # It closes like one.
        self.started = True
        self.serving.set()

    async def _serve_connection(self, connection: socket, place: Place) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> _DeviceProtocol:
            made = _DeviceProtocol(config=self.config, server_state=self.server_state, app_state={}, _loop=loop)
            made.place = place
            return made

        try:
            await loop.connect_accepted_socket(
                protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except BaseException as error:
            # No handshake: plain HTTP, no common version, a certificate of another issuer, or nothing in time. The
            # library closes the socket.
            place.leave()
            if not isinstance(error, OSError | asyncio.CancelledError):
                raise
