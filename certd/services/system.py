"""The system authority: it belongs to no tenant, and issues identities and server certificates alone."""

import threading

from certd.errors import CertdError, Reason
from certd.model.authority import Authority
from certd.store import authorities
from certd.store.store import Store

SYSTEM_AUTHORITY_ID = "system"


class SystemAuthority:
    """Finds the system authority once and keeps what never changes of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._found: Authority | None = None

    def find(self) -> Authority | None:
        """Returns the system authority once it has its certificate, else None."""
        with self._lock:
            if self._found is None:
                with self._store.read("system.authority") as tx:
                    found = authorities.get(tx, None, SYSTEM_AUTHORITY_ID)
                self._found = found if found is not None and found.certificate is not None else None
            return self._found

    def get(self) -> Authority:
        """Returns the system authority; raises STATE_FORBIDS before `certd init` has made it."""
        found = self.find()
        if found is None:
            raise CertdError(Reason.STATE_FORBIDS, "this server has no system authority yet; run `certd init`")
        return found

    @property
    def uid(self) -> str:
        """Its uid."""
        return self.get().uid
