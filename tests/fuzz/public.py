"""Mutated requests to what strangers reach over HTTP.

OCSP answers, CRLs and certificates of authorities, which anybody may ask for, and the port of devices, where strangers
have neither certificate nor code.
"""

import base64
import http.client
import random
import socket
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import quote

from cryptography.x509 import ocsp

ENDPOINTS = ("post", "get", "crl", "ca", "odd", "device")
"""OCSP by POST and by GET, CRLs, certificates, what is HTTP hardly or not at all, and the port of devices."""
_SECONDS = 60.0
_MOST_WRONG = 20
_RECEIVED = 65536
_ALLOWED = frozenset({200, 304, 400, 404, 405, 408, 411, 413, 414, 415, 431, 501, 505})
"""What a healthy server answers to whatever comes; never 500, and never 503 to few callers."""
_ALLOWED_TO_DEVICES = frozenset({400, 401, 404, 405, 429})
"""What strangers with no code, or a wrong one, get."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS", "get", "TRACE", "G@T", "")
_TYPES = (
    "application/ocsp-request",
    "application/ocsp-request; x=y",
    "APPLICATION/OCSP-REQUEST",
    "text/plain",
    "",
    "\xff",
)
_HEADERS = (
    "If-None-Match: *",
    'If-None-Match: "x", W/"y"',
    "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
    "If-Modified-Since: never",
    "Range: bytes=0-1",
    "Expect: 100-continue",
    "Accept-Encoding: gzip",
    "Connection: close",
    "X-Forwarded-For: " + "1" * 300,
    "Cookie: " + "c" * 5000,
    "Content-Length: 7",
    "Content-Length: -1",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    ": empty",
    "Folded: a\r\n b",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the server really has."""

    address: tuple[str, int]
    devices: tuple[str, int]
    uid: str
    requests: tuple[bytes, ...]
    """OCSP requests (DER) as they should be."""


@dataclass(slots=True)
class PublicTally:
    """What came of the requests."""

    calls: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """By kind and HTTP status, and for OCSP by its own status."""
    wrong: list[str] = field(default_factory=list)

    def add(self, other: "PublicTally") -> None:
        self.calls += other.calls
        self.statuses.update(other.statuses)
        self.wrong += other.wrong


