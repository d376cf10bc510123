"""`certctl managed import`: certificates that were made elsewhere, with their private keys, which are sealed here."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.durations import days_left, format_time
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.managed_export import managed
from certd.cli.certctl.parameters import LABEL
from certd.cli.certctl.profile_flags import EXTENDED_KEY_USAGES
from certd.client.messages import enum_text
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    GetManagedCertificateRequest,
    ImportManagedCertificateRequest,
    RollBackManagedCertificateRequest,
)

if TYPE_CHECKING:
    from certd.cli.certctl.import_files import Material
    from certd.pki.description import Description

__all__ = ["managed"]

_USAGE_NAMES: Final = {oid: name for name, oid in EXTENDED_KEY_USAGES.items()}
_FILE: Final = "FILE"


@verb(
    managed,
    "import",
    examples="""
    certctl managed import shop --certificate c.pem --private-key k.pem --chain ch.pem
    certctl managed import shop --certificate c.pem --private-key k.pem --chain ch.pem --replace
    certctl managed import shop --pkcs12 shop.p12 --passphrase-file pass.txt --exportable --validate-only
    certctl managed import shop --certificate fullchain.pem --private-key k.pem --private-key-passphrase-file pass.txt
    certctl managed import shop --rollback --version 3
    """,
)
@click.argument("name", metavar="ID", shell_complete=completion.managed_certificates)
@click.option(
    "--certificate",
    metavar=_FILE,
    help="The certificate, PEM or DER; without --chain, what stands behind it in the file is its chain.",
)
@click.option("--private-key", metavar=_FILE, help="Its private key: PKCS#8, PKCS#1, SEC1 or OpenSSH, PEM or DER.")
@click.option("--chain", metavar=_FILE, help="The certificates above it, without it; none for a self-signed one.")
@click.option("--pkcs12", metavar=_FILE, help="All three in one file, as Windows, macOS and Java export them.")
@click.option("--passphrase-file", metavar=_FILE, help="File with the passphrase of the PKCS#12 file.")
@click.option("--private-key-passphrase-file", metavar=_FILE, help="File with the passphrase of the private key.")
@click.option("--replace", is_flag=True, help="Make it a new version of an imported one that is there.")
@click.option("--rollback", is_flag=True, help="Import nothing; make an earlier version current again.")
@click.option("--version", type=click.IntRange(min=1), help="With --rollback, which.  [default: the last before it]")
@click.option("--exportable", is_flag=True, help="Let the private key be exported later, for good.  [default: never]")
@click.option("--label", "labels", type=LABEL, multiple=True, help="A label; may be repeated.")
@mutation_options(validate_only=True)
def import_(
    run: Invocation,
    *,
    name: str,
    certificate: str | None,
    private_key: str | None,
    chain: str | None,
    pkcs12: str | None,
    passphrase_file: str | None,
    private_key_passphrase_file: str | None,
    replace: bool,
    rollback: bool,
    version: int | None,
    exportable: bool,
    labels: Sequence[tuple[str, str]],
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Import a certificate that was made elsewhere; its private key is sealed here, and only the token opens it."""
    full_name = names.managed_certificate_name(name, run.tenant)
    sources = (certificate, private_key, chain, pkcs12, passphrase_file, private_key_passphrase_file)
    if rollback:
        _check_rollback(given=any(sources) or bool(labels) or replace or exportable, validate_only=validate_only)
        _roll_back(run, full_name, version=version or 0, request_id=request_id)
        return
    if version is not None:
        message = "--version goes with --rollback; an import makes the next version by itself"
        raise click.UsageError(message)
    material = _read(
        certificate=certificate,
        private_key=private_key,
        chain=chain,
        pkcs12=pkcs12,
        passphrase_file=passphrase_file,
        private_key_passphrase_file=private_key_passphrase_file,
    )
    for note in material.notes:
        run.tell(note)
    _import(
        run,
        full_name,
        material,
        ImportManagedCertificateRequest(
            managed_certificate_id=names.short(full_name),
            parent=names.parent_and_id(full_name)[0],
            certificate=material.certificate,
            certificate_chain=material.chain_pem,
            export_policy=ManagedCertificate.EXPORTABLE if exportable else ManagedCertificate.EXPORT_POLICY_UNSPECIFIED,
            labels=dict(labels),
            replace=replace,
            request_id=str(request_id),
            validate_only=validate_only,
        ),
    )


def _check_rollback(*, given: bool, validate_only: bool) -> None:
    if given:
        message = "--rollback imports nothing; it goes with --version alone"
        raise click.UsageError(message)
    if validate_only:
        message = "--rollback has no --validate-only; it can be rolled back itself"
        raise click.UsageError(message)


def _read(
    *,
    certificate: str | None,
    private_key: str | None,
    chain: str | None,
    pkcs12: str | None,
    passphrase_file: str | None,
    private_key_passphrase_file: str | None,
) -> "Material":
    # Late, so that --help and completion start without what reads keys.
    from certd.cli.certctl.import_files import read_pem, read_pkcs12

    pem = (certificate, private_key, chain, private_key_passphrase_file)
    if [*pem, pkcs12, passphrase_file].count(files.STANDARD_STREAM) > 1:
        message = "only one of the files can be standard input"
        raise click.UsageError(message)
    if pkcs12 is not None:
        if any(each is not None for each in pem):
            message = (
                "--pkcs12 holds certificate, chain and private key, and opens with --passphrase-file; name it alone"
            )
            raise click.UsageError(message)
        return read_pkcs12(pkcs12, passphrase_file=passphrase_file)
    if certificate is None or private_key is None:
        message = "say what to import: --certificate and --private-key, with --chain, or --pkcs12"
        raise click.UsageError(message)
    if passphrase_file is not None:
        message = "--passphrase-file is for --pkcs12; a private key opens with --private-key-passphrase-file"
        raise click.UsageError(message)
    return read_pem(
        certificate=certificate,
        private_key=private_key,
        chain=chain,
        passphrase_file=private_key_passphrase_file,
    )


