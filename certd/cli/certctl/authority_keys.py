"""`certctl authority`, its keys: rotation in four steps, and cross-certificates."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.authority_changes import change_options, print_changed
from certd.cli.certctl.authority_life import authority
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.parameters import DURATION, KEY_SPEC, SIGNATURE_ALGORITHM
from certd.client.messages import duration, to_json
from certd.v1.authority_service_pb2 import (
    ActivateAuthorityKeyRequest,
    CreateCrossCertificateRequest,
    PrepareAuthorityKeyRequest,
    RetireAuthorityKeyRequest,
    TaintAuthorityKeyRequest,
)
from certd.v1.x509_pb2 import KeySpec, SignatureAlgorithm

__all__ = ["authority"]

_CERTIFICATE_BYTES: Final = 32 << 10

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _of_key(command: CommandT) -> CommandT:
    """Adds what every change of a key names: the authority and the number."""
    numbered = click.argument("number", metavar="NUMBER", type=click.IntRange(1))(command)
    return click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)(numbered)


@verb(
    authority,
    "prepare-key",
    examples="""
    certctl authority prepare-key web-ca
    certctl authority prepare-key web-root --key EC_P384 --lifetime 20y --cross-certify
    certctl authority prepare-key web-ca --validate-only
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@click.option("--key", "key_spec", type=KEY_SPEC, help="Kind and size of the new key.  [default: as the one in use]")
@click.option(
    "--signature-algorithm", type=SIGNATURE_ALGORITHM, help="Algorithm of its signatures.  [default: by its key]"
)
@click.option(
    "--lifetime",
    type=DURATION,
    help="Lifetime of its certificate.  [default: that of the authority, cut to the end of its issuer]",
)
@click.option(
    "--cross-certify", is_flag=True, help="For a root: have the old and the new key certify each other as well."
)
@change_options
def prepare_key(
    run: Invocation,
    *,
    name: str,
    key_spec: str | None,
    signature_algorithm: str | None,
    lifetime: timedelta | None,
    cross_certify: bool,
    etag: str,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Make a new key and its certificate, published beside the one in use, and signing nothing (step 1 of 4).

    Below an outside parent the key awaits its certificate: see authority csr and activate with --key-number.
    """
    request = PrepareAuthorityKeyRequest(
        name=names.authority_name(name, run.tenant),
        key_spec=KeySpec.Value(key_spec or "KEY_SPEC_UNSPECIFIED"),
        signature_algorithm=SignatureAlgorithm.Value(signature_algorithm or "SIGNATURE_ALGORITHM_UNSPECIFIED"),
        lifetime=None if lifetime is None else duration(lifetime),
        cross_certify=cross_certify,
        etag=etag,
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress("preparing a key"):
        changed = client.call(client.stubs.prepare_authority_key, request)
    print_changed(run, changed, validate_only=validate_only)
    if not changed.keys or validate_only:
        return
    key = changed.keys[0]
    if key.certificate.der:
        short = names.short(changed.name)
        run.tell(f"its certificate: certctl authority get {short} --key-number {key.number} -o pem")
        run.tell(f"once relying parties know that: certctl authority activate-key {short} {key.number}")
    else:
        run.tell(
            "it awaits the certificate of its parent: certctl authority csr"
            f" {names.short(changed.name)} --key-number {key.number}"
        )


@verb(authority, "activate-key", examples="certctl authority activate-key web-ca 2")
@_of_key
@change_options
def activate_key(run: Invocation, *, name: str, number: int, etag: str, request_id: UUID, validate_only: bool) -> None:
    """Have a prepared key sign from now on; the one before signs CRLs and OCSP answers of what it issued (step 2)."""
    request = ActivateAuthorityKeyRequest(
        name=names.authority_name(name, run.tenant),
        key_number=number,
        etag=etag,
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress("activating the key"):
        changed = client.call(client.stubs.activate_authority_key, request)
    print_changed(run, changed, validate_only=validate_only)


@verb(authority, "taint-key", examples="certctl authority taint-key web-ca 1")
@_of_key
@change_options
def taint_key(run: Invocation, *, name: str, number: int, etag: str, request_id: UUID, validate_only: bool) -> None:
    """Have what a superseded key signed replaced: managed certificates are renewed now, evenly (step 3)."""
    request = TaintAuthorityKeyRequest(
        name=names.authority_name(name, run.tenant),
        key_number=number,
        etag=etag,
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress("tainting the key"):
        changed = client.call(client.stubs.taint_authority_key, request)
    print_changed(run, changed, validate_only=validate_only)


@verb(
    authority,
    "retire-key",
    examples="certctl authority retire-key web-ca 1\ncertctl authority retire-key web-ca 2 --allow-live-certificates",
)
@_of_key
@click.option("--allow-live-certificates", is_flag=True, help="Even if certificates that it signed are alive.")
@change_options
def retire_key(
    run: Invocation,
    *,
    name: str,
    number: int,
    allow_live_certificates: bool,
    etag: str,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """End the use of a key; CRLs go on until the last certificate that it signed has expired (step 4)."""
    request = RetireAuthorityKeyRequest(
        name=names.authority_name(name, run.tenant),
        key_number=number,
        allow_live_certificates=allow_live_certificates,
        etag=etag,
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress("retiring the key"):
        changed = client.call(client.stubs.retire_authority_key, request)
    print_changed(run, changed, validate_only=validate_only)


@verb(
    authority,
    "cross-certify",
    examples="""
    certctl authority cross-certify web-root --certificate partner-root.pem --lifetime 2y --out cross.pem
    certctl authority cross-certify web-root --certificate partner-root.pem --validate-only
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@click.option("--certificate", required=True, metavar="FILE", help="Certificate of the other authority, PEM or DER.")
@click.option("--lifetime", type=DURATION, help="Lifetime from now.  [default: to the end of the earlier of the two]")
@click.option("--out", type=click.Path(path_type=Path), help="File for the cross-certificate (PEM).")
@mutation_options(validate_only=True)
def cross_certify(
    run: Invocation,
    *,
    name: str,
    certificate: str,
    lifetime: timedelta | None,
    out: Path | None,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Certify the key of another authority, here or elsewhere, under its own name."""
    files.check_writable([] if out is None else [out])
    request = CreateCrossCertificateRequest(
        parent=names.authority_name(name, run.tenant),
        certificate=files.read_certificates(certificate, longest=_CERTIFICATE_BYTES, what="certificate"),
        lifetime=None if lifetime is None else duration(lifetime),
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress("certifying the authority"):
        made = client.call(client.stubs.create_cross_certificate, request)
    output.print_warnings(made.warnings, run.output)
    if validate_only:
        run.tell("every check passed; nothing was changed")
        return
    if out is not None:
        files.write([files.Output(path=out, content=made.certificate.pem.encode())])
        run.tell(f"the cross-certificate is in {out}")
    match run.output:
        case output.Format.JSON:
            click.echo(to_json(made, indent=2))
        case output.Format.PEM:
            output.print_pem(made.certificate.pem)
        case output.Format.TABLE:
            click.echo(output.format_card((("Name", made.certificate_name),)))
