"""`certctl certificate search`: certificates found by what they have."""

from collections.abc import Sequence
from datetime import datetime

import click
from google.protobuf import json_format

from certd.cli.certctl import completion, names
from certd.cli.certctl.certificate import PAGE, certificate, print_pages
from certd.cli.certctl.invocation import Invocation, verb
from certd.cli.certctl.parameters import KEY_SPEC, LABEL, TIME, EnumType
from certd.client.messages import timestamp
from certd.v1.certificate_filter_pb2 import CertificateFilter
from certd.v1.certificate_pb2 import Certificate
from certd.v1.certificate_service_pb2 import SearchCertificatesRequest
from certd.v1.x509_pb2 import KeySpec

__all__ = ["certificate"]


@verb(
    certificate,
    "search",
    examples="""
    certctl certificate search --domain example.internal --expires-before 2027-01-31T00:00:00Z
    certctl certificate search --authority web-ca --label team=web --state issued
    certctl certificate search --name www.example.internal -o json | jq -r .name
    certctl certificate search --filter '{"notFilter": {"state": "ISSUED"}}'
    """,
)
@click.option(
    "--authority",
    shell_complete=completion.authorities,
    default="-",
    show_default=False,
    help="Authority that issued them; - for every one.",
)
@click.option("--name", "all_names", multiple=True, help="It has exactly this alternative name; may be repeated.")
@click.option("--domain", help="It has a DNS name that is this domain or lies below it.")
@click.option("--serial", help="Its serial number, in any case, with or without colons.")
@click.option("--state", type=EnumType(Certificate.State.DESCRIPTOR), help="Its state.")
@click.option("--profile", shell_complete=completion.profiles, help="Profile under which it was issued.")
@click.option("--key-spec", type=KEY_SPEC, help="Kind and size of its key.")
@click.option("--expires-after", type=TIME, help="It ends at this time or later, RFC 3339.")
@click.option("--expires-before", type=TIME, help="It ends before this time, RFC 3339.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="It has this label; may be repeated.")
@click.option("--filter", "written", metavar="JSON", help="A CertificateFilter of the API, for or, not and the rest.")
@click.option("--limit", type=click.IntRange(min=1), help="Show only so many, the newest.")
def search(
    run: Invocation,
    *,
    authority: str,
    all_names: Sequence[str],
    domain: str | None,
    serial: str | None,
    state: str | None,
    profile: str | None,
    key_spec: str | None,
    expires_after: datetime | None,
    expires_before: datetime | None,
    labels: Sequence[tuple[str, str]],
    written: str | None,
    limit: int | None,
) -> None:
    """Find certificates, newest first. Several conditions hold together."""
    conditions = [CertificateFilter(name=name) for name in all_names]
    if domain is not None:
        conditions.append(CertificateFilter(domain=domain))
    if serial is not None:
        conditions.append(CertificateFilter(serial_number=serial))
    if state is not None:
        conditions.append(CertificateFilter(state=Certificate.State.Value(state)))
    if profile is not None:
        conditions.append(CertificateFilter(profile=names.profile_name(profile, run.tenant)))
    if key_spec is not None:
        conditions.append(CertificateFilter(key_spec=KeySpec.Value(key_spec)))
    if expires_after is not None or expires_before is not None:
        span = CertificateFilter.TimeRange(
            from_time=None if expires_after is None else timestamp(expires_after),
            until_time=None if expires_before is None else timestamp(expires_before),
        )
        conditions.append(CertificateFilter(not_after=span))
    conditions += [CertificateFilter(label=CertificateFilter.Label(key=key, value=value)) for key, value in labels]
    if written is not None:
        conditions.append(written_filter(written))
    request = SearchCertificatesRequest(
        parent=names.authority_name(authority, run.tenant),
        filter=together(conditions),
        page_size=PAGE if limit is None else min(limit, PAGE),
    )
    with run.connect() as client, run.progress("searching certificates"):
        print_pages(client.pages(client.stubs.search_certificates, request), run, limit)


def written_filter(text: str) -> CertificateFilter:
    """Returns the condition that `--filter` has in JSON."""
    try:
        return json_format.Parse(text, CertificateFilter())
    except json_format.ParseError as error:
        message = f"--filter is no CertificateFilter in JSON: {error}"
        raise click.UsageError(message) from error


def together(conditions: Sequence[CertificateFilter]) -> CertificateFilter | None:
    """Returns one condition for all; None for none, which fits everything."""
    if len(conditions) > 1:
        return CertificateFilter(and_filters=CertificateFilter.Filters(filters=conditions))
    return conditions[0] if conditions else None
