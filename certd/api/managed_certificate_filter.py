"""Conditions on managed certificates: parsed once, every one that breaks a rule named, and written back."""

from collections.abc import Iterable
from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.certificate_search import parse_alternative_name, parse_domain
from certd.errors import field_invalid
from certd.model.managed_certificate import ManagedCertificateState, ManagedCertificateType
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import AuthorityName, ProfileName
from certd.model.request_limits import RequestLimits
from certd.pki.key_spec import KeySpec
from certd.v1 import managed_certificate_filter_pb2 as filter_pb2
from certd.v1 import managed_certificate_pb2, x509_pb2

_KIND: Final = managed_certificate_pb2.ManagedCertificate


def parse_filter(
    field: str, message: filter_pb2.ManagedCertificateFilter, *, tenant: str, limits: RequestLimits
) -> ManagedCertificateFilter:
    """Returns a condition in its normal form; raises FIELD_INVALID with every part of it that breaks a rule.

    Authority and profile are those of `tenant`; empty when that could not be read.
    """
    violations = fields.Violations()
    states = violations.attempt(lambda: _states(f"{field}.states", message.states))
    type_ = violations.attempt(lambda: fields.choice(f"{field}.type", _KIND.Type, message.type, ManagedCertificateType))
    authority = violations.attempt(lambda: _authority(f"{field}.authority", message.authority, tenant))
    profile = violations.attempt(lambda: _profile(f"{field}.profile", message.profile, tenant))
    key_spec = violations.attempt(
        lambda: fields.choice(f"{field}.key_spec", x509_pb2.KeySpec, message.key_spec, KeySpec)
    )
    name = violations.attempt(lambda: _alternative_name(f"{field}.alternative_name", message.alternative_name))
    domain = violations.attempt(lambda: parse_domain(f"{field}.domain", message.domain) if message.domain else "")
    labels = violations.attempt(lambda: fields.labels(f"{field}.labels", message.labels, most=limits.labels))
    not_after_before = violations.attempt(
        lambda: (
            fields.instant(f"{field}.not_after_before", message.not_after_before)
            if message.HasField("not_after_before")
            else None
        )
    )
    issued_before = violations.attempt(
        lambda: (
            fields.instant(f"{field}.issued_before", message.issued_before)
            if message.HasField("issued_before")
            else None
        )
    )
    key_number = violations.attempt(lambda: _key_number(f"{field}.authority_key_number", message))
    violations.check()
    return ManagedCertificateFilter(
        states=states,
        type=type_,
        authority=authority,
        authority_key_number=key_number,
        profile=profile,
        key_spec=key_spec,
        alternative_name=name,
        domain=domain,
        labels=labels,
        not_after_before=not_after_before,
        issued_before=issued_before,
        renewal_blocked=message.renewal_blocked if message.HasField("renewal_blocked") else None,
        used=message.used if message.HasField("used") else None,
    )


def filter_message(wanted: ManagedCertificateFilter, *, tenant: str) -> filter_pb2.ManagedCertificateFilter:
    """Returns a condition on the managed certificates of `tenant` as a message, which parses to the same."""
    message = filter_pb2.ManagedCertificateFilter(
        states=[_KIND.State.Value(state) for state in sorted(wanted.states)],
        type=_KIND.TYPE_UNSPECIFIED if wanted.type is None else _KIND.Type.Value(wanted.type),
        authority=wanted.authority,
        authority_key_number=wanted.authority_key_number,
        profile=str(ProfileName(tenant, wanted.profile)) if wanted.profile else "",
        key_spec=x509_pb2.KEY_SPEC_UNSPECIFIED if wanted.key_spec is None else x509.key_spec_number(wanted.key_spec),
        alternative_name=wanted.alternative_name,
        domain=wanted.domain,
        labels=wanted.labels,
        renewal_blocked=wanted.renewal_blocked,
        used=wanted.used,
    )
    if wanted.not_after_before is not None:
        message.not_after_before.FromDatetime(wanted.not_after_before)
    if wanted.issued_before is not None:
        message.issued_before.FromDatetime(wanted.issued_before)
    return message


def _states(field: str, numbers: Iterable[int]) -> frozenset[ManagedCertificateState]:
    violations = fields.Violations()
    read = [violations.attempt(partial(_state, f"{field}[{index}]", number)) for index, number in enumerate(numbers)]
    violations.check()
    return frozenset(read)


def _state(field: str, number: int) -> ManagedCertificateState:
    state = fields.choice(field, _KIND.State, number, ManagedCertificateState)
    if state is None:
        raise field_invalid(field, "must be said")
    return state


def _authority(field: str, text: str, tenant: str) -> str:
    if not text:
        return ""
    name = AuthorityName.parse(field, text)
    _check_tenant(field, name.tenant, tenant)
    return str(name)


def _key_number(field: str, message: filter_pb2.ManagedCertificateFilter) -> int:
    if message.authority_key_number < 0:
        raise field_invalid(field, "must be 1 or more")
    if message.authority_key_number and not message.authority:
        raise field_invalid(field, "is that of a key of an authority; name the authority too")
    return message.authority_key_number


def _profile(field: str, text: str, tenant: str) -> str:
    if not text:
        return ""
    name = ProfileName.parse(field, text)
    _check_tenant(field, name.tenant, tenant)
    return name.profile


def _check_tenant(field: str, theirs: str, ours: str) -> None:
    if ours and theirs != ours:
        raise field_invalid(field, f"is of the tenant {theirs}, and the managed certificates are of {ours}")


def _alternative_name(field: str, text: str) -> str:
    """Returns a name in the normal form of the first kind that it can be read as."""
    if not text:
        return ""
    read = parse_alternative_name(field, text)
    # What is an IPv6 address may be a URI too, which nobody means.
    return (*read.ip_addresses, *read.dns_names, *read.email_addresses, *read.uris)[0]
