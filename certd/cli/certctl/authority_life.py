"""`certctl authority`, how one goes on and how it ends: reissue, delete, undelete."""

import sys
from datetime import timedelta
from uuid import UUID

import click

from certd.cli.certctl import completion, names, output
from certd.cli.certctl.authority_changes import allow_broken_option, authority, change_options, print_changed
from certd.cli.certctl.invocation import Invocation, verb
from certd.cli.certctl.parameters import DURATION
from certd.client.messages import duration
from certd.v1.authority_service_pb2 import (
    DeleteAuthorityRequest,
    ReissueAuthorityCertificateRequest,
    UndeleteAuthorityRequest,
)

__all__ = ["authority"]


@verb(
    authority,
    "reissue",
    examples="""
    certctl authority reissue web-ca
    certctl authority reissue web-root --lifetime 10y --validate-only
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@click.option("--lifetime", type=DURATION, help="Lifetime of the new certificate.  [default: as it was created for]")
@allow_broken_option
@change_options
def reissue(
    run: Invocation,
    *,
    name: str,
    lifetime: timedelta | None,
    allow_broken_certificates: bool,
    etag: str,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Make a new certificate for the key that an authority has; what it issued stays valid.

    Its issuer signs it, and a root its own. One whose parent is an outside one gets its new certificate by activate.
    """
    request = ReissueAuthorityCertificateRequest(
        name=names.authority_name(name, run.tenant),
        lifetime=None if lifetime is None else duration(lifetime),
        allow_broken_certificates=allow_broken_certificates,
        etag=etag,
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress("making the new certificate"):
        changed = client.call(client.stubs.reissue_authority_certificate, request)
    print_changed(run, changed, validate_only=validate_only)


@verb(
    authority,
    "delete",
    examples="""
    certctl authority delete web-ca
    certctl authority delete web-ca --window 7d --allow-live-certificates --yes
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@click.option("--window", type=DURATION, help="How long it can be undeleted, 7d to 30d.  [default: 30d]")
@click.option(
    "--allow-live-certificates",
    is_flag=True,
    help="Even if what it issued is alive, which nobody can revoke after the window.",
)
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal, whether it is meant.")
@change_options
def delete(
    run: Invocation,
    *,
    name: str,
    window: timedelta | None,
    allow_live_certificates: bool,
    yes: bool,
    etag: str,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Delete an authority that is disabled or expired; at the end of the window its keys are destroyed for ever."""
    full_name = names.authority_name(name, run.tenant)
    # A program that calls certctl has nobody to ask.
    asks = sys.stdin.isatty() and not yes and not validate_only
    if asks and not click.confirm(f"Delete {output.printable(full_name)}?", err=True):
        run.tell("nothing was deleted")
        click.get_current_context().exit(1)
    request = DeleteAuthorityRequest(
        name=full_name,
        window=None if window is None else duration(window),
        allow_live_certificates=allow_live_certificates,
        etag=etag,
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress("deleting the authority"):
        changed = client.call(client.stubs.delete_authority, request)
    print_changed(run, changed, validate_only=validate_only)


@verb(authority, "undelete", examples="certctl authority undelete web-ca")
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@change_options
def undelete(run: Invocation, *, name: str, etag: str, request_id: UUID, validate_only: bool) -> None:
    """Bring a deleted authority back, disabled."""
    request = UndeleteAuthorityRequest(
        name=names.authority_name(name, run.tenant), etag=etag, request_id=str(request_id), validate_only=validate_only
    )
    with run.connect() as client, run.progress("bringing the authority back"):
        changed = client.call(client.stubs.undelete_authority, request)
    print_changed(run, changed, validate_only=validate_only)
