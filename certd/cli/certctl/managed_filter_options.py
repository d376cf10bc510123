"""Options that say which managed certificates are meant: those that fit all that is said."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click

from certd.cli.certctl import completion, names
from certd.cli.certctl.parameters import KEY_SPEC, LABEL, TIME
from certd.client.messages import timestamp
from certd.v1.managed_certificate_filter_pb2 import ManagedCertificateFilter
from certd.v1.x509_pb2 import KeySpec

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def filter_options(command: CommandT) -> CommandT:
    """Adds the options of a filter."""
    for option in (
        click.option("--expires-before", type=TIME, help="Whose current version ends before this time, RFC 3339."),
        click.option("--issued-before", type=TIME, help="Whose current version was issued before this time, RFC 3339."),
        click.option(
            "--label", "labels", type=LABEL, multiple=True, help="With this label, any value for key=; may be repeated."
        ),
        click.option("--key", "key_spec", type=KEY_SPEC, help="With keys of this kind and size."),
        click.option("--domain", help="With a DNS name that is this domain or lies below it."),
        click.option("--profile", shell_complete=completion.profiles, help="Issued under this profile."),
        click.option("--authority", shell_complete=completion.authorities, help="Issued by this authority."),
    ):
        command = option(command)
    return command


def filter_of(
    tenant: str,
    *,
    authority: str | None,
    profile: str | None,
    domain: str | None,
    key_spec: str | None,
    labels: Sequence[tuple[str, str]],
    issued_before: datetime | None,
    expires_before: datetime | None,
) -> ManagedCertificateFilter:
    """Returns what the options say; an empty filter when they say nothing."""
    return ManagedCertificateFilter(
        authority="" if authority is None else names.authority_name(authority, tenant),
        profile="" if profile is None else names.profile_name(profile, tenant),
        domain=domain or "",
        key_spec=KeySpec.Value(key_spec or "KEY_SPEC_UNSPECIFIED"),
        labels=dict(labels),
        issued_before=None if issued_before is None else timestamp(issued_before),
        not_after_before=None if expires_before is None else timestamp(expires_before),
    )
