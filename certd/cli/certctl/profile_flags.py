"""What a profile says, by a file of the API's JSON mapping and by flags on top of it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import click
from google.protobuf import json_format

from certd.cli.certctl import files
from certd.cli.certctl.parameters import DURATION, KEY_SPEC
from certd.client.messages import duration
from certd.errors import CertdError, Reason
from certd.v1.profile_pb2 import Profile
from certd.v1.x509_pb2 import KeySpec, KeyUsage

# As RFC 5280, section 4.2.1.12, and RFC 6960 call them.
EXTENDED_KEY_USAGES: Final = {
    "serverAuth": "1.3.6.1.5.5.7.3.1",
    "clientAuth": "1.3.6.1.5.5.7.3.2",
    "codeSigning": "1.3.6.1.5.5.7.3.3",
    "emailProtection": "1.3.6.1.5.5.7.3.4",
    "timeStamping": "1.3.6.1.5.5.7.3.8",
    "OCSPSigning": "1.3.6.1.5.5.7.3.9",
}
_DOTTED: Final = re.compile(r"[0-2](\.[0-9]+)+")
_USAGES: Final = {
    name.replace("_", "").lower(): name for name in KeyUsage.DESCRIPTOR.values_by_name if not name.endswith("SPECIFIED")
} | {"nonrepudiation": "CONTENT_COMMITMENT"}

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class KeyUsageType(click.ParamType[str]):
    """A key usage as RFC 5280 or the API calls it: `digitalSignature`, `DIGITAL_SIGNATURE`."""

    name = "usage"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the API's name; fails with the names that there are."""
        found = _USAGES.get(value.replace("_", "").lower())
        if found is None:
            self.fail(f"{value!r} is no key usage; use one of {', '.join(sorted(set(_USAGES.values())))}", param, ctx)
        return found


class ExtendedKeyUsageType(click.ParamType[str]):
    """An extended key usage: a name such as `serverAuth`, or dotted."""

    name = "usage"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the dotted identifier; fails with the names that there are."""
        if _DOTTED.fullmatch(value):
            return value
        found = {usage.lower(): oid for usage, oid in EXTENDED_KEY_USAGES.items()}.get(value.lower())
        if found is None:
            known = ", ".join(EXTENDED_KEY_USAGES)
            self.fail(f"{value!r} is no extended key usage; use {known} or a dotted OID", param, ctx)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What flags say; None and empty: nothing."""

    description: str | None
    longest_lifetime: timedelta | None
    default_lifetime: timedelta | None
    keys: Sequence[str]
    usages: Sequence[str]
    extended_usages: Sequence[str]
    dns_names: Sequence[str]
    dns_suffixes: Sequence[str]
    allow_any_dns: bool | None
    allow_wildcards: bool | None
    ip_ranges: Sequence[str]
    uri_prefixes: Sequence[str]
    email_domains: Sequence[str]
    allow_subject_override: bool | None
    allow_names_override: bool | None

    @property
    def names(self) -> bool:
        """Whether they say anything of names."""
        lists = (self.dns_names, self.dns_suffixes, self.ip_ranges, self.uri_prefixes, self.email_domains)
        return any(lists) or self.allow_any_dns is not None or self.allow_wildcards is not None


