"""A small HTTPS server, as the quick start has an agent keep one up to date.

    tls_server.py FULLCHAIN KEY HOST:PORT PID-FILE

It shows what every server must do for that: on SIGHUP it reads its files again, and the next handshake is with them.
Connections that are open go on, and files that it cannot read leave it with what it had. It may start before there are
any: whoever connects until then is sent away.
"""

import os
import signal
import socket
import socketserver
import ssl
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

_IDLE = 30.0
"""Seconds that a client may say nothing."""


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE

    def do_GET(self) -> None:  # As http.server calls it.
        text = b"served with a certificate of certd\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], fullchain: Path, key: Path) -> None:
        self._files = (fullchain, key)
        self._context: ssl.SSLContext | None = None
        super().__init__(address, _Page)

    def read_files(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(*self._files)
        except OSError as error:
            # Also what SSL cannot read; who reloads this server learns of it by a handshake.
            sys.stderr.write(f"{self._files[0]} and {self._files[1]} cannot be read: {error}\n")
            return
        self._context = context

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        if self._context is None:
            connection.close()
            raise OSError("there is no certificate yet")
        connection.settimeout(_IDLE)
        # The handshake is with the first read, in the thread of this client.
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: object, client_address: object) -> None:
        del request
        sys.stderr.write(f"{client_address}: {sys.exc_info()[1]}\n")


def _stop(*_: object) -> None:
    sys.exit(0)


def main() -> None:
    """Serves until SIGTERM."""
    fullchain, key, address, pid_file = sys.argv[1:]
    host, _, port = address.rpartition(":")
    with _Server((host, int(port)), Path(fullchain), Path(key)) as server:
        server.read_files()
        signal.signal(signal.SIGHUP, lambda *_: server.read_files())
        signal.signal(signal.SIGTERM, _stop)
        # Last: who reads it may send SIGHUP at once.
        path = Path(pid_file)
        path.write_text(f"{os.getpid()}\n")
        try:
            server.serve_forever()
        finally:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
