"""`certctl managed`: managed certificates, whose keys the server keeps sealed."""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

import click

from certd.cli.certctl import completion, names, output
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.parameters import DURATION, KEY_SPEC, LABEL, SUBJECT
from certd.cli.certctl.renewal_options import policy_text, renewal_options, renewal_policy
from certd.client.failure import CallFailed
from certd.client.messages import duration, enum_text
from certd.v1.managed_certificate_pb2 import Condition, MaintenanceWindow, ManagedCertificate, Use
from certd.v1.managed_certificate_service_pb2 import (
    GetManagedCertificateRequest,
    ListManagedCertificatesRequest,
    RequestManagedCertificateRequest,
)
from certd.v1.x509_pb2 import DistinguishedName, KeySpec, SubjectAlternativeNames

if TYPE_CHECKING:
    from certd.client.connection import Client

_PAGE: Final = 500
_HEADER: Final = ("MANAGED CERTIFICATE", "STATE", "NAMES", "AUTHORITY", "VERSION", "NOT AFTER", "DAYS LEFT",
                  "NEXT RENEWAL", "USED", "BLOCKED BY")  # fmt: skip
_BLOCKED: Final = "RenewalBlocked"
"""The type of the condition that holds when something keeps it from being renewed."""
_LATE: Final = "DeploymentLate"
"""The type of the condition that holds while a consumer is late with the current version."""
_NAMES_SHOWN: Final = 2
_LONGEST_WAIT: Final = timedelta(minutes=2)
_FIRST_POLL: Final = 0.1
_LONGEST_POLL: Final = 1.0


@click.group()
def managed() -> None:
    """Managed certificates: the server makes their keys and keeps them sealed."""


