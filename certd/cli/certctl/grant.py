"""`certctl grant` and `certctl whoami`: who may do what, where, and why not."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Never
from uuid import UUID

import click

from certd.cli.certctl import names, output
from certd.cli.certctl.invocation import Invocation, example_text, invocation, mutation_options, shared_options, verb
from certd.client.messages import enum_text, to_json
from certd.v1.access_service_pb2 import (
    CreateGrantRequest,
    DeleteGrantRequest,
    GetGrantRequest,
    ListGrantsRequest,
    TestPermissionsRequest,
    WhoAmIRequest,
    WhoAmIResponse,
)
from certd.v1.grant_pb2 import Grant, Role

if TYPE_CHECKING:
    from certd.client.connection import Client

_PAGE: Final = 500
_REFUSED: Final = 1
_HEADER: Final = ("GRANT", "PRINCIPAL", "ROLE", "SCOPE", "PROFILES")
_ROLES: Final = {name.lower().replace("_", "-"): number for name, number in Role.items() if number}
_SPIFFE: Final = "spiffe://"
_SERVER: Final = click.option(
    "--server", "of_server", is_flag=True, help="Of the server, past the bounds of a tenant.  [default: of the tenant]"
)


@click.group()
def grant() -> None:
    """Grants: who may do what, where.

    A principal is the id of an identity of the tenant (web-1), a SPIFFE id, or its path in the trust domain of the
    server (identities/build, tenants/default/identities/web-1); with /* at its end it stands for all below.
    """


@verb(
    grant,
    "create",
    examples="""
    certctl grant create web-1 requester --profile server
    certctl grant create web-1 consumer --scope managedCertificates/web
    certctl grant create identities/build issuer --scope tenants/default/authorities/web-ca --profile end-entity
    certctl grant create 'tenants/default/identities/*' consumer --id all-consume
    certctl grant create identities/second administrator --server --scope '*'
    """,
)
@click.argument("principal")
@click.argument("role", type=click.Choice(sorted(_ROLES), case_sensitive=False))
@click.option(
    "--scope",
    default="",
    help="Resource that it holds for, with all below it; managedCertificates/web is one of the tenant."
    "  [default: the tenant]",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="ID",
    help="Profile that may be used; needed for issuer and requester.  '*' is every one.",
)
@click.option("--id", "grant_id", default="", help="Last part of its name.  [default: one that the server chooses]")
@_SERVER
@mutation_options(validate_only=True)
def create(
    run: Invocation,
    *,
    principal: str,
    role: str,
    scope: str,
    profiles: Sequence[str],
    grant_id: str,
    of_server: bool,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Let a principal play a role. Nobody grants what they do not hold."""
    with run.connect() as client, run.progress("creating the grant"):
        wanted = Grant(
            principal=_principal(client, principal, run),
            role=_ROLES[role.lower()],
            scope=_scope(scope, run, of_server=of_server),
            profiles=profiles,
        )
        request = CreateGrantRequest(
            parent=_parent(run, of_server=of_server),
            grant_id=grant_id,
            grant=wanted,
            request_id=str(request_id),
            validate_only=validate_only,
        )
        made = client.call(client.stubs.create_grant, request)
    if validate_only:
        run.tell("every check passed; nothing was changed")
    _print(made, run)


@verb(grant, "get", examples="certctl grant get all-consume\ncertctl grant get grants/second-administrator -o json")
@click.argument("name", metavar="GRANT")
def get(run: Invocation, *, name: str) -> None:
    """Show one grant."""
    request = GetGrantRequest(name=names.grant_name(name, run.tenant))
    with run.connect() as client, run.progress("getting the grant"):
        found = client.call(client.stubs.get_grant, request)
    _print(found, run)


@verb(
    grant,
    "list",
    examples="""
    certctl grant list
    certctl grant list --server
    certctl grant list --principal identities/build -o json | jq -r .name
    """,
)
@click.option("--principal", default="", help="Only the grants that name just this principal.")
@_SERVER
def list_(run: Invocation, *, principal: str, of_server: bool) -> None:
    """List the grants of a tenant, or of the server."""
    with run.connect() as client, run.progress("listing grants"):
        request = ListGrantsRequest(
            parent=_parent(run, of_server=of_server),
            principal=_principal(client, principal, run) if principal else "",
            page_size=_PAGE,
        )

        def pages() -> Iterator[Sequence[Grant]]:
            for page in client.pages(client.stubs.list_grants, request):
                yield page.grants

        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(grant, "delete", examples="certctl grant delete all-consume\ncertctl grant delete grants/second --validate-only")
@click.argument("name", metavar="GRANT")
@mutation_options(validate_only=True)
def delete(run: Invocation, *, name: str, request_id: UUID, validate_only: bool) -> None:
    """Withdraw a grant, which no longer holds for the next call."""
    full_name = names.grant_name(name, run.tenant)
    request = DeleteGrantRequest(name=full_name, request_id=str(request_id), validate_only=validate_only)
    with run.connect() as client, run.progress("deleting the grant"):
        answer = client.call(client.stubs.delete_grant, request)
    if run.output is output.Format.JSON:
        click.echo(to_json(answer))
    else:
        run.tell(f"every check passed; {full_name} is still there" if validate_only else f"{full_name} is deleted")


@verb(
    grant,
    "explain",
    examples="""
    certctl grant explain identities/build certificate.issue tenants/default/authorities/web-ca --profile server
    certctl grant explain identities/build CertificateService/IssueCertificate tenants/default/authorities/web-ca
    certctl grant explain identities/build server.read server
    """,
)
@click.argument("principal")
@click.argument("method", metavar="METHOD")
@click.argument("resource")
@click.option("--profile", default="", metavar="ID", help="Profile that would be used.")
def explain(run: Invocation, *, principal: str, method: str, resource: str, profile: str) -> None:
    """Say why a call of PRINCIPAL would pass or not; METHOD may also be a permission. Exit code 1 when it would not."""
    with run.connect() as client, run.progress("asking the server"):
        request = TestPermissionsRequest(
            principal=_principal(client, principal, run),
            permissions=[_method(method)],
            resource=resource,
            profile=profile,
        )
        answer = client.call(client.stubs.test_permissions, request)
    (result,) = answer.results
    card = [
        ("Permission", result.permission),
        ("Allowed", "yes" if result.allowed else "no"),
        ("By", "\n".join(result.grants)),
        ("Because", result.explanation.replace("; ", "\n")),
    ]
    output.print_resource(answer, run.output, card=card)
    if not result.allowed:
        click.get_current_context().exit(_REFUSED)


@click.command("whoami", epilog=example_text("certctl whoami\ncertctl whoami -o json | jq -r .principal"))
@shared_options
def whoami() -> None:
    """Show who you are to the server, and the grants that hold for you."""
    run = invocation()
    with run.connect() as client, run.progress("asking the server"):
        answer = client.call(client.stubs.who_am_i, WhoAmIRequest())
    output.print_resource(answer, run.output, card=_identity_card(answer))
    if run.output is output.Format.TABLE and answer.grants:
        click.echo()
        click.echo("\n".join(output.format_table(_HEADER, [_row(held, short=False) for held in answer.grants])))


def _identity_card(answer: WhoAmIResponse) -> list[output.Row]:
    return [
        ("Principal", answer.principal),
        ("Serial", answer.serial_number),
        ("Valid until", output.time_text(answer.not_after_time)),
        ("Grants", "" if answer.grants else "none: an administrator can make one"),
    ]


def _scope(text: str, run: Invocation, *, of_server: bool) -> str:
    """Returns the name of the resource; of the server it is written in full, as is everything."""
    return text if of_server or text == "*" else names.resource_name(text, run.tenant)


def _parent(run: Invocation, *, of_server: bool) -> str:
    return "" if of_server else names.tenant_name(run.tenant)


def _principal(client: "Client", text: str, run: Invocation) -> str:
    """Returns a SPIFFE id; a path is one of the trust domain that the caller is of, a bare id an identity's."""
    if text.startswith(_SPIFFE):
        return text
    own = client.call(client.stubs.who_am_i, WhoAmIRequest()).principal
    trust_domain = own.removeprefix(_SPIFFE).partition("/")[0]
    path = text.removeprefix("/") if "/" in text else names.identity_name(text, run.tenant)
    return f"{_SPIFFE}{trust_domain}/{path}"


def _method(text: str) -> str:
    """Returns the full name of a method; a permission, and what is full already, pass as they are."""
    service, slash, _ = text.removeprefix("/").partition("/")
    return f"certd.v1.{text.removeprefix('/')}" if slash and "." not in service else text


def _print(item: Grant, run: Invocation) -> None:
    output.print_resource(item, run.output, card=_card(item))


def _card(item: Grant) -> list[output.Row]:
    return [
        ("Name", item.name),
        ("Principal", item.principal),
        ("Role", _role(item)),
        ("Scope", item.scope),
        ("Profiles", _profiles(item)),
        ("Creator", item.creator),
        ("Created", output.time_text(item.create_time)),
    ]


def _row(item: Grant, *, short: bool = True) -> Sequence[str]:
    name = names.short(item.name) if short else item.name
    return name, item.principal, _role(item), item.scope, _profiles(item)


def _role(item: Grant) -> str:
    return enum_text(item, "role").lower().replace("_", "-")


def _profiles(item: Grant) -> str:
    return ", ".join(item.profiles)


def _no_pem(_: Grant) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)
