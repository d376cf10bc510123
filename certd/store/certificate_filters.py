"""Conditions on certificates as values of canonical JSON: one text for one condition."""

from dataclasses import fields
from datetime import datetime
from typing import Any, assert_never

from certd.model.certificate import CertificateState
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
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.store.values import optional_microseconds, optional_time_of

_NAME_KINDS = tuple(field.name for field in fields(SubjectAlternativeNames))


def filter_value(wanted: CertificateFilter) -> dict[str, Any]:  # noqa: C901, PLR0911, PLR0912  # A case for each kind of condition.
    """Returns a condition as a value of JSON: an object with one member, the kind of condition."""
    match wanted:
        case AllOf(filters):
            return {"all": [filter_value(one) for one in filters]}
        case AnyOf(filters):
            return {"any": [filter_value(one) for one in filters]}
        case Not(negated):
            return {"not": filter_value(negated)}
        case HasName(names):
            return {"name": {kind: list(getattr(names, kind)) for kind in _NAME_KINDS if getattr(names, kind)}}
        case InDomain(domain):
            return {"domain": domain}
        case HasSerial(serial):
            return {"serial": serial}
        case InState(state):
            return {"state": state.value}
        case UnderProfile(profile):
            return {"profile": profile}
        case OfKeySpec(key_spec):
            return {"key_spec": key_spec.value}
        case OfKey(public_key_sha256):
            return {"public_key_sha256": public_key_sha256.hex()}
        case EndsWithin(begin=begin, end=end):
            return {"not_after": [optional_microseconds(begin), optional_microseconds(end)]}
        case CreatedWithin(begin=begin, end=end):
            return {"create_time": [optional_microseconds(begin), optional_microseconds(end)]}
        case Labelled(key, value):
            return {"label": [key, value]}
        case IsManaged(managed):
            return {"managed": managed}
        case _:
            assert_never(wanted)


def filter_of(read: dict[str, Any]) -> CertificateFilter:  # noqa: C901, PLR0911, PLR0912  # As above.
    """Returns the condition that `filter_value` wrote; raises ValueError for what it never writes."""
    ((kind, value),) = read.items()
    match kind:
        case "all":
            return AllOf(tuple(filter_of(one) for one in value))
        case "any":
            return AnyOf(tuple(filter_of(one) for one in value))
        case "not":
            return Not(filter_of(value))
        case "name":
            return HasName(SubjectAlternativeNames(**{name: tuple(those) for name, those in value.items()}))
        case "domain":
            return InDomain(value)
        case "serial":
            return HasSerial(value)
        case "state":
            return InState(CertificateState(value))
        case "profile":
            return UnderProfile(value)
        case "key_spec":
            return OfKeySpec(KeySpec(value))
        case "public_key_sha256":
            return OfKey(bytes.fromhex(value))
        case "not_after":
            begin, end = _span(value)
            return EndsWithin(begin=begin, end=end)
        case "create_time":
            begin, end = _span(value)
            return CreatedWithin(begin=begin, end=end)
        case "label":
            return Labelled(*value)
        case "managed":
            return IsManaged(value)
        case _:
            message = f"{kind!r} is no condition on certificates"
            raise ValueError(message)


def _span(value: list[int | None]) -> tuple[datetime | None, datetime | None]:
    begin, end = value
    return optional_time_of(begin), optional_time_of(end)
