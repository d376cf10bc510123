"""`certctl authority`: certificate authorities."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.constraint_options import constraint_options, constraint_rows, constraints_of
from certd.cli.certctl.durations import format_duration
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.parameters import (
    DURATION,
    KEY_SPEC,
    LABEL,
    SIGNATURE_ALGORITHM,
    SUBJECT,
    distinguished_name_text,
)
from certd.cli.certctl.revocation_options import revocation_options, revocation_rows, settings_of
from certd.client.messages import duration, enum_text
from certd.errors import CertdError, Reason
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import CreateAuthorityRequest, GetAuthorityRequest, ListAuthoritiesRequest
from certd.v1.x509_pb2 import DistinguishedName, KeySpec, SignatureAlgorithm

_PAGE: Final = 500
_HEADER: Final = ("AUTHORITY", "TYPE", "STATE", "KEY", "SUBJECT", "NOT AFTER", "DAYS LEFT")


@click.group()
def authority() -> None:
    """Certificate authorities, whose keys never leave the token."""


@verb(
    authority,
    "create",
    examples="""
    certctl authority create web-root --type root --key EC_P384 --subject "CN=Example Root,O=Example" --lifetime 10y
    certctl authority create web-ca --type subordinate --issuer web-root --subject "CN=Example Issuing CA" --lifetime 5y
    certctl authority create lab-ca --type subordinate --issuer web-root --subject "CN=Lab CA" --permit-dns lab.internal
    certctl authority create own-ca --type subordinate --subject "CN=Ours,O=Example"    (its parent is an outside one)
    certctl authority create big-ca --type subordinate --issuer web-root --subject "CN=Big CA" --crl-partitions 64
    certctl authority create job-ca --type subordinate --issuer web-root --subject "CN=Job CA" --usage-mode short-lived
    """,
)
@click.argument("name", metavar="ID")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["root", "subordinate"], case_sensitive=False),
    required=True,
    help="root signs its own certificate; subordinate has it signed by --issuer, or by an outside parent.",
)
@click.option(
    "--issuer",
    metavar="AUTHORITY",
    shell_complete=completion.authorities,
    help="Authority that signs the certificate of a subordinate; without one it awaits that of an outside parent.",
)
@click.option("--subject", type=SUBJECT, required=True, help='Its subject (RFC 4514): "CN=Example Root,O=Example".')
@click.option(
    "--key", "key_spec", type=KEY_SPEC, help="Kind and size of its key.  [default: EC_P384 for a root, EC_P256 else]"
)
@click.option(
    "--signature-algorithm", type=SIGNATURE_ALGORITHM, help="Algorithm of its signatures.  [default: by its key]"
)
@click.option("--lifetime", type=DURATION, help="Lifetime of its certificate.  [default: 10y for a root, 5y else]")
@click.option("--path-length", type=click.IntRange(0, 4), help="How many authorities may stand below it in a chain.")
@constraint_options
@click.option(
    "--usage-mode",
    type=click.Choice(["general-purpose", "short-lived"]),
    default="general-purpose",
    help="short-lived: certificates of at most 7 days, which say that nobody need ask whether they are revoked.",
    show_default=True,
)
@revocation_options
@click.option("--deletion-protection", is_flag=True, help="Refuse to delete it until this is taken back.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="A label; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), help="File for its certificate (PEM).")
@mutation_options(validate_only=True)
def create(
    run: Invocation,
    *,
    name: str,
    kind: str,
    issuer: str | None,
    subject: DistinguishedName,
    key_spec: str | None,
    signature_algorithm: str | None,
    lifetime: timedelta | None,
    path_length: int | None,
    usage_mode: str,
    deletion_protection: bool,
    labels: Sequence[tuple[str, str]],
    out: Path | None,
    request_id: UUID,
    validate_only: bool,
    **others: Any,  # noqa: ANN401  # The options of `constraint_options` and `revocation_options`.
) -> None:
    """Make a working authority: its key in the token, and its certificate."""
    if kind == "subordinate" and issuer is None and out is not None:
        message = "without --issuer there is no certificate yet to write to --out; see certctl authority csr"
        raise click.UsageError(message)
    if kind == "root" and issuer is not None:
        message = "a root signs its own certificate; leave out --issuer, or make it --type subordinate"
        raise click.UsageError(message)
    parent, authority_id = names.parent_and_id(names.authority_name(name, run.tenant))
    revocation, settings = settings_of(others)
    request = CreateAuthorityRequest(
        parent=parent,
        authority_id=authority_id,
        authority=Authority(
            type=Authority.Type.Value(kind.upper()),
            issuer="" if issuer is None else names.authority_name(issuer, run.tenant),
            subject=subject,
            key_spec=KeySpec.Value(key_spec or "KEY_SPEC_UNSPECIFIED"),
            signature_algorithm=SignatureAlgorithm.Value(signature_algorithm or "SIGNATURE_ALGORITHM_UNSPECIFIED"),
            lifetime=None if lifetime is None else duration(lifetime),
            path_length=path_length,
            name_constraints=constraints_of(others),
            usage_mode=Authority.UsageMode.Value(usage_mode.upper().replace("-", "_")),
            revocation=revocation if settings else None,
            deletion_protection=deletion_protection,
            labels=dict(labels),
        ),
        request_id=str(request_id),
        validate_only=validate_only,
    )
    files.check_writable([] if out is None else [out])
    with run.connect() as client, run.progress(f"creating the authority {authority_id}"):
        made = client.call(client.stubs.create_authority, request)
    output.print_warnings(made.warnings, run.output)
    if validate_only:
        run.tell("every check passed; nothing was changed")
    elif out is not None:
        files.write([files.Output(path=out, content=made.certificate.pem.encode())])
    print_authority(made, run, exists=not validate_only)
    if made.state == Authority.AWAITING_CERTIFICATE and not validate_only:
        run.tell(
            f"it awaits the certificate of its parent: certctl authority csr {authority_id} --out {authority_id}.csr"
        )


@verb(
    authority,
    "get",
    examples="""
    certctl authority get web-ca
    certctl authority get web-root -o pem > root.pem
    certctl authority get web-root --key-number 2 -o pem > next-root.pem
    certctl authority get web-root --cross-certificates -o pem > cross.pem
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@click.option(
    "--key-number",
    type=click.IntRange(1),
    help="With -o pem: the certificate of this key, such as one that is PREPARED.  [default: the one that signs]",
)
@click.option(
    "--cross-certificates",
    is_flag=True,
    help="With -o pem: those of the key that its other keys or issuers signed, for who trusts these alone.",
)
def get(run: Invocation, *, name: str, key_number: int | None, cross_certificates: bool) -> None:
    """Show one authority."""
    if (key_number is not None or cross_certificates) and run.output is not output.Format.PEM:
        message = "--key-number and --cross-certificates choose certificates for -o pem; -o json shows all keys"
        raise click.UsageError(message)
    with run.connect() as client, run.progress("getting the authority"):
        found = client.call(
            client.stubs.get_authority, GetAuthorityRequest(name=names.authority_name(name, run.tenant))
        )
    if cross_certificates:
        _print_of_key(found, key_number or found.key.number, "a cross-certificate", _cross_certificates_pem)
    elif key_number is not None:
        _print_of_key(found, key_number, "a certificate", _certificate_pem)
    else:
        print_authority(found, run)


