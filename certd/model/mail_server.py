"""The mail server by which notices are sent."""

import enum
from dataclasses import dataclass
from pathlib import Path


class MailSecurity(enum.StrEnum):
    """How the connection is protected; there is no way without."""

    TLS = "tls"
    """From its first octet."""
    STARTTLS = "starttls"
    """After the server's greeting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """Where mail is handed in, and as whom."""

    host: str
    port: int
    security: MailSecurity
    sender: str
    """Address that mail is from."""
    username: str = ""
    """Empty: without logging in."""
    password_file: Path | None = None
    """Read for each mail, so that it may be replaced."""
    ca_file: Path | None = None
    """PEM of the roots that vouch for the server; None: those of the machine."""
