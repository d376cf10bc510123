"""Topics: what watchers are found by when something happens, without asking each of them."""

from collections import deque
from collections.abc import Iterable
from typing import Final

from certd.model.event import Event, EventType, NumberedEvent

GRANTS: Final = "grants"
"""The topic of what may change who may see what."""
ACCESS_CHANGES: Final = frozenset(
    {EventType.IDENTITY_REVOKED, EventType.GRANT_CREATED, EventType.GRANT_DELETED, EventType.ADMINISTRATOR_RECOVERED}
)
"""Events after which everybody who watches is looked at anew."""
_PARTS: Final = 4
"""Of the name of a managed certificate."""
ASSOCIATED: Final = frozenset({EventType.ASSOCIATION_CREATED, EventType.ASSOCIATION_DELETED})
_SERVED: Final = frozenset(
    {
        EventType.MANAGED_CERTIFICATE_ISSUED,
        EventType.MANAGED_CERTIFICATE_RENEWED,
        EventType.MANAGED_CERTIFICATE_IMPORTED,
        EventType.MANAGED_CERTIFICATE_REIMPORTED,
        EventType.MANAGED_CERTIFICATE_ROLLED_BACK,
        EventType.MANAGED_CERTIFICATE_REVOKED,
        EventType.MANAGED_CERTIFICATE_EXPIRING,
        EventType.MANAGED_CERTIFICATE_EXPIRED,
    }
)
"""What happens to a certificate and matters to whoever serves it; the rest is others' business."""
_OF_ONE_CONSUMER: Final = frozenset(
    {EventType.MANAGED_CERTIFICATE_LEASED, EventType.DEPLOYMENT_REPORTED, EventType.DEPLOYMENT_LATE}
)
"""What happens to one association, which the details name."""


def managed_topic(name: str) -> str:
    """Returns the topic of a managed certificate."""
    return f"managed {name}"


def managed_of_topic(tenant: str) -> str:
    """Returns the topic of the managed certificates of a tenant."""
    return f"managed of {tenant}"


def served_topic(name: str) -> str:
    """Returns the topic of what happens to a managed certificate and matters to all who serve it."""
    return f"served {name}"


def association_topic(name: str, association: str) -> str:
    """Returns the topic of what happens to one association of a managed certificate."""
    return f"association {name} {association}"


def consumer_topic(spiffe_id: str) -> str:
    """Returns the topic of the associations of a consumer, as they begin and end."""
    return f"consumer {spiffe_id}"


def event_topic(tenant: str, wanted_type: str) -> str:
    """Returns the topic of events of a type, or of types that begin like it; of the whole server for no tenant."""
    return f"events {tenant} {wanted_type}"


def managed_name_in(resource: str) -> str:
    """Returns the name of the managed certificate to which a resource belongs; empty when it belongs to none."""
    parts = resource.split("/", _PARTS)
    fits = len(parts) >= _PARTS and parts[0] == "tenants" and parts[2] == "managedCertificates"
    return "/".join(parts[:_PARTS]) if fits else ""


def remembered_topics(event: Event) -> tuple[str, ...]:
    """Returns the topics of managed certificates and of grants that an event belongs to."""
    if event.type in ACCESS_CHANGES:
        return (GRANTS,)
    name = managed_name_in(event.resource)
    if not name:
        return ()
    topics = (managed_topic(name), managed_of_topic(event.tenant or ""))
    if event.type in _SERVED:
        return (*topics, served_topic(name))
    if event.type in _OF_ONE_CONSUMER:
        return (*topics, association_topic(name, event.details.get("association", "")))
    if event.type in ASSOCIATED:
        return (*topics, consumer_topic(event.details.get("consumer", "")))
    return topics


class RememberedEvents:
    """The last events that have topics, by topic.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: deque[tuple[NumberedEvent, tuple[str, ...]]] = deque()
        self._by_topic: dict[str, deque[NumberedEvent]] = {}
        self._reach = 0

    def begin_after(self, seq: int) -> None:
        """Forgets all, for what lies between it and the event `seq` was not read."""
        self._all.clear()
        self._by_topic.clear()
        self._reach = seq

    def add(self, event: NumberedEvent, topics: tuple[str, ...]) -> None:
        """Keeps an event that follows all that are kept."""
        self._all.append((event, topics))
        for topic in topics:
            self._by_topic.setdefault(topic, deque()).append(event)
        if len(self._all) > self._most:
            self._forget_oldest()

    def since(self, topics: Iterable[str], seq: int) -> list[NumberedEvent] | None:
        """Returns the events of topics after a number, in order; None when not all that there were are kept."""
        if seq < self._reach:
            return None
        found: dict[int, NumberedEvent] = {}
        for topic in topics:
            for event in reversed(self._by_topic.get(topic, ())):
                if event.seq <= seq:
                    break
                found[event.seq] = event
        return [found[number] for number in sorted(found)]

    def _forget_oldest(self) -> None:
        event, topics = self._all.popleft()
        for topic in topics:
            kept = self._by_topic[topic]
            kept.popleft()
            if not kept:
                del self._by_topic[topic]
        self._reach = event.seq
