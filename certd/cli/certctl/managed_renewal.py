"""`certctl managed renew`: one managed certificate, or in an incident all that fit, so many in a minute."""

import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

import click

from certd.cli.certctl import completion, names, output
from certd.cli.certctl.campaign import print_campaign, wait_for_end
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.managed import print_managed, wait_for_version
from certd.cli.certctl.managed_changes import managed
from certd.cli.certctl.managed_filter_options import filter_of, filter_options
from certd.v1.managed_certificate_filter_pb2 import ManagedCertificateFilter
from certd.v1.managed_certificate_service_pb2 import (
    CreateRenewalCampaignRequest,
    GetManagedCertificateRequest,
    RenewManagedCertificateRequest,
)
from certd.v1.renewal_campaign_pb2 import RenewalCampaign

if TYPE_CHECKING:
    from certd.client.connection import Client

__all__ = ["managed"]

_PER_MINUTE: Final = {"min": 1, "m": 1, "s": 60, "": 1}
_RATE: Final = re.compile(r"([1-9][0-9]{0,6})(?:/(min|m|s))?")


class RateType(click.ParamType[int]):
    """How many in a minute: `600/min`, `10/s`."""

    name = "number/min"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns how many in a minute; fails with a sentence."""
        if isinstance(value, int):
            return value
        found = _RATE.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is no rate; write 600/min or 10/s", param, ctx)
        return int(found[1]) * _PER_MINUTE[found[2] or ""]


@verb(
    managed,
    "renew",
    examples="""
    certctl managed renew web
    certctl managed renew --authority web-ca --reason "key of the build host leaked" --rate 600/min
    certctl managed renew --label team=web --domain example.internal --issued-before 2026-11-03T07:00:00Z --no-wait
    certctl managed renew --all --rate 60/min --yes
    """,
)
@click.argument("name", metavar="[MANAGED]", required=False, shell_complete=completion.managed_certificates)
@click.option("--all", "everything", is_flag=True, help="All managed certificates of the tenant.")
@filter_options
@click.option(
    "--rate", type=RateType(), help="Renewals that begin in a minute at most, 600/min or 10/s.  [default: 600/min]"
)
@click.option("--campaign-id", default="", help="Last part of the name of the campaign.  [default: a new one]")
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal, whether it is meant.")
@click.option(
    "--wait/--no-wait",
    default=True,
    help="Wait until the new version is there, 2 minutes or --timeout, or until all are renewed.  [default: wait]",
)
@mutation_options(validate_only=True)
def renew(
    run: Invocation,
    *,
    name: str | None,
    everything: bool,
    authority: str | None,
    profile: str | None,
    domain: str | None,
    key_spec: str | None,
    labels: Sequence[tuple[str, str]],
    issued_before: datetime | None,
    expires_before: datetime | None,
    rate: int | None,
    campaign_id: str,
    reason: str,
    yes: bool,
    wait: bool,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Have a new version made now, with a new key.

    With a name it is that managed certificate. With --all or conditions it is every one that fits all of them: a
    campaign, whose progress is shown until it has ended (certctl campaign).
    """
    wanted = filter_of(
        run.tenant,
        authority=authority,
        profile=profile,
        domain=domain,
        key_spec=key_spec,
        labels=labels,
        issued_before=issued_before,
        expires_before=expires_before,
    )
    _check(name, wanted, everything=everything, of_campaigns=bool(rate or campaign_id or validate_only))
    if name is not None:
        full_name = names.managed_certificate_name(name, run.tenant)
        call = RenewManagedCertificateRequest(name=full_name, reason=reason, request_id=str(request_id))
        with run.connect() as client:
            _renew_one(run, client, call, wait=wait)
        return
    request = CreateRenewalCampaignRequest(
        parent=names.tenant_name(run.tenant),
        renewal_campaign_id=campaign_id,
        renewal_campaign=RenewalCampaign(filter=wanted, renewals_per_minute=rate or 0, reason=reason),
        request_id=str(request_id),
        validate_only=validate_only,
    )
    # A program that calls certctl has nobody to ask.
    asks = sys.stdin.isatty() and not yes and not validate_only
    if asks and not click.confirm(f"Renew {_told(wanted)} of {output.printable(request.parent)} now?", err=True):
        run.tell("nothing was renewed")
        click.get_current_context().exit(1)
    with run.connect() as client:
        _renew_many(run, client, request, wait=wait)


def _check(name: str | None, wanted: ManagedCertificateFilter, *, everything: bool, of_campaigns: bool) -> None:
    """Raises click.UsageError unless it is said, and in one way, what is to be renewed."""
    conditions = wanted.ByteSize() > 0
    if name is not None and (everything or conditions or of_campaigns):
        message = "a name stands for one managed certificate; leave it out to renew all that fit --all or conditions"
        raise click.UsageError(message)
    if everything and conditions:
        message = "--all is every one; leave it out to renew those that fit the conditions"
        raise click.UsageError(message)
    if name is None and not everything and not conditions:
        message = "say what to renew: a name, conditions such as --authority, --domain or --label, or --all"
        raise click.UsageError(message)


def _renew_one(run: Invocation, client: "Client", call: RenewManagedCertificateRequest, *, wait: bool) -> None:
    with run.progress("asking for the renewal"):
        # What is current before the call; by the time of its answer the new version may be there.
        before = client.call(client.stubs.get_managed_certificate, GetManagedCertificateRequest(name=call.name))
        item = client.call(client.stubs.renew_managed_certificate, call)
    output.print_warnings(item.warnings, run.output)
    if wait:
        item = wait_for_version(run, client, item, before.current_version + 1)
    print_managed(item, run)


def _renew_many(run: Invocation, client: "Client", request: CreateRenewalCampaignRequest, *, wait: bool) -> None:
    with run.progress("making the campaign"):
        item = client.call(client.stubs.create_renewal_campaign, request)
    if request.validate_only:
        run.tell("every check passed; nothing was changed")
    elif wait:
        run.tell(f"{item.name} renews {_told(item.filter)}, {item.renewals_per_minute:,} in a minute")
        item = wait_for_end(run, client, item)
    print_campaign(item, run)


def _told(wanted: ManagedCertificateFilter) -> str:
    return "what fits the conditions" if wanted.ByteSize() else "every managed certificate"
