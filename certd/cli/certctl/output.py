"""What certctl prints: cards and tables for people, JSON and PEM for programs, errors with their remedy."""

import enum
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

import click
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from certd.cli.certctl.durations import days_left, format_time
from certd.client.failure import CallFailed
from certd.client.messages import moment, to_json
from certd.errors import CertdError
from certd.pki import information_access
from certd.v1 import x509_pb2

PROGRAM: Final = "certctl"
ABSENT: Final = "-"
"""Stands in a table where there is nothing."""

ResourceT = TypeVar("ResourceT", bound=Message)
Row = tuple[str, str]


class Format(enum.StrEnum):
    """How answers are printed."""

    TABLE = "table"
    """Tables and cards for people."""
    JSON = "json"
    """The JSON mapping of the protos: one resource, or one per line for lists."""
    PEM = "pem"
    """Certificates alone."""


def print_resource(resource: Message, output: Format, *, card: Sequence[Row], pem: str = "") -> None:
    """Prints one resource: its card, its JSON, or the PEM; raises click.UsageError when PEM is asked for and empty."""
    match output:
        case Format.JSON:
            click.echo(to_json(resource, indent=2))
        case Format.PEM:
            print_pem(pem)
        case Format.TABLE:
            click.echo(format_card(card))


def print_pages(
    pages: Iterable[Sequence[ResourceT]],
    output: Format,
    *,
    header: Sequence[str],
    row: Callable[[ResourceT], Sequence[str]],
    pem: Callable[[ResourceT], str],
) -> None:
    """Prints a list as its pages arrive: a table, a JSON object per line, or every certificate as PEM."""
    first = True
    for page in pages:
        match output:
            case Format.JSON:
                for resource in page:
                    click.echo(to_json(resource))
            case Format.PEM:
                for resource in page:
                    click.echo(pem(resource), nl=False)
            case Format.TABLE:
                lines = format_table(header, [row(resource) for resource in page])
                click.echo("\n".join(lines if first else lines[1:]), nl=first or len(lines) > 1)
        first = False


def print_pem(pem: str) -> None:
    """Prints PEM as it is; raises click.UsageError when there is none."""
    if not pem:
        message = "there is no certificate to print as PEM; leave out -o pem"
        raise click.UsageError(message)
    click.echo(pem, nl=False)


def print_warnings(warnings: Iterable[x509_pb2.Warning], output: Format, *, of: str = "") -> None:
    """Prints the warnings of an answer to standard error, a line each; JSON has them in the resource."""
    if output is not Format.JSON:
        for warning in warnings:
            note(": ".join(part for part in ("warning", of, warning.field, warning.message) if part))


def note(text: str) -> None:
    """Prints a line for people to standard error."""
    click.echo(f"{PROGRAM}: {printable(text)}", err=True)


def print_failure(failure: CallFailed | CertdError, output: Format, *, verbose: bool) -> None:
    """Prints a failure to standard error: a line and, if wanted, its details; under JSON one object."""
    if output is Format.JSON:
        print_json_failure(
            str(failure.reason),
            failure.message,
            metadata=dict(failure.metadata),
            violations=[{"field": v.field, "description": v.description} for v in failure.violations],
        )
        return
    note(f"{failure.reason}: {failure.message}")
    details = [(f"  {v.field}", v.description) for v in failure.violations]
    if not verbose:
        # The message has the first alone, and a person wants to correct all of them at once.
        if len(details) > 1:
            click.echo(format_card(details), err=True)
        return
    details += [(f"  {key}", value) for key, value in sorted(failure.metadata.items())]
    if isinstance(failure, CallFailed):
        details += [("  status code", failure.code), ("  resource", failure.resource)]
    if failure.retry_after is not None:
        details.append(("  retry after", f"{failure.retry_after:g}s"))
    click.echo(format_card(details), err=True)


def print_json_failure(
    reason: str, message: str, *, metadata: dict[str, str] | None = None, violations: list[dict[str, str]] | None = None
) -> None:
    """Prints a failure to standard error as one JSON object on one line."""
    click.echo(
        json.dumps({"reason": reason, "message": message, "metadata": metadata or {}, "violations": violations or []}),
        err=True,
    )


def format_card(rows: Sequence[Row]) -> str:
    """Returns labels and values in two columns; rows without a value are left out."""
    shown = [(label, value) for label, value in rows if value]
    width = max((len(label) for label, _ in shown), default=0)
    lines = []
    for label, value in shown:
        first, *more = (printable(line) for line in value.splitlines())
        lines.append(f"{label:<{width}}  {first}")
        lines += [" " * (width + 2) + line for line in more]
    return "\n".join(lines)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table in aligned columns, the header first; an empty cell shows a dash."""
    cells = [list(header), *([printable(cell) or ABSENT for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]


def printable(text: str) -> str:
    """Returns a text with control characters escaped: names come from strangers' CSRs and must not move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def time_text(value: Timestamp) -> str:
    """Returns a time in RFC 3339; empty for the time that is not set."""
    return format_time(moment(value)) if value.ByteSize() else ""


def days_left_text(description: x509_pb2.CertificateDescription) -> str:
    """Returns the whole days that a certificate still lives; empty when there is none."""
    if not description.HasField("not_after_time"):
        return ""
    return days_left(moment(description.not_after_time), datetime.now(UTC))


def validity_rows(description: x509_pb2.CertificateDescription) -> list[Row]:
    """Returns the rows of a card about the validity of a certificate."""
    left = days_left_text(description)
    remaining = "" if not left else f" ({left})" if left == "expired" else f" ({left} days left)"
    return [
        ("Not before", time_text(description.not_before_time)),
        ("Not after", time_text(description.not_after_time) + remaining),
    ]


def names_text(names: x509_pb2.SubjectAlternativeNames, separator: str = ", ") -> str:
    """Returns all alternative names, each kind but DNS names with its prefix."""
    return separator.join(
        [
            *names.dns_names,
            *(f"IP:{address}" for address in names.ip_addresses),
            *(f"URI:{uri}" for uri in names.uris),
            *(f"email:{address}" for address in names.email_addresses),
        ]
    )


def described_names_text(description: x509_pb2.CertificateDescription) -> str:
    """Returns all alternative names of a certificate, a line each, beside A-labels what they show to people."""
    names = x509_pb2.SubjectAlternativeNames()
    names.CopyFrom(description.subject_alternative_names)
    shown = iter(description.unicode_dns_names)
    for number, name in enumerate(names.dns_names):
        if any(label.startswith("xn--") for label in name.split(".")):
            written = next(shown, name)
            names.dns_names[number] = name if written == name else f"{name} ({written})"
    return names_text(names, "\n")


def issuer_urls_text(description: x509_pb2.CertificateDescription) -> str:
    """Returns where a certificate says that its issuer's can be fetched, a line each."""
    return "\n".join(
        url
        for extension in description.extensions
        if extension.oid == information_access.OBJECT_IDENTIFIER
        for url in information_access.issuer_urls(extension.value)
    )


def location_rows(description: x509_pb2.CertificateDescription) -> list[Row]:
    """Returns the rows of a card about where a certificate says that its issuer and its status are found."""
    return [
        ("Issuer at", issuer_urls_text(description)),
        ("CRL at", "\n".join(description.crl_urls)),
        ("OCSP at", "\n".join(description.ocsp_urls)),
    ]


def chain_pem(chain: Iterable[x509_pb2.EncodedCertificate]) -> str:
    """Returns the PEM of certificates, one after the other."""
    return "".join(certificate.pem for certificate in chain)
