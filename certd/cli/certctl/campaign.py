"""`certctl campaign`: many managed certificates that are renewed now; `certctl managed renew` makes one."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Never

import click

from certd.cli.certctl import completion, names, output
from certd.cli.certctl.durations import format_duration
from certd.cli.certctl.invocation import Invocation, verb
from certd.client.failure import CallFailed
from certd.client.messages import enum_text, moment, to_json
from certd.v1.managed_certificate_service_pb2 import (
    CancelRenewalCampaignRequest,
    GetRenewalCampaignRequest,
    ListRenewalCampaignsRequest,
)
from certd.v1.renewal_campaign_pb2 import RenewalCampaign

if TYPE_CHECKING:
    from certd.client.connection import Client

_PAGE: Final = 500
_HEADER: Final = ("CAMPAIGN", "STATE", "RENEWED", "BLOCKED", "SKIPPED", "OF", "PER MINUTE", "CREATED", "REASON")
_POLL: Final = 1.0
_TELL: Final = 5.0
"""Seconds between two lines of progress."""
_STUCK: Final = 30.0
"""Seconds after which nobody waits for those that are blocked, when they are all that is left."""


@click.group()
def campaign() -> None:
    """Renewal campaigns: many managed certificates renewed now, so many in a minute.

    `certctl managed renew` with --all, --authority, --domain or --label makes one.
    """


@verb(campaign, "list", examples="certctl campaign list\ncertctl campaign list -o json | jq -r .name")
def list_(run: Invocation) -> None:
    """List the campaigns of a tenant, newest first."""
    call = ListRenewalCampaignsRequest(parent=names.tenant_name(run.tenant), page_size=_PAGE)

    def pages() -> Iterator[Sequence[RenewalCampaign]]:
        for page in client.pages(client.stubs.list_renewal_campaigns, call):
            yield page.renewal_campaigns

    with run.connect() as client, run.progress("listing campaigns"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(
    campaign,
    "show",
    examples="""
    certctl campaign show after-the-leak
    certctl campaign show after-the-leak --wait
    """,
)
@click.argument("name", metavar="CAMPAIGN", shell_complete=completion.campaigns)
@click.option("--wait", is_flag=True, help="Show its progress until it has ended.")
def show(run: Invocation, *, name: str, wait: bool) -> None:
    """Show one campaign: how far it is, and which of its managed certificates are blocked."""
    request = GetRenewalCampaignRequest(name=names.campaign_name(name, run.tenant))
    with run.connect() as client:
        with run.progress("getting the campaign"):
            found = client.call(client.stubs.get_renewal_campaign, request)
        if wait:
            found = wait_for_end(run, client, found)
    print_campaign(found, run)


@verb(campaign, "cancel", examples="certctl campaign cancel after-the-leak")
@click.argument("name", metavar="CAMPAIGN", shell_complete=completion.campaigns)
def cancel(run: Invocation, *, name: str) -> None:
    """End a campaign; renewals that have begun go on."""
    request = CancelRenewalCampaignRequest(name=names.campaign_name(name, run.tenant))
    with run.connect() as client, run.progress("cancelling the campaign"):
        ended = client.call(client.stubs.cancel_renewal_campaign, request)
    print_campaign(ended, run)


def wait_for_end(run: Invocation, client: "Client", item: RenewalCampaign) -> RenewalCampaign:
    """Shows the progress of a campaign and returns it when it has ended.

    Raises CallFailed when all that is left is blocked, or when --timeout is over; the server goes on.
    """
    began = stuck_since = tells = time.monotonic()
    told = ""
    while item.state == RenewalCampaign.RUNNING:
        now = time.monotonic()
        if not _all_blocked(item):
            stuck_since = now
        elif now - stuck_since >= _STUCK:
            raise _still_running(item, "what is left of it is blocked")
        if run.timeout is not None and now - began >= run.timeout.total_seconds():
            raise _still_running(item, "it is not done yet")
        if now >= tells and (text := progress_text(item)) != told:
            run.tell(text)
            told, tells = text, now + _TELL
        time.sleep(_POLL)
        item = client.call(client.stubs.get_renewal_campaign, GetRenewalCampaignRequest(name=item.name))
    run.tell(progress_text(item))
    return item


def progress_text(item: RenewalCampaign) -> str:
    """Returns how far a campaign is, for people."""
    ready = item.renewed_count + item.skipped_count
    selected = f"{item.selected_count:,}" + ("" if item.selection_complete else " and more")
    parts = [f"{item.renewed_count:,} of {selected} renewed"]
    parts += [f"{item.skipped_count:,} skipped"] if item.skipped_count else []
    parts += [f"{item.blocked_count:,} blocked"] if item.blocked_count else []
    waiting = item.selected_count - ready - item.blocked_count
    parts += [f"{waiting:,} on their way"] if waiting > 0 and item.state == RenewalCampaign.RUNNING else []
    return f"campaign {names.short(item.name)}: {', '.join(parts)}"


def print_campaign(item: RenewalCampaign, run: Invocation) -> None:
    """Prints a campaign."""
    ends = moment(item.end_time) if item.HasField("end_time") else datetime.now(UTC)
    lasts = timedelta(seconds=max(0, int((ends - moment(item.create_time)).total_seconds())))
    card = [
        ("Name", item.name),
        ("State", enum_text(item, "state")),
        ("Renews", to_json(item.filter) if item.filter.ByteSize() else "everything"),
        ("Per minute", f"{item.renewals_per_minute:,}"),
        ("Reason", item.reason),
        ("Selected", f"{item.selected_count:,}" + ("" if item.selection_complete else ", and looking for more")),
        ("Renewed", f"{item.renewed_count:,}"),
        ("Skipped", f"{item.skipped_count:,}" if item.skipped_count else ""),
        ("Blocked", f"{item.blocked_count:,}" if item.blocked_count else ""),
        ("Blocked ones", "\n".join(names.short(name) for name in item.blocked_managed_certificates)),
        ("Creator", item.creator),
        ("Created", output.time_text(item.create_time)),
        ("Ended", output.time_text(item.end_time)),
        ("Lasts" if item.state == RenewalCampaign.RUNNING else "Lasted", format_duration(lasts) if lasts else ""),
    ]
    output.print_resource(item, run.output, card=card)


def _all_blocked(item: RenewalCampaign) -> bool:
    left = item.selected_count - item.renewed_count - item.skipped_count
    return item.selection_complete and left == item.blocked_count


def _still_running(item: RenewalCampaign, why: str) -> CallFailed:
    some = ", ".join(names.short(name) for name in item.blocked_managed_certificates)
    blocked = f"; blocked: {some}" if some else ""
    short = names.short(item.name)
    return CallFailed(
        "DEADLINE_EXCEEDED",
        f"{progress_text(item)}; {why}{blocked}. The server goes on; see certctl campaign show {short}, and for what"
        " blocks one certctl managed get",
        code="DEADLINE_EXCEEDED",
        resource=item.name,
    )


def _row(item: RenewalCampaign) -> Sequence[str]:
    return (
        names.short(item.name),
        enum_text(item, "state"),
        f"{item.renewed_count:,}",
        f"{item.blocked_count:,}",
        f"{item.skipped_count:,}",
        f"{item.selected_count:,}" + ("" if item.selection_complete else "…"),
        f"{item.renewals_per_minute:,}",
        output.time_text(item.create_time),
        item.reason,
    )


def _no_pem(_: RenewalCampaign) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)
