"""SearchCertificates: the tree of conditions, parsed once, every one that breaks a rule named."""

from collections.abc import Iterable
from dataclasses import fields as fields_of
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from certd.api import fields
from certd.api.call import Call, Methods
from certd.api.certificates import certificate_message
from certd.errors import CertdError, field_invalid
from certd.model.certificate import CertificateState
from certd.model.certificate_filter import (
    DEEPEST,
    MOST_NODES,
    AllOf,
    AnyOf,
    CertificateFilter,
    CreatedWithin,
    EndsWithin,
    HasName,
    HasSerial,
    InDomain,
    InState,
    IsManaged,
    Labelled,
    Not,
    OfKey,
    OfKeySpec,
    UnderProfile,
)
from certd.model.names import AuthorityName, ProfileName, normalise_serial
from certd.model.request_limits import RequestLimits
from certd.pki import names
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.services.certificate_search import CertificateSearches
from certd.services.certificates import CertificateView
from certd.services.paging import Page
from certd.v1 import certificate_filter_pb2 as filter_pb2
from certd.v1 import certificate_pb2, x509_pb2
from certd.v1 import certificate_service_pb2 as service_pb2

_SHA256_BYTES: Final = 32
_LONGEST_NAME: Final = names.LONGEST_URI

T = TypeVar("T")


def methods(searches: CertificateSearches, limits: RequestLimits) -> Methods:
    """Returns the function that answers SearchCertificates."""
    return {"SearchCertificates": partial(search_certificates, searches, limits)}


