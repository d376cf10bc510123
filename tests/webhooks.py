"""A receiver of webhooks on a loopback port over HTTPS, with a certificate of its own."""

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True, kw_only=True)
class Received:
    """A request that came whole."""

    headers: dict[str, str]
    """By lower-case names."""
    body: bytes
    path: str = "/"

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    @property
    def seq(self) -> int:
        return int(self.event.get("seq", 0))

    def signed_by(self, secret: bytes) -> bool:
        """Whether one of the signatures is by a secret; written after the convention, not after the code."""
        content = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.{self.body.decode()}"
        expected = base64.b64encode(hmac.new(secret, content.encode(), hashlib.sha256).digest()).decode()
        return f"v1,{expected}" in self.headers["webhook-signature"].split(" ")


@dataclass(kw_only=True)
class Receiver:
    """A running receiver."""

    host: str = "127.0.0.1"
    port: int = 0
    roots: str = ""
    """PEM of the root that its certificate is from."""
    received: list[Received] = field(default_factory=list)
    taken: list[Received] = field(default_factory=list)
    """What was answered with success."""
    answer: Answer | None = None
    """What answers instead of `204 No Content`."""
    connections: int = 0

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/hook?key=1"

    @property
    def seqs(self) -> list[int]:
        """Numbers of the events that were taken."""
        return [one.seq for one in self.taken]


@contextmanager
def running_receiver(
    folder: Path, *, names: tuple[str, ...] = ("localhost", "127.0.0.1"), host: str = "127.0.0.1", port: int = 0
) -> Iterator[Receiver]:
    """Runs a receiver; the folder keeps its certificate for the next one with these names."""
    context, roots = _credentials(folder, names)
    receiver = Receiver(host=host, roots=roots)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        received: Received
        """What it answers."""

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:
                # Who sends it died.
                self.close_connection = True
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            received = Received(headers=headers, body=body, path=self.path)
            receiver.received.append(received)
            self.received = received
            if receiver.answer is not None:
                receiver.answer(self)
            else:
                receiver.taken.append(received)
                send(self, 204)

        def log_message(self, *_arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def process_request(self, request: Any, client_address: Any) -> None:
            receiver.connections += 1
            super().process_request(request, client_address)

        def finish_request(self, request: Any, client_address: Any) -> None:
            # Otherwise an answer waits for the acknowledgement of what TLS sent before it.
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # In the thread of the connection, so that one that says nothing keeps no other waiting.
            with context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)

    server = Server((host, port), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_arguments: None  # type: ignore[method-assign]  # Clients that go are what is tested.
    receiver.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, content: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(content)


def answering(status: int, content: bytes = b"", **headers: str) -> Answer:
    """Returns what answers always so."""
    return lambda handler: send(handler, status, content, **headers)


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Listens on a port of its own and does nothing else."""
    with socket.create_server((host, 0)) as listener:
        yield listener


def _credentials(folder: Path, names: tuple[str, ...]) -> tuple[ssl.SSLContext, str]:
    root_file, chain_file = folder / "receiver-root.pem", folder / "receiver.pem"
    if not chain_file.exists():
        # A receiver that is started again and again needs none of what it brings.
        from tests.fakes_server import make_leaf, make_root

        root = make_root("Receivers")
        leaf = make_leaf(root, *names)
        root_file.write_bytes(root.certificate_pem)
        chain_file.write_bytes(leaf.key_pem + leaf.certificate_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain_file)
    return context, root_file.read_text()
