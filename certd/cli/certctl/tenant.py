"""`certctl tenant`: the accounts, and how much each may have."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Never, TypeVar
from uuid import UUID

import click
from google.protobuf.field_mask_pb2 import FieldMask

from certd.cli.certctl import names, output
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.v1.tenant_pb2 import Quotas, Tenant
from certd.v1.tenant_service_pb2 import CreateTenantRequest, GetTenantRequest, ListTenantsRequest, UpdateTenantRequest

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_PAGE: Final = 500
_HEADER: Final = ("TENANT", "DISPLAY NAME", "CREATED", "CHANGED")
_QUOTAS: Final = tuple(field.name for field in Quotas.DESCRIPTOR.fields)
_CLEARABLE: Final = ("display_name", "expiry_notice_days", "quotas")


class QuotaType(click.ParamType[tuple[str, int]]):
    """A quota such as `authorities=50`."""

    name = "quota=number"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Returns the name as the API has it and the number; fails with the names that there are."""
        if isinstance(value, tuple):
            return value
        word, _, number = value.partition("=")
        name = word.replace("-", "_").lower()
        if name not in _QUOTAS:
            self.fail(f"{word!r} is none of {', '.join(one.replace('_', '-') for one in _QUOTAS)}", param, ctx)
        if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
            self.fail(f"{value!r} says no number; write {word}=50", param, ctx)
        return name, int(number)


def _said(command: CommandT) -> CommandT:
    """Adds the options that say what a tenant is."""
    for option in (
        click.option("--quota", "quotas", type=QuotaType(), multiple=True, help="How much it may have; once for each."),
        click.option(
            "--expiry-notice-day",
            "days",
            type=click.IntRange(1, 365),
            multiple=True,
            help="Days before the end of a certificate on which its expiry is told; once for each.",
        ),
        click.option("--display-name", help="For people."),
    ):
        command = option(command)
    return command


@click.group()
def tenant() -> None:
    """Tenants, the accounts: each has its own authorities, certificates, profiles, identities and grants."""


@verb(
    tenant,
    "create",
    examples="""
    certctl tenant create acme --display-name "Acme Corporation"
    certctl tenant create acme --quota authorities=20 --quota calls-per-second=100
    """,
)
@click.argument("name", metavar="ID")
@_said
@mutation_options(validate_only=True)
def create(
    run: Invocation,
    *,
    name: str,
    display_name: str | None,
    days: Sequence[int],
    quotas: Sequence[tuple[str, int]],
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Make a tenant."""
    wanted = Tenant(display_name=display_name or "", expiry_notice_days=days, quotas=Quotas(**dict(quotas)))
    request = CreateTenantRequest(
        tenant_id=name.removeprefix("tenants/"),
        tenant=wanted,
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress(f"creating the tenant {name}"):
        made = client.call(client.stubs.create_tenant, request)
    _tell_checked(run, validate_only=validate_only)
    _print(made, run)


@verb(tenant, "get", examples="certctl tenant get\ncertctl tenant get acme -o json")
@click.argument("name", metavar="TENANT", required=False)
def get(run: Invocation, *, name: str | None) -> None:
    """Show one tenant, by default that of --tenant."""
    request = GetTenantRequest(name=names.tenant_name(name or run.tenant))
    with run.connect() as client, run.progress("getting the tenant"):
        found = client.call(client.stubs.get_tenant, request)
    _print(found, run)


@verb(tenant, "list", examples="certctl tenant list\ncertctl tenant list -o json | jq -r .name")
def list_(run: Invocation) -> None:
    """List the tenants that you may read."""
    request = ListTenantsRequest(page_size=_PAGE)

    def pages() -> Iterator[Sequence[Tenant]]:
        for page in client.pages(client.stubs.list_tenants, request):
            yield page.tenants

    with run.connect() as client, run.progress("listing tenants"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(
    tenant,
    "update",
    examples="""
    certctl tenant update acme --quota authorities=50
    certctl tenant update acme --expiry-notice-day 30 --expiry-notice-day 7 --clear display_name
    """,
)
@click.argument("name", metavar="TENANT")
@click.option(
    "--clear", "cleared", type=click.Choice(_CLEARABLE), multiple=True, help="Field to set back to its default."
)
@click.option("--etag", default="", help="Change it only while this is its etag.")
@_said
@mutation_options(validate_only=True)
def update(
    run: Invocation,
    *,
    name: str,
    cleared: Sequence[str],
    etag: str,
    display_name: str | None,
    days: Sequence[int],
    quotas: Sequence[tuple[str, int]],
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Change what flags name; the quotas that are not named stay."""
    touched = {
        *cleared,
        *(["display_name"] if display_name is not None else []),
        *(["expiry_notice_days"] if days else []),
        *(["quotas"] if quotas else []),
    }
    if not touched:
        message = "say what to change, by flags or --clear"
        raise click.UsageError(message)
    wanted = Tenant(name=names.tenant_name(name), etag=etag, display_name=display_name or "", expiry_notice_days=days)
    with run.connect() as client, run.progress("changing the tenant"):
        if quotas and "quotas" not in cleared:
            # The others are kept as they stand, and not over what another changed meanwhile.
            found = client.call(client.stubs.get_tenant, GetTenantRequest(name=wanted.name))
            wanted.quotas.CopyFrom(found.quotas)
            wanted.etag = etag or found.etag
        for quota, number in quotas:
            setattr(wanted.quotas, quota, number)
        request = UpdateTenantRequest(
            tenant=wanted,
            update_mask=FieldMask(paths=sorted(touched)),
            request_id=str(request_id),
            validate_only=validate_only,
        )
        changed = client.call(client.stubs.update_tenant, request)
    _tell_checked(run, validate_only=validate_only)
    _print(changed, run)


def _tell_checked(run: Invocation, *, validate_only: bool) -> None:
    if validate_only:
        run.tell("every check passed; nothing was changed")


def _no_pem(_: Tenant) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)


def _row(item: Tenant) -> Sequence[str]:
    return (
        names.short(item.name),
        item.display_name,
        output.time_text(item.create_time),
        output.time_text(item.update_time),
    )


def _print(item: Tenant, run: Invocation) -> None:
    card = [
        ("Name", item.name),
        ("Uid", item.uid),
        ("Display name", item.display_name),
        ("Expiry told", f"{', '.join(map(str, item.expiry_notice_days))} days before"),
        ("Quotas", "\n".join(f"{name.replace('_', '-')} {getattr(item.quotas, name):,}" for name in _QUOTAS)),
        ("Created", output.time_text(item.create_time)),
        ("Changed", output.time_text(item.update_time)),
        ("Etag", item.etag),
    ]
    output.print_resource(item, run.output, card=card)