def search_certificates(
    searches: CertificateSearches, limits: RequestLimits, request: service_pb2.SearchCertificatesRequest, call: Call
) -> service_pb2.SearchCertificatesResponse:
    """SearchCertificates."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: AuthorityName.parse("parent", request.parent, wildcard=True))
    wanted = violations.attempt(
        lambda: (
            parse_filter("filter", request.filter, tenant=_tenant(request.parent))
            if request.HasField("filter")
            else None
        )
    )
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[CertificateView]) -> service_pb2.SearchCertificatesResponse:
        return service_pb2.SearchCertificatesResponse(
            certificates=[certificate_message(view) for view in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(asked, lambda smaller: searches.search(call.caller, parent, wanted, smaller), answer)


def _tenant(parent: str) -> str:
    """Returns the tenant of a parent; empty when that is malformed, which is told of the parent itself."""
    try:
        return AuthorityName.parse("parent", parent, wildcard=True).tenant
    except CertdError:
        return ""


def parse_filter(field: str, message: filter_pb2.CertificateFilter, *, tenant: str) -> CertificateFilter:
    """Returns a condition in its normal form.

    Raises FIELD_INVALID with every part of it that breaks a rule, and for a tree of more than 32 nodes or 8 levels.
    Profiles are those of `tenant`; empty when that could not be read.
    """
    _check_size(field, message)
    return _filter(field, message, tenant)


def _check_size(field: str, message: filter_pb2.CertificateFilter) -> None:
    """Counts level by level, before anything descends into the tree."""
    level, nodes, depth = [message], 0, 0
    while level:
        nodes += len(level)
        depth += 1
        if nodes > MOST_NODES or depth > DEEPEST:
            rule = f"must have at most {MOST_NODES} conditions on {DEEPEST} levels; divide the search"
            raise field_invalid(field, rule)
        level = [below for one in level for below in _below(one)]


def _below(message: filter_pb2.CertificateFilter) -> Iterable[filter_pb2.CertificateFilter]:
    match message.WhichOneof("condition"):
        case "and_filters":
            return message.and_filters.filters
        case "or_filters":
            return message.or_filters.filters
        case "not_filter":
            return [message.not_filter]
        case _:
            return []


def _filter(  # noqa: C901, PLR0911, PLR0912  # A case for each kind of condition.
    field: str, message: filter_pb2.CertificateFilter, tenant: str
) -> CertificateFilter:
    kind = message.WhichOneof("condition")
    path = f"{field}.{kind}"
    match kind:
        case "and_filters":
            return AllOf(_filters(path, message.and_filters, tenant))
        case "or_filters":
            return AnyOf(_filters(path, message.or_filters, tenant))
        case "not_filter":
            return Not(_filter(path, message.not_filter, tenant))
        case "name":
            return HasName(parse_alternative_name(path, message.name))
        case "domain":
            return InDomain(parse_domain(path, message.domain))
        case "serial_number":
            return HasSerial(normalise_serial(path, message.serial_number))
        case "state":
            state = fields.choice(path, certificate_pb2.Certificate.State, message.state, CertificateState)
            return InState(_said(path, state))
        case "profile":
            return UnderProfile(_profile(path, message.profile, tenant))
        case "key_spec":
            return OfKeySpec(_said(path, fields.choice(path, x509_pb2.KeySpec, message.key_spec, KeySpec)))
        case "public_key_sha256":
            if len(message.public_key_sha256) != _SHA256_BYTES:
                raise field_invalid(path, f"must have {_SHA256_BYTES} bytes, and has {len(message.public_key_sha256)}")
            return OfKey(message.public_key_sha256)
        case "not_after":
            begin, end = _span(path, message.not_after)
            return EndsWithin(begin=begin, end=end)
        case "create_time":
            begin, end = _span(path, message.create_time)
            return CreatedWithin(begin=begin, end=end)
        case "label":
            return _label(path, message.label)
        case "managed":
            return IsManaged(message.managed)
        case _:
            raise field_invalid(field, "must have exactly one condition, and has none that this server knows")


def _filters(field: str, message: filter_pb2.CertificateFilter.Filters, tenant: str) -> tuple[CertificateFilter, ...]:
    if not message.filters:
        raise field_invalid(f"{field}.filters", "must have at least one condition")
    violations = fields.Violations()

    def attempt(index: int, one: filter_pb2.CertificateFilter) -> CertificateFilter:
        return violations.attempt(lambda: _filter(f"{field}.filters[{index}]", one, tenant))

    parsed = tuple(attempt(index, one) for index, one in enumerate(message.filters))
    violations.check()
    return parsed


def parse_alternative_name(field: str, text: str) -> SubjectAlternativeNames:
    """Returns the text as every kind of name that it can be read as; FIELD_INVALID when it is none."""
    if len(text) > _LONGEST_NAME:
        raise field_invalid(field, f"must have at most {_LONGEST_NAME} characters")
    read = SubjectAlternativeNames()
    for kind in fields_of(SubjectAlternativeNames):
        try:
            normal = names.normalise(SubjectAlternativeNames(**{kind.name: (text,)}), field=field)
        except CertdError:
            continue
        read = replace(read, **{kind.name: getattr(normal, kind.name)})
    if not read:
        raise field_invalid(field, f"{names.excerpt(text)} is no DNS name, IP address, URI or e-mail address")
    return read


def parse_domain(field: str, text: str) -> str:
    """Returns a domain in its normal form; raises FIELD_INVALID."""
    domain = names.normalise_dns_name(text)
    if domain is None or domain.startswith("*"):
        raise field_invalid(
            field, f"{names.excerpt(text)} is no domain; write it without a wildcard, for example example.internal"
        )
    return domain


def _profile(field: str, text: str, tenant: str) -> str:
    name = ProfileName.parse(field, text)
    if tenant and name.tenant != tenant:
        raise field_invalid(field, f"is of the tenant {name.tenant}, and the search of {tenant}")
    return name.profile


def _span(field: str, message: filter_pb2.CertificateFilter.TimeRange) -> tuple[datetime | None, datetime | None]:
    violations = fields.Violations()
    begin = violations.attempt(
        lambda: fields.instant(f"{field}.from_time", message.from_time) if message.HasField("from_time") else None
    )
    end = violations.attempt(
        lambda: fields.instant(f"{field}.until_time", message.until_time) if message.HasField("until_time") else None
    )
    violations.check()
    if begin is None and end is None:
        raise field_invalid(field, "must have at least one end: from_time, until_time")
    if begin is not None and end is not None and begin >= end:
        raise field_invalid(field, "ends before it begins; until_time must be after from_time")
    return begin, end


def _label(field: str, message: filter_pb2.CertificateFilter.Label) -> Labelled:
    violations = fields.Violations()
    violations.attempt(lambda: fields.required(f"{field}.key", present=bool(message.key)))
    key = violations.attempt(lambda: fields.text(f"{field}.key", message.key, longest=fields.LONGEST_LABEL_KEY))
    value = violations.attempt(lambda: fields.text(f"{field}.value", message.value, longest=fields.LONGEST_LABEL_VALUE))
    violations.check()
    return Labelled(key, value if message.HasField("value") else None)


def _said(field: str, value: T | None) -> T:
    if value is None:
        raise field_invalid(field, "must be said")
    return value
