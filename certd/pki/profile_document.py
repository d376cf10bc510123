"""A profile as a text: what rows keep and processes send. Id and version stand beside it, not in it.

Canonical JSON: keys sorted, nothing between the tokens, sets sorted, lifetimes in whole seconds, bytes in hexadecimal.
Every field is written, so that a default that changes later changes no profile of before.
"""

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import TypeAlias, TypeVar

from certd.errors import CertdError, Reason
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
    SubjectRules,
    UriRules,
)

_Json: TypeAlias = object
_Value = TypeVar("_Value")


def to_document(profile: Profile) -> str:
    """Returns what a profile says."""
    names, subject = profile.names, profile.subject
    return _text(
        {
            "description": profile.description,
            "default_lifetime": _seconds(profile.default_lifetime),
            "shortest_lifetime": _seconds(profile.shortest_lifetime),
            "longest_lifetime": _seconds(profile.longest_lifetime),
            "backdate": _seconds(profile.backdate),
            "authority": profile.authority,
            "self_signed": profile.self_signed,
            "highest_path_length": profile.highest_path_length,
            "key_specs": sorted(profile.key_specs),
            "key_usages": sorted(profile.key_usages),
            "extended_key_usages": profile.extended_key_usages,
            "names": {
                "dns_names": None if names.dns_names is None else _of_dns_names(names.dns_names),
                "ip_addresses": None
                if names.ip_addresses is None
                else {"allow_any": names.ip_addresses.allow_any, "ranges": names.ip_addresses.ranges},
                "uris": None
                if names.uris is None
                else {"allow_any": names.uris.allow_any, "prefixes": names.uris.prefixes},
                "email_addresses": None
                if names.email_addresses is None
                else {
                    "allow_any": names.email_addresses.allow_any,
                    "domains": names.email_addresses.domains,
                    "addresses": names.email_addresses.addresses,
                },
                "fewest": names.fewest,
                "most": names.most,
            },
            "subject": {
                "presence": subject.presence,
                "common_name": subject.common_name,
                "allowed_attributes": subject.allowed_attributes,
                "required_attributes": subject.required_attributes,
                "directory_subtrees": [name.hex() for name in subject.directory_subtrees],
            },
            "passed_extensions": profile.passed_extensions,
            "policies": profile.policies,
            "tls_features": profile.tls_features,
            "custom_extensions": [
                {"oid": one.oid, "critical": one.critical, "value": one.value.hex()}
                for one in profile.custom_extensions
            ],
            "allow_subject_override": profile.allow_subject_override,
            "allow_names_override": profile.allow_names_override,
        }
    )


