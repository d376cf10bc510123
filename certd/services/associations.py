"""Associations: who may lease the keys of a managed certificate."""

from certd.clock import Clock
from certd.services.access import Access
from certd.services.steps import StepHook
from certd.services.wrapping_keys import WrappingKeys
from certd.store.store import Store
from certd.token.client import TokenClient


class Associations:
    """The use cases of associations."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        access: Access,
        wrapping_keys: WrappingKeys,
        step: StepHook,
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._access = access
        self._wrapping_keys = wrapping_keys
        self._step = step
