"""Revocation of versions of managed certificates."""

from collections.abc import Callable

from certd.clock import Clock
from certd.services.access import Access
from certd.services.steps import StepHook
from certd.store.store import Store


class ManagedRevocation:
    """The use case of revoking versions."""

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
