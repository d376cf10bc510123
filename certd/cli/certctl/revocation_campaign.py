"""`certctl revocation-campaign`: many certificates revoked, after an incident."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Never
from uuid import UUID

import click
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.certificate_search import together, written_filter
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.parameters import LABEL, TIME
from certd.cli.certctl.revocation import REASON_HELP, ReasonType
from certd.client.failure import CallFailed
from certd.client.messages import enum_text, timestamp, to_json
from certd.pki.key_spec import public_key_der
from certd.v1.certificate_filter_pb2 import CertificateFilter
from certd.v1.certificate_pb2 import RevocationReason
from certd.v1.certificate_service_pb2 import (
    CancelRevocationCampaignRequest,
    CreateRevocationCampaignRequest,
    GetRevocationCampaignRequest,
    ListRevocationCampaignsRequest,
)
from certd.v1.revocation_campaign_pb2 import RevocationCampaign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from certd.client.connection import Client

_PAGE: Final = 500
_HEADER: Final = ("CAMPAIGN", "STATE", "FOUND", "REVOKED", "UNCHANGED", "FAILED", "REASON", "CREATED")
_POLL: Final = 1.0
_TELL: Final = 5.0
"""Seconds between two lines of progress."""
_KEY_BYTES: Final = 64 << 10
_SHA256_DIGITS: Final = 64


@click.group("revocation-campaign")
def revocation_campaign() -> None:
    """Revocation campaigns: all certificates of a profile, a key or a consumer are revoked, or what a filter finds."""


@verb(
    revocation_campaign,
    "create",
    examples="""
    certctl revocation-campaign create build-host --consumer machine-7 --reason key-compromise --wait
    certctl revocation-campaign create debian-key --public-key stolen.pem --reason key-compromise
    certctl revocation-campaign create old-web --profile web --authority web-ca --reason superseded --validate-only
    certctl revocation-campaign create shop --domain shop.example.internal --reason cessation-of-operation --yes
    """,
)
@click.argument("name", metavar="CAMPAIGN")
@click.option("--authority", shell_complete=completion.authorities, help="Authority that issued them.  [default: any]")
@click.option("--profile", shell_complete=completion.profiles, help="All that were issued under this profile.")
@click.option(
    "--public-key",
    metavar="FILE",
    help="All of this key: a public key or a certificate, PEM or DER; - reads standard input.",
)
@click.option("--public-key-sha256", metavar="HEX", help="All of the key whose SubjectPublicKeyInfo has this SHA-256.")
@click.option("--consumer", metavar="IDENTITY", help="All that this identity may lease.")
@click.option("--domain", help="All with a DNS name that is this domain or lies below it.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="All with this label; may be repeated.")
@click.option("--filter", "written", metavar="JSON", help="All that a CertificateFilter of the API finds.")
@click.option(
    "--reason",
    type=ReasonType(),
    default="unspecified",
    show_default=True,
    help=f"{REASON_HELP} key-compromise also blocks keys.",
)
@click.option("--invalid-since", type=TIME, help="Since when keys are known or thought to be compromised, RFC 3339.")
@click.option("--include-expired", is_flag=True, help="Revoke expired ones too.")
@click.option("--wait", is_flag=True, help="Show its progress until it has ended.")
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal, whether it is meant.")
@mutation_options(validate_only=True)
def create(
    run: Invocation,
    *,
    name: str,
    authority: str | None,
    reason: str,
    invalid_since: datetime | None,
    include_expired: bool,
    wait: bool,
    yes: bool,
    request_id: UUID,
    validate_only: bool,
    **selection: Any,  # noqa: ANN401  # The options that say which certificates.
) -> None:
    """Begin to revoke a set of certificates for ever.

    --domain, --label and --filter hold together; otherwise one option says which certificates. --validate-only tells
    how many it would find.
    """
    parent, id_ = names.parent_and_id(names.revocation_campaign_name(name, run.tenant))
    campaign = RevocationCampaign(
        authority="" if authority is None else names.authority_name(authority, run.tenant),
        reason=RevocationReason.Value(reason),
        invalidity_time=None if invalid_since is None else timestamp(invalid_since),
        include_expired=include_expired,
        **_selection(run, selection),
    )
    request = CreateRevocationCampaignRequest(
        parent=parent,
        revocation_campaign_id=id_,
        revocation_campaign=campaign,
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client:
        # A program that calls certctl has nobody to ask.
        if sys.stdin.isatty() and not yes and not validate_only:
            _ask(run, client, request)
        with run.progress("creating the campaign"):
            made = client.call(client.stubs.create_revocation_campaign, request)
        if wait and not validate_only:
            made = wait_for_end(run, client, made)
    if validate_only:
        run.tell("every check passed; nothing was changed")
    print_campaign(made, run, exists=not validate_only)
    if made.failed_count:
        click.get_current_context().exit(1)


def _ask(run: Invocation, client: "Client", request: CreateRevocationCampaignRequest) -> None:
    checked = CreateRevocationCampaignRequest(validate_only=True)
    checked.MergeFrom(request)
    checked.validate_only = True
    with run.progress("counting certificates"):
        found = client.call(client.stubs.create_revocation_campaign, checked).found_count
    if not click.confirm(f"Revoke the certificates that it finds, {found:,} by now, for ever?", err=True):
        run.tell("nothing was revoked")
        click.get_current_context().exit(1)


def _selection(run: Invocation, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the field that says which certificates."""
    said: dict[str, Any] = {}
    if given["profile"] is not None:
        said["--profile"] = {"profile": names.profile_name(given["profile"], run.tenant)}
    if given["public_key"] is not None:
        said["--public-key"] = {"public_key": _public_key(given["public_key"])}
    if given["public_key_sha256"] is not None:
        said["--public-key-sha256"] = {"public_key": _digest(given["public_key_sha256"])}
    if given["consumer"] is not None:
        said["--consumer"] = {"consumer": names.identity_name(given["consumer"], run.tenant)}
    conditions = [] if given["domain"] is None else [CertificateFilter(domain=given["domain"])]
    conditions += [
        CertificateFilter(label=CertificateFilter.Label(key=key, value=value)) for key, value in given["labels"]
    ]
    if given["written"] is not None:
        conditions.append(written_filter(given["written"]))
    if conditions:
        said["--domain, --label or --filter"] = {"filter": together(conditions)}
    if len(said) != 1:
        ways = "--profile, --public-key, --public-key-sha256, --consumer, or --domain, --label and --filter"
        several = f"{' and '.join(said)} are given" if said else "nothing is given"
        message = f"say in one way which certificates, by {ways}; {several}"
        raise click.UsageError(message)
    (only,) = said.values()
    return dict(only)


