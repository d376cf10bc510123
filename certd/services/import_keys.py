"""Import keys: to which clients seal the private keys that they import."""

from certd.clock import Clock
from certd.services.access import Access
from certd.services.system import SystemAuthority
from certd.services.wrapping_keys import WrappingKeys
from certd.store.store import Store
from certd.token.client import TokenClient


class ImportKeys:
    """Finds and makes import keys."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        access: Access,
        wrapping_keys: WrappingKeys,
        system_authority: SystemAuthority,
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._access = access
        self._wrapping_keys = wrapping_keys
        self._system_authority = system_authority
