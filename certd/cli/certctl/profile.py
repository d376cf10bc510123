"""`certctl profile`: profiles, which say what may be issued."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final, Never
from uuid import UUID

import click
from google.protobuf.field_mask_pb2 import FieldMask

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.durations import format_duration
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.cli.certctl.override_options import names_of, override_options
from certd.cli.certctl.parameters import DURATION
from certd.cli.certctl.profile_flags import EXTENDED_KEY_USAGES, Flags, apply, read_profile, rule_options
from certd.client.messages import duration, enum_text, to_json
from certd.v1.profile_pb2 import CustomExtension, NameRules, Profile
from certd.v1.profile_service_pb2 import (
    CheckProfileRequest,
    CheckProfileResponse,
    CreateProfileRequest,
    DeleteProfileRequest,
    GetProfileRequest,
    ListProfilesRequest,
    UpdateProfileRequest,
)
from certd.v1.x509_pb2 import DistinguishedName, KeySpec, KeyUsage

_PAGE: Final = 500
_HEADER: Final = ("PROFILE", "VERSION", "LIFETIME", "USAGES", "NAMES", "DESCRIPTION")
_FINDINGS: Final = ("REASON", "FIELD", "FINDING")
_FAILED: Final = 1
_USAGE_NAMES: Final = {oid: name for name, oid in EXTENDED_KEY_USAGES.items()}
_CLEARABLE: Final = sorted(
    field.name
    for field in Profile.DESCRIPTOR.fields
    if field.name
    not in {"name", "built_in", "version", "longest_lifetime", "restricted", "create_time", "update_time", "etag"}
)


@click.group()
def profile() -> None:
    """Profiles, which say what may be issued."""


@verb(
    profile,
    "create",
    examples="""
    certctl profile create web --longest-lifetime 90d --extended-usage serverAuth --dns-suffix example.internal
    certctl profile create mesh --longest-lifetime 1d --key EC_P256 --uri-prefix spiffe://example.internal/workloads/
    certctl profile get server -o json | jq '.longestLifetime="2592000s"' | certctl profile create short-server --file -
    """,
)
@click.argument("name", metavar="ID")
@click.option("--file", "file", metavar="FILE", help="Profile in the API's JSON mapping; - reads standard input.")
@rule_options
@mutation_options(validate_only=True)
def create(
    run: Invocation,
    *,
    name: str,
    file: str | None,
    request_id: UUID,
    validate_only: bool,
    **flags: Any,  # noqa: ANN401  # The options of `rule_options`, each with its own type.
) -> None:
    """Make a profile from a file, from flags, or from flags on top of a file."""
    parent, profile_id = names.parent_and_id(names.profile_name(name, run.tenant))
    wanted = Profile() if file is None else read_profile(file)
    apply(Flags(**flags), wanted)
    request = CreateProfileRequest(
        parent=parent,
        profile_id=profile_id,
        profile=wanted,
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress(f"creating the profile {profile_id}"):
        made = client.call(client.stubs.create_profile, request)
    _tell_checked(run, validate_only=validate_only)
    _print(made, run)


@verb(
    profile,
    "get",
    examples="""
    certctl profile get end-entity
    certctl profile get web --version 1 -o json
    """,
)
@click.argument("name", metavar="PROFILE", shell_complete=completion.profiles)
@click.option("--version", type=click.IntRange(1), help="An earlier version.  [default: the newest]")
def get(run: Invocation, *, name: str, version: int | None) -> None:
    """Show one profile."""
    request = GetProfileRequest(name=names.profile_name(name, run.tenant), version=version or 0)
    with run.connect() as client, run.progress("getting the profile"):
        found = client.call(client.stubs.get_profile, request)
    _print(found, run)


@verb(profile, "list", examples="certctl profile list\ncertctl profile list -o json | jq -r .name")
def list_(run: Invocation) -> None:
    """List the profiles of a tenant, certd's own among them."""
    request = ListProfilesRequest(parent=names.tenant_name(run.tenant), page_size=_PAGE)

    def pages() -> Iterator[Sequence[Profile]]:
        for page in client.pages(client.stubs.list_profiles, request):
            yield page.profiles

    with run.connect() as client, run.progress("listing profiles"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(
    profile,
    "update",
    examples="""
    certctl profile update web --longest-lifetime 30d --default-lifetime 7d
    certctl profile update web --dns-suffix example.internal --dns-suffix example.test --clear key_specs
    certctl profile get web -o json > web.json; $EDITOR web.json; certctl profile update web --file web.json
    """,
)
@click.argument("name", metavar="PROFILE", shell_complete=completion.profiles)
@click.option(
    "--file",
    "file",
    metavar="FILE",
    help="The whole profile in the API's JSON mapping; its etag, if it has one, must be the current one.",
)
@click.option(
    "--clear", "cleared", type=click.Choice(_CLEARABLE), multiple=True, help="Field to set back to its default."
)
@rule_options
@mutation_options(validate_only=True)
def update(
    run: Invocation,
    *,
    name: str,
    file: str | None,
    cleared: Sequence[str],
    request_id: UUID,
    validate_only: bool,
    **flags: Any,  # noqa: ANN401  # The options of `rule_options`, each with its own type.
) -> None:
    """Change what flags name, or with --file everything; a list that is given replaces the one that was there."""
    given = Flags(**flags)
    full_name = names.profile_name(name, run.tenant)
    if file is None and not cleared and not apply(given, Profile()):
        message = "say what to change, by flags, --clear or --file"
        raise click.UsageError(message)
    wanted = Profile() if file is None else read_profile(file)
    with run.connect() as client, run.progress("changing the profile"):
        if file is None:
            # Rules within a field are changed where they stand, and not over what another changed meanwhile.
            wanted.CopyFrom(client.call(client.stubs.get_profile, GetProfileRequest(name=full_name)))
        for field in cleared:
            wanted.ClearField(field)  # type: ignore[arg-type]  # A name of the message's own.
        touched = apply(given, wanted) | frozenset(cleared)
        wanted.name = full_name
        request = UpdateProfileRequest(
            profile=wanted,
            update_mask=FieldMask(paths=sorted(touched) if file is None else ["*"]),
            request_id=str(request_id),
            validate_only=validate_only,
        )
        made = client.call(client.stubs.update_profile, request)
    _tell_checked(run, validate_only=validate_only)
    _print(made, run)


@verb(
    profile,
    "delete",
    examples="""
    certctl profile delete web
    certctl profile delete web --validate-only
    """,
)
@click.argument("name", metavar="PROFILE", shell_complete=completion.profiles)
@click.option("--etag", default="", help="Delete it only while this is its etag.")
@mutation_options(validate_only=True)
def delete(run: Invocation, *, name: str, etag: str, request_id: UUID, validate_only: bool) -> None:
    """Delete a profile that no managed certificate and no grant names; what was issued under it stays."""
    full_name = names.profile_name(name, run.tenant)
    request = DeleteProfileRequest(name=full_name, etag=etag, request_id=str(request_id), validate_only=validate_only)
    with run.connect() as client, run.progress("deleting the profile"):
        answer = client.call(client.stubs.delete_profile, request)
    if run.output is output.Format.JSON:
        click.echo(to_json(answer))
    else:
        run.tell(f"every check passed; {full_name} is still there" if validate_only else f"{full_name} is deleted")


@verb(
    profile,
    "check",
    examples="""
    certctl profile check web --csr req.pem
    certctl profile check web --csr req.pem --authority web-ca --lifetime 30d
    certctl profile check web-next --file web.json --csr req.pem
    """,
)
@click.argument("name", metavar="PROFILE", shell_complete=completion.profiles)
@click.option("--csr", required=True, metavar="FILE", help="PKCS#10 request, PEM or DER; - reads standard input.")
@click.option("--file", "file", metavar="FILE", help="Profile (JSON) to check with in place of the one of this name.")
@click.option(
    "--authority",
    shell_complete=completion.authorities,
    help="Authority that would sign, whose bounds count too.  [default: one without bounds]",
)
@click.option("--lifetime", type=DURATION, help="Lifetime from now.  [default: that of the profile]")
@override_options
def check(
    run: Invocation,
    *,
    name: str,
    csr: str,
    file: str | None,
    authority: str | None,
    lifetime: timedelta | None,
    subject: DistinguishedName | None,
    **kinds: Sequence[str],
) -> None:
    """Check a CSR against a profile and show every finding; the exit code is 1 when there are any."""
    if csr == file == files.STANDARD_STREAM:
        message = "--csr and --file cannot both read standard input"
        raise click.UsageError(message)
    request = CheckProfileRequest(
        name=names.profile_name(name, run.tenant),
        profile=None if file is None else read_profile(file),
        csr=files.read_csr(csr),
        lifetime=None if lifetime is None else duration(lifetime),
        subject=subject,
        subject_alternative_names=names_of(kinds),
        authority="" if authority is None else names.authority_name(authority, run.tenant),
    )
    with run.connect() as client, run.progress("checking the request"):
        found = client.call(client.stubs.check_profile, request)
    output.print_warnings(found.warnings, run.output)
    _print_check(found, run)
    if found.findings:
        click.get_current_context().exit(_FAILED)


def _print_check(found: CheckProfileResponse, run: Invocation) -> None:
    if found.findings and run.output is not output.Format.JSON:
        rows = [(one.reason, one.field, one.description) for one in found.findings]
        click.echo("\n".join(output.format_table(_FINDINGS, rows)))
        return
    if run.output is output.Format.TABLE:
        run.tell("every check passed; nothing was issued")
    description = found.certificate.description
    card = [
        ("Subject", description.subject_text),
        ("Names", output.described_names_text(description)),
        *output.validity_rows(description),
        ("Key", enum_text(description, "key_spec")),
        ("Key usage", _usages_text(description.key_usages)),
        ("Extended key usage", _extended_usages_text(description.extended_key_usages)),
    ]
    output.print_resource(found, run.output, card=card, pem=found.certificate.certificate.pem)


def _tell_checked(run: Invocation, *, validate_only: bool) -> None:
    if validate_only:
        run.tell("every check passed; nothing was changed")


def _no_pem(_: Profile) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)


