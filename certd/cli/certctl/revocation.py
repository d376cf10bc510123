"""`certctl certificate revoke`: certificates are revoked for ever."""

import sys
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import click

from certd.cli.certctl import completion, names, output, revocation_batch, revocation_files
from certd.cli.certctl.certificate import print_certificate
from certd.cli.certctl.certificate_search import certificate
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.parameters import TIME
from certd.client.messages import timestamp
from certd.v1.certificate_pb2 import RevocationReason
from certd.v1.certificate_service_pb2 import RevokeCertificateRequest

__all__ = ["certificate"]

_UNSPECIFIED = "REVOCATION_REASON_UNSPECIFIED"
_REASONS = (
    "unspecified",
    *(one.lower().replace("_", "-") for one in RevocationReason.keys() if one != _UNSPECIFIED),  # noqa: SIM118  # No mapping, only like one.
)
REASON_HELP = f"Why: {', '.join(_REASONS[:-1])} or {_REASONS[-1]}."


class ReasonType(click.ParamType[str]):
    """A reason for a revocation, as people write it: `superseded`, `key-compromise`, `keyCompromise`."""

    name = "reason"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the name as the API has it; fails with the names that there are."""
        known = {_bare(name): name for name in RevocationReason.keys()}  # noqa: SIM118  # As above.
        known |= {"unspecified": _UNSPECIFIED}
        name = known.get(_bare(value))
        if name is None:
            self.fail(f"{value!r} is none of {', '.join(_REASONS)}", param, ctx)
        return name


def _bare(word: str) -> str:
    return word.replace("-", "").replace("_", "").lower()


@verb(
    certificate,
    "revoke",
    examples="""
    certctl certificate revoke 4f1d02 --authority web-ca --reason superseded
    certctl certificate revoke 4f1d02 --authority web-ca --reason key-compromise --invalid-since 2026-11-03T07:00:00Z
    certctl certificate revoke tenants/default/authorities/web-ca/certificates/4f1d02 --yes -o json
    certctl certificate revoke leaf.pem --reason superseded
    certctl certificate revoke 4f1d02 5a2e03 web-ca-2/certificates/6b3f04 --authority web-ca --reason superseded
    certctl certificate revoke --from stolen.txt --reason key-compromise --yes
    """,
)
@click.argument("given", metavar="NAME|SERIAL|FILE...", nargs=-1)
@click.option(
    "--from", "file", metavar="FILE", help="More of them, a name or serial number a line; - reads standard input."
)
@click.option(
    "--authority",
    shell_complete=completion.authorities,
    help="Authority that issued it, when a serial number is given; of a file it may be any.",
)
@click.option(
    "--reason",
    type=ReasonType(),
    default="unspecified",
    show_default=True,
    help=f"{REASON_HELP} key-compromise also blocks the key, and may take the place of another reason later.",
)
@click.option("--invalid-since", type=TIME, help="Since when its key is known or thought to be compromised, RFC 3339.")
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal, whether it is meant.")
@mutation_options(validate_only=True)
def revoke(
    run: Invocation,
    *,
    given: Sequence[str],
    file: str | None,
    authority: str | None,
    reason: str,
    invalid_since: datetime | None,
    yes: bool,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Revoke certificates for ever; serials in any case, with or without colons.

    A file ends in .pem, .crt, .cer or .der, and its certificate must be the one in the books, byte for byte.

    Of several each is revoked or fails alone, and has a line of its own; what is revoked already is UNCHANGED. The exit
    code is 1 when any failed.
    """
    wanted = [*given, *(revocation_batch.names_in(file) if file is not None else ())]
    if not wanted:
        message = "Missing argument 'NAME|SERIAL|FILE...'; name certificates, or a file of their names with --from."
        raise click.UsageError(message)
    paths = [one for one in given if names.is_file(one)]
    try:
        named = {one: names.certificate_name(one, run.tenant, authority) for one in wanted if one not in paths}
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    named |= revocation_files.find(run, paths, authority)
    full_names = [named[one] for one in wanted]
    # A program that calls certctl has nobody to ask.
    asks = sys.stdin.isatty() and not yes and not validate_only
    alone = len(full_names) == 1 and file is None
    what = output.printable(full_names[0]) if alone else f"{len(full_names):,} certificates"
    if asks and not click.confirm(f"Revoke {what} for ever?", err=True):
        run.tell("nothing was revoked")
        click.get_current_context().exit(1)
    request = RevokeCertificateRequest(
        reason=RevocationReason.Value(reason),
        invalidity_time=None if invalid_since is None else timestamp(invalid_since),
        validate_only=validate_only,
    )
    if not alone:
        revocation_batch.revoke_many(run, full_names, request, request_id=request_id)
        return
    request.name, request.request_id = full_names[0], str(request_id)
    with run.connect() as client, run.progress("revoking the certificate"):
        revoked = client.call(client.stubs.revoke_certificate, request)
    output.print_warnings(revoked.warnings, run.output)
    if validate_only:
        run.tell("every check passed; nothing was changed")
    print_certificate(revoked, run, pem=revoked.certificate.pem)
