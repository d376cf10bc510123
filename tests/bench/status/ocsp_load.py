"""Asks for OCSP answers over connections that stay, each again when it is answered; a process of its own."""

import json
import os
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from certd.pki import der

_NONCE = "1.3.6.1.5.5.7.48.1.2"
_WHOLE = b"HTTP/1.1 200"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked."""

    port: int
    path: str
    names: tuple[str, ...]
    """CertIDs, DER in hexadecimal."""
    clients: int
    seconds: float
    nonce: bool

    def with_nonce(self) -> "Load":
        return replace(self, nonce=True)

    def text(self) -> str:
        return json.dumps(asdict(self))


def measure(load: Load) -> dict[str, Any]:
    """Asks and returns what came of it."""
    plain = [_posted(load, _request(bytes.fromhex(name))) for name in load.names]
    selector, received = selectors.DefaultSelector(), dict.fromkeys(range(load.clients), b"")
    for client in range(load.clients):
        connection = socket.create_connection(("127.0.0.1", load.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ, client)
        connection.sendall(_next(load, plain, client))
    asked, answers, wrong = load.clients, 0, 0
    began = time.perf_counter()
    while time.perf_counter() - began < load.seconds:
        for key, _ in selector.select(1):
            found = key.fileobj
            assert isinstance(found, socket.socket)
            received[key.data] += found.recv(65536)
            if not _is_whole(received[key.data]):
                continue
            wrong += not received[key.data].startswith(_WHOLE)
            received[key.data] = b""
            answers, asked = answers + 1, asked + 1
            found.sendall(_next(load, plain, asked))
    return {"answers": answers, "wrong": wrong, "seconds": time.perf_counter() - began}


def _next(load: Load, plain: list[bytes], number: int) -> bytes:
    place = number % len(plain)
    return plain[place] if not load.nonce else _posted(load, _request(bytes.fromhex(load.names[place]), nonce=True))


def _request(name: bytes, *, nonce: bool = False) -> bytes:
    extensions = b""
    if nonce:
        value = der.octet_string(der.octet_string(os.urandom(16)))
        extensions = der.encode(der.context(2), der.sequence(der.sequence(der.object_identifier(_NONCE), value)))
    return der.sequence(der.sequence(der.sequence(der.sequence(name)), extensions))


def _posted(load: Load, request: bytes) -> bytes:
    head = f"POST {load.path} HTTP/1.1\r\nHost: ocsp\r\nContent-Type: application/ocsp-request\r\n"
    return f"{head}Content-Length: {len(request)}\r\n\r\n".encode() + request


def _is_whole(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return False
    length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    print(json.dumps(measure(Load(**{**given, "names": tuple(given["names"])}))))
