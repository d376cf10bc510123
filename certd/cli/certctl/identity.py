"""`certctl identity`: who may call, and the renewal of one's own certificate."""

from collections.abc import Iterator, Sequence
from typing import Final, Never
from uuid import UUID

import click

from certd.cli.certctl import names, output
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.client.messages import enum_text
from certd.v1.access_service_pb2 import GetIdentityRequest, ListIdentitiesRequest, RevokeIdentityRequest
from certd.v1.identity_pb2 import Identity, IdentityCertificate

_PAGE: Final = 500
_HEADER: Final = ("IDENTITY", "STATE", "CERTIFICATES", "NEWEST ENDS", "SPIFFE ID")


@click.group()
def identity() -> None:
    """Identities: machines and persons that call, each with one SPIFFE id.

    web stands for tenants/default/identities/web; identities/web is one of the server.
    """


@verb(
    identity,
    "get",
    examples="""
    certctl identity get web
    certctl identity get identities/admin -o json
    """,
)
@click.argument("name", metavar="IDENTITY")
def get(run: Invocation, *, name: str) -> None:
    """Show one identity and its certificates that are neither expired nor revoked."""
    request = GetIdentityRequest(name=names.identity_name(name, run.tenant))
    with run.connect() as client, run.progress("getting the identity"):
        found = client.call(client.stubs.get_identity, request)
    _print(found, run)


@verb(
    identity,
    "list",
    examples="""
    certctl identity list
    certctl identity list --server -o json | jq -r .spiffeId
    """,
)
@click.option("--server", "of_server", is_flag=True, help="Of the server.  [default: of the tenant]")
def list_(run: Invocation, *, of_server: bool) -> None:
    """List the identities of a tenant, or of the server."""
    request = ListIdentitiesRequest(parent="" if of_server else names.tenant_name(run.tenant), page_size=_PAGE)

    def pages() -> Iterator[Sequence[Identity]]:
        for page in client.pages(client.stubs.list_identities, request):
            yield page.identities

    with run.connect() as client, run.progress("listing identities"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(
    identity,
    "revoke",
    examples="""
    certctl identity revoke web
    certctl identity revoke identities/build --validate-only
    """,
)
@click.argument("name", metavar="IDENTITY")
@mutation_options(validate_only=True)
def revoke(run: Invocation, *, name: str, request_id: UUID, validate_only: bool) -> None:
    """Revoke every certificate and every enrollment code of an identity; its next call is refused.

    Its grants stay. With a new enrollment code it may come back.
    """
    full_name = names.identity_name(name, run.tenant)
    request = RevokeIdentityRequest(name=full_name, request_id=str(request_id), validate_only=validate_only)
    with run.connect() as client, run.progress("revoking the identity"):
        revoked = client.call(client.stubs.revoke_identity, request)
    if validate_only:
        run.tell(f"every check passed; {full_name} is not revoked")
    _print(revoked, run)


@verb(identity, "renew", examples="certctl identity renew\ncertctl identity renew -o json | jq -r .renewTime")
def renew(run: Invocation) -> None:
    """Renew your own certificate with a new key, and put both in place of the old ones.

    certctl does this by itself when it is used while less than a third of the lifetime is left.
    """
    with run.progress("renewing the certificate"):
        made, files = run.renew()
    if run.output is output.Format.TABLE:
        run.tell(f"{files.certificate} and {files.private_key} are renewed")
    newest = next(iter(made.identity.certificates), IdentityCertificate())
    card = [
        ("Identity", made.identity.name),
        ("Serial number", newest.serial_number),
        ("Not after", output.time_text(newest.not_after_time)),
        ("Renew from", output.time_text(made.renew_time)),
    ]
    output.print_resource(made, run.output, card=card, pem=made.certificate.pem)


def _print(found: Identity, run: Invocation) -> None:
    certificates = [f"{one.serial_number} until {output.time_text(one.not_after_time)}" for one in found.certificates]
    card = [
        ("Name", found.name),
        ("SPIFFE id", found.spiffe_id),
        ("State", enum_text(found, "state")),
        ("Certificates", "\n".join(certificates) or "none that is neither expired nor revoked"),
        ("Created", output.time_text(found.create_time)),
        ("Changed", output.time_text(found.update_time)),
    ]
    output.print_resource(found, run.output, card=card)


def _row(found: Identity) -> tuple[str, ...]:
    newest = next(iter(found.certificates), IdentityCertificate())
    return (
        names.short(found.name),
        enum_text(found, "state"),
        str(len(found.certificates)),
        output.time_text(newest.not_after_time),
        found.spiffe_id,
    )


def _no_pem(_: Identity) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)
