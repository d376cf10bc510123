"""A mail server on a loopback port, with STARTTLS or TLS from the first octet, and a certificate of its own."""

import base64
import contextlib
import email
import email.policy
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from certd.model.mail_server import MailSecurity, MailServer


@dataclass(frozen=True, kw_only=True)
class Mailed:
    """A mail that was taken."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    login: str = ""
    """Name and password, where somebody logged in."""
    encrypted: bool

    @property
    def message(self) -> EmailMessage:
        return email.message_from_bytes(self.content, policy=email.policy.default)

    @property
    def seq(self) -> int:
        """Number of the event."""
        return int(self.message["Message-ID"].partition("events.")[2].partition(".")[0])


@dataclass(kw_only=True)
class Mailbox:
    """A running mail server."""

    port: int = 0
    root_file: Path
    security: MailSecurity
    mails: list[Mailed] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    """What is said to a command instead: `RCPT a@example.org` before `RCPT`. `DROP`: the connection ends."""
    offers_starttls: bool = True
    credentials: str = ""
    """Name and password that log in, with a colon between them."""
    connections: int = 0
    on_taken: Callable[[Mailed], None] = lambda _mailed: None
    """Called before a mail is answered."""

    def server(self, **changes: Any) -> MailServer:
        given: dict[str, Any] = {
            "host": "localhost",
            "port": self.port,
            "security": self.security,
            "sender": "certd@example.org",
            "ca_file": self.root_file,
        }
        return MailServer(**(given | changes))


@contextmanager
def running_mail_server(
    folder: Path, *, security: MailSecurity = MailSecurity.STARTTLS, port: int = 0
) -> Iterator[Mailbox]:
    """Runs a mail server; the folder keeps its certificate for the next one."""
    root_file, chain_file = folder / "mail-root.pem", folder / "mail.pem"
    if not chain_file.exists():
        # As in `tests.webhooks`.
        from tests.fakes_server import make_leaf, make_root

        root = make_root("Mail")
        leaf = make_leaf(root, "localhost")
        root_file.write_bytes(root.certificate_pem)
        chain_file.write_bytes(leaf.key_pem + leaf.certificate_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain_file)
    mailbox = Mailbox(root_file=root_file, security=security)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            mailbox.connections += 1
            # Otherwise an answer waits for the acknowledgement of what TLS sent before it.
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError, EOFError):
                session = _Session(mailbox, context, self.request)
                try:
                    session.run()
                finally:
                    session.close()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", port), Handler) as server:
        mailbox.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield mailbox
        finally:
            server.shutdown()
            thread.join()


class _Session:
    def __init__(self, mailbox: Mailbox, context: ssl.SSLContext, connection: Any) -> None:
        self._mailbox = mailbox
        self._context = context
        self._connection = connection
        self._encrypted = False
        self._login = ""
        self._sender = ""
        self._recipients: list[str] = []
        self._lines: Any = None

    def _secure(self) -> None:
        self._connection = self._context.wrap_socket(self._connection, server_side=True)
        self._encrypted = True

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
        self._connection.close()

    def _say(self, text: str) -> None:
        if text == "DROP":
            raise EOFError
        self._connection.sendall(text.encode() + b"\r\n")

    def run(self) -> None:
        if self._mailbox.security is MailSecurity.TLS:
            self._secure()
        self._lines = self._connection.makefile("rb")
        self._say(self._mailbox.answers.get("CONNECT", "220 localhost ESMTP"))
        while line := self._lines.readline().decode().rstrip("\r\n"):
            command, _, argument = line.partition(" ")
            command = command.upper()
            address = argument.partition("<")[2].partition(">")[0]
            special = self._mailbox.answers.get(f"{command} {address}") or self._mailbox.answers.get(command)
            if special:
                self._say(special)
            elif command == "QUIT":
                self._say("221 bye")
                return
            else:
                self._answer(command, argument, address)

    def _answer(self, command: str, argument: str, address: str) -> None:
        match command:
            case "EHLO":
                self._offer()
            case "STARTTLS":
                self._say("220 go on")
                self._lines.close()
                self._secure()
                self._lines = self._connection.makefile("rb")
            case "AUTH":
                _, name, password = base64.b64decode(argument.partition(" ")[2]).decode().split("\0")
                self._login = f"{name}:{password}"
                self._say("235 in" if self._login == self._mailbox.credentials else "535 no")
            case "MAIL":
                self._sender, self._recipients = address, []
                self._say("250 ok")
            case "RCPT":
                self._recipients.append(address)
                self._say("250 ok")
            case "DATA":
                self._say("354 go on")
                self._take()
            case "RSET" | "NOOP":
                self._say("250 ok")
            case _:
                self._say("502 what?")

    def _offer(self) -> None:
        offers = ["localhost", "8BITMIME", "SIZE 100000"]
        if not self._encrypted and self._mailbox.offers_starttls:
            offers.append("STARTTLS")
        if self._encrypted:
            offers.append("AUTH PLAIN")
        self._say("\r\n".join([*(f"250-{offer}" for offer in offers[:-1]), f"250 {offers[-1]}"]))

    def _take(self) -> None:
        content = bytearray()
        while (line := self._lines.readline()) != b".\r\n":
            if not line:
                raise EOFError
            content += line.removeprefix(b".")
        special = self._mailbox.answers.get("END")
        if special is None:
            mailed = Mailed(
                sender=self._sender,
                recipients=tuple(self._recipients),
                content=bytes(content),
                login=self._login,
                encrypted=self._encrypted,
            )
            self._mailbox.mails.append(mailed)
            self._mailbox.on_taken(mailed)
        self._say(special or "250 taken")
