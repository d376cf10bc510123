"""`certctl authority`, what becomes of one: CSR, activation, enable, disable, labels and settings."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import click
from google.protobuf.field_mask_pb2 import FieldMask

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.authority import authority, print_authority
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.parameters import LABEL
from certd.cli.certctl.revocation_options import revocation_options, settings_of
from certd.client.messages import to_json
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import (
    ActivateAuthorityRequest,
    DisableAuthorityRequest,
    EnableAuthorityRequest,
    GetAuthorityCsrRequest,
    UpdateAuthorityRequest,
)

__all__ = ["authority"]

_CERTIFICATE_BYTES: Final = 32 << 10
_CHAIN_BYTES: Final = 2 << 20

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def change_options(command: CommandT) -> CommandT:
    """Adds what every change has: `--etag`, `--request-id`, `--validate-only`."""
    changed = mutation_options(validate_only=True)(command)
    return click.option("--etag", default="", help="Change it only while this is its etag.")(changed)


def key_number_option(command: CommandT) -> CommandT:
    """Adds `--key-number`; 0 is the one that signs."""
    return click.option(
        "--key-number",
        type=click.IntRange(1),
        default=None,
        callback=lambda _context, _parameter, value: value or 0,
        help="Number of the key.  [default: the one that signs]",
    )(command)


def allow_broken_option(command: CommandT) -> CommandT:
    """Adds `--allow-broken-certificates`."""
    return click.option(
        "--allow-broken-certificates",
        is_flag=True,
        help="Even if what is alive would outlive the new certificate, or be outside of its bounds.",
    )(command)


@verb(
    authority,
    "csr",
    examples="""
    certctl authority csr own-ca --out own-ca.csr
    certctl authority csr own-ca | openssl req -noout -text
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@key_number_option
@click.option("--out", type=click.Path(path_type=Path), help="File for the CSR (PEM), instead of standard output.")
def csr(run: Invocation, *, name: str, key_number: int, out: Path | None) -> None:
    """Print the CSR of an authority, for an outside parent to certify; it is signed once and stays the same."""
    files.check_writable([] if out is None else [out])
    request = GetAuthorityCsrRequest(name=names.authority_name(name, run.tenant), key_number=key_number)
    with run.connect() as client, run.progress("getting the CSR"):
        found = client.call(client.stubs.get_authority_csr, request)
    if out is not None:
        files.write([files.Output(path=out, content=found.pem.encode())])
        run.tell(f"the CSR is in {out}")
    if run.output is output.Format.JSON:
        click.echo(to_json(found, indent=2))
    elif out is None:
        output.print_pem(found.pem)