def _text(fields: Mapping[str, _Json]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _seconds(lifetime: timedelta) -> int:
    return lifetime // timedelta(seconds=1)


def _of_dns_names(rules: DnsNameRules) -> Mapping[str, _Json]:
    return {
        "allow_any": rules.allow_any,
        "names": rules.names,
        "suffixes": rules.suffixes,
        "allow_wildcards": rules.allow_wildcards,
        "fewest_wildcard_labels": rules.fewest_wildcard_labels,
    }


@lru_cache(maxsize=64)
def from_document(text: str, *, profile_id: str, version: int) -> Profile:
    """Returns the profile that a document says. INTERNAL when `to_document` never wrote it.

    The last ones are kept: every certificate comes with one, and the compiled forms of their rules hang on them.
    """
    try:
        found = _Fields(json.loads(text))
        profile = _profile(found, profile_id, version)
        found.finish()
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise CertdError(
            Reason.INTERNAL, f"the document of version {version} of profile {profile_id} is none that certd writes"
        ) from error
    return profile


class _Fields:
    """Takes the fields out of an object, each once and of one type. Raises ValueError, TypeError or KeyError."""

    def __init__(self, found: _Json) -> None:
        if not isinstance(found, dict):
            raise TypeError("not an object")
        self._found: dict[str, _Json] = dict(found)

    def finish(self) -> None:
        """Checks that nothing is left that nobody knows the meaning of."""
        if self._found:
            raise ValueError("an unknown field")

    def boolean(self, name: str) -> bool:
        return _boolean(self._found.pop(name))

    def integer(self, name: str) -> int:
        return _integer(self._found.pop(name))

    def text(self, name: str) -> str:
        return _string(self._found.pop(name))

    def lifetime(self, name: str) -> timedelta:
        return timedelta(seconds=self.integer(name))

    def every(self, name: str, parse: Callable[[_Json], _Value]) -> tuple[_Value, ...]:
        values = self._found.pop(name)
        if not isinstance(values, list):
            raise TypeError("not a list")
        return tuple(map(parse, values))

    def some(self, name: str, parse: Callable[["_Fields"], _Value]) -> _Value | None:
        value = self._found.pop(name)
        return None if value is None else _whole(value, parse)

    def one(self, name: str, parse: Callable[["_Fields"], _Value]) -> _Value:
        return _whole(self._found.pop(name), parse)


def _whole(value: _Json, parse: Callable[[_Fields], _Value]) -> _Value:
    inner = _Fields(value)
    parsed = parse(inner)
    inner.finish()
    return parsed


def _boolean(value: _Json) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not a boolean")
    return value


def _integer(value: _Json) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("not an integer")
    return value


def _string(value: _Json) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _bytes(value: _Json) -> bytes:
    return bytes.fromhex(_string(value))


def _profile(found: _Fields, profile_id: str, version: int) -> Profile:
    return Profile(
        profile_id=profile_id,
        version=version,
        description=found.text("description"),
        default_lifetime=found.lifetime("default_lifetime"),
        shortest_lifetime=found.lifetime("shortest_lifetime"),
        longest_lifetime=found.lifetime("longest_lifetime"),
        backdate=found.lifetime("backdate"),
        authority=found.boolean("authority"),
        self_signed=found.boolean("self_signed"),
        highest_path_length=found.integer("highest_path_length"),
        key_specs=frozenset(found.every("key_specs", lambda value: KeySpec(_string(value)))),
        key_usages=frozenset(found.every("key_usages", lambda value: KeyUsage(_string(value)))),
        extended_key_usages=found.every("extended_key_usages", _string),
        names=found.one("names", _names),
        subject=found.one("subject", _subject),
        passed_extensions=found.every("passed_extensions", _string),
        policies=found.every("policies", _string),
        tls_features=found.every("tls_features", _integer),
        custom_extensions=found.every("custom_extensions", lambda value: _whole(value, _custom_extension)),
        allow_subject_override=found.boolean("allow_subject_override"),
        allow_names_override=found.boolean("allow_names_override"),
    )


def _names(found: _Fields) -> NameRules:
    return NameRules(
        dns_names=found.some("dns_names", _dns_names),
        ip_addresses=found.some("ip_addresses", _ip_addresses),
        uris=found.some("uris", _uris),
        email_addresses=found.some("email_addresses", _email_addresses),
        fewest=found.integer("fewest"),
        most=found.integer("most"),
    )


def _dns_names(found: _Fields) -> DnsNameRules:
    return DnsNameRules(
        allow_any=found.boolean("allow_any"),
        names=found.every("names", _string),
        suffixes=found.every("suffixes", _string),
        allow_wildcards=found.boolean("allow_wildcards"),
        fewest_wildcard_labels=found.integer("fewest_wildcard_labels"),
    )


def _ip_addresses(found: _Fields) -> IpAddressRules:
    return IpAddressRules(allow_any=found.boolean("allow_any"), ranges=found.every("ranges", _string))


def _uris(found: _Fields) -> UriRules:
    return UriRules(allow_any=found.boolean("allow_any"), prefixes=found.every("prefixes", _string))


def _email_addresses(found: _Fields) -> EmailAddressRules:
    return EmailAddressRules(
        allow_any=found.boolean("allow_any"),
        domains=found.every("domains", _string),
        addresses=found.every("addresses", _string),
    )


def _subject(found: _Fields) -> SubjectRules:
    return SubjectRules(
        presence=SubjectPresence(found.text("presence")),
        common_name=CommonNameRule(found.text("common_name")),
        allowed_attributes=found.every("allowed_attributes", _string),
        required_attributes=found.every("required_attributes", _string),
        directory_subtrees=found.every("directory_subtrees", _bytes),
    )


def _custom_extension(found: _Fields) -> CustomExtension:
    return CustomExtension(
        oid=found.text("oid"), critical=found.boolean("critical"), value=bytes.fromhex(found.text("value"))
    )
