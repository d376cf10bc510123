"""The profile message and what it says: every field parsed once, and every one that breaks a rule named."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import Any, Final, TypeVar

from google.protobuf.duration_pb2 import Duration

from certd.api import fields, x509
from certd.errors import field_invalid
from certd.pki import distinguished_name
from certd.pki.extensions import KeyUsage
from certd.pki.key_spec import KeySpec
from certd.pki.profile import (
    CommonNameRule,
    CustomExtension,
    DnsNameRules,
    EmailAddressRules,
    IpAddressRules,
    NameRules,
    Profile,
    SubjectPresence,
    UriRules,
)
from certd.services.profile_changes import FIELDS, GivenProfile, GivenSubject
from certd.v1 import profile_pb2, x509_pb2

_LONGEST_DESCRIPTION: Final = 256
_LONGEST_BACKDATE: Final = timedelta(days=1)

E = TypeVar("E")


def given_profile(message: profile_pb2.Profile, said: AbstractSet[str] = FIELDS) -> GivenProfile:
    """Returns what the fields `said` of a message say; raises FIELD_INVALID with every one that breaks a rule."""
    violations = fields.Violations()
    values: dict[str, Any] = {
        name: violations.attempt(lambda parse=parse: parse(message))  # type: ignore[misc]  # mypy infers no type for a default.
        for name, parse in _PARSERS.items()
        if name in said
    }
    violations.check()
    return GivenProfile(**values)


def profile_message(profile: Profile) -> profile_pb2.Profile:
    """Returns what a profile says, without what the server knows of it beside that."""
    return profile_pb2.Profile(
        description=profile.description,
        default_lifetime=_duration(profile.default_lifetime),
        shortest_lifetime=_duration(profile.shortest_lifetime),
        longest_lifetime=_duration(profile.longest_lifetime),
        backdate=_duration(profile.backdate),
        authority=profile.authority,
        highest_path_length=profile.highest_path_length,
        key_specs=[x509_pb2.KeySpec.Value(spec) for spec in KeySpec if spec in profile.key_specs],
        key_usages=[x509_pb2.KeyUsage.Value(usage) for usage in KeyUsage if usage in profile.key_usages],
        extended_key_usages=profile.extended_key_usages,
        names=_names_message(profile.names),
        subject=profile_pb2.SubjectRules(
            presence=profile_pb2.SubjectRules.Presence.Value(profile.subject.presence),
            common_name=profile_pb2.SubjectRules.CommonNameRule.Value(profile.subject.common_name),
            allowed_attributes=map(distinguished_name.short_name, profile.subject.allowed_attributes),
            required_attributes=map(distinguished_name.short_name, profile.subject.required_attributes),
            directory_subtrees=map(x509.distinguished_name_message, profile.subject.directory_subtrees),
        ),
        passed_extensions=profile.passed_extensions,
        policies=profile.policies,
        tls_features=profile.tls_features,
        custom_extensions=[
            profile_pb2.CustomExtension(oid=extension.oid, critical=extension.critical, value=extension.value)
            for extension in profile.custom_extensions
        ],
        allow_subject_override=profile.allow_subject_override,
        allow_names_override=profile.allow_names_override,
    )


def _names_message(names: NameRules) -> profile_pb2.NameRules:
    message = profile_pb2.NameRules(fewest=names.fewest, most=names.most)
    if (dns_names := names.dns_names) is not None:
        message.dns_names.CopyFrom(
            profile_pb2.DnsNameRules(
                allow_any=dns_names.allow_any,
                names=dns_names.names,
                suffixes=dns_names.suffixes,
                allow_wildcards=dns_names.allow_wildcards,
                fewest_wildcard_labels=dns_names.fewest_wildcard_labels,
            )
        )
    if (addresses := names.ip_addresses) is not None:
        message.ip_addresses.CopyFrom(
            profile_pb2.IpAddressRules(allow_any=addresses.allow_any, ranges=addresses.ranges)
        )
    if (uris := names.uris) is not None:
        message.uris.CopyFrom(profile_pb2.UriRules(allow_any=uris.allow_any, prefixes=uris.prefixes))
    if (email := names.email_addresses) is not None:
        message.email_addresses.CopyFrom(
            profile_pb2.EmailAddressRules(allow_any=email.allow_any, domains=email.domains, addresses=email.addresses)
        )
    return message


def _duration(value: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(value)
    return message


def _lifetime(name: str) -> Callable[[profile_pb2.Profile], timedelta | None]:
    def parse(message: profile_pb2.Profile) -> timedelta | None:
        return fields.lifetime(f"profile.{name}", getattr(message, name)) if message.HasField(name) else None  # type: ignore[arg-type]  # A name of the message's own.

    return parse


def _backdate(message: profile_pb2.Profile) -> timedelta | None:
    if not message.HasField("backdate"):
        return None
    given = message.backdate
    if given.nanos:
        raise field_invalid("profile.backdate", "must be whole seconds")
    if not 0 <= given.seconds <= _LONGEST_BACKDATE.total_seconds():
        raise field_invalid("profile.backdate", "must be from 0 seconds to one day")
    return timedelta(seconds=given.seconds)


def _choices(field: str, wrapper: object, numbers: Iterable[int], kind: Callable[[str], E]) -> frozenset[E] | None:
    """Returns the members of an enumeration that are listed; None when the list is empty, which leaves the default."""
    violations = fields.Violations()
    found: list[E] = []
    for index, number in enumerate(numbers):
        path = f"{field}[{index}]"
        member = violations.attempt(lambda: fields.choice(path, wrapper, number, kind))  # noqa: B023  # Called at once.
        if number == 0:
            violations.add(path, "must be said, or left out of the list")
        elif member in found:
            violations.add(path, "is there twice")
        elif member is not None:
            found.append(member)
    violations.check()
    return frozenset(found) or None


def _names(message: profile_pb2.Profile) -> NameRules | None:
    if not message.HasField("names"):
        return None
    given = message.names
    dns_names, addresses, uris, email = given.dns_names, given.ip_addresses, given.uris, given.email_addresses
    return NameRules(
        dns_names=DnsNameRules(
            allow_any=dns_names.allow_any,
            names=tuple(dns_names.names),
            suffixes=tuple(dns_names.suffixes),
            allow_wildcards=dns_names.allow_wildcards,
            fewest_wildcard_labels=dns_names.fewest_wildcard_labels or DnsNameRules().fewest_wildcard_labels,
        )
        if given.HasField("dns_names")
        else None,
        ip_addresses=IpAddressRules(allow_any=addresses.allow_any, ranges=tuple(addresses.ranges))
        if given.HasField("ip_addresses")
        else None,
        uris=UriRules(allow_any=uris.allow_any, prefixes=tuple(uris.prefixes)) if given.HasField("uris") else None,
        email_addresses=EmailAddressRules(
            allow_any=email.allow_any, domains=tuple(email.domains), addresses=tuple(email.addresses)
        )
        if given.HasField("email_addresses")
        else None,
        fewest=given.fewest,
        most=given.most or NameRules().most,
    )


def _subject(message: profile_pb2.Profile) -> GivenSubject | None:
    if not message.HasField("subject"):
        return None
    given, violations, kind = message.subject, fields.Violations(), profile_pb2.SubjectRules
    presence = violations.attempt(
        lambda: fields.choice("profile.subject.presence", kind.Presence, given.presence, SubjectPresence)
    )
    common_name = violations.attempt(
        lambda: fields.choice("profile.subject.common_name", kind.CommonNameRule, given.common_name, CommonNameRule)
    )
    allowed = violations.attempt(lambda: _attributes("profile.subject.allowed_attributes", given.allowed_attributes))
    required = violations.attempt(lambda: _attributes("profile.subject.required_attributes", given.required_attributes))
    subtrees = tuple(
        violations.attempt(
            lambda index=index, name=name: x509.parse_distinguished_name(  # type: ignore[misc]  # mypy infers no type for a default.
                f"profile.subject.directory_subtrees[{index}]", name
            )
        )
        for index, name in enumerate(given.directory_subtrees)
    )
    violations.check()
    return GivenSubject(
        presence=presence,
        common_name=common_name,
        allowed_attributes=allowed,
        required_attributes=required,
        directory_subtrees=subtrees,
    )


def _attributes(field: str, types: Iterable[str]) -> tuple[str, ...]:
    violations = fields.Violations()
    found = tuple(
        violations.attempt(lambda index=index, each=each: distinguished_name.oid_of(each, field=f"{field}[{index}]"))  # type: ignore[misc]  # mypy infers no type for a default.
        for index, each in enumerate(types)
    )
    violations.check()
    return found


_PARSERS: Final[Mapping[str, Callable[[profile_pb2.Profile], object]]] = {
    "description": lambda it: fields.text("profile.description", it.description, longest=_LONGEST_DESCRIPTION),
    "default_lifetime": _lifetime("default_lifetime"),
    "shortest_lifetime": _lifetime("shortest_lifetime"),
    "longest_lifetime": _lifetime("longest_lifetime"),
    "backdate": _backdate,
    "authority": lambda it: it.authority,
    "highest_path_length": lambda it: it.highest_path_length,
    "key_specs": lambda it: _choices("profile.key_specs", x509_pb2.KeySpec, it.key_specs, KeySpec),
    "key_usages": lambda it: _choices("profile.key_usages", x509_pb2.KeyUsage, it.key_usages, KeyUsage),
    "extended_key_usages": lambda it: tuple(it.extended_key_usages),
    "names": _names,
    "subject": _subject,
    "passed_extensions": lambda it: tuple(it.passed_extensions),
    "policies": lambda it: tuple(it.policies),
    "tls_features": lambda it: tuple(it.tls_features),
    "custom_extensions": lambda it: tuple(
        CustomExtension(oid=each.oid, critical=each.critical, value=each.value) for each in it.custom_extensions
    ),
    "allow_subject_override": lambda it: it.allow_subject_override,
    "allow_names_override": lambda it: it.allow_names_override,
}
"""Returns what a field says, None when it says nothing."""