def _public_key(path: str) -> bytes:
    data = files.read_certificates(path, longest=_KEY_BYTES, what="public key")
    readers: tuple[Callable[[bytes], PublicKeyTypes], ...] = (
        lambda read: x509.load_pem_x509_certificate(read).public_key(),
        load_pem_public_key,
        load_der_public_key,
        lambda read: x509.load_der_x509_certificate(read).public_key(),
    )
    for reader in readers:
        try:
            return public_key_der(reader(data))
        except (ValueError, UnsupportedAlgorithm):
            continue
    message = f"{path} is no public key and no certificate, PEM or DER; name one that openssl pkey -pubout wrote"
    raise click.UsageError(message)


def _digest(text: str) -> bytes:
    digits = text.replace(":", "").strip()
    try:
        if len(digits) == _SHA256_DIGITS:
            return bytes.fromhex(digits)
    except ValueError:
        pass
    message = f"--public-key-sha256 must be {_SHA256_DIGITS} hexadecimal digits"
    raise click.UsageError(message)


@verb(
    revocation_campaign,
    "get",
    examples="""
    certctl revocation-campaign get build-host
    certctl revocation-campaign get build-host --wait -o json
    """,
)
@click.argument("name", metavar="CAMPAIGN", shell_complete=completion.revocation_campaigns)
@click.option("--wait", is_flag=True, help="Show its progress until it has ended.")
def get(run: Invocation, *, name: str, wait: bool) -> None:
    """Show one campaign: how far it is, and what could not be revoked."""
    request = GetRevocationCampaignRequest(name=names.revocation_campaign_name(name, run.tenant))
    with run.connect() as client:
        with run.progress("getting the campaign"):
            found = client.call(client.stubs.get_revocation_campaign, request)
        if wait:
            found = wait_for_end(run, client, found)
    print_campaign(found, run)


