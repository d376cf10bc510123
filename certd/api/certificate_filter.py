"""Conditions on certificates as messages; `certificate_search` parses them."""

from dataclasses import fields as fields_of
from datetime import datetime
from typing import assert_never

from certd.api import x509
from certd.api.certificates import STATES
from certd.model.certificate_filter import (
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
from certd.model.names import ProfileName
from certd.pki.names import SubjectAlternativeNames
from certd.v1 import certificate_filter_pb2 as filter_pb2
from certd.v1 import x509_pb2


def filter_message(wanted: CertificateFilter, *, tenant: str) -> filter_pb2.CertificateFilter:  # noqa: C901, PLR0911, PLR0912  # A case for each kind of condition.
    """Returns a condition as a message; profiles are those of `tenant`."""
    message = filter_pb2.CertificateFilter
    match wanted:
        case AllOf(filters):
            return message(and_filters=_together(filters, tenant))
        case AnyOf(filters):
            return message(or_filters=_together(filters, tenant))
        case Not(negated):
            return message(not_filter=filter_message(negated, tenant=tenant))
        case HasName(names):
            return message(name=_any_of(names))
        case InDomain(domain):
            return message(domain=domain)
        case HasSerial(serial):
            return message(serial_number=serial)
        case InState(state):
            return message(state=STATES[state])
        case UnderProfile(profile):
            return message(profile=str(ProfileName(tenant, profile)))
        case OfKeySpec(key_spec):
            return message(key_spec=x509_pb2.KeySpec.Value(key_spec))
        case OfKey(public_key_sha256):
            return message(public_key_sha256=public_key_sha256)
        case EndsWithin(begin=begin, end=end):
            return message(not_after=_span(begin, end))
        case CreatedWithin(begin=begin, end=end):
            return message(create_time=_span(begin, end))
        case Labelled(key, value):
            return message(label=message.Label(key=key, value=value))
        case IsManaged(managed):
            return message(managed=managed)
        case _:
            assert_never(wanted)


def _together(filters: tuple[CertificateFilter, ...], tenant: str) -> filter_pb2.CertificateFilter.Filters:
    return filter_pb2.CertificateFilter.Filters(filters=[filter_message(one, tenant=tenant) for one in filters])


def _any_of(names: SubjectAlternativeNames) -> str:
    """Returns a text that is read as these names: all were written as one."""
    every = [name for kind in fields_of(SubjectAlternativeNames) for name in getattr(names, kind.name)]
    return str(every[0])


def _span(begin: datetime | None, end: datetime | None) -> filter_pb2.CertificateFilter.TimeRange:
    return filter_pb2.CertificateFilter.TimeRange(
        from_time=None if begin is None else x509.timestamp(begin),
        until_time=None if end is None else x509.timestamp(end),
    )