@verb(
    managed,
    "request",
    examples="""
    certctl managed request web --authority web-ca --dns www.example.internal --dns example.internal
    certctl managed request gateway --authority web-ca --dns gw.example.internal --ip 10.0.0.1 --key RSA_3072 --no-wait
    certctl managed request shop --authority web-ca --dns shop.example.internal --renewal when-used --renew-at-percent 9
    certctl managed request db --authority web-ca --dns db.example.internal --maintenance-window "0 2 * * SAT;UTC;4h"
    """,
)
@click.argument("name", metavar="ID")
@click.option("--authority", shell_complete=completion.authorities, required=True, help="Authority that issues it.")
@click.option("--dns", "dns_names", multiple=True, help="DNS name; may be repeated.")
@click.option("--ip", "ip_addresses", multiple=True, help="IP address; may be repeated.")
@click.option("--uri", "uris", multiple=True, help="URI; may be repeated.")
@click.option("--email", "email_addresses", multiple=True, help="E-mail address; may be repeated.")
@click.option("--subject", type=SUBJECT, help="Subject.  [default: empty]")
@click.option(
    "--profile", shell_complete=completion.profiles, help="Profile under which it is issued.  [default: end-entity]"
)
@click.option("--key", "key_spec", type=KEY_SPEC, help="Kind and size of its keys.  [default: EC_P256]")
@click.option("--lifetime", type=DURATION, help="Lifetime of each version.  [default: that of the profile]")
@click.option("--not-exportable", is_flag=True, help="Never let the private key leave, for good.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="A label; may be repeated.")
@renewal_options
@click.option(
    "--wait/--no-wait", default=True, help="Wait until it is issued.  [default: wait, 2 minutes or --timeout]"
)
@mutation_options(validate_only=True)
def request(
    run: Invocation,
    *,
    name: str,
    authority: str,
    dns_names: Sequence[str],
    ip_addresses: Sequence[str],
    uris: Sequence[str],
    email_addresses: Sequence[str],
    subject: DistinguishedName | None,
    profile: str | None,
    key_spec: str | None,
    lifetime: timedelta | None,
    not_exportable: bool,
    labels: Sequence[tuple[str, str]],
    mode: str | None,
    percent: int | None,
    windows: Sequence[MaintenanceWindow],
    wait: bool,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Request a managed certificate, and wait until it is issued."""
    if not (dns_names or ip_addresses or uris or email_addresses):
        message = "a managed certificate needs a name; give --dns, --ip, --uri or --email"
        raise click.UsageError(message)
    parent, managed_certificate_id = names.parent_and_id(names.managed_certificate_name(name, run.tenant))
    exportable, not_ = ManagedCertificate.EXPORTABLE, ManagedCertificate.NOT_EXPORTABLE
    call = RequestManagedCertificateRequest(
        parent=parent,
        managed_certificate_id=managed_certificate_id,
        managed_certificate=ManagedCertificate(
            authority=names.authority_name(authority, run.tenant),
            profile="" if profile is None else names.profile_name(profile, run.tenant),
            key_spec=KeySpec.Value(key_spec or "KEY_SPEC_UNSPECIFIED"),
            subject=subject,
            subject_alternative_names=SubjectAlternativeNames(
                dns_names=dns_names, ip_addresses=ip_addresses, uris=uris, email_addresses=email_addresses
            ),
            lifetime=None if lifetime is None else duration(lifetime),
            export_policy=not_ if not_exportable else exportable,
            labels=dict(labels),
            renewal=renewal_policy(mode, percent, windows)[0],
        ),
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client:
        with run.progress(f"requesting the managed certificate {managed_certificate_id}"):
            item = client.call(client.stubs.request_managed_certificate, call)
        output.print_warnings(item.warnings, run.output)
        if validate_only:
            run.tell("every check passed; nothing was changed")
        elif wait:
            item = wait_for_version(run, client, item, 1)
    print_managed(item, run)


@verb(managed, "get", examples="certctl managed get web\ncertctl managed get web -o pem")
@click.argument("name", metavar="MANAGED", shell_complete=completion.managed_certificates)
def get(run: Invocation, *, name: str) -> None:
    """Show one managed certificate."""
    full_name = names.managed_certificate_name(name, run.tenant)
    with run.connect() as client, run.progress("getting the managed certificate"):
        found = client.call(client.stubs.get_managed_certificate, GetManagedCertificateRequest(name=full_name))
    print_managed(found, run)


@verb(managed, "list", examples="certctl managed list\ncertctl managed list -o json | jq -r .name")
def list_(run: Invocation) -> None:
    """List the managed certificates of a tenant."""
    call = ListManagedCertificatesRequest(parent=names.tenant_name(run.tenant), page_size=_PAGE)

    def pages() -> Iterator[Sequence[ManagedCertificate]]:
        for page in client.pages(client.stubs.list_managed_certificates, call):
            yield page.managed_certificates

    with run.connect() as client, run.progress("listing managed certificates"):
        print_list(pages(), run)


def print_list(pages: Iterable[Sequence[ManagedCertificate]], run: Invocation) -> None:
    """Prints managed certificates as their pages arrive."""
    output.print_pages(pages, run.output, header=_HEADER, row=_row, pem=lambda m: m.certificate.pem)


def wait_for_version(run: Invocation, client: "Client", item: ManagedCertificate, version: int) -> ManagedCertificate:
    """Returns the managed certificate when this version, or one after it, is current.

    Raises CallFailed when the first one can never be, or when it is late.
    """
    ends = time.monotonic() + (run.timeout or _LONGEST_WAIT).total_seconds()
    tells = time.monotonic() + 1.0
    delay, told = _FIRST_POLL, ""
    while item.state == ManagedCertificate.PENDING or (version > 1 and item.current_version < version):
        now = time.monotonic()
        stands = "PENDING" if version == 1 else f"at version {item.current_version}"
        if now >= ends:
            raise CallFailed(
                "DEADLINE_EXCEEDED",
                f"{item.name} is still {stands}: {_waits_for(item)}. The server goes on; "
                f"see certctl managed get {names.short(item.name)}",
                code="DEADLINE_EXCEEDED",
                resource=item.name,
            )
        if now >= tells and (text := f"{names.short(item.name)} is {stands}: {_waits_for(item)}") != told:
            run.tell(text)
            told = text
        time.sleep(min(delay, max(ends - now, 0)))
        delay = min(delay * 2, _LONGEST_POLL)
        item = client.call(client.stubs.get_managed_certificate, GetManagedCertificateRequest(name=item.name))
    if item.state == ManagedCertificate.FAILED:
        condition = _unmet(item)
        raise CallFailed(
            condition.reason or "STATE_FORBIDS",
            f"{item.name} can never be issued as it was requested: {condition.message}",
            code="FAILED_PRECONDITION",
            resource=item.name,
        )
    return item


def _unmet(item: ManagedCertificate) -> Condition:
    """Returns the first condition that keeps it from its next version; an empty one when there is none."""
    blocked = (c for c in item.conditions if c.type == _BLOCKED and c.status == Condition.TRUE)
    unmet = (c for c in item.conditions if c.type not in {_BLOCKED, _LATE} and c.status == Condition.FALSE)
    return next(blocked, None) or next(unmet, None) or Condition()


def _waits_for(item: ManagedCertificate) -> str:
    condition = _unmet(item)
    told = ": ".join(part for part in (condition.reason, condition.message) if part)
    return told or "its key is being made and its certificate issued"


def _row(item: ManagedCertificate) -> Sequence[str]:
    all_names = output.names_text(item.subject_alternative_names, "\n").splitlines()
    more = len(all_names) - _NAMES_SHOWN
    return (
        names.short(item.name),
        enum_text(item, "state"),
        ", ".join(all_names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else ""),
        names.short(item.authority),
        str(item.current_version or ""),
        output.time_text(item.description.not_after_time),
        output.days_left_text(item.description),
        output.time_text(item.next_attempt_time),
        _used_text(item),
        _unmet(item).reason,
    )


def print_managed(item: ManagedCertificate, run: Invocation) -> None:
    """Prints a managed certificate."""
    card = [
        ("Name", item.name),
        ("Type", enum_text(item, "type")),
        ("State", enum_text(item, "state")),
        ("Subject", item.description.subject_text),
        # What was issued, which knows A-labels as people write them; before that, what was asked for.
        (
            "Names",
            output.described_names_text(item.description) or output.names_text(item.subject_alternative_names, "\n"),
        ),
        ("Authority", item.authority),
        ("Profile", names.short(item.profile)),
        ("Key", enum_text(item, "key_spec")),
        ("Export", enum_text(item, "export_policy")),
        ("Version", str(item.current_version or "")),
        *output.validity_rows(item.description),
        ("Serial number", item.description.serial_number),
        ("SHA-256", item.description.sha256_fingerprint.hex()),
        ("Conditions", "\n".join(_condition_text(condition) for condition in item.conditions)),
        ("Renewal", policy_text(item.renewal)),
        ("Renewal window", _window_text(item)),
        ("Next attempt", output.time_text(item.next_attempt_time)),
        ("Used by", "\n".join(_use_text(use) for use in item.used_by)),
        ("Exported", output.time_text(item.export_time)),
        ("Imported", output.time_text(item.import_time)),
        ("Uid", item.uid),
        ("Labels", "\n".join(f"{key}={value}" for key, value in sorted(item.labels.items()))),
        ("Created", output.time_text(item.create_time)),
    ]
    output.print_resource(item, run.output, card=card, pem=item.certificate.pem)


def _used_text(item: ManagedCertificate) -> str:
    """Returns whether it is used, and whether somebody who should serve the current version does not."""
    late = any(c.type == _LATE and c.status == Condition.TRUE for c in item.conditions)
    return "late" if late else "yes" if item.used else "no"


def _window_text(item: ManagedCertificate) -> str:
    if not item.HasField("renewal_window"):
        return ""
    window = item.renewal_window
    return f"{output.time_text(window.start_time)} to {output.time_text(window.end_time)}"


def _use_text(use: Use) -> str:
    """Returns who may lease its key, and what they last did and said."""
    told = [names.short(use.association)]
    if use.leased_version:
        told.append(f"leased version {use.leased_version} at {output.time_text(use.lease_time)}")
    if use.HasField("deployment"):
        said = use.deployment
        does = enum_text(said, "state").lower()
        problem = f": {said.message}" if said.message else ""
        told.append(f"{does} version {said.version} at {output.time_text(said.report_time)}{problem}")
    return ", ".join(told)


def _condition_text(condition: Condition) -> str:
    told = f"{condition.type}={enum_text(condition, 'status')}"
    more = ": ".join(part for part in (condition.reason, condition.message) if part)
    return f"{told} {more}".rstrip()
