"""`certctl certificate`: certificates issued from CSRs."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final
from uuid import UUID

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.override_options import names_of, override_options
from certd.cli.certctl.parameters import DURATION, LABEL, TIME
from certd.client.messages import duration, enum_text, timestamp
from certd.errors import CertdError
from certd.v1.certificate_pb2 import Certificate
from certd.v1.certificate_service_pb2 import (
    GetCertificateRequest,
    IssueCertificateRequest,
    ListCertificatesRequest,
    ListCertificatesResponse,
    SearchCertificatesResponse,
)
from certd.v1.x509_pb2 import DistinguishedName

PAGE: Final = 500
HEADER: Final = ("SERIAL", "AUTHORITY", "STATE", "NAMES", "PROFILE", "NOT AFTER", "DAYS LEFT")
_NAMES_SHOWN: Final = 2


@click.group()
def certificate() -> None:
    """Certificates issued from certification requests (CSRs)."""


@verb(
    certificate,
    "issue",
    examples="""
    certctl certificate issue --authority web-ca --csr req.pem --lifetime 90d --out leaf.pem --chain-out chain.pem
    certctl certificate issue --authority web-ca --csr req.pem --label team=web --not-after 2027-01-31T12:00:00Z
    certctl certificate issue --authority web-ca --csr req.pem --profile gateway --subject O=Example --dns gw1.internal
    openssl req -new -key key.pem -config req.cnf | certctl certificate issue --authority web-ca --csr - -o pem
    """,
)
@click.option("--authority", shell_complete=completion.authorities, required=True, help="Authority that signs.")
@click.option("--csr", required=True, metavar="FILE", help="PKCS#10 request, PEM or DER; - reads standard input.")
@click.option(
    "--profile", shell_complete=completion.profiles, help="Profile under which it is issued.  [default: end-entity]"
)
@click.option("--lifetime", type=DURATION, help="Lifetime from now, for example 90d.  [default: that of the profile]")
@click.option("--not-after", type=TIME, help="Exact end instead, RFC 3339.")
@override_options
@click.option("--label", "labels", type=LABEL, multiple=True, help="A label; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the certificate (PEM).")
@click.option(
    "--chain-out", type=click.Path(path_type=Path), help="File for the chain from its issuer to the root (PEM)."
)
@mutation_options(validate_only=True)
def issue(
    run: Invocation,
    *,
    authority: str,
    csr: str,
    profile: str | None,
    lifetime: timedelta | None,
    not_after: datetime | None,
    subject: DistinguishedName | None,
    labels: Sequence[tuple[str, str]],
    out: Path | None,
    chain_out: Path | None,
    request_id: UUID,
    validate_only: bool,
    **kinds: Sequence[str],
) -> None:
    """Issue a certificate from a CSR.

    Subject and names other than those of the CSR need a profile that allows it: certctl profile create
    --allow-subject-override --allow-names-override.
    """
    if lifetime is not None and not_after is not None:
        message = "--lifetime and --not-after both say when it ends; give one"
        raise click.UsageError(message)
    request = IssueCertificateRequest(
        parent=names.authority_name(authority, run.tenant),
        csr=files.read_csr(csr),
        profile="" if profile is None else names.profile_name(profile, run.tenant),
        lifetime=None if lifetime is None else duration(lifetime),
        not_after_time=None if not_after is None else timestamp(not_after),
        labels=dict(labels),
        subject=subject,
        subject_alternative_names=names_of(kinds),
        request_id=str(request_id),
        validate_only=validate_only,
    )
    files.check_writable([path for path in (out, chain_out) if path is not None])
    with run.connect() as client, run.progress("issuing the certificate"):
        issued = client.call(client.stubs.issue_certificate, request)
    output.print_warnings(issued.warnings, run.output)
    if validate_only:
        # The certificate in the answer has a signature that no key made, so it is neither written nor printed as PEM.
        run.tell("every check passed; nothing was changed")
        print_certificate(issued, run, pem="", exists=False)
        return
    try:
        _write(issued, out, chain_out)
    except CertdError as error:
        # The certificate exists all the same, and nobody should issue it again for want of its name.
        message = f"{error.message}; {issued.name} is issued: certctl certificate get {issued.name} --out FILE"
        raise CertdError(error.reason, message) from error
    print_certificate(issued, run, pem=issued.certificate.pem)


@verb(
    certificate,
    "get",
    examples="""
    certctl certificate get 4f1d02 --authority web-ca
    certctl certificate get tenants/default/authorities/web-ca/certificates/4f1d02 -o pem
    """,
)
@click.argument("name", metavar="NAME|SERIAL")
@click.option(
    "--authority",
    shell_complete=completion.authorities,
    help="Authority that issued it, when a serial number is given.",
)
@click.option("--out", type=click.Path(path_type=Path), help="File for the certificate (PEM).")
@click.option(
    "--chain-out", type=click.Path(path_type=Path), help="File for the chain from its issuer to the root (PEM)."
)
def get(run: Invocation, *, name: str, authority: str | None, out: Path | None, chain_out: Path | None) -> None:
    """Show one certificate; the serial in any case, with or without colons."""
    try:
        full_name = names.certificate_name(name, run.tenant, authority)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with run.connect() as client, run.progress("getting the certificate"):
        found = client.call(client.stubs.get_certificate, GetCertificateRequest(name=full_name))
    _write(found, out, chain_out)
    print_certificate(found, run, pem=found.certificate.pem)


@verb(
    certificate,
    "status",
    examples="""
    certctl certificate status 4f1d02 --authority web-ca
    certctl certificate status tenants/default/authorities/web-ca/certificates/4f1d02 -o json
    """,
)
@click.argument("name", metavar="NAME|SERIAL")
@click.option(
    "--authority",
    shell_complete=completion.authorities,
    help="Authority that issued it, when a serial number is given.",
)
def status(run: Invocation, *, name: str, authority: str | None) -> None:
    """Say whether a certificate is good, as the books have it; the exit code is 1 for one that is not.

    Relying parties learn the same by OCSP at once, and from the next CRL.
    """
    try:
        full_name = names.certificate_name(name, run.tenant, authority)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with run.connect() as client, run.progress("getting the certificate"):
        found = client.call(client.stubs.get_certificate, GetCertificateRequest(name=full_name))
    expired = found.description.not_after_time.ToDatetime(UTC) < datetime.now(UTC)
    good = found.state == Certificate.ISSUED and not expired
    card = [
        ("Name", found.name),
        ("Status", "GOOD" if good else enum_text(found, "state") if found.state != Certificate.ISSUED else "EXPIRED"),
        ("Revoked", _revocation_text(found)),
        ("Invalid since", output.time_text(found.invalidity_time)),
        *output.validity_rows(found.description),
    ]
    output.print_resource(found, run.output, card=card, pem=found.certificate.pem)
    if not good:
        click.get_current_context().exit(1)


@verb(
    certificate,
    "list",
    examples="""
    certctl certificate list --authority web-ca
    certctl certificate list --limit 20
    certctl certificate list -o json | jq -r .name
    """,
)
@click.option(
    "--authority",
    shell_complete=completion.authorities,
    help="Authority that issued them.  [default: every one of the tenant]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Show only so many, the newest.")
def list_(run: Invocation, *, authority: str | None, limit: int | None) -> None:
    """List certificates, newest first."""
    page_size = PAGE if limit is None else min(limit, PAGE)
    request = ListCertificatesRequest(parent=names.authority_name(authority or "-", run.tenant), page_size=page_size)

    with run.connect() as client, run.progress("listing certificates"):
        print_pages(client.pages(client.stubs.list_certificates, request), run, limit)


def print_pages(
    pages: Iterator[ListCertificatesResponse] | Iterator[SearchCertificatesResponse], run: Invocation, limit: int | None
) -> None:
    """Prints certificates page by page, up to a limit; no page is asked for that would show nothing."""

    def shown() -> Iterator[Sequence[Certificate]]:
        left = limit
        for page in pages:
            part = list(islice(page.certificates, left))
            yield part
            if left is not None:
                left -= len(part)
                if left <= 0:
                    return

    output.print_pages(shown(), run.output, header=HEADER, row=row, pem=lambda c: c.certificate.pem)


def _write(item: Certificate, out: Path | None, chain_out: Path | None) -> None:
    outputs = []
    if out is not None:
        outputs.append(files.Output(path=out, content=item.certificate.pem.encode()))
    if chain_out is not None:
        outputs.append(files.Output(path=chain_out, content=output.chain_pem(item.chain).encode()))
    files.write(outputs)


def row(item: Certificate) -> Sequence[str]:
    """Returns the cells of a certificate under HEADER."""
    all_names = output.names_text(item.description.subject_alternative_names, "\n").splitlines()
    more = len(all_names) - _NAMES_SHOWN
    return (
        names.short(item.name),
        item.name.split("/")[3],
        enum_text(item, "state"),
        # An authority's certificate has no alternative names.
        ", ".join(all_names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        or item.description.subject_text,
        names.short(item.profile),
        output.time_text(item.description.not_after_time),
        output.days_left_text(item.description),
    )


def _revocation_text(item: Certificate) -> str:
    """Returns when a certificate was revoked and why; empty when it was not."""
    moment = output.time_text(item.revoke_time)
    return f"{moment} ({enum_text(item, 'revocation_reason')})" if moment and item.revocation_reason else moment


def print_certificate(item: Certificate, run: Invocation, *, pem: str, exists: bool = True) -> None:
    """Prints a certificate; with `exists` False, one that was only checked."""
    described = item.description
    card = [
        ("Name", item.name),
        ("State", enum_text(item, "state") if exists else ""),
        ("Subject", described.subject_text),
        ("Names", output.described_names_text(described)),
        ("Issuer", described.issuer_text),
        *output.location_rows(described),
        *output.validity_rows(described),
        # Without a certificate these are made up, and would be looked for in vain.
        ("Serial number", described.serial_number if exists else ""),
        ("Key", enum_text(described, "key_spec")),
        ("Signed with", enum_text(described, "signature_algorithm")),
        ("SHA-256", described.sha256_fingerprint.hex() if exists else ""),
        ("Profile", names.short(item.profile) + (f" (version {item.profile_version})" if item.profile_version else "")),
        ("Managed by", item.managed_certificate_version),
        ("Revoked", _revocation_text(item)),
        ("Invalid since", output.time_text(item.invalidity_time)),
        ("Labels", "\n".join(f"{key}={value}" for key, value in sorted(item.labels.items()))),
        ("Created", output.time_text(item.create_time) if exists else ""),
    ]
    output.print_resource(item, run.output, card=card, pem=pem)
