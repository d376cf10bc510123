"""Flags for name constraints: `--permit-dns example.internal --exclude-ip 192.0.2.0/24`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

from certd.cli.certctl.parameters import SUBJECT, distinguished_name_text
from certd.v1.x509_pb2 import NameConstraints, Subtrees

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_EFFECTS: Final = {"permit": "permitted", "exclude": "excluded"}
_KINDS: Final = {
    "dns": ("dns_names", "DOMAIN", "the DNS name and every one below it"),
    "ip": ("ip_ranges", "CIDR", "the range of IP addresses, as 192.0.2.0/24"),
    "uri": ("uri_hosts", "HOST", "URIs of the host, or with a leading dot of those below it"),
    "email": (
        "email_addresses",
        "NAME",
        "the e-mail address, those of a host, or with a leading dot of those below it",
    ),
    "directory": ("directory_names", "NAME", 'subjects that begin with the name, as "O=Example"'),
}
_SAYS: Final = {
    "permit": "Of this kind permit below it only ",
    "exclude": "Never permit below it ",
}


def constraint_options(command: CommandT) -> CommandT:
    """Adds `--permit-KIND` and `--exclude-KIND`; their values come as keyword arguments of those names."""
    for effect in reversed(_EFFECTS):
        for kind, (_, metavar, text) in reversed(_KINDS.items()):
            command = click.option(
                f"--{effect}-{kind}",
                metavar=metavar,
                type=SUBJECT if kind == "directory" else str,
                multiple=True,
                help=f"{_SAYS[effect]}{text}; may be repeated.",
            )(command)
    return command


def constraints_of(flags: Mapping[str, Sequence[Any]]) -> NameConstraints | None:
    """Returns what the flags say; None when none is given."""
    sides = {
        side: Subtrees(**{field: flags[f"{effect}_{kind}"] for kind, (field, _, _) in _KINDS.items()})
        for effect, side in _EFFECTS.items()
    }
    given = {side: subtrees for side, subtrees in sides.items() if subtrees.ByteSize()}
    return NameConstraints(**given) if given else None


def constraint_rows(constraints: NameConstraints) -> list[tuple[str, str]]:
    """Returns name constraints for a card."""
    return [
        (label, "\n".join(_lines(subtrees)))
        for label, subtrees in (("Permits", constraints.permitted), ("Excludes", constraints.excluded))
    ]


def _lines(subtrees: Subtrees) -> list[str]:
    shown: list[str] = []
    for kind, (field, _, _) in _KINDS.items():
        for value in getattr(subtrees, field):
            text = distinguished_name_text(value) if kind == "directory" else value or "every one"
            shown.append(f"{kind} {text}")
    return shown
