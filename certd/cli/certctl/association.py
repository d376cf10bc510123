"""`certctl association`: who may lease the keys of managed certificates, and leases by those who may."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Never
from uuid import UUID

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.parameters import EnumType
from certd.client.messages import enum_text, to_json
from certd.errors import CertdError, Reason
from certd.pki.encoding import pem
from certd.v1.access_service_pb2 import WhoAmIRequest
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_pb2 import Deployment
from certd.v1.managed_certificate_service_pb2 import (
    CreateAssociationRequest,
    DeleteAssociationRequest,
    GetAssociationRequest,
    LeaseKeyResponse,
    ListAssociationsRequest,
    ReportDeploymentRequest,
)

if TYPE_CHECKING:
    from certd.client.connection import Client

_PAGE: Final = 500
_EVERY: Final = "-"
_HEADER: Final = ("MANAGED CERTIFICATE", "ASSOCIATION", "CONSUMER", "CURRENT", "LEASED", "DEPLOYED", "STATE")
_STATE: Final = EnumType(Deployment.State.DESCRIPTOR)
_SHA256_BYTES: Final = 32


@click.group()
def association() -> None:
    """Associations: which identities may lease the keys of a managed certificate.

    web/machine stands for the association machine of the managed certificate web; web alone for your own.
    """


@verb(
    association,
    "create",
    examples="""
    certctl association create web machine
    certctl association create web identities/edge --id edge-of-server
    """,
)
@click.argument("managed", shell_complete=completion.managed_certificates)
@click.argument("consumer")
@click.option("--id", "association_id", default="", help="Last part of its name.  [default: the id of the identity]")
@mutation_options(validate_only=True)
def create(
    run: Invocation, *, managed: str, consumer: str, association_id: str, request_id: UUID, validate_only: bool
) -> None:
    """Let an identity lease the keys of a managed certificate. It needs the role consumer too."""
    request = CreateAssociationRequest(
        parent=names.managed_certificate_name(managed, run.tenant),
        association_id=association_id,
        association=Association(consumer=names.identity_name(consumer, run.tenant)),
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress("creating the association"):
        made = client.call(client.stubs.create_association, request)
    if validate_only:
        run.tell("every check passed; nothing was changed")
    _print(made, run)


@verb(
    association,
    "show",
    examples="""
    certctl association show web/machine
    certctl association show web -o json
    """,
)
@click.argument("name", metavar="ASSOCIATION")
def show(run: Invocation, *, name: str) -> None:
    """Show one association: what was leased, and what the consumer says it serves."""
    with run.connect() as client, run.progress("getting the association"):
        found = _get(client, _name(run, client, name))
    _print(found, run)


@verb(
    association,
    "list",
    examples="""
    certctl association list
    certctl association list web
    certctl association list --consumer machine -o json | jq -r .name
    """,
)
@click.argument("managed", default=_EVERY, metavar="[MANAGED]", shell_complete=completion.managed_certificates)
@click.option("--consumer", default="", help="Only those of this identity; a consumer may list its own.")
def list_(run: Invocation, *, managed: str, consumer: str) -> None:
    """List the associations of a managed certificate, or of all that a tenant has."""
    request = ListAssociationsRequest(
        parent=names.managed_certificate_name(managed, run.tenant),
        consumer=names.identity_name(consumer, run.tenant) if consumer else "",
        page_size=_PAGE,
    )

    def pages() -> Iterator[Sequence[Association]]:
        for page in client.pages(client.stubs.list_associations, request):
            yield page.associations

    with run.connect() as client, run.progress("listing associations"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(association, "delete", examples="certctl association delete web/machine")
@click.argument("name", metavar="ASSOCIATION")
@mutation_options(validate_only=False)
def delete(run: Invocation, *, name: str, request_id: UUID) -> None:
    """End an association: its consumer leases no more.

    What it has leased cannot be called back; renew the managed certificate, or revoke it.
    """
    with run.connect() as client, run.progress("deleting the association"):
        full_name = _name(run, client, name)
        request = DeleteAssociationRequest(name=full_name, request_id=str(request_id))
        answer = client.call(client.stubs.delete_association, request)
    if run.output is output.Format.JSON:
        click.echo(to_json(answer))
    else:
        run.tell(f"{full_name} is deleted")


@verb(
    association,
    "lease",
    examples="""
    certctl association lease web --out-dir /etc/ssl/web
    certctl association lease web/edge-of-server --version 3 --out-dir ./old
    """,
)
@click.argument("name", metavar="ASSOCIATION")
@click.option(
    "--out-dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory for cert.pem, chain.pem and key.pem. The key is not encrypted; nobody else can read it.",
)
@click.option("--version", type=click.IntRange(min=1), help="Number of the version.  [default: the current one]")
def lease(run: Invocation, *, name: str, out_dir: Path, version: int | None) -> None:
    """Lease certificate, chain and private key of what you are associated with.

    Your identity's key signs for it, and the key comes encrypted to a key that exists for this call alone.
    """
    # Late, as the connection itself: see Invocation.connect.
    from certd.client.credentials import Credentials
    from certd.client.lease import lease as lease_key

    # Before, for a lease stays in the record even when nobody got to keep the key.
    files.check_directory(out_dir)
    with run.connect() as client, run.progress("leasing"):
        credentials = client.credentials
        if not isinstance(credentials, Credentials):
            raise CertdError(
                Reason.CREDENTIAL_MISSING,
                "a lease is signed by the key of an identity, which a caller with a token has not; enroll, and use"
                " certificate and private key",
            )
        found = _get(client, _name(run, client, name))
        leased = lease_key(client, found, version or 0, credentials)
    written = _write(leased.response, leased.private_key_info, out_dir)
    card = [
        ("Leased", f"{found.name}, version {leased.response.version}"),
        ("Files", "\n".join(str(item.path) for item in written)),
    ]
    certificates = leased.response.certificate.pem + output.chain_pem(leased.response.chain)
    output.print_resource(leased.response, run.output, card=card, pem=certificates)


@verb(
    association,
    "report",
    examples="""
    certctl association report web --version 3 --state serving
    certctl association report web --version 3 --state failed --message "nginx -t failed"
    """,
)
@click.argument("name", metavar="ASSOCIATION")
@click.option("--version", type=click.IntRange(min=1), required=True, help="Number of the version.")
@click.option("--state", type=_STATE, required=True, help="Whether it is served.")
@click.option(
    "--sha256", default="", metavar="HEX", help="SHA-256 fingerprint of the certificate that it was seen to serve."
)
@click.option("--message", default="", help="For people: why it failed.")
def report(run: Invocation, *, name: str, version: int, state: str, sha256: str, message: str) -> None:
    """Say what you serve of what you are associated with."""
    deployment = Deployment(
        state=Deployment.State.Value(state), version=version, certificate_sha256=_digest(sha256), message=message
    )
    with run.connect() as client, run.progress("reporting"):
        request = ReportDeploymentRequest(name=_name(run, client, name), deployment=deployment)
        found = client.call(client.stubs.report_deployment, request)
    _print(found, run)


def _name(run: Invocation, client: "Client", text: str) -> str:
    """Returns the full name of an association; of a managed certificate alone, that of the caller's own."""
    full_name = names.association_name(text, run.tenant, "")
    if not full_name.endswith("/"):
        return full_name
    return full_name + names.short(client.call(client.stubs.who_am_i, WhoAmIRequest()).principal)


