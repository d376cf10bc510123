"""Renewal campaigns: many managed certificates renewed now, so many in a minute."""

from collections.abc import Callable

from certd.clock import Clock
from certd.services.access import Access
from certd.services.steps import StepHook
from certd.store.store import Store


class RenewalCampaigns:
    """The use cases of campaigns."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        wake_scheduler: Callable[[], None],
        step: StepHook,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._wake_scheduler = wake_scheduler
        self._step = step

    def advance(self, uid: str) -> None:
        """Takes a campaign further; called by the scheduler."""
        raise NotImplementedError(uid)
