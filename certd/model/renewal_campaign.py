"""Renewal campaigns: many managed certificates renewed now."""

import enum
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import RenewalCampaignName

RENEWALS_PER_MINUTE: Final = range(1, 100_001)
DEFAULT_RENEWALS_PER_MINUTE: Final = 600


def new_campaign_id() -> str:
    """Returns an id for a campaign whose maker chose none."""
    return f"c{uuid.uuid4().hex}"


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
    next_renewal_time: datetime
    """When the next renewal may begin."""
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

    @property
    def pause(self) -> timedelta:
        """The time from the beginning of one renewal to that of the next."""
        return timedelta(microseconds=-(-60_000_000 // self.renewals_per_minute))
