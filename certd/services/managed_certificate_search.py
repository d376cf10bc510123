"""Finding managed certificates."""

from certd.clock import Clock
from certd.services.access import Access
from certd.store.store import Store


class ManagedCertificateSearches:
    """The use case of searching."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
