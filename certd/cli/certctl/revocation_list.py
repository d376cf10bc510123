"""`certctl authority crl`: what relying parties learn of what an authority has revoked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.authority_changes import authority
from certd.cli.certctl.invocation import Invocation, verb
from certd.errors import CertdError, Reason
from certd.pki.encoding import pem
from certd.v1.authority_service_pb2 import GenerateRevocationListRequest, GetRevocationListRequest, RevocationList

__all__ = ["authority"]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
_LABEL: Final = "X509 CRL"


@authority.group("crl")
def crl() -> None:
    """Certificate revocation lists (RFC 5280), complete or of a partition."""


def _list_options(command: CommandT) -> CommandT:
    """Adds what says which CRL is wanted, and where its DER goes."""
    command = click.option(
        "--out", type=click.Path(path_type=Path), help="File for the CRL (DER), as it is published."
    )(command)
    command = click.option(
        "--partition", type=click.IntRange(1, 4096), help="Number of the partition.  [default: the complete CRL]"
    )(command)
    command = click.option(
        "--key",
        "key_number",
        type=click.IntRange(min=1),
        help="Number of the key that signs it.  [default: the one that signs certificates]",
    )(command)
    return click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)(command)


@verb(
    crl,
    "get",
    examples="""
    certctl authority crl get web-ca
    certctl authority crl get web-ca -o pem | openssl crl -noout -text
    certctl authority crl get web-ca --partition 3 --out web-ca-3.crl
    """,
)
@_list_options
def get(run: Invocation, *, name: str, key_number: int | None, partition: int | None, out: Path | None) -> None:
    """Show the CRL that is published, and why a newer one could not be signed, if so."""
    files.check_writable([] if out is None else [out])
    request = GetRevocationListRequest(
        name=names.authority_name(name, run.tenant), key_number=key_number or 0, partition=partition or 0
    )
    with run.connect() as client, run.progress("getting the CRL"):
        found = client.call(client.stubs.get_revocation_list, request)
    _print(found, run, out)


@verb(
    crl,
    "generate",
    examples="""
    certctl authority crl generate web-ca
    certctl authority crl generate web-ca --key 1
    """,
)
@_list_options
def generate(run: Invocation, *, name: str, key_number: int | None, partition: int | None, out: Path | None) -> None:
    """Sign a new CRL now. What is revoked is published within seconds without it."""
    files.check_writable([] if out is None else [out])
    request = GenerateRevocationListRequest(
        name=names.authority_name(name, run.tenant), key_number=key_number or 0, partition=partition or 0
    )
    with run.connect() as client, run.progress("signing the CRL"):
        made = client.call(client.stubs.generate_revocation_list, request)
    _print(made, run, out)


def _print(item: RevocationList, run: Invocation, out: Path | None) -> None:
    if out is not None:
        if not item.der:
            message = f"a CRL of {item.size_bytes} bytes does not fit into an answer; fetch it where it is published"
            raise CertdError(Reason.FIELD_INVALID, ": ".join([message, *item.urls[:1]]))
        files.write([files.Output(path=out, content=item.der)])
        run.tell(f"the CRL is in {out}")
    card = [
        ("Authority", item.authority),
        ("Key", str(item.key_number)),
        ("Partition", str(item.partition) if item.partition else "none: it is complete"),
        ("Number", str(item.number) if item.number else "none was signed yet"),
        ("Made", output.time_text(item.this_update_time)),
        ("Next update", output.time_text(item.next_update_time)),
        ("Entries", str(item.entry_count)),
        ("Bytes", str(item.size_bytes)),
        ("SHA-256", item.sha256_fingerprint.hex()),
        ("Published at", "\n".join(item.urls)),
        ("Last error", item.last_error),
    ]
    output.print_resource(item, run.output, card=card, pem=pem(_LABEL, item.der) if item.der else "")