@verb(
    authority,
    "activate",
    examples="""
    certctl authority activate own-ca --certificate own-ca.pem --chain parents.pem
    certctl authority activate own-ca --certificate own-ca.pem --chain parents.pem --validate-only
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@click.option("--certificate", required=True, metavar="FILE", help="What the parent made from the CSR, PEM or DER.")
@click.option(
    "--chain",
    required=True,
    metavar="FILE",
    help="Certificates from the parent up to its root, PEM, or DER of one; - reads standard input.",
)
@key_number_option
@allow_broken_option
@change_options
def activate(
    run: Invocation,
    *,
    name: str,
    key_number: int,
    certificate: str,
    chain: str,
    allow_broken_certificates: bool,
    etag: str,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Install the certificate of an outside parent; the authority issues from then on.

    One that has a certificate gets another for the same key, and what it issued stays valid.
    """
    if certificate == chain == files.STANDARD_STREAM:
        message = "--certificate and --chain cannot both be read from standard input"
        raise click.UsageError(message)
    request = ActivateAuthorityRequest(
        name=names.authority_name(name, run.tenant),
        certificate=files.read_certificates(certificate, longest=_CERTIFICATE_BYTES, what="certificate"),
        chain=files.read_certificates(chain, longest=_CHAIN_BYTES, what="chain"),
        key_number=key_number,
        allow_broken_certificates=allow_broken_certificates,
        etag=etag,
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress("activating the authority"):
        changed = client.call(client.stubs.activate_authority, request)
    print_changed(run, changed, validate_only=validate_only)


@verb(
    authority,
    "enable",
    examples="""
    certctl authority enable web-ca
    certctl authority enable web-ca --validate-only
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@change_options
def enable(run: Invocation, *, name: str, etag: str, request_id: UUID, validate_only: bool) -> None:
    """Let a disabled authority issue again."""
    request = EnableAuthorityRequest(
        name=names.authority_name(name, run.tenant), etag=etag, request_id=str(request_id), validate_only=validate_only
    )
    with run.connect() as client, run.progress("enabling the authority"):
        changed = client.call(client.stubs.enable_authority, request)
    print_changed(run, changed, validate_only=validate_only)


@verb(
    authority,
    "disable",
    examples="""
    certctl authority disable web-ca
    certctl authority disable web-ca --validate-only
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@change_options
def disable(run: Invocation, *, name: str, etag: str, request_id: UUID, validate_only: bool) -> None:
    """Stop an authority from issuing; what it issued stays valid and can be revoked."""
    request = DisableAuthorityRequest(
        name=names.authority_name(name, run.tenant), etag=etag, request_id=str(request_id), validate_only=validate_only
    )
    with run.connect() as client, run.progress("disabling the authority"):
        changed = client.call(client.stubs.disable_authority, request)
    print_changed(run, changed, validate_only=validate_only)


@verb(
    authority,
    "update",
    examples="""
    certctl authority update web-ca --label team=web --label stage=production
    certctl authority update web-ca --no-labels
    certctl authority update web-ca --crl-lifetime 1d --crl-url http://crl.example.com --no-ocsp
    certctl authority update web-ca --crl-url server --deletion-protection
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@click.option("--label", "labels", type=LABEL, multiple=True, help="A label; all together replace those it had.")
@click.option("--no-labels", is_flag=True, help="Take all labels away.")
@revocation_options
@click.option("--deletion-protection/--no-deletion-protection", default=None, help="Whether it cannot be deleted.")
@change_options
def update(
    run: Invocation,
    *,
    name: str,
    labels: Sequence[tuple[str, str]],
    no_labels: bool,
    deletion_protection: bool | None,
    etag: str,
    request_id: UUID,
    validate_only: bool,
    **options: Any,  # noqa: ANN401  # Those of `revocation_options`.
) -> None:
    """Change labels, deletion protection and revocation settings of an authority; what is not said stays as it is.

    New revocation settings touch new certificates only: those that exist keep their URLs.
    """
    if labels and no_labels:
        message = "--label says which labels it shall have, and --no-labels that it shall have none; say one of them"
        raise click.UsageError(message)
    revocation, paths = settings_of(options)
    if labels or no_labels:
        paths.append("labels")
    if deletion_protection is not None:
        paths.append("deletion_protection")
    if not paths:
        message = "say what to change, for example with --label, --crl-lifetime or --deletion-protection"
        raise click.UsageError(message)
    request = UpdateAuthorityRequest(
        authority=Authority(
            name=names.authority_name(name, run.tenant),
            labels=dict(labels),
            revocation=revocation,
            deletion_protection=bool(deletion_protection),
            etag=etag,
        ),
        update_mask=FieldMask(paths=paths),
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress("changing the authority"):
        changed = client.call(client.stubs.update_authority, request)
    print_changed(run, changed, validate_only=validate_only)


def print_changed(run: Invocation, changed: Authority, *, validate_only: bool) -> None:
    """Prints an authority after a change, with what was dropped or overridden by it."""
    output.print_warnings(changed.warnings, run.output)
    if validate_only:
        run.tell("every check passed; nothing was changed")
    print_authority(changed, run)
