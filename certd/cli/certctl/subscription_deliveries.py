"""`certctl subscription test | failed | retry`: whether a target takes what is sent, and what it never took."""

from collections.abc import Iterator, Sequence
from typing import Final, Never

import click

from certd.cli.certctl import completion, names, output
from certd.cli.certctl.invocation import Invocation, verb
from certd.cli.certctl.output import Format
from certd.cli.certctl.subscription import subscription
from certd.client.messages import to_json
from certd.v1.event_service_pb2 import (
    ListFailedDeliveriesRequest,
    RetryFailedDeliveriesRequest,
    TestSubscriptionRequest,
)
from certd.v1.subscription_pb2 import FailedDelivery

__all__ = ["subscription"]

_PAGE: Final = 500
_FAILED: Final = 1
_HEADER: Final = ("SEQ", "TIME", "TYPE", "RESOURCE", "TRIES", "GIVEN UP", "ERROR")


@verb(subscription, "test", examples="certctl subscription test pager\ncertctl subscription test pager -o json")
@click.argument("name", metavar="SUBSCRIPTION", shell_complete=completion.subscriptions)
def try_(run: Invocation, *, name: str) -> None:
    """Send a test now, of the type subscription.test; fails when the target does not take it."""
    full_name = names.subscription_name(name, run.tenant)
    with run.connect() as client, run.progress("sending a test"):
        tested = client.call(client.stubs.test_subscription, TestSubscriptionRequest(name=full_name))
    if run.output is Format.JSON:
        click.echo(to_json(tested, indent=2))
    if not tested.delivered:
        run.tell(f"the target of {full_name} did not take the test: {tested.error}")
        click.get_current_context().exit(_FAILED)
    run.tell(f"the target of {full_name} took the test")


@verb(
    subscription,
    "failed",
    examples="certctl subscription failed pager\ncertctl subscription failed pager -o json | jq -r .event.seq",
)
@click.argument("name", metavar="SUBSCRIPTION", shell_complete=completion.subscriptions)
def failed(run: Invocation, *, name: str) -> None:
    """List the events that could not be delivered, the oldest first."""
    request = ListFailedDeliveriesRequest(parent=names.subscription_name(name, run.tenant), page_size=_PAGE)

    def pages() -> Iterator[Sequence[FailedDelivery]]:
        for page in client.pages(client.stubs.list_failed_deliveries, request):
            yield page.failed_deliveries

    with run.connect() as client, run.progress("listing failed deliveries"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(
    subscription,
    "retry",
    examples="""
    certctl subscription retry pager
    certctl subscription retry pager 1207 1208
    """,
)
@click.argument("name", metavar="SUBSCRIPTION", shell_complete=completion.subscriptions)
@click.argument("seqs", metavar="[SEQ]...", type=click.IntRange(min=1), nargs=-1)
def retry(run: Invocation, *, name: str, seqs: Sequence[int]) -> None:
    """Try failed deliveries anew, all of them or those of these events."""
    request = RetryFailedDeliveriesRequest(name=names.subscription_name(name, run.tenant), seqs=seqs)
    with run.connect() as client, run.progress("trying deliveries anew"):
        retried = client.call(client.stubs.retry_failed_deliveries, request)
    output.print_resource(retried, run.output, card=[("Tried anew", f"{retried.retried_count:,}")])


def _no_pem(_: FailedDelivery) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)


def _row(one: FailedDelivery) -> Sequence[str]:
    return (
        str(one.event.seq),
        output.time_text(one.event.time),
        one.event.type,
        one.event.resource,
        str(one.attempts),
        output.time_text(one.fail_time),
        one.error,
    )
