"""`certctl managed search`: managed certificates found by what they have."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

import click

from certd.cli.certctl import names
from certd.cli.certctl.invocation import Invocation, verb
from certd.cli.certctl.managed import print_list
from certd.cli.certctl.managed_download_code import managed
from certd.cli.certctl.managed_filter_options import filter_of, filter_options
from certd.cli.certctl.parameters import DURATION, EnumType
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import SearchManagedCertificatesRequest

__all__ = ["managed"]

_PAGE: Final = 500


@verb(
    managed,
    "search",
    examples="""
    certctl managed search --expires-within 30d
    certctl managed search --domain example.internal --label team=web --state active --state expired
    certctl managed search --blocked -o json | jq -r .name
    certctl managed search --type imported --unused --authority web-ca
    """,
)
@click.option(
    "--state",
    "states",
    type=EnumType(ManagedCertificate.State.DESCRIPTOR),
    multiple=True,
    help="In this state; repeated, in one of them.",
)
@click.option("--type", "type_", type=EnumType(ManagedCertificate.Type.DESCRIPTOR), help="Of this type.")
@click.option("--name", "alternative_name", help="With exactly this alternative name, of any kind.")
@filter_options
@click.option(
    "--expires-within", type=DURATION, help="Whose current version ends before this time has passed, or has ended."
)
@click.option("--blocked/--not-blocked", "blocked", default=None, help="Whose renewal is blocked, or is not.")
@click.option("--used/--unused", "used", default=None, help="That are associated or exported, or are neither.")
@click.option("--limit", type=click.IntRange(min=1), help="Show only so many.")
def search(
    run: Invocation,
    *,
    states: Sequence[str],
    type_: str | None,
    alternative_name: str | None,
    authority: str | None,
    profile: str | None,
    domain: str | None,
    key_spec: str | None,
    labels: Sequence[tuple[str, str]],
    issued_before: datetime | None,
    expires_before: datetime | None,
    expires_within: timedelta | None,
    blocked: bool | None,
    used: bool | None,
    limit: int | None,
) -> None:
    """Find managed certificates, by name. Several conditions hold together."""
    if expires_within is not None:
        if expires_before is not None:
            message = "say --expires-within or --expires-before, not both"
            raise click.UsageError(message)
        expires_before = datetime.now(UTC) + expires_within
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
    wanted.states.extend(ManagedCertificate.State.Value(state) for state in states)
    wanted.type = ManagedCertificate.Type.Value(type_ or "TYPE_UNSPECIFIED")
    wanted.alternative_name = alternative_name or ""
    if blocked is not None:
        wanted.renewal_blocked = blocked
    if used is not None:
        wanted.used = used
    call = SearchManagedCertificatesRequest(
        parent=names.tenant_name(run.tenant), filter=wanted, page_size=_PAGE if limit is None else min(limit, _PAGE)
    )

    def pages() -> Iterator[Sequence[ManagedCertificate]]:
        left = limit
        for page in client.pages(client.stubs.search_managed_certificates, call):
            part = list(islice(page.managed_certificates, left))
            yield part
            if left is not None:
                left -= len(part)
                if left <= 0:
                    return

    with run.connect() as client, run.progress("searching managed certificates"):
        print_list(pages(), run)
