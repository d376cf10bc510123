"""`certctl managed watch`: managed certificates as they are, and what changes."""

from collections.abc import Sequence
from itertools import islice
from typing import Final

import click

from certd.cli.certctl import names, output
from certd.cli.certctl.completion import managed_certificates
from certd.cli.certctl.event import print_line, until_nobody_reads
from certd.cli.certctl.invocation import Invocation, verb
from certd.cli.certctl.managed_search import managed
from certd.cli.certctl.output import Format
from certd.client.messages import enum_text, to_json
from certd.v1.managed_certificate_service_pb2 import (
    WatchManagedCertificatesRequest,
    WatchManagedCertificatesResponse,
)

__all__ = ["managed"]

_HEADER: Final = ("CHANGE", "MANAGED CERTIFICATE", "STATE", "VERSION", "NOT AFTER", "TIME", "EVENT", "BY")
_WIDTHS: Final = (8, 32, 10, 7, 20, 20, 38, 0)


@verb(
    managed,
    "watch",
    examples="""
    certctl managed watch
    certctl managed watch web shop --changes-only
    certctl managed watch --own -o json | jq -r 'select(.association) | [.name, .association.currentVersion] | @tsv'
    """,
)
@click.argument("managed_names", metavar="[MANAGED]...", nargs=-1, shell_complete=managed_certificates)
@click.option(
    "--own", is_flag=True, help="What you are associated with as a consumer, in every tenant.  [default: the tenant's]"
)
@click.option("--changes-only", is_flag=True, help="Do not show first what there is.")
@click.option("--cursor", default="", help="Go on behind this one, which -o json shows.")
@click.option("--limit", type=click.IntRange(min=1), help="End after so many lines.")
def watch(
    run: Invocation,
    *,
    managed_names: Sequence[str],
    own: bool,
    changes_only: bool,
    cursor: str,
    limit: int | None,
) -> None:
    """Show managed certificates, all of the tenant or those named, and every change of them until you interrupt it.

    When the connection breaks, it goes on from where it was.
    """
    if run.output is Format.PEM:
        message = "a stream has no certificates to print as PEM; leave out -o pem"
        raise click.UsageError(message)
    request = WatchManagedCertificatesRequest(
        parent="" if own else names.tenant_name(run.tenant),
        names=[names.managed_certificate_name(each, run.tenant) for each in managed_names],
        cursor=cursor,
    )
    kind = WatchManagedCertificatesResponse
    passed_over = {kind.ALIVE, *([kind.PRESENT, kind.SYNCED] if changes_only else [])}
    if run.output is Format.TABLE:
        # It has nothing to say to people.
        passed_over.add(kind.SYNCED)
    with run.connect() as client, until_nobody_reads():
        from certd.client.watch import watch_managed_certificates

        if run.output is Format.TABLE:
            print_line(_HEADER, _WIDTHS)
        answers = watch_managed_certificates(client, request, on_wait=run.tell_waiting)
        for answer in islice((each for each in answers if each.kind not in passed_over), limit):
            if run.output is Format.JSON:
                click.echo(to_json(answer))
            else:
                print_line(_row(answer), _WIDTHS)


def _row(answer: WatchManagedCertificatesResponse) -> Sequence[str]:
    found, event = answer.managed_certificate, answer.event
    version = found.current_version or answer.association.current_version
    return (
        enum_text(answer, "kind"),
        names.short(answer.name),
        enum_text(found, "state") if answer.HasField("managed_certificate") else "",
        str(version or ""),
        output.time_text(found.description.not_after_time),
        output.time_text(event.time),
        event.type,
        event.principal,
    )