def _row(item: Profile) -> Sequence[str]:
    longest = format_duration(item.longest_lifetime.ToTimedelta())
    return (
        names.short(item.name),
        "built-in" if item.built_in else str(item.version),
        f"{format_duration(item.default_lifetime.ToTimedelta())} to {longest}",
        _extended_usages_text(item.extended_key_usages) or ("authority" if item.authority else ""),
        ", ".join(kind for kind, _ in _name_rows(item.names)),
        item.description,
    )


def _print(item: Profile, run: Invocation) -> None:
    lifetimes = {
        "default": item.default_lifetime,
        "shortest": item.shortest_lifetime,
        "longest": item.longest_lifetime,
        "backdate": item.backdate,
    }
    card = [
        ("Name", item.name),
        ("Version", "built-in" if item.built_in else str(item.version)),
        ("Description", item.description),
        (
            "Lifetime",
            ", ".join(f"{name} {format_duration(value.ToTimedelta())}" for name, value in lifetimes.items()),
        ),
        ("Keys", ", ".join(KeySpec.Name(spec) for spec in item.key_specs)),
        ("Authority", f"path length to {item.highest_path_length}" if item.authority else ""),
        ("Key usage", _usages_text(item.key_usages)),
        ("Extended key usage", _extended_usages_text(item.extended_key_usages)),
        *((f"{kind} names" if kind == "DNS" else kind, text) for kind, text in _name_rows(item.names)),
        ("Count of names", f"{item.names.fewest} to {item.names.most}"),
        ("Subject", _subject_text(item)),
        ("Passed extensions", ", ".join(item.passed_extensions)),
        ("Policies", ", ".join(item.policies)),
        ("TLS features", ", ".join(map(str, item.tls_features))),
        ("Custom extensions", "\n".join(map(_extension_text, item.custom_extensions))),
        ("May be overridden", _overridable_text(item)),
        ("Needs", "an authority operator" if item.restricted else ""),
        ("Created", output.time_text(item.create_time)),
        ("Changed", output.time_text(item.update_time)),
        ("Etag", item.etag),
    ]
    output.print_resource(item, run.output, card=card)


