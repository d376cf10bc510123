"""What tests of watched managed certificates share."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import pytest

from certd.model.access import Caller
from certd.model.event import EventType
from certd.model.names import ManagedCertificateName, TenantName
from certd.services.event_feed import EventFeed
from certd.services.managed_certificate_changes import LABELS, ManagedCertificateChange
from certd.services.managed_watch import ManagedWatch, ManagedWatchRequest
from certd.services.managed_watch_scopes import ChangeKind, ManagedChange
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.consumers import (
    WEB,
    Consumer,
    association_name,
)
from tests.services.watching import CallBehind, Reader
from tests.waiting import eventually

TENANT = TenantName("default")
SHOP = ManagedCertificateName("default", "shop")
PRESENT, SYNCED, CHANGED, REMOVED = ChangeKind.PRESENT, ChangeKind.SYNCED, ChangeKind.CHANGED, ChangeKind.REMOVED

Watch = Callable[..., Reader[ManagedChange]]


@pytest.fixture
def ca(world: World) -> World:
    world.create_root()
    world.create_subordinate()
    return world


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Opens a stream, whose reader goes at the end."""
    made: list[Reader[ManagedChange]] = []
    services: list[ManagedWatch] = []

    def opened(
        world: World,
        who: Consumer | Caller = ADMINISTRATOR,
        *names: ManagedCertificateName,
        cursor: str = "",
        service: ManagedWatch | None = None,
    ) -> Reader[ManagedChange]:
        consumer_mode = isinstance(who, Consumer)
        behind = CallBehind(world.core.access, who.certificate) if isinstance(who, Consumer) else CallBehind()
        request = ManagedWatchRequest(parent=None if consumer_mode else TENANT, names=frozenset(names), cursor=cursor)
        caller = who.caller if isinstance(who, Consumer) else who
        services.extend([] if service is None else [service])
        answers = (service or world.core.managed_watch).watch(caller, request, behind)
        made.append(Reader(answers, behind))
        return made[-1]

    yield opened
    for reader in made:
        reader._behind.go()
        reader.ended()
    for service in services:
        service._feed.close()


def service_of(world: World, **how: float) -> ManagedWatch:
    """As that of a daemon that has just started."""
    core = world.core
    remembered = int(how.pop("remembered", 10_000))
    feed = EventFeed(core.store, remembered=remembered)
    return ManagedWatch(store=core.store, clock=core.clock, access=core.access, feed=feed, **how)


def shown(answers: Sequence[ManagedChange]) -> list[tuple[ChangeKind, str]]:
    return [(each.kind, each.name.rpartition("/")[2]) for each in answers]


def renew(world: World, name: ManagedCertificateName = WEB) -> None:
    def version() -> int:
        return world.core.managed_certificates.get(ADMINISTRATOR, name).managed_certificate.current_version

    before = version()
    world.core.managed_certificate_changes.renew(ADMINISTRATOR, name, reason="", key=None)
    world.clock.advance(timedelta(seconds=1))

    def renewed() -> bool:
        world.core.scheduler.wake()
        return version() > before

    eventually(renewed)


def label(world: World, value: str, name: ManagedCertificateName = WEB) -> None:
    change = ManagedCertificateChange(name=name, fields=frozenset({LABELS}), labels={"team": value})
    world.core.managed_certificate_changes.update(ADMINISTRATOR, change, key=None, validate_only=False)


def delete(world: World, name: ManagedCertificateName = WEB) -> None:
    world.core.managed_certificate_changes.delete(ADMINISTRATOR, name, etag="", key=None, validate_only=False)


def dissociate(world: World, association_id: str = "machine", managed: ManagedCertificateName = WEB) -> None:
    world.core.associations.delete(ADMINISTRATOR, association_name(association_id, managed), key=None)


def until(reader: Reader[ManagedChange], kind: ChangeKind, type_: EventType | None = None) -> ManagedChange:
    """Waits for an answer of a kind, with an event of a type."""

    def found() -> ManagedChange | None:
        fits = (
            each
            for each in reader.told
            if each.kind is kind and (type_ is None or (each.event is not None and each.event.event.type is type_))
        )
        return next(fits, None)

    return eventually(found)
