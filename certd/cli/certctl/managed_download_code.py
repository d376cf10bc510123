"""`certctl managed …-download-code`: a device without an identity downloads a managed certificate, once."""

import shlex
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, Never
from uuid import UUID

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.managed_revocation import managed
from certd.cli.certctl.parameters import DURATION
from certd.client.addresses import check_address
from certd.client.messages import duration, to_json
from certd.errors import CertdError
from certd.pki.download_code import parse_download_code
from certd.v1.managed_certificate_service_pb2 import (
    CreateDownloadCodeRequest,
    DeleteDownloadCodeRequest,
    DownloadCode,
    ListDownloadCodesRequest,
)

__all__ = ["managed"]

_ADDRESS: Final = "HOST:8446"
_PAGE: Final = 500
_EVERY: Final = "-"
_HEADER: Final = ("MANAGED CERTIFICATE", "CODE", "EXPIRES", "USED", "CREATOR", "SOURCES", "REASON")


@verb(
    managed,
    "create-download-code",
    examples="""
    certctl managed create-download-code web --code-file web.code
    certctl managed create-download-code web --lifetime 10m --source 192.0.2.0/24 --reason "new router"
    certctl managed create-download-code web --devices-address ca.example.internal:8446 --code-file web.code
    """,
)
@click.argument("name", metavar="MANAGED", shell_complete=completion.managed_certificates)
@click.option("--lifetime", type=DURATION, help="How long the code lives, a minute to 24 hours.  [default: 1h]")
@click.option(
    "--source",
    "sources",
    metavar="CIDR",
    multiple=True,
    help="Network that the download must come from; may be repeated.  [default: any]",
)
@click.option("--reason", default="", help="Why, for the record.")
@click.option(
    "--code-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the code, mode 0600; it is then not shown.",
)
@click.option(
    "--devices-address",
    default=_ADDRESS,
    metavar="HOST:PORT",
    help="Where devices reach the server, for the line of curl that is shown: what certd.toml has as listen.devices.",
)
def create_download_code(
    run: Invocation,
    *,
    name: str,
    lifetime: timedelta | None,
    sources: Sequence[str],
    reason: str,
    code_file: Path | None,
    devices_address: str,
) -> None:
    """Make a code with which a device downloads a managed certificate once, its key under a passphrase of its own.

    The code is a secret: who has it first gets the key. It holds no longer than you may export.
    """
    if devices_address != _ADDRESS:
        check_address(devices_address)
    if code_file is not None:
        files.check_writable([code_file])
    request = CreateDownloadCodeRequest(
        name=names.managed_certificate_name(name, run.tenant),
        lifetime=None if lifetime is None else duration(lifetime),
        source_networks=sources,
        reason=reason,
    )
    with run.connect() as client, run.progress("making the code"):
        made = client.call(client.stubs.create_download_code, request)
    if code_file is not None:
        content = f"{made.code}\n".encode()
        files.write([files.Output(path=code_file, content=content, mode=files.SECRET_MODE)])
        made.code = ""
        run.tell(f"the code is in {code_file}")
    card = [
        ("Name", made.name),
        ("Code", made.code),
        ("Expires", output.time_text(made.expire_time)),
        ("Path", made.path),
        (
            "Download",
            _curl(f"https://{devices_address}{made.path}", "CODE-FILE" if code_file is None else str(code_file)),
        ),
    ]
    output.print_resource(made, run.output, card=card)


@verb(
    managed,
    "list-download-codes",
    examples="""
    certctl managed list-download-codes
    certctl managed list-download-codes web
    certctl managed list-download-codes -o json | jq -r 'select(.useTime | not) | .name'
    """,
)
@click.argument("name", default=_EVERY, metavar="[MANAGED]", shell_complete=completion.managed_certificates)
def list_download_codes(run: Invocation, *, name: str) -> None:
    """List the download codes of a managed certificate, or of all that a tenant has, until they end.

    The codes themselves nobody can read again.
    """
    request = ListDownloadCodesRequest(parent=names.managed_certificate_name(name, run.tenant), page_size=_PAGE)

    def pages() -> Iterator[Sequence[DownloadCode]]:
        for page in client.pages(client.stubs.list_download_codes, request):
            yield page.download_codes

    with run.connect() as client, run.progress("listing download codes"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(
    managed,
    "delete-download-code",
    examples="""
    certctl managed delete-download-code web/0f5c6d7e8a9b0c1d
    """,
)
@click.argument("name", metavar="MANAGED/CODE")
@mutation_options(validate_only=False)
def delete_download_code(run: Invocation, *, name: str, request_id: UUID) -> None:
    """Withdraw a download code, by what the list and the events show of it, not by the code itself.

    One that is used is refused: what was downloaded cannot be called back; renew the managed certificate, or revoke it.
    """
    if _is_code(names.short(name)):
        message = "that is a download code, which belongs into no command; list-download-codes shows what to say"
        raise click.UsageError(message)
    full_name = names.download_code_name(name, run.tenant)
    request = DeleteDownloadCodeRequest(name=full_name, request_id=str(request_id))
    with run.connect() as client, run.progress("withdrawing the code"):
        answer = client.call(client.stubs.delete_download_code, request)
    if run.output is output.Format.JSON:
        click.echo(to_json(answer))
    else:
        run.tell(f"{full_name} is withdrawn")


def _is_code(text: str) -> bool:
    try:
        parse_download_code(text)
    except CertdError:
        return False
    return True


def _row(item: DownloadCode) -> Sequence[str]:
    managed_name, _, own = item.name.rpartition("/downloadCodes/")
    return (
        names.short(managed_name),
        own,
        output.time_text(item.expire_time),
        output.time_text(item.use_time),
        item.creator,
        " ".join(item.source_networks),
        item.reason,
    )


def _no_pem(_: DownloadCode) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)


def _curl(url: str, code_file: str) -> str:
    """Returns a command for a device, which hands both secrets to curl by a pipe, so that no process list has them."""
    return (
        f"{{ printf 'Authorization: Bearer '; cat {shlex.quote(code_file)}; "
        "printf 'Certd-Passphrase: '; cat PASSPHRASE-FILE; } |\n"
        f"curl -fsS --cacert root.pem -H @- -o bundle.pem {shlex.quote(f'{url}?format=pkcs8')}"
    )
