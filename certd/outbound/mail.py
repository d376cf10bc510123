"""Mail: an event as plain text to people, by a mail server over TLS."""

import logging
import smtplib
import socket
import ssl
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email import policy, utils
from email.message import EmailMessage
from pathlib import Path
from typing import Final

from certd.model.delivery import Answer, Outcome
from certd.model.mail_server import MailSecurity, MailServer
from certd.model.subscription import MailTarget
from certd.outbound.https import client_context
from certd.outbound.mail_text import subject_of, text_of
from certd.outbound.message import Message, shown

PATIENCE: Final = 10.0
"""Seconds that the mail server may be silent."""
LONGEST: Final = 30.0
"""Seconds of one mail in all."""
_LONGEST_PASSWORD: Final = 1024
_PRIVATE_MODES: Final = (0o600, 0o400)
_TEMPORARY: Final = 4
"""The first digit of answers that say: later."""

_log = logging.getLogger("certd.outbound.mail")


@dataclass(frozen=True, slots=True)
class Mail:
    """Sends mails."""

    server: MailServer | None
    """None: none is configured."""

    def send(self, target: MailTarget, message: Message, subscription: str, now: datetime) -> Answer:
        """Mails an event to all recipients; returns what became of it."""
        if self.server is None:
            return _away("this server sends no mail: its configuration has no [notify.smtp]")
        try:
            composed = compose(self.server, target, message, subscription, now)
        except ValueError as error:
            return Answer(outcome=Outcome.REFUSED, error=f"no mail can be made of the event: {shown(str(error))}")
        try:
            with _session(self.server) as session:
                refused = session.send_message(composed, self.server.sender, list(target.recipients))
        except smtplib.SMTPException as error:
            return _answer(error)
        except (OSError, ValueError) as error:
            return _away(_why(error))
        return _partly(refused) if refused else Answer(outcome=Outcome.TAKEN)


def compose(server: MailServer, target: MailTarget, message: Message, subscription: str, now: datetime) -> EmailMessage:
    """Returns the mail of an event; ValueError when it cannot be one."""
    mail = EmailMessage(policy=policy.SMTP)
    mail["From"] = f"certd <{server.sender}>"
    mail["To"] = ", ".join(target.recipients)
    mail["Subject"] = subject_of(message.event)
    mail["Date"] = utils.format_datetime(now)
    # The same at every try, so that those who get it twice are shown it once.
    mail["Message-ID"] = f"<{_local_part(message.message_id)}@{server.sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    # Never in eight bits, which a mail server may take or not.
    mail.set_content(text_of(message.event, subscription), cte="quoted-printable")
    return mail


def _local_part(message_id: str) -> str:
    """Returns an id as the left of a Message-ID: letters, digits and dots."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "." for letter in message_id).strip(".")


@contextmanager
def _session(server: MailServer) -> Iterator[smtplib.SMTP]:
    """Yields a connection that is encrypted, verified and logged in, and that ends after LONGEST seconds."""
    trust = client_context(ca_file=server.ca_file)
    # The name of this machine is not looked up, which may take long.
    own = socket.gethostname() or "localhost"
    session: smtplib.SMTP
    if server.security is MailSecurity.TLS:
        session = smtplib.SMTP_SSL(local_hostname=own, timeout=PATIENCE, context=trust)
    else:
        session = smtplib.SMTP(local_hostname=own, timeout=PATIENCE)
    # A server that sends an octet at a time is never silent for long.
    end = threading.Timer(LONGEST, _end, (session,))
    end.daemon = True
    end.start()
    try:
        # For the verification; `connect` does not set it, the constructor does, but connects before there is a timer.
        session._host = server.host  # type: ignore[attr-defined]  # noqa: SLF001
        code, words = session.connect(server.host, server.port)
        if code != 220:
            raise smtplib.SMTPConnectError(code, words)
        if server.security is MailSecurity.STARTTLS:
            session.starttls(context=trust)
        if server.username:
            session.login(server.username, _password(server))
        yield session
        # What was taken is taken, however the server says good-bye.
        with suppress(smtplib.SMTPException, OSError):
            session.quit()
    finally:
        end.cancel()
        session.close()


def _end(session: smtplib.SMTP) -> None:
    connection = session.sock
    if connection is not None:
        # Mostly it is closed already.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class _SecretError(ValueError):
    """The password is not there to be used."""


def _password(server: MailServer) -> str:
    path = server.password_file or Path()
    try:
        if stat.S_IMODE(path.stat().st_mode) not in _PRIVATE_MODES:
            _log.error("%s has a mode by which others may read it: run chmod 600 %s", path, path)
            raise _SecretError
        return path.read_bytes()[:_LONGEST_PASSWORD].decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        _log.error("the password of the mail server cannot be read from %s: %s", path, error)
        raise _SecretError from error


def _answer(error: smtplib.SMTPException) -> Answer:
    """Returns what a failure of the protocol says of the event, or of the server."""
    refused = False
    match error:
        case smtplib.SMTPRecipientsRefused():
            said = _of_recipients(error.recipients)
            refused = all(code // 100 != _TEMPORARY for code, _ in error.recipients.values())
        case smtplib.SMTPAuthenticationError():
            said = f"the mail server does not let certd in: {_said(error.smtp_code, error.smtp_error)}"
        case smtplib.SMTPResponseException():
            said = _said(error.smtp_code, error.smtp_error)
            refused = isinstance(error, smtplib.SMTPDataError) and error.smtp_code // 100 != _TEMPORARY
        case smtplib.SMTPNotSupportedError():
            said = f"the mail server lacks what is needed: {shown(str(error))}"
        case _ if isinstance(error.__context__, TimeoutError):
            said = _why(error.__context__)
        case _:
            said = f"the mail server ends the connection: {shown(str(error))}"
    # What it says to the mail itself it perhaps says of this one alone.
    of_event = not refused and isinstance(error, smtplib.SMTPDataError)
    outcome = Outcome.REFUSED if refused else Outcome.AWAY
    return Answer(outcome=outcome, error=said, perhaps_the_event=of_event)


def _partly(refused: Mapping[str, tuple[int, bytes]]) -> Answer:
    """Returns what became of a mail that some recipients did not get.

    One that may get it later gets it with the next try; the others are then shown it once, by its Message-ID.
    """
    later = any(code // 100 == _TEMPORARY for code, _ in refused.values())
    return Answer(outcome=Outcome.REFUSED if later else Outcome.TAKEN, error=_of_recipients(refused))


def _of_recipients(refused: Mapping[str, tuple[int, bytes]]) -> str:
    return "; ".join(f"{shown(address)}: {_said(*answer)}" for address, answer in list(refused.items())[:3])


def _said(code: int, words: bytes | str) -> str:
    text = words if isinstance(words, str) else words.decode(errors="replace")
    return f"the mail server answers {code} {shown(text)}".rstrip()


def _why(error: OSError | ValueError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"the mail server's certificate is not trusted: {shown(error.verify_message)}; name the roots that"
                " vouch for it as notify.smtp.ca_file in certd.toml"
            )
        case ssl.SSLError():
            return f"TLS with the mail server fails: {shown(error.reason or 'no reason is given')}"
        case TimeoutError():
            return "the mail server does not answer in time"
        case _SecretError() | ValueError():
            return "the password or the roots of the mail server cannot be used; the log of certd tells more"
    return f"the mail server cannot be reached: {shown(error.strerror or str(error))}"


def _away(error: str) -> Answer:
    return Answer(outcome=Outcome.AWAY, error=error)