def _print_of_key(item: Authority, number: int, what: str, pem_of: Callable[[Authority.Key], str]) -> None:
    """Prints PEM that a key has; raises FIELD_INVALID with the keys that have some, when it has none."""
    found = {key.number: pem_of(key) for key in item.keys}
    if not found.get(number):
        known = ", ".join(str(one) for one in sorted(found) if found[one]) or "none"
        raise CertdError(Reason.FIELD_INVALID, f"{item.name} has no key {number} with {what}; keys with one: {known}")
    output.print_pem(found[number])


def _certificate_pem(key: Authority.Key) -> str:
    return key.certificate.pem


def _cross_certificates_pem(key: Authority.Key) -> str:
    return output.chain_pem(key.cross_certificates)


@verb(authority, "list", examples="certctl authority list\ncertctl authority list -o json | jq -r .name")
def list_(run: Invocation) -> None:
    """List the authorities of a tenant."""
    request = ListAuthoritiesRequest(parent=names.tenant_name(run.tenant), page_size=_PAGE)

    def pages() -> Iterator[Sequence[Authority]]:
        for page in client.pages(client.stubs.list_authorities, request):
            yield page.authorities

    with run.connect() as client, run.progress("listing authorities"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=lambda a: a.certificate.pem)


def _row(item: Authority) -> Sequence[str]:
    return (
        names.short(item.name),
        enum_text(item, "type"),
        enum_text(item, "state"),
        enum_text(item, "key_spec"),
        item.description.subject_text,
        output.time_text(item.description.not_after_time),
        output.days_left_text(item.description),
    )