@verb(
    revocation_campaign,
    "list",
    examples="certctl revocation-campaign list\ncertctl revocation-campaign list -o json | jq -r .name",
)
def list_(run: Invocation) -> None:
    """List the campaigns of a tenant, newest first."""
    call = ListRevocationCampaignsRequest(parent=names.tenant_name(run.tenant), page_size=_PAGE)

    def pages() -> Iterator[Sequence[RevocationCampaign]]:
        for page in client.pages(client.stubs.list_revocation_campaigns, call):
            yield page.revocation_campaigns

    with run.connect() as client, run.progress("listing campaigns"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(revocation_campaign, "cancel", examples="certctl revocation-campaign cancel build-host")
@click.argument("name", metavar="CAMPAIGN", shell_complete=completion.revocation_campaigns)
@mutation_options(validate_only=False)
def cancel(run: Invocation, *, name: str, request_id: UUID) -> None:
    """End a campaign; what it has revoked stays revoked."""
    request = CancelRevocationCampaignRequest(
        name=names.revocation_campaign_name(name, run.tenant), request_id=str(request_id)
    )
    with run.connect() as client, run.progress("cancelling the campaign"):
        ended = client.call(client.stubs.cancel_revocation_campaign, request)
    print_campaign(ended, run)


def wait_for_end(run: Invocation, client: "Client", item: RevocationCampaign) -> RevocationCampaign:
    """Shows the progress of a campaign and returns it when it has ended; CallFailed when --timeout is over before."""
    began = tells = time.monotonic()
    told = ""
    while item.state == RevocationCampaign.RUNNING:
        now = time.monotonic()
        if run.timeout is not None and now - began >= run.timeout.total_seconds():
            raise CallFailed(
                "DEADLINE_EXCEEDED",
                f"{_progress(item)}; it is not done yet. The server goes on; see certctl revocation-campaign get"
                f" {names.short(item.name)}",
                code="DEADLINE_EXCEEDED",
                resource=item.name,
            )
        if now >= tells and (text := _progress(item)) != told:
            run.tell(text)
            told, tells = text, now + _TELL
        time.sleep(_POLL)
        item = client.call(client.stubs.get_revocation_campaign, GetRevocationCampaignRequest(name=item.name))
    run.tell(_progress(item))
    return item


def _progress(item: RevocationCampaign) -> str:
    parts = [f"{item.found_count:,} found", f"{item.revoked_count:,} revoked"]
    if item.unchanged_count:
        parts.append(f"{item.unchanged_count:,} were revoked already")
    if item.failed_count:
        parts.append(f"{item.failed_count:,} failed")
    return f"{names.short(item.name)}: {', '.join(parts)}"


def print_campaign(item: RevocationCampaign, run: Invocation, *, exists: bool = True) -> None:
    """Prints a campaign; with `exists` False, one that was only checked."""
    card = [
        ("Name", item.name),
        ("State", enum_text(item, "state") if exists else ""),
        ("Revokes", _selection_text(item)),
        ("Issued by", item.authority and names.short(item.authority)),
        ("Expired ones", "too" if item.include_expired else ""),
        ("Reason", _reason(item)),
        ("Invalid since", output.time_text(item.invalidity_time)),
        ("Found", f"{item.found_count:,}"),
        ("Revoked", f"{item.revoked_count:,}" if exists else ""),
        ("Unchanged", f"{item.unchanged_count:,}" if item.unchanged_count else ""),
        ("Failed", f"{item.failed_count:,}" if item.failed_count else ""),
        ("Failed ones", "\n".join(item.failed_certificates)),
        ("Creator", item.creator),
        ("Created", output.time_text(item.create_time) if exists else ""),
        ("Ended", output.time_text(item.end_time)),
    ]
    output.print_resource(item, run.output, card=card)


def _selection_text(item: RevocationCampaign) -> str:
    match item.WhichOneof("selection"):
        case "profile":
            return f"profile {names.short(item.profile)}"
        case "public_key":
            return f"key with SHA-256 {item.public_key.hex()}"
        case "consumer":
            return f"consumer {item.consumer}"
        case "filter":
            return f"filter {to_json(item.filter)}"
        case _:
            return ""


def _reason(item: RevocationCampaign) -> str:
    return enum_text(item, "reason") if item.reason else "UNSPECIFIED"


def _row(item: RevocationCampaign) -> Sequence[str]:
    return (
        names.short(item.name),
        enum_text(item, "state"),
        f"{item.found_count:,}",
        f"{item.revoked_count:,}",
        f"{item.unchanged_count:,}",
        f"{item.failed_count:,}",
        _reason(item),
        output.time_text(item.create_time),
    )


def _no_pem(_: RevocationCampaign) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)
