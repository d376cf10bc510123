"""Conditions on certificates, as a tree: what a search looks for.

Every value is in its normal form, as the books have it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from certd.model.certificate import CertificateState
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames

MOST_NODES = 32
DEEPEST = 8
"""Levels of a tree; a condition alone is one."""


@dataclass(frozen=True, slots=True)
class AllOf:
    """All of them hold."""

    filters: "tuple[CertificateFilter, ...]"
    """At least one."""


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of them holds."""

    filters: "tuple[CertificateFilter, ...]"
    """At least one."""


@dataclass(frozen=True, slots=True)
class Not:
    """It does not hold."""

    negated: "CertificateFilter"


@dataclass(frozen=True, slots=True)
class HasName:
    """It has exactly one of these alternative names, all of which were written as the same text."""

    names: SubjectAlternativeNames
    """At least one."""


@dataclass(frozen=True, slots=True)
class InDomain:
    """It has a DNS name that is this domain or lies below it, wildcards included."""

    domain: str


@dataclass(frozen=True, slots=True)
class HasSerial:
    """It has this serial number."""

    serial: str


@dataclass(frozen=True, slots=True)
class InState:
    """It is in this state."""

    state: CertificateState


@dataclass(frozen=True, slots=True)
class UnderProfile:
    """It was issued under this profile, in any version of it."""

    profile: str


@dataclass(frozen=True, slots=True)
class OfKeySpec:
    """Its key is of this kind and size."""

    key_spec: KeySpec


@dataclass(frozen=True, slots=True)
class OfKey:
    """It certifies this key."""

    public_key_sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EndsWithin:
    """Its validity ends in this span."""

    begin: datetime | None
    """At this moment or later."""
    end: datetime | None
    """Before this moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedWithin:
    """It was issued in this span."""

    begin: datetime | None
    """At this moment or later."""
    end: datetime | None
    """Before this moment."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """It has a label with this key, and this value unless any will do."""

    key: str
    value: str | None


@dataclass(frozen=True, slots=True)
class IsManaged:
    """It belongs to a managed certificate, or does not."""

    managed: bool


CertificateFilter: TypeAlias = (
    AllOf
    | AnyOf
    | Not
    | HasName
    | InDomain
    | HasSerial
    | InState
    | UnderProfile
    | OfKeySpec
    | OfKey
    | EndsWithin
    | CreatedWithin
    | Labelled
    | IsManaged
)
