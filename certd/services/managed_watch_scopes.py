"""What a watcher of managed certificates sees: those of a tenant, or what it is associated with as their consumer."""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from certd.clock import Clock
from certd.model.access import Caller, Permission, principals_of
from certd.model.association import Association
from certd.model.event import Event, EventType, NumberedEvent
from certd.model.names import AssociationName, ManagedCertificateName, TenantName
from certd.services.access import Access
from certd.services.association_views import AssociationView, views_of
from certd.services.event_feed import EventFeed
from certd.services.event_topics import (
    ASSOCIATED,
    GRANTS,
    association_topic,
    consumer_topic,
    managed_name_in,
    managed_of_topic,
    managed_topic,
    served_topic,
)
from certd.services.managed_certificate_views import ManagedCertificateView, listed_view_of
from certd.services.tenants import existing_tenant
from certd.services.watchers import Watcher
from certd.store import associations, managed_certificates
from certd.store.store import Store, Transaction

_PAGE: Final = 100
_PAGE_OF_NAMES: Final = 1000
_NO_CHANGES: Final = frozenset({EventType.MANAGED_CERTIFICATE_LEASE_REFUSED, EventType.DOWNLOAD_REFUSED})


class ChangeKind(enum.StrEnum):
    """What an answer tells. The same names as the proto's."""

    PRESENT = "PRESENT"
    SYNCED = "SYNCED"
    CHANGED = "CHANGED"
    REMOVED = "REMOVED"
    ALIVE = "ALIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedChange:
    """What a stream tells."""

    kind: ChangeKind
    name: str = ""
    managed_certificate: ManagedCertificateView | None = None
    association: AssociationView | None = None
    event: NumberedEvent | None = None
    cursor: str = ""


class Scope(Protocol):
    """What one watcher sees."""

    @property
    def topics(self) -> tuple[str, ...]:
        """What its watcher is handed from the beginning."""

    def wants(self, event: Event) -> bool:
        """Returns whether an event of its topics may change what it sees."""

    def begin(self, watcher: Watcher) -> None:
        """Has the watcher handed everything else that it sees."""

    def all_topics(self, watcher: Watcher) -> Iterable[str]:
        """Returns the topics by which what it has missed is found, once it has begun."""

    def is_as_it_was(self, seq: int) -> bool:
        """Returns whether what it sees has changed since an event by nothing but what its topics tell."""

    def resume(self, seq: int) -> None:
        """Takes what it sees for told of up to an event, since which it is as it was."""

    def require(self) -> None:
        """Raises PERMISSION_MISSING when it may see nothing of this any more."""

    def pages(self) -> Iterator[list[ManagedChange]]:
        """Returns what there is."""

    def change(self, row: NumberedEvent, cursor: str) -> ManagedChange | None:
        """Returns what an event of its topics changed, as it is now; None when there is nothing to tell."""

    def rechecked(self, cursor: str) -> list[ManagedChange]:
        """Returns what has come into sight or gone out of it since, without an event of its topics."""


