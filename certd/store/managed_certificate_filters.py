"""Conditions on managed certificates as canonical JSON: one text for one condition."""

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from enum import StrEnum

from certd.model.managed_certificate import ManagedCertificateState, ManagedCertificateType
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.pki.key_spec import KeySpec
from certd.store.values import json_text, microseconds, time_of

_UNSET = ManagedCertificateFilter()


def filter_text(wanted: ManagedCertificateFilter) -> str:
    """Returns a condition as canonical JSON; what is not set is left out."""
    return json_text(
        {
            field.name: _written(value)
            for field in fields(ManagedCertificateFilter)
            if (value := getattr(wanted, field.name)) != getattr(_UNSET, field.name)
        }
    )


def filter_of(text: str) -> ManagedCertificateFilter:
    """Returns the condition of its JSON."""
    read = json.loads(text)
    return ManagedCertificateFilter(
        states=frozenset(ManagedCertificateState(state) for state in read.get("states", ())),
        type=ManagedCertificateType(read["type"]) if "type" in read else None,
        authority=read.get("authority", ""),
        authority_key_number=read.get("authority_key_number", 0),
        profile=read.get("profile", ""),
        key_spec=KeySpec(read["key_spec"]) if "key_spec" in read else None,
        alternative_name=read.get("alternative_name", ""),
        domain=read.get("domain", ""),
        labels=read.get("labels", {}),
        not_after_before=time_of(read["not_after_before"]) if "not_after_before" in read else None,
        issued_before=time_of(read["issued_before"]) if "issued_before" in read else None,
        renewal_blocked=read.get("renewal_blocked"),
        used=read.get("used"),
    )


def _written(value: object) -> object:
    match value:
        case frozenset():
            return sorted(value)
        case StrEnum():
            return value.value
        case datetime():
            return microseconds(value)
        case Mapping():
            return dict(value)
        case _:
            return value