def print_authority(item: Authority, run: Invocation, *, exists: bool = True) -> None:
    """Prints one authority."""
    # What was only checked has no key, no certificate and no place in the books, whatever the answer made up for it.
    card = [
        ("Name", item.name),
        ("Type", enum_text(item, "type")),
        ("State", enum_text(item, "state") if exists else ""),
        ("Subject", item.description.subject_text or distinguished_name_text(item.subject)),
        ("Issuer", item.issuer or item.description.issuer_text),
        *output.validity_rows(item.description),
        ("Lifetime", "" if exists else format_duration(item.lifetime.ToTimedelta())),
        ("Serial number", item.description.serial_number),
        ("Path length", str(item.path_length) if item.HasField("path_length") else ""),
        *constraint_rows(item.name_constraints),
        ("Key", _key_text(item) if exists else enum_text(item, "key_spec")),
        ("Signs with", enum_text(item, "signature_algorithm")),
        ("Keys", "\n".join(map(_key_row, item.keys)) if len(item.keys) > 1 and exists else ""),
        ("SHA-256", item.description.sha256_fingerprint.hex()),
        *output.location_rows(item.description),
        ("Served at", _served_text(item) if item.certificate.der and exists else ""),
        ("Uid", item.uid if exists else ""),
        *revocation_rows(item),
        ("Deletion", "protected" if item.deletion_protection else ""),
        ("Deleted", output.time_text(item.delete_time) if item.HasField("delete_time") else ""),
        ("Purged" if item.state == Authority.PURGED else "Purged from", _purge_text(item)),
        ("Labels", "\n".join(f"{key}={value}" for key, value in sorted(item.labels.items()))),
        ("Created", output.time_text(item.create_time) if exists else ""),
        ("Etag", item.etag if exists else ""),
    ]
    output.print_resource(item, run.output, card=card, pem=item.certificate.pem)


def _served_text(item: Authority) -> str:
    """Returns the paths on the HTTP listener of what is served for the key that signs."""
    place = f"{item.uid}/{item.key.number}"
    served = [f"/ca/{place}.cer (.pem with its chain)"]
    if item.revocation.crl.enabled:
        served.append(f"/crl/{place}.crl")
    if item.revocation.ocsp.enabled:
        served.append(f"/ocsp/{place}")
    return "\n".join(served)


def _purge_text(item: Authority) -> str:
    return output.time_text(item.purge_time) if item.HasField("purge_time") else ""


def _key_row(key: Authority.Key) -> str:
    """Returns a line about one of several keys."""
    state = enum_text(key, "state")
    if not key.certificate.der:
        return f"{key.number}  {state}, without a certificate"
    crossed = len(key.cross_certificates)
    more = f", {crossed} cross-certificate{'s' if crossed > 1 else ''}" if crossed else ""
    return f"{key.number}  {state} until {output.time_text(key.not_after_time)}{more}"


def _key_text(item: Authority) -> str:
    spec = enum_text(item, "key_spec")
    if not item.key.key_id:
        return spec
    return f"{spec} in token {item.key.token_label}, id {item.key.key_id} ({item.key.mechanism})"