def _name_rows(rules: NameRules) -> list[output.Row]:
    """Returns the kinds of names that are allowed, and which ones of each."""
    rows: list[output.Row] = []
    if rules.HasField("dns_names"):
        dns = rules.dns_names
        allowed = [*dns.names, *(f"below {suffix}" for suffix in dns.suffixes)]
        wildcards = [f"wildcards of {dns.fewest_wildcard_labels} labels or more"] if dns.allow_wildcards else []
        rows.append(("DNS", _allowed_text([*(["any"] if dns.allow_any else []), *allowed, *wildcards])))
    if rules.HasField("ip_addresses"):
        addresses = rules.ip_addresses
        rows.append(("IP", _allowed_text([*(["any"] if addresses.allow_any else []), *addresses.ranges])))
    if rules.HasField("uris"):
        uris = rules.uris
        rows.append(("URI", _allowed_text([*(["any but SPIFFE ids"] if uris.allow_any else []), *uris.prefixes])))
    if rules.HasField("email_addresses"):
        email = rules.email_addresses
        allowed = [*email.addresses, *(f"at {domain}" for domain in email.domains)]
        rows.append(("E-mail", _allowed_text([*(["any"] if email.allow_any else []), *allowed])))
    return rows


def _allowed_text(allowed: Sequence[str]) -> str:
    return "\n".join(allowed) or "none"


def _subject_text(item: Profile) -> str:
    rules = item.subject
    parts = [enum_text(rules, "presence").lower(), f"CN {enum_text(rules, 'common_name').lower().replace('_', ' ')}"]
    if rules.allowed_attributes:
        parts.append(f"allowed {', '.join(rules.allowed_attributes)}")
    if rules.required_attributes:
        parts.append(f"required {', '.join(rules.required_attributes)}")
    if rules.directory_subtrees:
        parts.append(f"below one of {len(rules.directory_subtrees)} names (-o json shows them)")
    return "; ".join(parts)


def _extension_text(extension: CustomExtension) -> str:
    return f"{extension.oid}{' critical' if extension.critical else ''} {extension.value.hex()}"


def _overridable_text(item: Profile) -> str:
    parts = {"subject": item.allow_subject_override, "names": item.allow_names_override}
    return ", ".join(part for part, allowed in parts.items() if allowed)


def _usages_text(usages: Sequence[KeyUsage.ValueType]) -> str:
    return ", ".join(KeyUsage.Name(usage) for usage in usages)


def _extended_usages_text(usages: Sequence[str]) -> str:
    return ", ".join(_USAGE_NAMES.get(oid, oid) for oid in usages)
