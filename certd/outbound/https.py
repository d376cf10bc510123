"""HTTPS as this server speaks it to others: TLS 1.2 or later, verified; no proxies, no redirections, one deadline."""

import http.client
import io
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from certd.outbound.addresses import Reach
from certd.outbound.deadline import Deadline

_PORT: Final = 443
_PART: Final = 16_384


def client_context(*, roots: str = "", ca_file: Path | None = None) -> ssl.SSLContext:
    """Returns how a server is verified: by roots of PEM or those of a file, or else by those of the machine.

    OSError or ValueError when they are none.
    """
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file), cadata=roots or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


def split_url(url: str) -> tuple[str, int, str]:
    """Returns host, port and what is asked of it; ValueError when it is no https URL without credentials."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or parts.password is not None:
        raise ValueError("not an https URL")
    host = parts.hostname
    if not host.isascii():
        host = host.encode("idna").decode()
    return host, _PORT if parts.port is None else parts.port, _target(parts)


def _target(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


class Connection:
    """A verified connection to the host of a URL; it may be asked again once an answer was read to its end.

    Raises OSError, TimeoutError among them, ValueError for a URL that is none, and TARGET_NOT_ALLOWED.
    """

    def __init__(self, url: str, *, reach: Reach, trust: ssl.SSLContext, deadline: Deadline) -> None:
        host, port, _ = split_url(url)
        with ExitStack() as undo:
            plain = undo.enter_context(closing(reach.connect(host, port, deadline)))
            plain.settimeout(deadline.left())
            # A dot at the end says that a name is whole; certificates do not have it.
            secured = trust.wrap_socket(plain, server_hostname=host.rstrip("."))
            undo.pop_all()
        self._secured = secured
        self._timed = _Timed(secured, deadline)
        self._asking: Any = http.client.HTTPSConnection(host, port, context=trust)
        self._asking.sock = self._timed

    def ask(self, request: Request, deadline: Deadline) -> http.client.HTTPResponse:
        """Returns the answer to a request, whatever its status, with its content yet to be read.

        Errors until then and while it is read: OSError, TimeoutError among them once the deadline has passed whatever
        still comes; http.client.HTTPException for what is no HTTP.
        """
        self._timed.deadline = deadline
        _, _, target = split_url(request.url)
        self._asking.request(request.method, target, body=request.body, headers=dict(request.headers))
        response: http.client.HTTPResponse = self._asking.getresponse()
        return response

    def close(self) -> None:
        """Ends it."""
        self._secured.close()


@contextmanager
def exchange(
    request: Request, *, reach: Reach, trust: ssl.SSLContext, deadline: Deadline
) -> Iterator[http.client.HTTPResponse]:
    """Yields the answer to a request over a connection of its own; errors are those of `Connection`."""
    only = replace(request, headers={**request.headers, "Connection": "close"})
    with (
        closing(Connection(request.url, reach=reach, trust=trust, deadline=deadline)) as connection,
        closing(connection.ask(only, deadline)) as response,
    ):
        yield response


def content(response: http.client.HTTPResponse, most: int) -> bytes:
    """Returns what an answer holds; ValueError when that is more than so many octets."""
    found = bytearray()
    while part := response.read(_PART):
        found += part
        if len(found) > most:
            raise ValueError(f"the answer has more than {most} octets")
    return bytes(found)


class _Timed:
    """A connection for `http.client` of which every step ends with the deadline."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self.deadline = deadline
        """Of the request that is asked."""

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._connection.settimeout(self.deadline.left())
            left = left[self._connection.send(left) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Received(self._connection, self.deadline))

    def close(self) -> None:
        """Nothing: who made the connection closes it; the answer is read after `http.client` is done with it."""


class _Received(io.RawIOBase):
    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  # As in `io`, a buffer of any kind.
        self._connection.settimeout(self._deadline.left())
        return self._connection.recv_into(buffer)