class TenantScope:
    """Managed certificates of a tenant: all, or those named."""

    def __init__(
        self,
        store: Store,
        access: Access,
        clock: Clock,
        caller: Caller,
        parent: TenantName,
        names: frozenset[ManagedCertificateName],
    ) -> None:
        self._store = store
        self._access = access
        self._clock = clock
        self._caller = caller
        self._parent = parent
        self._names = sorted(names, key=str)
        self._allowed_at = -1
        """Version of the configuration at which it was last allowed."""

    @property
    def topics(self) -> tuple[str, ...]:
        """As in Scope."""
        if self._names:
            return tuple(managed_topic(str(name)) for name in self._names)
        return (managed_of_topic(self._parent.tenant),)

    def wants(self, event: Event) -> bool:
        """As in Scope."""
        return event.type not in _NO_CHANGES

    def begin(self, watcher: Watcher) -> None:
        """As in Scope: nothing else."""

    def all_topics(self, _watcher: Watcher) -> Iterable[str]:
        """As in Scope."""
        return self.topics

    def is_as_it_was(self, _seq: int) -> bool:
        """As in Scope: it sees all of it or nothing."""
        return True

    def resume(self, _seq: int) -> None:
        """As in Scope: it sees all of it or nothing."""

    def require(self) -> None:
        """As in Scope: each of the names, or all."""
        version = self._store.configuration_version
        if version == self._allowed_at:
            return
        for resource in map(str, self._names) if self._names else (f"{self._parent}/managedCertificates",):
            self._access.require(self._caller, Permission.MANAGED_CERTIFICATE_READ, resource)
        self._allowed_at = version

    def pages(self) -> Iterator[list[ManagedChange]]:
        """As in Scope, by name."""
        if self._names:
            for start in range(0, len(self._names), _PAGE):
                yield self._named(self._names[start : start + _PAGE])
            return
        after: str | None = None
        while True:
            with self._store.read("managed-watch.page") as tx:
                rows = managed_certificates.page(tx, self._parent.tenant, after=after, limit=_PAGE)
                views = [listed_view_of(tx, row, self._clock.now()) for row in rows]
            yield [_present(view) for view in views]
            if len(rows) < _PAGE:
                return
            after = rows[-1].managed_certificate_id

    def change(self, row: NumberedEvent, cursor: str) -> ManagedChange | None:
        """As in Scope."""
        name = managed_name_in(row.event.resource)
        if row.event.type in _NO_CHANGES:
            return None
        if row.event.type is EventType.MANAGED_CERTIFICATE_DELETED:
            return ManagedChange(kind=ChangeKind.REMOVED, name=name, event=row, cursor=cursor)
        with self._store.read("managed-watch.change") as tx:
            view = self._view(tx, ManagedCertificateName.parse("name", name))
        if view is None:
            # That it is gone, a later event tells.
            return None
        return ManagedChange(kind=ChangeKind.CHANGED, name=name, managed_certificate=view, event=row, cursor=cursor)

    def rechecked(self, _cursor: str) -> list[ManagedChange]:
        """As in Scope: it sees all of it or nothing."""
        return []

    def _named(self, names: list[ManagedCertificateName]) -> list[ManagedChange]:
        with self._store.read("managed-watch.names") as tx:
            views = [self._view(tx, name) for name in names]
        return [_present(view) for view in views if view is not None]

    def _view(self, tx: Transaction, name: ManagedCertificateName) -> ManagedCertificateView | None:
        found = managed_certificates.get(tx, name.tenant, name.managed_certificate)
        return None if found is None else listed_view_of(tx, found, self._clock.now())


