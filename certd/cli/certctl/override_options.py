"""Flags for a subject and for alternative names that take the place of those of a CSR."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

from certd.cli.certctl.parameters import SUBJECT
from certd.v1.x509_pb2 import SubjectAlternativeNames

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_KINDS: Final = {
    "dns_names": ("--dns", "DNS name in place of the names of the CSR, of every kind; may be repeated."),
    "ip_addresses": ("--ip", "IP address in place of them; may be repeated."),
    "uris": ("--uri", "URI in place of them; may be repeated."),
    "email_addresses": ("--email", "E-mail address in place of them; may be repeated."),
}


def override_options(command: CommandT) -> CommandT:
    """Adds `--subject` and a flag for each kind of names, under the fields' names of SubjectAlternativeNames."""
    for field, (flag, text) in reversed(_KINDS.items()):
        command = click.option(flag, field, multiple=True, help=text)(command)
    return click.option("--subject", type=SUBJECT, help='Subject in place of that of the CSR: "CN=www,O=Example".')(
        command
    )


def names_of(flags: Mapping[str, Sequence[str]]) -> SubjectAlternativeNames | None:
    """Returns what the flags say; None when none is given, so that the names of the CSR stay."""
    return SubjectAlternativeNames(**flags) if any(flags.values()) else None
