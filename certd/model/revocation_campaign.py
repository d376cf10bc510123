"""Revocation campaigns: many certificates revoked, after an incident."""

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from certd.model.certificate import RevocationReason
from certd.model.certificate_filter import CertificateFilter
from certd.model.names import AuthorityName, RevocationCampaignName

NAMED_FAILURES: Final = 20
"""Of those that could not be revoked so many are named, the first ones."""


class RevocationCampaignState(enum.StrEnum):
    """How far it is. The same names as the proto's."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class UnderProfileOf:
    """All that were issued under this profile, in any version of it."""

    profile: str


@dataclass(frozen=True, slots=True)
class OfPublicKey:
    """All of this key."""

    sha256: bytes
    """Of its SubjectPublicKeyInfo."""


@dataclass(frozen=True, slots=True)
class OfConsumer:
    """All of the managed certificates that this consumer is or was associated with."""

    consumer: str
    """Resource name of its identity."""


@dataclass(frozen=True, slots=True)
class OfFilter:
    """All that a search finds."""

    wanted: CertificateFilter


Selection: TypeAlias = UnderProfileOf | OfPublicKey | OfConsumer | OfFilter
"""Which certificates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationCampaign:
    """A set of certificates that is revoked."""

    uid: str
    name: RevocationCampaignName
    authority: AuthorityName | None
    """That issued them; None: any of the tenant."""
    selection: Selection
    reason: RevocationReason
    invalidity_time: datetime | None
    """Since when their keys are known or thought to be compromised."""
    include_expired: bool
    state: RevocationCampaignState = RevocationCampaignState.RUNNING
    position: tuple[str, ...] = ()
    """Where the search goes on; empty: at the beginning."""
    renewal_time: datetime | None = None
    """When the next managed certificate may be renewed; None: at once."""
    found_count: int = 0
    revoked_count: int = 0
    unchanged_count: int = 0
    failed_count: int = 0
    failed_certificates: tuple[str, ...] = ()
    """Names of some that could not be revoked, see NAMED_FAILURES."""
    creator: str
    create_time: datetime
    end_time: datetime | None = None

    @property
    def scope(self) -> str:
        """The resource on which its creator needs the permission to revoke."""
        return f"tenants/{self.name.tenant}/authorities" if self.authority is None else str(self.authority)
