"""Renewal campaigns: many managed certificates renewed now."""

import enum
from dataclasses import dataclass
from datetime import datetime

from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import RenewalCampaignName


class RenewalCampaignState(enum.StrEnum):
    """How far it is. The same names as the proto's."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalCampaign:
    """A set of managed certificates that is renewed now, so many in a minute."""

    uid: str
    name: RenewalCampaignName
    filter: ManagedCertificateFilter
    renewals_per_minute: int
    reason: str
    state: RenewalCampaignState = RenewalCampaignState.RUNNING
    selected_up_to: str = ""
    """Id of the managed certificate that was looked at last."""
    selection_complete: bool = False
    selected_count: int = 0
    renewed_count: int = 0
    blocked_count: int = 0
    skipped_count: int = 0
    blocked: tuple[str, ...] = ()
    """Names of some of the blocked ones."""
    creator: str
    create_time: datetime
    end_time: datetime | None = None
