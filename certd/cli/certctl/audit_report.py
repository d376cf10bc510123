"""`certctl authority audit-report` and `certctl event checkpoint`: what an auditor takes home."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Final

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.authority_changes import authority
from certd.cli.certctl.event import event, until_nobody_reads
from certd.cli.certctl.invocation import SLOW, Invocation, verb
from certd.cli.certctl.output import Format
from certd.cli.certctl.parameters import TIME
from certd.client.messages import enum_text, timestamp, to_json
from certd.errors import CertdError, Reason
from certd.v1.authority_service_pb2 import CreateAuditReportRequest, CreateAuditReportResponse
from certd.v1.event_service_pb2 import GetCheckpointRequest

__all__ = ["authority", "event"]

_FORMATS: Final = {
    "json": CreateAuditReportRequest.Format.JSON,
    "csv": CreateAuditReportRequest.Format.CSV,
}


@verb(
    authority,
    "audit-report",
    examples="""
    certctl authority audit-report web-ca --format csv --out web-ca.csv
    certctl authority audit-report web-ca --since 2027-01-01T00:00:00Z | jq -r 'select(.reason) | .serial'
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@click.option(
    "--format",
    "report_format",
    type=click.Choice(sorted(_FORMATS), case_sensitive=False),
    default="json",
    show_default=True,
    help="json has an object on each line, csv is for spreadsheets.",
)
@click.option("--out", type=click.Path(path_type=Path), help="File for the report, instead of standard output.")
@click.option("--since", type=TIME, help="Issued at this time or later.")
@click.option("--until", type=TIME, help="Issued before this time.")
def audit_report(
    run: Invocation,
    *,
    name: str,
    report_format: str,
    out: Path | None,
    since: datetime | None,
    until: datetime | None,
) -> None:
    """Write a record of everything that an authority ever signed, the oldest first."""
    if run.output is Format.PEM:
        message = "a report is no certificate; leave out -o pem"
        raise click.UsageError(message)
    files.check_writable([] if out is None else [out])
    request = CreateAuditReportRequest(
        name=names.authority_name(name, run.tenant),
        format=_FORMATS[report_format.lower()],
        start_time=None if since is None else timestamp(since),
        end_time=None if until is None else timestamp(until),
    )
    with run.connect() as client, run.progress("writing the report"):
        parts = client.stream(client.stubs.create_audit_report, request)
        if out is None:
            with until_nobody_reads():
                _write(parts, sys.stdout.buffer, run.tell)
            return
        with _replacing(out) as file:
            count = _write(parts, file, run.tell)
    run.tell(f"{count:,} records are in {out}")


@verb(
    event,
    "checkpoint",
    examples="""
    certctl event checkpoint
    certctl event checkpoint -o json >> /mnt/elsewhere/checkpoints.jsonl
    """,
)
def checkpoint(run: Invocation) -> None:
    """Get a statement of how far the record goes, signed by a key in the token.

    Keep what -o json prints where the server cannot change it: certd audit verify --checkpoint FILE shows later whether
    the record was cut or changed.
    """
    if run.output is Format.PEM:
        message = "a checkpoint is no certificate; leave out -o pem"
        raise click.UsageError(message)
    with run.connect() as client, run.progress("getting the checkpoint"):
        found = client.call(client.stubs.get_checkpoint, GetCheckpointRequest())
    if run.output is Format.JSON:
        click.echo(to_json(found))
        return
    rows = (
        ("Sequence", str(found.seq)),
        ("Chain hash", found.chain_hash.hex()),
        ("Time", output.time_text(found.time)),
        ("Algorithm", enum_text(found, "signature_algorithm")),
        ("Signature", found.signature.hex()),
    )
    click.echo(output.format_card(rows))


def _write(parts: Iterable[CreateAuditReportResponse], file: IO[bytes], tell: Callable[[str], None]) -> int:
    """Writes the parts as they come, and tells people how far it is; returns how many records there were."""
    count, told = 0, time.monotonic()
    for part in parts:
        file.write(part.content)
        count = part.record_count
        if time.monotonic() - told > SLOW:
            tell(f"{count:,} records …")
            told = time.monotonic()
    file.flush()
    return count


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file that takes the place of another once all is written, so that none is ever half a report."""
    place = path.resolve()
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(place)
        finally:
            with suppress(FileNotFoundError):
                Path(name).unlink()
    except OSError as error:
        raise CertdError(
            Reason.FIELD_INVALID, f"{path} cannot be written: {(error.strerror or str(error)).lower()}"
        ) from error
