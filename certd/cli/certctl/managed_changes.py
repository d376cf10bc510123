"""`certctl managed update | delete | versions`."""

import sys
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

import click
from google.protobuf.field_mask_pb2 import FieldMask

from certd.cli.certctl import completion, names, output
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.managed import print_managed
from certd.cli.certctl.managed_import import managed
from certd.cli.certctl.parameters import LABEL
from certd.cli.certctl.renewal_options import renewal_options, renewal_policy
from certd.client.messages import enum_text
from certd.v1.managed_certificate_pb2 import MaintenanceWindow, ManagedCertificate, ManagedCertificateVersion
from certd.v1.managed_certificate_service_pb2 import (
    DeleteManagedCertificateRequest,
    ListManagedCertificateVersionsRequest,
    UpdateManagedCertificateRequest,
)

__all__ = ["managed"]

_PAGE: Final = 500
_CLEARABLE: Final = ("labels", "renewal", "maintenance-windows")
_HEADER: Final = ("VERSION", "STATE", "SERIAL NUMBER", "NOT BEFORE", "NOT AFTER", "DAYS LEFT", "KEY", "REVOKED")


@verb(
    managed,
    "update",
    examples="""
    certctl managed update web --label team=web --label stage=live
    certctl managed update web --renewal when-used --renew-at-percent 20
    certctl managed update web --maintenance-window "0 2 * * SAT;Europe/Berlin;4h"
    certctl managed update web --clear maintenance-windows
    """,
)
@click.argument("name", metavar="MANAGED", shell_complete=completion.managed_certificates)
@click.option("--label", "labels", type=LABEL, multiple=True, help="A label; those that are given replace all others.")
@renewal_options
@click.option(
    "--clear", "cleared", type=click.Choice(_CLEARABLE), multiple=True, help="What to set back to its default."
)
@click.option("--etag", default="", help="Change it only while this is its etag.")
@mutation_options(validate_only=True)
def update(
    run: Invocation,
    *,
    name: str,
    labels: Sequence[tuple[str, str]],
    mode: str | None,
    percent: int | None,
    windows: Sequence[MaintenanceWindow],
    cleared: Sequence[str],
    etag: str,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Change what flags name: labels, or when it is renewed."""
    policy, parts = renewal_policy(mode, percent, windows)
    paths = {f"renewal.{part}" for part in parts}
    paths |= {"renewal.maintenance_windows"} if "maintenance-windows" in cleared else set()
    paths |= {"labels"} if labels or "labels" in cleared else set()
    if "renewal" in cleared:
        paths = {path for path in paths if not path.startswith("renewal.")} | {"renewal"}
    if not paths:
        message = "say what to change, by flags or --clear"
        raise click.UsageError(message)
    request = UpdateManagedCertificateRequest(
        managed_certificate=ManagedCertificate(
            name=names.managed_certificate_name(name, run.tenant), labels=dict(labels), renewal=policy, etag=etag
        ),
        update_mask=FieldMask(paths=sorted(paths)),
        request_id=str(request_id),
        validate_only=validate_only,
    )
    if not any(path.startswith("renewal") for path in paths):
        request.managed_certificate.ClearField("renewal")
    with run.connect() as client, run.progress("changing the managed certificate"):
        changed = client.call(client.stubs.update_managed_certificate, request)
    if validate_only:
        run.tell("every check passed; nothing was changed")
    print_managed(changed, run)


@verb(
    managed,
    "delete",
    examples="""
    certctl managed delete web
    certctl managed delete web --yes -o json
    """,
)
@click.argument("name", metavar="MANAGED", shell_complete=completion.managed_certificates)
@click.option("--etag", default="", help="Delete it only while this is its etag.")
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal, whether it is meant.")
@mutation_options(validate_only=True)
def delete(run: Invocation, *, name: str, etag: str, yes: bool, request_id: UUID, validate_only: bool) -> None:
    """Delete a managed certificate with its keys. Its certificates stay valid: revoke them first if they should not."""
    full_name = names.managed_certificate_name(name, run.tenant)
    # A program that calls certctl has nobody to ask.
    asks = sys.stdin.isatty() and not yes and not validate_only
    if asks and not click.confirm(f"Delete {output.printable(full_name)} with its private keys?", err=True):
        run.tell("nothing was deleted")
        click.get_current_context().exit(1)
    request = DeleteManagedCertificateRequest(
        name=full_name, etag=etag, request_id=str(request_id), validate_only=validate_only
    )
    with run.connect() as client, run.progress("deleting the managed certificate"):
        answer = client.call(client.stubs.delete_managed_certificate, request)
    if validate_only:
        run.tell("every check passed; nothing was changed")
    output.print_resource(answer, run.output, card=[] if validate_only else [("Deleted", full_name)])


@verb(managed, "versions", examples="certctl managed versions web\ncertctl managed versions web -o json")
@click.argument("name", metavar="MANAGED", shell_complete=completion.managed_certificates)
def versions(run: Invocation, *, name: str) -> None:
    """List the versions of a managed certificate, newest first."""
    call = ListManagedCertificateVersionsRequest(
        parent=names.managed_certificate_name(name, run.tenant), page_size=_PAGE
    )

    def pages() -> Iterator[Sequence[ManagedCertificateVersion]]:
        for page in client.pages(client.stubs.list_managed_certificate_versions, call):
            yield page.versions

    with run.connect() as client, run.progress("listing versions"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=lambda v: v.certificate.pem)


def _row(item: ManagedCertificateVersion) -> Sequence[str]:
    revoked = item.HasField("revoke_time")
    reason = enum_text(item, "revocation_reason").removeprefix("REVOCATION_REASON_")
    return (
        str(item.version),
        enum_text(item, "state"),
        item.description.serial_number,
        output.time_text(item.description.not_before_time),
        output.time_text(item.description.not_after_time),
        output.days_left_text(item.description),
        "sealed" if item.key_available else "deleted",
        f"{output.time_text(item.revoke_time)} {reason}" if revoked else "",
    )
