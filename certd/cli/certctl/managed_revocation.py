"""`certctl managed revoke`: versions of a managed certificate are revoked for ever."""

import sys
from datetime import datetime
from uuid import UUID

import click

from certd.cli.certctl import completion, names, output
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.managed import print_managed
from certd.cli.certctl.managed_renewal import managed
from certd.cli.certctl.parameters import TIME
from certd.cli.certctl.revocation import REASON_HELP, ReasonType
from certd.client.messages import timestamp
from certd.v1.certificate_pb2 import RevocationReason
from certd.v1.managed_certificate_service_pb2 import RevokeManagedCertificateRequest

__all__ = ["managed"]


@verb(
    managed,
    "revoke",
    examples="""
    certctl managed revoke web --version 3 --reason superseded
    certctl managed revoke web --all-versions --reason key-compromise --invalid-since 2026-11-03T07:00:00Z
    certctl managed revoke web --all-versions --reason cessation-of-operation --yes -o json
    """,
)
@click.argument("name", metavar="MANAGED", shell_complete=completion.managed_certificates)
@click.option("--version", type=click.IntRange(min=1), help="Number of the version, as certctl managed versions shows.")
@click.option("--all-versions", is_flag=True, help="Every version that has not ended.")
@click.option(
    "--reason",
    type=ReasonType(),
    default="unspecified",
    show_default=True,
    help=f"{REASON_HELP} key-compromise also blocks the key, and has a new version made at once unless its renewal is"
    " never.",
)
@click.option("--invalid-since", type=TIME, help="Since when its key is known or thought to be compromised, RFC 3339.")
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal, whether it is meant.")
@mutation_options(validate_only=False)
def revoke(
    run: Invocation,
    *,
    name: str,
    version: int | None,
    all_versions: bool,
    reason: str,
    invalid_since: datetime | None,
    yes: bool,
    request_id: UUID,
) -> None:
    """Revoke one version for ever, or all. While another version lives, the managed certificate stays ACTIVE."""
    if (version is None) is not all_versions:
        message = "say what to revoke: --version, which certctl managed versions lists, or --all-versions"
        raise click.UsageError(message)
    full_name = names.managed_certificate_name(name, run.tenant)
    what = f"version {version}" if version is not None else "every version"
    # A program that calls certctl has nobody to ask.
    asks = sys.stdin.isatty() and not yes
    if asks and not click.confirm(f"Revoke {what} of {output.printable(full_name)} for ever?", err=True):
        run.tell("nothing was revoked")
        click.get_current_context().exit(1)
    request = RevokeManagedCertificateRequest(
        name=full_name,
        reason=RevocationReason.Value(reason),
        invalidity_time=None if invalid_since is None else timestamp(invalid_since),
        request_id=str(request_id),
    )
    if version is not None:
        request.version = version
    else:
        request.all_versions = True
    with run.connect() as client, run.progress("revoking"):
        revoked = client.call(client.stubs.revoke_managed_certificate, request)
    output.print_warnings(revoked.warnings, run.output)
    print_managed(revoked, run)