def fuzz_public(published: Published, *, count: int, seed: int, callers: int) -> PublicTally:
    """Sends `count` requests made of `seed` to each endpoint, by so many callers; returns what came of them."""
    tallies = [PublicTally() for _ in range(callers)]
    shares = [count // callers + (number < count % callers) for number in range(callers)]
    threads = [
        threading.Thread(target=_call, args=(published, random.Random(f"{seed}/{number}"), share, tally), daemon=True)
        for number, (share, tally) in enumerate(zip(shares, tallies, strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = PublicTally()
    for tally in tallies:
        whole.add(tally)
    return whole


def _call(published: Published, draw: random.Random, count: int, tally: PublicTally) -> None:
    connections: dict[bool, socket.socket] = {}
    for kind in ENDPOINTS * count:
        request = _request(kind, published, draw)
        is_clean = kind != "odd"
        secure = kind == "device"
        is_new = secure not in connections
        try:
            try:
                response, body = _asked(published, connections, request, secure=secure, is_clean=is_clean)
            except (ConnectionError, ssl.SSLEOFError):
                # A server may close a connection on which nobody asked for a while; whoever asks then asks again.
                _close(connections, secure=secure)
                if is_new or not is_clean:
                    raise
                response, body = _asked(published, connections, request, secure=secure, is_clean=is_clean)
        except (OSError, http.client.HTTPException) as error:
            tally.statuses[f"{kind} no answer"] += 1
            if is_clean or isinstance(error, TimeoutError):
                tally.wrong.append(f"{kind}: {error!r} to {request[:600]!r}")
            _close(connections, secure=secure)
        else:
            _judge(kind, request, response, body, tally)
            if not is_clean or response.will_close:
                _close(connections, secure=secure)
        tally.calls += 1
        if len(tally.wrong) >= _MOST_WRONG:
            break
    for secure in tuple(connections):
        _close(connections, secure=secure)


def _asked(
    published: Published, connections: dict[bool, socket.socket], request: bytes, *, secure: bool, is_clean: bool
) -> tuple[http.client.HTTPResponse, bytes]:
    if secure not in connections:
        connections[secure] = _connected(published, secure=secure)
    connection = connections[secure]
    connection.sendall(request)
    if not is_clean:
        # What it leaves behind would be read as the beginning of the next one.
        connection.shutdown(socket.SHUT_WR)
    response = http.client.HTTPResponse(connection, method="HEAD" if request.startswith(b"HEAD ") else "GET")
    response.begin()
    return response, response.read()


def _connected(published: Published, *, secure: bool) -> socket.socket:
    if not secure:
        return socket.create_connection(published.address, timeout=_SECONDS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(published.devices, timeout=_SECONDS))


def _close(connections: dict[bool, socket.socket], *, secure: bool) -> None:
    if secure in connections:
        connections.pop(secure).close()


def _judge(kind: str, request: bytes, response: http.client.HTTPResponse, body: bytes, tally: PublicTally) -> None:
    outcome = f"{kind} {response.status}"
    if response.status not in (_ALLOWED_TO_DEVICES if kind == "device" else _ALLOWED):
        tally.wrong.append(f"{outcome} {body[:300]!r} to {request[:600]!r}")
    elif response.getheader("content-type") == "application/ocsp-response" and body:
        try:
            state = ocsp.load_der_ocsp_response(body).response_status.name
        except ValueError as error:
            tally.wrong.append(f"{outcome}: no OCSP response ({error}) to {request[:600]!r}")
            return
        outcome += f" {state}"
        if state == "INTERNAL_ERROR" or (state != "SUCCESSFUL" and response.getheader("cache-control") != "no-store"):
            tally.wrong.append(f"{outcome} to {request[:600]!r}")
    tally.statuses[outcome] += 1


def _request(kind: str, published: Published, draw: random.Random) -> bytes:
    """Returns the bytes of a request; of all kinds but one HTTP itself is as it should be."""
    uid = published.uid if draw.random() < 0.9 else draw.choice(("0" * 32, "..", "%00", "A", "x" * 70))
    number = "1" if draw.random() < 0.9 else draw.choice(("0", "2", "-1", "999999999999", "1.5", "%31"))
    match kind:
        case "post":
            return _posted(f"/ocsp/{uid}/{number}", _bent(draw, draw.choice(published.requests)))
        case "get":
            return _plain(
                "GET", f"/ocsp/{uid}/{number}/{_in_a_path(draw, _bent(draw, draw.choice(published.requests)))}"
            )
        case "crl":
            ending = draw.choice((".crl", "/1.crl", "/0.crl", "/99999.crl", "/-1.crl", ".crl.", "", "/%31.crl"))
            return _plain(draw.choice(("GET", "HEAD")), f"/crl/{uid}/{number}{ending}")
        case "ca":
            ending = draw.choice((".cer", ".pem", ".der", "", ".cer/", "/..", "%2ecer"))
            return _plain(draw.choice(("GET", "HEAD")), f"/ca/{uid}/{number}{ending}")
        case "device":
            return _of_a_device(draw)
        case _:
            return _odd(draw, published, uid, number)


def _in_a_path(draw: random.Random, content: bytes) -> str:
    """Returns it in Base64, with what may happen to that on its way."""
    text = quote(base64.b64encode(content).decode(), safe=draw.choice(("", "/", "/+=")))
    if draw.random() >= 0.3:
        return text
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.choice(("%", "%2", "%zz", "=", "@", "/", "//", "%0a", "?a=b", "~")) + text[at:]


def _of_a_device(draw: random.Random) -> bytes:
    tenant = draw.choice(("default", "default", "other", "..", "%00", "-", "x" * 70))
    certificate = draw.choice(("web", "web", "%2e%2e", "", "a/b", "\xff", "x" * 300))
    form = draw.choice(("", "?format=pem", "?format=pkcs8", "?format=none", "?format=pem&format=der", "?x", "?%zz"))
    code = base64.b32encode(draw.randbytes(20)).decode().lower()
    headers = {
        "Host": "device",
        "Authorization": draw.choice(
            (f"Bearer {code}", f"bearer {code[:9]}", "Bearer", "Basic YTpi", f"Bearer {'x' * 4000}")
        ),
        "Certd-Passphrase": draw.choice(("long enough it is", "", "\xff", "x" * 2000)),
        "If-None-Match": draw.choice(("*", '"x"', 'W/"y', "\xff")),
    }
    kept = draw.sample(sorted(headers), draw.randrange(len(headers) + 1))
    lines = [f"{name}: {headers[name]}" for name in {"Host", *kept}]
    path = f"/v1/tenants/{tenant}/managedCertificates/{certificate}{form}"
    head = f"{draw.choice(('GET', 'GET', 'HEAD', 'PUT'))} {path} HTTP/1.1"
    return "\r\n".join((head, *sorted(lines), "", "")).encode("latin-1")


def _plain(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: public\r\n\r\n".encode("latin-1")


def _posted(path: str, content: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: public\r\nContent-Type: application/ocsp-request\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode("latin-1") + content


def _odd(draw: random.Random, published: Published, uid: str, number: str) -> bytes:
    """Returns something like a request of HTTP."""
    path = draw.choice(
        (f"/ocsp/{uid}/{number}", f"/ocsp/{uid}/{number}/MA==", f"/crl/{uid}/{number}.crl", "/", "*", "//x")
    )
    content = _bent(draw, draw.choice(published.requests))
    lines = [f"{draw.choice(_METHODS)} {path} HTTP/{draw.choice(('1.1', '1.0', '2.0', '9', ''))}"]
    lines += draw.choice((["Host: public"], ["Host: public", "Host: other"], []))
    lines += [f"Content-Type: {draw.choice(_TYPES)}", f"Content-Length: {draw.choice((len(content), 0, 5, 10**9))}"]
    lines += draw.sample(_HEADERS, draw.randrange(4))
    draw.shuffle(lines[1:])
    whole = bytearray("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content)
    for _ in range(draw.choice((0, 0, 1, 5))):
        whole[draw.randrange(len(whole))] = draw.randrange(256)
    return bytes(whole)


def _bent(draw: random.Random, good: bytes) -> bytes:
    """Returns a request as it is, or bent in its bytes, its lengths or its whole."""
    bent = bytearray(good)
    match draw.randrange(8):
        case 0:
            return good
        case 1:
            return draw.randbytes(draw.choice((0, 1, 2, 30, 200, 4096, 5000)))
        case 2:
            del bent[draw.randrange(len(bent)) :]
        case 3:
            at = draw.randrange(len(bent))
            bent[at:at] = draw.randbytes(draw.randrange(1, 9))
        case 4:
            bent += draw.randbytes(draw.randrange(1, 9))
        case 5:
            at = draw.randrange(len(bent))
            bent = bent[:at] + bent[at:] * draw.choice((2, 3, 40))
        case _:
            for _ in range(draw.choice((1, 1, 2, 4))):
                bent[draw.randrange(len(bent))] ^= 1 << draw.randrange(8)
    return bytes(bent)
