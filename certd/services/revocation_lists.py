"""CRLs as callers see them: shown, made on demand, and served to anybody without a credential."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError
from certd.model.access import Caller, Permission
from certd.model.authority import Authority
from certd.model.names import AuthorityName
from certd.model.revocation_list import RevocationList, RevocationListKey
from certd.services.access import Access
from certd.services.authorities import existing_authority
from certd.services.revocation_list_signing import RevocationListSigning, not_found
from certd.store import revocation_lists
from certd.store.store import Store, Transaction

LARGEST_SHOWN: Final = 3_000_000
"""Bytes of a CRL that an answer holds."""
KEPT_BYTES: Final = 128 << 20
"""Of the CRLs that are kept in memory to be served, together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedList:
    """Which CRL a caller asks for."""

    authority: AuthorityName
    key_number: int | None = None
    """None: the key that signs certificates."""
    partition: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationListView:
    """A CRL as a caller sees it."""

    authority: Authority
    found: RevocationList
    der: bytes
    """Empty when it is larger than LARGEST_SHOWN."""


class RevocationLists:
    """The use cases of CRLs."""

    def __init__(self, *, store: Store, access: Access, signing: RevocationListSigning) -> None:
        self._store = store
        self._access = access
        self._signing = signing

    def get(self, caller: Caller, wanted: WantedList) -> RevocationListView:
        """Returns the CRL that is published; raises AUTHORITY_NOT_FOUND, REVOCATION_LIST_NOT_FOUND."""
        self._access.require(caller, Permission.AUTHORITY_READ, str(wanted.authority))
        with self._store.read("revocation-list.get") as tx:
            authority, key = _key(tx, wanted)
            return _view(tx, authority, key)

    def generate(self, caller: Caller, wanted: WantedList) -> RevocationListView:
        """Signs a CRL now and returns it; raises as `get`, and as `RevocationListSigning.sign`."""
        self._access.require(caller, Permission.AUTHORITY_PUBLISH, str(wanted.authority))
        with self._store.read("revocation-list.wanted") as tx:
            authority, key = _key(tx, wanted)
        self._signing.sign(key, caller.principal)
        with self._store.read("revocation-list.made") as tx:
            return _view(tx, authority, key)


class PublishedLists:
    """CRLs for anybody who asks, the newest of each kept in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[RevocationListKey, tuple[bytes, bytes]] = OrderedDict()
        """SHA-256 and DER, those last that were asked for last."""

    def find(self, uid: str, key_number: int, partition: int) -> RevocationList:
        """Returns what is known of the CRL that is published; raises REVOCATION_LIST_NOT_FOUND."""
        key = RevocationListKey(uid, key_number, partition)
        with self._store.read("revocation-list.find") as tx:
            found = revocation_lists.get(tx, key)
        if found is None or not found.number:
            raise not_found(key)
        return found

    def content(self, found: RevocationList) -> bytes:
        """Returns the DER of what `find` returned; raises REVOCATION_LIST_NOT_FOUND when another took its place."""
        with self._lock:
            kept = self._kept.get(found.key)
            if kept is not None and kept[0] == found.sha256:
                self._kept.move_to_end(found.key)
                return kept[1]
            # Under the lock: those who ask for the same one at once have it read once.
            with self._store.read("revocation-list.content") as tx:
                read = revocation_lists.content(tx, found.key)
            if read is None or read[1] != found.sha256:
                raise not_found(found.key)
            self._keep(found.key, read)
            return read[0]

    def _keep(self, key: RevocationListKey, read: tuple[bytes, bytes]) -> None:
        self._kept.pop(key, None)
        if len(read[0]) > KEPT_BYTES:
            return
        self._kept[key] = (read[1], read[0])
        kept = sum(len(der) for _, der in self._kept.values())
        while kept > KEPT_BYTES:
            _, (_, oldest) = self._kept.popitem(last=False)
            kept -= len(oldest)


class RevocationListTroubles:
    """Tells what CRLs are not as they should be."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def problems(self) -> list[str]:
        """Returns a sentence each for CRLs that are past their end, and for those that could not be signed."""
        try:
            with self._store.read("revocation-lists.troubled") as tx:
                failed, overdue = revocation_lists.troubled(tx, self._clock.now())
        except CertdError:
            return []
        problems = []
        if overdue:
            problems.append(
                f"{overdue} CRLs are past their next update: relying parties may refuse what they are about"
            )
        if failed:
            # One line for what may be thousands of partitions: the events name them, one each.
            problems.append(
                f"{failed} CRLs could not be signed again; certctl event list --type revocation-list.failed"
                " tells which, and why"
            )
        return problems


def _key(tx: Transaction, wanted: WantedList) -> tuple[Authority, RevocationListKey]:
    authority = existing_authority(tx, wanted.authority)
    number = authority.key.number if wanted.key_number is None else wanted.key_number
    return authority, RevocationListKey(authority.uid, number, wanted.partition)


def _view(tx: Transaction, authority: Authority, key: RevocationListKey) -> RevocationListView:
    found = revocation_lists.get(tx, key)
    if found is None or (not found.number and not found.last_error):
        raise not_found(key)
    shown = revocation_lists.content(tx, key) if found.size_bytes <= LARGEST_SHOWN else None
    return RevocationListView(authority=authority, found=found, der=b"" if shown is None else shown[0])
