"""`certctl event`: the audit record, read and watched."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, Never, TypeVar

import click

from certd.cli.certctl import names, output
from certd.cli.certctl.invocation import Invocation, verb
from certd.cli.certctl.output import Format
from certd.cli.certctl.parameters import DURATION, TIME
from certd.client.messages import timestamp, to_json
from certd.v1.event_pb2 import Event
from certd.v1.event_service_pb2 import EventFilter, ListEventsRequest, WatchEventsRequest

_PAGE: Final = 500
_HEADER: Final = ("SEQ", "TIME", "TYPE", "RESOURCE", "BY", "DETAILS")
_WIDTHS: Final = (8, 20, 38, 48, 40, 0)
"""Of columns that are printed before it is known what comes."""
_DETAILS_SHOWN: Final = 3

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@click.group()
def event() -> None:
    """Events: the record of every change, every key that left and every call that was refused."""


def _filter_options(command: CommandT) -> CommandT:
    for option in reversed(
        (
            click.option("--server", "of_server", is_flag=True, help="Of the whole server.  [default: of the tenant]"),
            click.option(
                "--type",
                "types",
                multiple=True,
                help="Of this type; may end in * and be repeated.  [default: all]",
            ),
            click.option(
                "--resource",
                default="",
                help="About this resource and what is below it; managedCertificates/web is one of the tenant.",
            ),
            click.option("--principal", default="", help="Done by this SPIFFE id, or by certd itself."),
        )
    ):
        command = option(command)
    return command


@verb(
    event,
    "list",
    examples="""
    certctl event list --last 24h --type 'managed-certificate.*'
    certctl event list --resource managedCertificates/web --limit 20
    certctl event list --server --type call.refused --since 2027-01-31T00:00:00Z -o json | jq -r .principal
    """,
)
@_filter_options
@click.option("--last", type=DURATION, help="Of so long until now.")
@click.option("--since", type=TIME, help="Not before this time.")
@click.option("--until", type=TIME, help="Before this time.")
@click.option("--oldest-first", is_flag=True, help="In the order in which they happened.  [default: the newest first]")
@click.option("--limit", type=click.IntRange(min=1), help="Show only so many.")
def list_(
    run: Invocation,
    *,
    of_server: bool,
    types: Sequence[str],
    resource: str,
    principal: str,
    last: timedelta | None,
    since: datetime | None,
    until: datetime | None,
    oldest_first: bool,
    limit: int | None,
) -> None:
    """List events."""
    if last is not None and since is not None:
        message = "--last and --since both say when to begin; give one of them"
        raise click.UsageError(message)
    begin = since if last is None else datetime.now(UTC) - last
    wanted = EventFilter(
        types=types,
        resource=_resource(run, resource),
        principal=principal,
        start_time=None if begin is None else timestamp(begin),
        end_time=None if until is None else timestamp(until),
    )
    request = ListEventsRequest(
        parent=_parent(run, of_server=of_server),
        filter=wanted,
        descending=not oldest_first,
        page_size=_PAGE if limit is None else min(limit, _PAGE),
    )

    def pages() -> Iterator[Sequence[Event]]:
        left = sys.maxsize if limit is None else limit
        for page in client.pages(client.stubs.list_events, request):
            shown = list(islice(page.events, left))
            left -= len(shown)
            yield shown
            if not left:
                return

    with run.connect() as client, run.progress("listing events"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(
    event,
    "watch",
    examples="""
    certctl event watch
    certctl event watch --type managed-certificate.renewed --type 'association.*'
    certctl event watch --server --from-beginning -o json | jq -r '[.event.time, .event.type] | @tsv'
    """,
)
@_filter_options
@click.option("--from-beginning", is_flag=True, help="Begin with the first event there is.")
@click.option("--cursor", default="", help="Go on behind this one, which -o json shows beside every event.")
@click.option("--limit", type=click.IntRange(min=1), help="End after so many.")
def watch(
    run: Invocation,
    *,
    of_server: bool,
    types: Sequence[str],
    resource: str,
    principal: str,
    from_beginning: bool,
    cursor: str,
    limit: int | None,
) -> None:
    """Show events as they happen, each once, until you interrupt it.

    When the connection breaks, it goes on from where it was.
    """
    if from_beginning and cursor:
        message = "--from-beginning and --cursor both say where to begin; give one of them"
        raise click.UsageError(message)
    if run.output is Format.PEM:
        _no_pem(None)
    request = WatchEventsRequest(
        parent=_parent(run, of_server=of_server),
        filter=EventFilter(types=types, resource=_resource(run, resource), principal=principal),
        cursor=cursor,
        from_beginning=from_beginning,
    )
    with run.connect() as client, until_nobody_reads():
        from certd.client.watch import watch_events

        if run.output is Format.TABLE:
            print_line(_HEADER, _WIDTHS)
        answers = watch_events(client, request, on_wait=run.tell_waiting)
        for answer in islice((each for each in answers if each.HasField("event")), limit):
            if run.output is Format.JSON:
                click.echo(to_json(answer))
            else:
                print_line(_row(answer.event), _WIDTHS)


@contextmanager
def until_nobody_reads() -> Iterator[None]:
    """Ends quietly what is written without end: when a person interrupts it, or the program that reads it has ended."""
    try:
        yield
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # Or Python would complain, while it ends, that the rest cannot be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_line(cells: Sequence[str], widths: Sequence[int]) -> None:
    """Prints a line of a table that goes on, whose columns are as wide as they mostly need to be."""
    shown = (output.printable(cell) or output.ABSENT for cell in cells)
    click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(shown, widths, strict=True)).rstrip())


def _parent(run: Invocation, *, of_server: bool) -> str:
    return "" if of_server else names.tenant_name(run.tenant)


def _resource(run: Invocation, text: str) -> str:
    of_server = text.startswith(("tenants/", "identities/", "grants/"))
    return text if of_server or not text else f"{names.tenant_name(run.tenant)}/{text}"


def _row(one: Event) -> Sequence[str]:
    details = [f"{key}={value}" for key, value in sorted(one.details.items()) if key != "uid"]
    more = ["…"] if len(details) > _DETAILS_SHOWN else []
    return (
        str(one.seq),
        output.time_text(one.time),
        one.type,
        one.resource,
        one.principal,
        " ".join([*details[:_DETAILS_SHOWN], *more]),
    )


def _no_pem(_: Event | None) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)
