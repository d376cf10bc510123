"""Managed certificates: declarations that the scheduler advances one committed step at a time."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from certd.model.certificate import RevocationReason
from certd.model.names import ManagedCertificateName
from certd.model.renewal import DEFAULT_RENEWAL_POLICY, RenewalPolicy
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames

ISSUED = "Issued"
"""The type of the condition that says how far the first version is."""
RENEWAL_BLOCKED = "RenewalBlocked"
"""The type of the condition that says what keeps it from being renewed."""
DEPLOYMENT_LATE = "DeploymentLate"
"""The type of the condition that says which consumers do not serve the current version though they should."""


class ManagedCertificateState(enum.StrEnum):
    """What can be done with a managed certificate. EXPIRED is computed, never stored."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    FAILED = "FAILED"
    REVOKED = "REVOKED"


class ManagedCertificateType(enum.StrEnum):
    """Where keys and certificates come from."""

    PRIVATE = "PRIVATE"
    """Made and issued here."""
    IMPORTED = "IMPORTED"
    """Made elsewhere, and imported; never renewed."""


class VersionState(enum.StrEnum):
    """What became of a version. Computed, never stored."""

    PENDING = "PENDING"
    CURRENT = "CURRENT"
    SUPERSEDED = "SUPERSEDED"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


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
    type: ManagedCertificateType = ManagedCertificateType.PRIVATE
    authority_uid: str
    """Empty for an imported one."""
    authority_name: str
    """Resource name of the authority, as it was asked for; empty for an imported one."""
    profile: str
    """Id of the profile; empty for an imported one."""
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
    """0 while the first version is pending. After a roll-back not the highest."""
    not_after: datetime | None = None
    """End of the current version."""
    issue_time: datetime | None = None
    """When the current version was issued or imported."""
    renewal: RenewalPolicy = DEFAULT_RENEWAL_POLICY
    renewal_window: tuple[datetime, datetime] | None = None
    """Between which moments the next renewal is planned; None when none is."""
    forced_version: int = 0
    """The version that somebody wants replaced now; as long as it is the current one, that is due. 0: none."""
    exported_version: int = 0
    """The version that was last exported; 0: none."""
    export_time: datetime | None = None
    association_count: int = 0
    """How many consumers may lease its keys."""
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

    @property
    def etag(self) -> str:
        """Another one for every revision."""
        return f"{self.uid}-{self.revision}"

    @property
    def used(self) -> bool:
        """Whether it is associated with a consumer, or was exported since its last renewal."""
        return self.association_count > 0 or 0 < self.exported_version == self.current_version

    @property
    def forced(self) -> bool:
        """Whether somebody wants its current version replaced now."""
        return 0 < self.forced_version == self.current_version

    @property
    def renewal_blocked(self) -> bool:
        """Whether something keeps it from being renewed."""
        return any(condition.type == RENEWAL_BLOCKED and condition.status for condition in self.conditions)

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
    """Of the wrapping key under which its key is sealed, or was."""
    authority_uid: str
    """Empty for an imported one."""
    serial: str | None
    """Of its certificate, which an authority of ours made; None until it is issued, and for an imported one."""
    create_time: datetime
    certificate: bytes | None = None
    """DER of an imported certificate."""
    chain: tuple[bytes, ...] = ()
    """DER of those above an imported certificate."""
    not_before: datetime | None = None
    not_after: datetime | None = None
    """None until it is issued."""
    revoke_time: datetime | None = None
    revocation_reason: RevocationReason | None = None

    @property
    def issued(self) -> bool:
        """Whether it has its certificate."""
        return self.serial is not None or self.certificate is not None

    def lives(self, now: datetime) -> bool:
        """Returns whether its certificate is issued, not revoked and not at its end."""
        ended = self.not_after is not None and now > self.not_after
        return self.issued and self.revoke_time is None and not ended

    def state_at(self, now: datetime, *, current_version: int) -> VersionState:
        """Returns what became of it at `now`, when `current_version` is the current one."""
        if not self.issued:
            return VersionState.PENDING
        if self.revoke_time is not None:
            return VersionState.REVOKED
        if not self.lives(now):
            return VersionState.EXPIRED
        return VersionState.CURRENT if self.number == current_version else VersionState.SUPERSEDED
