"""Clients of what serves: each verifies by the root, and tells the certificate that it was shown."""

import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from tests.recipes.estate import HOST
from tests.waiting import eventually

_SECONDS = 20.0
_PAUSE = 0.003
"""Seconds between two connections of `knocking`: others use this machine too."""


def context(root: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=root)


def connect(port: int, root: str) -> ssl.SSLSocket:
    """Opens a connection that is verified by the root."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
    try:
        return context(root).wrap_socket(raw, server_hostname=HOST)
    except BaseException:
        raw.close()
        raise


def shown(connection: ssl.SSLSocket) -> bytes:
    """Returns the certificate (DER) that the other side showed."""
    return connection.getpeercert(binary_form=True) or b""


def shown_anew(port: int, root: str) -> bytes:
    """Returns what a new handshake shows."""
    with connect(port, root) as connection:
        return shown(connection)


def comes(port: int, root: str, certificate: bytes) -> None:
    """Waits until a new handshake shows a certificate: a worker on its way out may accept a connection still."""
    eventually(lambda: shown_anew(port, root) == certificate)


def exchange(connection: ssl.SSLSocket, *, end: bool = False) -> bytes:
    """Asks over HTTP, in a connection that stays open unless `end`; returns the whole answer."""
    how = "close" if end else "keep-alive"
    connection.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: {how}\r\n\r\n".encode())
    return answer(connection)


def answer(connection: ssl.SSLSocket) -> bytes:
    """Reads one answer of HTTP, which must be a 200 and whole."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _received(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), received
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += _received(connection)
    return body


def over_http(port: int, root: str) -> bytes:
    """Connects, asks, and returns the certificate that was shown."""
    with connect(port, root) as connection:
        exchange(connection, end=True)
        return shown(connection)


@dataclass(slots=True)
class Knocks:
    """What a client saw that connects again and again."""

    seen: dict[bytes, int] = field(default_factory=dict)
    """How often each certificate (SHA-256) was shown."""
    failures: list[BaseException] = field(default_factory=list)

    def has_seen(self, certificate: bytes) -> bool:
        return hashlib.sha256(certificate).digest() in self.seen


@contextmanager
def knocking(knock: Callable[[], bytes]) -> Iterator[Knocks]:
    """Has a client connect again and again until the block ends; none of its connections may fail."""
    knocks, stop = Knocks(), threading.Event()

    def work() -> None:
        while not stop.wait(_PAUSE):
            try:
                digest = hashlib.sha256(knock()).digest()
                knocks.seen[digest] = knocks.seen.get(digest, 0) + 1
            except (OSError, AssertionError, psycopg.Error) as failure:
                knocks.failures.append(failure)
                return

    threads = [threading.Thread(target=work, name=f"knocking-{number}") for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield knocks
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not knocks.failures, knocks.failures


def _received(connection: ssl.SSLSocket) -> bytes:
    piece = connection.recv(65_536)
    assert piece, "the connection was closed"
    return piece
