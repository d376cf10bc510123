"""The part of the composition root that makes what is done after an incident: revocations, and campaigns."""

from collections.abc import Callable
from dataclasses import dataclass

from certd.clock import Clock
from certd.services.access import Access
from certd.services.managed_revocation import ManagedRevocation
from certd.services.renewal_campaigns import RenewalCampaigns
from certd.services.revocation import Revocation
from certd.services.revocation_batch import BatchRevocation
from certd.services.revocation_campaigns import RevocationCampaigns
from certd.services.steps import StepHook
from certd.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Incidents:
    """What revokes and what replaces, one or many at a time."""

    revocation: Revocation
    batch_revocation: BatchRevocation
    managed_revocation: ManagedRevocation
    revocation_campaigns: RevocationCampaigns
    renewal_campaigns: RenewalCampaigns


def incidents(
    *, store: Store, clock: Clock, access: Access, wake_scheduler: Callable[[], None], step: StepHook
) -> Incidents:
    """Constructs it."""
    return Incidents(
        revocation=Revocation(store=store, clock=clock, access=access, wake_scheduler=wake_scheduler, step=step),
        batch_revocation=BatchRevocation(
            store=store, clock=clock, access=access, wake_scheduler=wake_scheduler, step=step
        ),
        managed_revocation=ManagedRevocation(
            store=store, clock=clock, access=access, wake_scheduler=wake_scheduler, step=step
        ),
        revocation_campaigns=RevocationCampaigns(
            store=store, clock=clock, access=access, wake_scheduler=wake_scheduler, step=step
        ),
        renewal_campaigns=RenewalCampaigns(
            store=store, clock=clock, access=access, wake_scheduler=wake_scheduler, step=step
        ),
    )