def _get(client: "Client", full_name: str) -> Association:
    return client.call(client.stubs.get_association, GetAssociationRequest(name=full_name))


def _write(response: LeaseKeyResponse, private_key_info: bytes, out_dir: Path) -> Sequence[files.Output]:
    files.make_directory(out_dir)
    outputs = (
        files.Output(path=out_dir / "cert.pem", content=response.certificate.pem.encode()),
        files.Output(path=out_dir / "chain.pem", content=output.chain_pem(response.chain).encode()),
        files.Output(
            path=out_dir / "key.pem", content=pem("PRIVATE KEY", private_key_info).encode(), mode=files.SECRET_MODE
        ),
    )
    files.write(outputs)
    return outputs


def _digest(text: str) -> bytes:
    """Returns the bytes of a fingerprint, which openssl writes with colons."""
    try:
        digest = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        digest = b"?"
    if len(digest) not in {0, _SHA256_BYTES}:
        message = f"{text!r} is no SHA-256 in hexadecimal"
        raise click.BadParameter(message, param_hint="--sha256")
    return digest


def _print(item: Association, run: Invocation) -> None:
    deployment = item.deployment
    deployed = f"version {deployment.version}, {enum_text(deployment, 'state')}" if deployment.version else ""
    card = [
        ("Name", item.name),
        ("Consumer", item.consumer),
        ("SPIFFE id", item.consumer_spiffe_id),
        ("Current version", str(item.current_version or "")),
        ("Leased version", str(item.leased_version or "")),
        ("Leased", output.time_text(item.lease_time)),
        ("Deployed", deployed),
        ("Reported", output.time_text(deployment.report_time)),
        ("Message", deployment.message),
        ("Creator", item.creator),
        ("Created", output.time_text(item.create_time)),
    ]
    output.print_resource(item, run.output, card=card)


def _row(item: Association) -> Sequence[str]:
    managed, _, own = item.name.rpartition("/associations/")
    deployment = item.deployment
    return (
        names.short(managed),
        own,
        item.consumer,
        str(item.current_version or ""),
        str(item.leased_version or ""),
        str(deployment.version or ""),
        enum_text(deployment, "state") if deployment.version else "",
    )


def _no_pem(_: Association) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)
