"""[notify] of certd.toml: where events may be sent, and by which mail server."""

import ipaddress
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, model_validator

from certd.config_values import File, SecretFile, Section, invalid, listed
from certd.model.mail_server import MailSecurity, MailServer

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS: Final = {MailSecurity.TLS: 465, MailSecurity.STARTTLS: 587}


def _network(value: object) -> Network:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    try:
        return ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError as error:
        raise invalid(
            'write a network such as "10.20.0.0/16" or "fd00:1::/64", without bits behind its prefix'
        ) from error


def _security(value: object) -> MailSecurity:
    if value not in {each.value for each in MailSecurity}:
        raise invalid('write "tls" or "starttls"; mail is never sent in the clear')
    return MailSecurity(value)


def _mail_address(value: object) -> str:
    text = value if isinstance(value, str) else ""
    local, at, domain = text.rpartition("@")
    if (
        not at
        or not local
        or not domain
        or not text.isascii()
        or not text.isprintable()
        or set(text) & set(' <>,;:"()')
    ):
        raise invalid('write the bare address that mail is from, for example "certd@example.internal"')
    return text


class Smtp(Section):
    """The mail server."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,253}$")]
    """The name that its certificate is for."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """None: 465 for TLS, 587 for STARTTLS."""
    security: Annotated[MailSecurity, BeforeValidator(_security)] = MailSecurity.STARTTLS
    username: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    password_file: SecretFile | None = None
    sender: Annotated[str, BeforeValidator(_mail_address), Field(alias="from", max_length=254)]
    ca_file: File | None = None
    """PEM of the roots that vouch for the server; None: those of the machine."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise invalid("username and password_file need each other")
        return self


class Notify(Section):
    """Who is told of events, and how."""

    allowed_networks: Annotated[
        tuple[Annotated[Network, BeforeValidator(_network)], ...], BeforeValidator(listed), Field(max_length=256)
    ] = ()
    """Networks, beside the public ones, to which webhooks may be sent."""
    deployment_late: Annotated[int, Field(ge=60, le=31_536_000)] = 86_400
    """Seconds after which a consumer that does not serve a version is told to be late; a tenth of its lifetime, if that
    is less."""
    smtp: Smtp | None = None
    """None: no mail is sent."""


def mail_server(notify: Notify) -> MailServer | None:
    """Returns by which server mail is sent; None: by none."""
    smtp = notify.smtp
    if smtp is None:
        return None
    return MailServer(
        host=smtp.host,
        port=smtp.port or _PORTS[smtp.security],
        security=smtp.security,
        sender=smtp.sender,
        username=smtp.username or "",
        password_file=smtp.password_file,
        ca_file=smtp.ca_file,
    )
