"""Managed certificates: declarations that the scheduler advances one committed step at a time."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from certd.model.names import ManagedCertificateName
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames


class ManagedCertificateState(enum.StrEnum):
    """What can be done with a managed certificate. EXPIRED is computed, never stored."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """An observation about a resource; at most one of each type."""

    type: str
    status: bool
    reason: str
    message: str
    last_transition_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedCertificate:
    """A name for life whose versions change."""

    uid: str
    tenant: str
    managed_certificate_id: str
    authority_uid: str
    authority_name: str
    """Resource name of the authority, as it was asked for."""
    profile: str
    """Id of the profile."""
    key_spec: KeySpec
    subject: bytes
    """DER of the distinguished name; an empty sequence when there is none."""
    names: SubjectAlternativeNames
    lifetime: timedelta | None
    """As asked for; None: the default of the profile, cut at the end of the authority."""
    exportable: bool
    state: ManagedCertificateState
    """As stored; use `state_at` for what a caller sees."""
    current_version: int = 0
    """0 while the first version is pending."""
    not_after: datetime | None = None
    """End of the current version."""
    conditions: tuple[Condition, ...] = ()
    next_attempt_time: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime
    update_time: datetime
    revision: int = 1

    @property
    def name(self) -> ManagedCertificateName:
        """The resource name."""
        return ManagedCertificateName(self.tenant, self.managed_certificate_id)

    def state_at(self, now: datetime) -> ManagedCertificateState:
        """Returns the state at `now`: EXPIRED once the validity of the current version has ended."""
        expired = self.state is ManagedCertificateState.ACTIVE and self.not_after is not None and now > self.not_after
        return ManagedCertificateState.EXPIRED if expired else self.state


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedCertificateVersion:
    """One key of a managed certificate, and the certificate made for it."""

    managed_certificate_uid: str
    number: int
    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    wrapping_key_number: int
    authority_uid: str
    serial: str | None
    """Serial of its certificate; None until it is issued."""
    create_time: datetime
