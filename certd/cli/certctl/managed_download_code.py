"""`certctl managed create-download-code`: a device without an identity downloads a managed certificate, once."""

import shlex
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.invocation import Invocation, verb
from certd.cli.certctl.managed_revocation import managed
from certd.cli.certctl.parameters import DURATION
from certd.client.addresses import check_address
from certd.client.messages import duration
from certd.v1.managed_certificate_service_pb2 import CreateDownloadCodeRequest

__all__ = ["managed"]

_ADDRESS: Final = "HOST:8446"


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
        ("Code", made.code),
        ("Expires", output.time_text(made.expire_time)),
        ("Path", made.path),
        (
            "Download",
            _curl(f"https://{devices_address}{made.path}", "CODE-FILE" if code_file is None else str(code_file)),
        ),
    ]
    output.print_resource(made, run.output, card=card)


def _curl(url: str, code_file: str) -> str:
    """Returns a command for a device, which hands both secrets to curl by a pipe, so that no process list has them."""
    return (
        f"{{ printf 'Authorization: Bearer '; cat {shlex.quote(code_file)}; "
        "printf 'Certd-Passphrase: '; cat PASSPHRASE-FILE; } |\n"
        f"curl -fsS --cacert root.pem -H @- -o bundle.pem {shlex.quote(f'{url}?format=pkcs8')}"
    )