class ConsumerScope:
    """What the caller is associated with, in every tenant, and may lease."""

    def __init__(
        self,
        store: Store,
        access: Access,
        clock: Clock,
        feed: EventFeed,
        caller: Caller,
        names: frozenset[ManagedCertificateName],
    ) -> None:
        self._store = store
        self._access = access
        self._clock = clock
        self._feed = feed
        self._caller = caller
        self._wanted = frozenset(map(str, names))
        self._watcher: Watcher | None = None
        self._associations: dict[str, AssociationName] = {}
        """By the names of the managed certificates."""
        self._shown: set[str] = set()
        """What may be leased, and so is told of."""
        self._tenant_uids: dict[str, str] = {}
        self._checked_at = -1
        """Version of the configuration at which `_shown` was right."""
        self._resumed_at: int | None = None
        """The event up to which `_shown` was told of by an earlier stream; None: nothing is left to be doubted."""

    @property
    def topics(self) -> tuple[str, ...]:
        """As in Scope."""
        return (consumer_topic(self._caller.principal),)

    def wants(self, event: Event) -> bool:
        """As in Scope."""
        return not self._wanted or managed_name_in(event.resource) in self._wanted

    def begin(self, watcher: Watcher) -> None:
        """As in Scope: each managed certificate that it is associated with."""
        self._watcher = watcher
        self._checked_at = self._store.configuration_version
        after = ("", "")
        while True:
            with self._store.read("managed-watch.associations") as tx:
                rows = associations.page_everywhere(tx, self._caller.principal, after=after, limit=_PAGE_OF_NAMES)
            for row in rows:
                self._know(row.name)
            if len(rows) < _PAGE_OF_NAMES:
                return
            last = rows[-1].name.managed_certificate
            after = (last.tenant, last.managed_certificate)

    def all_topics(self, _watcher: Watcher) -> Iterable[str]:
        """As in Scope."""
        return (*self.topics, *(topic for name in self._associations.values() for topic in _topics_of(name)))

    def is_as_it_was(self, seq: int) -> bool:
        """As in Scope: no grant of the caller was made or deleted."""
        changes = self._feed.since((GRANTS,), seq)
        own = set(principals_of(self._caller.principal))
        return changes is not None and not any(row.event.details.get("to") in own for row in changes)

    def resume(self, seq: int) -> None:
        """As in Scope; a grant may hold already, or no longer, whose event is yet to come."""
        self._resumed_at, self._checked_at = seq, self._store.configuration_version
        self._shown = {name for name, association in self._associations.items() if self._may_lease(association)}

    def require(self) -> None:
        """As in Scope: it must be let lease something, wherever that is."""
        self._access.require_somewhere(self._caller, Permission.KEY_LEASE)

    def pages(self) -> Iterator[list[ManagedChange]]:
        """As in Scope, by name."""
        names = sorted(self._associations)
        for start in range(0, len(names), _PAGE):
            with self._store.read("managed-watch.page") as tx:
                seen = self._seen(tx, names[start : start + _PAGE])
            yield [
                ManagedChange(
                    kind=ChangeKind.PRESENT, name=str(view.association.name.managed_certificate), association=view
                )
                for view in seen
            ]

    def change(self, row: NumberedEvent, cursor: str) -> ManagedChange | None:
        """As in Scope."""
        event, name = row.event, managed_name_in(row.event.resource)
        if event.type in ASSOCIATED:
            if event.details.get("consumer") != self._caller.principal or not self._wants(name):
                return None
            if event.type is EventType.ASSOCIATION_DELETED:
                return self._ended(row, name, cursor)
            self._know(AssociationName.parse("resource", event.resource))
        with self._store.read("managed-watch.change") as tx:
            view = next(iter(self._seen(tx, [name])), None)
        if view is None:
            # That it has ended, a later event tells.
            return None
        return ManagedChange(kind=ChangeKind.CHANGED, name=name, association=view, event=row, cursor=cursor)

    def rechecked(self, cursor: str) -> list[ManagedChange]:
        """As in Scope: by grants that were made or deleted."""
        version = self._store.configuration_version
        is_in_doubt = self._resumed_at is not None and not self.is_as_it_was(self._resumed_at)
        if is_in_doubt:
            self._resumed_at = None
        # When there is another version, what differs is all that there is to tell.
        tells_all = is_in_doubt and version == self._checked_at
        if version == self._checked_at and not tells_all:
            return []
        self._checked_at = version
        told: list[ManagedChange] = []
        for name, association in self._associations.items():
            may_lease = self._may_lease(association)
            if may_lease == (name in self._shown) and not tells_all:
                continue
            if not may_lease:
                self._shown.discard(name)
                told.append(ManagedChange(kind=ChangeKind.REMOVED, name=name, cursor=cursor))
                continue
            with self._store.read("managed-watch.change") as tx:
                view = next(iter(self._seen(tx, [name])), None)
            if view is not None:
                told.append(ManagedChange(kind=ChangeKind.CHANGED, name=name, association=view, cursor=cursor))
        return told

    def _wants(self, name: str) -> bool:
        return not self._wanted or name in self._wanted

    def _know(self, name: AssociationName) -> None:
        managed = str(name.managed_certificate)
        if self._watcher is not None and self._wants(managed):
            self._associations[managed] = name
            self._feed.follow(self._watcher, _topics_of(name))

    def _ended(self, row: NumberedEvent, name: str, cursor: str) -> ManagedChange | None:
        ended = AssociationName.parse("resource", row.event.resource)
        if self._watcher is not None and self._associations.get(name) == ended:
            del self._associations[name]
            self._feed.leave(self._watcher, _topics_of(ended))
        self._shown.discard(name)
        if not self._may_lease(ended):
            return None
        return ManagedChange(kind=ChangeKind.REMOVED, name=name, event=row, cursor=cursor)

    def _seen(self, tx: Transaction, names: Iterable[str]) -> list[AssociationView]:
        """Returns the associations with managed certificates, without what has ended or may not be leased."""
        known = (self._associations.get(name) for name in names)
        found = [None if name is None else associations.get(tx, name) for name in known]
        own = [each for each in found if each is not None and self._is_own(each)]
        self._shown.update(str(each.name.managed_certificate) for each in own)
        tenants = {each.name.managed_certificate.tenant for each in own}
        return views_of(
            tx, own, self._clock.now(), tenant_uids={tenant: self._tenant_uid(tx, tenant) for tenant in tenants}
        )

    def _is_own(self, found: Association) -> bool:
        return found.consumer_spiffe_id == self._caller.principal and self._may_lease(found.name)

    def _may_lease(self, name: AssociationName) -> bool:
        return self._access.may(self._caller, Permission.KEY_LEASE, str(name))

    def _tenant_uid(self, tx: Transaction, tenant: str) -> str:
        if tenant not in self._tenant_uids:
            self._tenant_uids[tenant] = existing_tenant(tx, tenant).uid
        return self._tenant_uids[tenant]


def _topics_of(name: AssociationName) -> tuple[str, str]:
    """Returns the topics of what a consumer sees of an association."""
    managed = str(name.managed_certificate)
    return (served_topic(managed), association_topic(managed, name.association))


def _present(view: ManagedCertificateView) -> ManagedChange:
    name = str(view.managed_certificate.name)
    return ManagedChange(kind=ChangeKind.PRESENT, name=name, managed_certificate=view)
