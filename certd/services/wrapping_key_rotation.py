"""Rotation of wrapping keys: a new primary one, and everything sealed anew under it."""

from collections.abc import Callable

from certd.clock import Clock
from certd.services.access import Access
from certd.services.steps import StepHook
from certd.services.wrapping_keys import WrappingKeys
from certd.store.store import Store
from certd.token.client import TokenClient


class WrappingKeyRotation:
    """The use cases of wrapping keys."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        access: Access,
        wrapping_keys: WrappingKeys,
        wake_scheduler: Callable[[], None],
        step: StepHook,
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._access = access
        self._wrapping_keys = wrapping_keys
        self._wake_scheduler = wake_scheduler
        self._step = step

    def reseal(self, name: str) -> None:
        """Seals anew what is sealed under a key that is no longer primary; called by the scheduler."""
        raise NotImplementedError(name)