def rule_options(command: CommandT) -> CommandT:
    """Adds the flags of `Flags`, under the names of its fields."""
    for option in reversed(
        (
            click.option("--description", help="What it is for."),
            click.option("--longest-lifetime", type=DURATION, help="Longest lifetime that may be asked for."),
            click.option("--default-lifetime", type=DURATION, help="Lifetime when none is asked for."),
            click.option("--key", "keys", type=KEY_SPEC, multiple=True, help="Kind of key allowed; may be repeated."),
            click.option(
                "--usage",
                "usages",
                type=KeyUsageType(),
                multiple=True,
                help="Key usage, such as digitalSignature; may be repeated.",
            ),
            click.option(
                "--extended-usage",
                "extended_usages",
                type=ExtendedKeyUsageType(),
                multiple=True,
                help="Extended key usage, such as serverAuth, or dotted; may be repeated.",
            ),
            click.option("--dns-name", "dns_names", multiple=True, help="DNS name allowed; may be repeated."),
            click.option(
                "--dns-suffix",
                "dns_suffixes",
                multiple=True,
                help="Domain below which every DNS name is allowed; may be repeated.",
            ),
            click.option("--allow-any-dns/--no-allow-any-dns", default=None, help="Allow every DNS name."),
            click.option("--allow-wildcards/--no-allow-wildcards", default=None, help="Allow wildcards of them."),
            click.option("--ip-range", "ip_ranges", multiple=True, help="IP range (CIDR) allowed; may be repeated."),
            click.option(
                "--uri-prefix",
                "uri_prefixes",
                multiple=True,
                help="What allowed URIs begin with, with scheme, host and slash; may be repeated.",
            ),
            click.option(
                "--email-domain", "email_domains", multiple=True, help="Host of allowed e-mail addresses; repeatable."
            ),
            click.option(
                "--allow-subject-override/--no-allow-subject-override",
                default=None,
                help="Let a request replace the subject of its CSR.",
            ),
            click.option(
                "--allow-names-override/--no-allow-names-override",
                default=None,
                help="Let a request replace the names of its CSR.",
            ),
        )
    ):
        command = option(command)
    return command


def read_profile(path: str) -> Profile:
    """Reads a profile in the JSON mapping from a file, or from standard input for `-`; raises FIELD_INVALID."""
    profile = Profile()
    try:
        json_format.Parse(files.read_text(path, what="profile"), profile)
    except json_format.ParseError as error:
        raise CertdError(
            Reason.FIELD_INVALID,
            f"{path} is no profile in the API's JSON mapping ({error}); `certctl profile get server -o json` shows one",
        ) from error
    return profile


def apply(flags: Flags, profile: Profile) -> frozenset[str]:
    """Writes into a profile what flags say, each list in place of the one that was there.

    Returns the fields of the first level that were touched.
    """
    touched: set[str] = set()
    if flags.description is not None:
        profile.description = flags.description
        touched.add("description")
    if flags.longest_lifetime is not None:
        profile.longest_lifetime.CopyFrom(duration(flags.longest_lifetime))
        touched.add("longest_lifetime")
    if flags.default_lifetime is not None:
        profile.default_lifetime.CopyFrom(duration(flags.default_lifetime))
        touched.add("default_lifetime")
    if flags.keys:
        profile.key_specs[:] = [KeySpec.Value(name) for name in flags.keys]
        touched.add("key_specs")
    if flags.usages:
        profile.key_usages[:] = [KeyUsage.Value(name) for name in flags.usages]
        touched.add("key_usages")
    if flags.extended_usages:
        profile.extended_key_usages[:] = flags.extended_usages
        touched.add("extended_key_usages")
    if flags.allow_subject_override is not None:
        profile.allow_subject_override = flags.allow_subject_override
        touched.add("allow_subject_override")
    if flags.allow_names_override is not None:
        profile.allow_names_override = flags.allow_names_override
        touched.add("allow_names_override")
    if flags.names:
        _apply_names(flags, profile)
        touched.add("names")
    return frozenset(touched)


def _apply_names(flags: Flags, profile: Profile) -> None:
    names = profile.names
    if flags.dns_names:
        names.dns_names.names[:] = flags.dns_names
    if flags.dns_suffixes:
        names.dns_names.suffixes[:] = flags.dns_suffixes
    if flags.allow_any_dns is not None:
        names.dns_names.allow_any = flags.allow_any_dns
    if flags.allow_wildcards is not None:
        names.dns_names.allow_wildcards = flags.allow_wildcards
    if flags.ip_ranges:
        names.ip_addresses.ranges[:] = flags.ip_ranges
    if flags.uri_prefixes:
        names.uris.prefixes[:] = flags.uri_prefixes
    if flags.email_domains:
        names.email_addresses.domains[:] = flags.email_domains