def _import(run: Invocation, full_name: str, material: "Material", request: ImportManagedCertificateRequest) -> None:
    from certd.client.managed_import import import_sealed
    from certd.pki.description import describe

    now = datetime.now(UTC)
    coming = describe(material.certificate)
    with run.connect() as client:
        card = _coming_rows(coming, material, now)
        if request.replace:
            with run.progress("getting the managed certificate"):
                found = client.call(client.stubs.get_managed_certificate, GetManagedCertificateRequest(name=full_name))
            card += _change_rows(found, coming, material, now)
            # The key is sealed for the policy that is shown.
            request.export_policy = request.export_policy or found.export_policy
        if run.output is output.Format.TABLE:
            click.echo(output.format_card([("To import", full_name), *card]))
        with run.progress("importing"):
            item = import_sealed(client, request, material.private_key)
    output.print_warnings(item.warnings, run.output)
    if request.validate_only:
        run.tell("every check passed; nothing was changed")
    elif run.output is output.Format.TABLE:
        click.echo()
    _print(run, "Would be" if request.validate_only else "Imported", item)


def _roll_back(run: Invocation, full_name: str, *, version: int, request_id: UUID) -> None:
    request = RollBackManagedCertificateRequest(name=full_name, version=version, request_id=str(request_id))
    with run.connect() as client, run.progress("rolling back"):
        item = client.call(client.stubs.roll_back_managed_certificate, request)
    output.print_warnings(item.warnings, run.output)
    _print(run, "Rolled back", item)


def _print(run: Invocation, done: str, item: ManagedCertificate) -> None:
    rows = [
        (done, f"{item.name}, version {item.current_version}"),
        ("State", enum_text(item, "state")),
        ("Names", output.described_names_text(item.description)),
        *output.validity_rows(item.description),
        ("Serial number", item.description.serial_number),
        ("SHA-256", item.description.sha256_fingerprint.hex()),
        ("Export", enum_text(item, "export_policy")),
        ("Labels", "\n".join(f"{key}={value}" for key, value in sorted(item.labels.items()))),
        ("Uid", item.uid),
        ("Etag", item.etag),
    ]
    output.print_resource(item, run.output, card=rows, pem=item.certificate.pem)


def _coming_rows(coming: "Description", material: "Material", now: datetime) -> list[output.Row]:
    """Returns what people look at before they import."""
    return [
        ("Names", "\n".join(_names(material.certificate))),
        ("Subject", coming.subject_text),
        ("Issuer", coming.issuer_text),
        ("Chain", _chain_text(material)),
        ("Not after", f"{format_time(coming.not_after_time)} ({_days(coming, now)})"),
        ("Key", coming.key_spec or "of a kind that certd does not know"),
        ("Signature", coming.signature_algorithm or "of an algorithm that certd does not know"),
        ("Used for", ", ".join(_usages(coming)) or "anything: it says nothing of its use"),
    ]


def _change_rows(
    found: ManagedCertificate, coming: "Description", material: "Material", now: datetime
) -> list[output.Row]:
    """Returns what becomes other than it is; nothing for one that has no certificate."""
    from certd.pki.description import describe

    if not found.certificate.der:
        return []
    before = describe(found.certificate.der)
    same_key = before.public_key == coming.public_key
    return [
        ("Replaces", f"version {found.current_version}"),
        ("Names change", _difference(_names(found.certificate.der), _names(material.certificate))),
        ("Days change", f"{_days(before, now)} → {_days(coming, now)}"),
        ("Key changes", "no, it is the same key" if same_key else _change(before.key_spec, coming.key_spec)),
        ("Issuer changes", _change(before.issuer_text, coming.issuer_text, same="no")),
        ("Usages change", _difference(_usages(before), _usages(coming))),
        ("Export stays", enum_text(found, "export_policy")),
    ]


def _change(before: str | None, after: str | None, *, same: str = "") -> str:
    if before == after:
        return same or f"to another key, {after} too"
    return f"{before or 'none'} → {after or 'none'}"


def _difference(before: Iterable[str], after: Iterable[str]) -> str:
    old, new = list(before), list(after)
    lines = [f"+ {each}" for each in new if each not in old] + [f"- {each}" for each in old if each not in new]
    return "\n".join(lines) or "no"


def _names(certificate: bytes) -> list[str]:
    from certd.pki.imported_certificate import names_of

    names = names_of(certificate)
    return [
        *names.dns_names,
        *(f"IP:{address}" for address in names.ip_addresses),
        *(f"URI:{uri}" for uri in names.uris),
        *(f"email:{address}" for address in names.email_addresses),
    ]


def _usages(description: "Description") -> list[str]:
    from certd.pki.extensions import key_usage_text

    return [
        *(_USAGE_NAMES.get(oid, oid) for oid in description.extended_key_usages),
        *map(key_usage_text, description.key_usages),
    ]


def _chain_text(material: "Material") -> str:
    from certd.pki.description import describe

    if not material.chain:
        return "none"
    return "\n".join(describe(each).subject_text for each in material.chain)


def _days(description: "Description", now: datetime) -> str:
    left = days_left(description.not_after_time, now)
    return left if left == "expired" else f"{left} days left"
