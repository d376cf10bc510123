"""Managed certificates watched: by a tenant's people, and by the consumers that serve them."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Role
from certd.model.association import DeploymentState
from certd.model.event import EventType
from certd.model.names import GrantName, ManagedCertificateName, TenantName
from certd.services import managed_watch_scopes
from certd.services.event_cursors import cursor_of
from certd.services.event_feed import EventFeed
from certd.services.grants import GivenGrant
from certd.services.leases import GivenDeployment
from certd.services.managed_certificate_changes import LABELS, ManagedCertificateChange
from certd.services.managed_watch import ManagedWatch, ManagedWatchRequest
from certd.services.managed_watch_scopes import ChangeKind, ConsumerScope, ManagedChange
from certd.services.tenants import GivenTenant
from certd.store import events
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, STRANGER, World, two_worlds
from tests.services.consumers import (
    WEB,
    Consumer,
    active,
    associate,
    association_name,
    consumer,
    give,
    lease,
    leasing_world,
)
from tests.services.watching import CallBehind, Reader
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

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


def test_a_tenant_sees_what_there_is_and_then_each_change(
    ca: World, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed_watch_scopes, "_PAGE", 1)
    active(ca)
    active(ca, SHOP)
    reader = watch(ca)
    answers = reader.until(3)
    assert shown(answers) == [(PRESENT, "shop"), (PRESENT, "web"), (SYNCED, "")]
    assert [bool(each.cursor) for each in answers] == [False, False, True]
    view = answers[1].managed_certificate
    assert view is not None
    assert view.certificate is not None
    assert view.chain == ()
    label(ca, "one")
    changed = until(reader, CHANGED)
    assert changed.event is not None
    assert changed.event.event.type is EventType.MANAGED_CERTIFICATE_UPDATED
    assert changed.managed_certificate is not None
    assert changed.managed_certificate.managed_certificate.labels == {"team": "one"}
    renew(ca)
    renewed = until(reader, CHANGED, EventType.MANAGED_CERTIFICATE_RENEWED)
    assert renewed.managed_certificate is not None
    assert renewed.managed_certificate.managed_certificate.current_version == 2
    delete(ca)
    removed = until(reader, REMOVED)
    assert (removed.name, removed.managed_certificate) == (str(WEB), None)
    assert removed.event is not None
    assert removed.event.event.type is EventType.MANAGED_CERTIFICATE_DELETED
    assert [each.cursor for each in reader.told[2:]] == sorted({each.cursor for each in reader.told[2:]})


def test_of_those_named_alone_anything_is_told(ca: World, watch: Watch) -> None:
    active(ca)
    soon = ManagedCertificateName("default", "soon")
    reader = watch(ca, ADMINISTRATOR, SHOP, soon, WEB)
    assert shown(reader.until(2)) == [(PRESENT, "web"), (SYNCED, "")]
    other = watch(ca, ADMINISTRATOR, SHOP)
    active(ca, SHOP)
    label(ca, "one")
    until(reader, CHANGED, EventType.MANAGED_CERTIFICATE_UPDATED)
    names = {each.name for each in reader.told if each.kind is CHANGED}
    assert names == {str(SHOP), str(WEB)}
    assert {each.name for each in other.until(2) if each.kind is CHANGED} <= {str(SHOP)}


def test_a_cursor_brings_what_changed_since_and_nothing_else(ca: World, watch: Watch) -> None:
    active(ca)
    active(ca, SHOP)
    reader = watch(ca)
    cursor = reader.until(3)[-1].cursor
    reader.go()
    label(ca, "one")
    label(ca, "two", SHOP)
    delete(ca, SHOP)
    for service in (None, service_of(ca)):
        answers = watch(ca, cursor=cursor, service=service).until(3)
        assert shown(answers) == [(CHANGED, "web"), (REMOVED, "shop"), (SYNCED, "")]
        # From each of them on comes the rest.
        assert shown(watch(ca, cursor=answers[0].cursor, service=service).until(2)) == [(REMOVED, "shop"), (SYNCED, "")]
        assert shown(watch(ca, cursor=answers[2].cursor, service=service).until(1)) == [(SYNCED, "")]
    alone = watch(ca, ADMINISTRATOR, WEB, cursor=cursor).until(2)
    assert shown(alone) == [(CHANGED, "web"), (SYNCED, "")]


def test_a_cursor_from_before_what_is_remembered_brings_all_there_is(ca: World, watch: Watch) -> None:
    active(ca)
    service = service_of(ca, remembered=2)
    reader = watch(ca, service=service)
    cursor = reader.until(2)[-1].cursor
    for number in range(3):
        label(ca, str(number))
    reader.until(5)
    again = watch(ca, cursor=cursor, service=service).until(2)
    assert shown(again) == [(PRESENT, "web"), (SYNCED, "")]
    with pytest.raises(CertdError, match="CURSOR_INVALID"):
        watch(ca, cursor="mine")


def test_a_consumer_sees_what_it_is_associated_with_and_no_more(ca: World, watch: Watch) -> None:
    machine, other = consumer(ca), consumer(ca, "other")
    active(ca)
    active(ca, SHOP)
    associate(ca, machine)
    associate(ca, other, SHOP)
    reader = watch(ca, machine)
    answers = reader.until(2)
    assert shown(answers) == [(PRESENT, "web"), (SYNCED, "")]
    assert answers[0].association is not None
    assert answers[0].association.association.name == association_name()
    assert answers[0].association.association.current_version == 1
    assert answers[0].managed_certificate is None
    # Others' business.
    associate(ca, other)
    label(ca, "one")
    label(ca, "one", SHOP)
    dissociate(ca, "other")
    renew(ca)
    changed = reader.until(3)[2]
    assert (changed.kind, changed.name) == (CHANGED, str(WEB))
    assert changed.event is not None
    assert changed.event.event.type is EventType.MANAGED_CERTIFICATE_RENEWED
    assert changed.association is not None
    assert changed.association.association.current_version == 2
    associate(ca, machine, SHOP)
    made = reader.until(4)[3]
    assert (made.kind, made.name) == (CHANGED, str(SHOP))
    renew(ca, SHOP)
    assert reader.until(5)[4].association is not None
    dissociate(ca)
    gone = reader.until(6)[5]
    assert (gone.kind, gone.name, gone.association) == (REMOVED, str(WEB), None)
    renew(ca)
    renew(ca, SHOP)
    assert shown(reader.until(7))[6] == (CHANGED, "shop")
    assert len(reader.told) == 7


def test_a_consumer_comes_back_with_its_cursor(ca: World, watch: Watch) -> None:
    machine = consumer(ca)
    active(ca)
    active(ca, SHOP)
    associate(ca, machine)
    reader = watch(ca, machine)
    cursor = reader.until(2)[-1].cursor
    reader.go()
    associate(ca, machine, SHOP)
    dissociate(ca)
    for service in (None, service_of(ca)):
        answers = watch(ca, machine, cursor=cursor, service=service).until(3)
        assert shown(answers) == [(CHANGED, "shop"), (REMOVED, "web"), (SYNCED, "")]
    # By another grant more may have come into sight than events of certificates tell.
    given = GivenGrant(principal=machine.spiffe_id, role=Role.CONSUMER, scope="", profiles=None)
    ca.core.grants.create(ADMINISTRATOR, GrantName("default", "more"), given, key=None, validate_only=False)
    with ca.core.store.read("test") as tx:
        head = events.head(tx).seq
    eventually(partial(has_handed_out, ca, head))
    assert shown(watch(ca, machine, cursor=cursor).until(2)) == [(PRESENT, "shop"), (SYNCED, "")]
    only = watch(ca, machine, WEB, cursor=answers[-1].cursor)
    assert shown(only.until(1)) == [(SYNCED, "")]


def test_a_consumer_of_the_server_sees_every_tenant(ca: World, watch: Watch) -> None:
    ca.core.tenants.create(ADMINISTRATOR, "other", GivenTenant(), key=None, validate_only=False)
    edge = consumer(ca, "edge", tenant=None, scope="*")
    active(ca)
    associate(ca, edge)
    reader = watch(ca, edge)
    (present, _) = reader.until(2)
    assert present.name == str(WEB)
    assert present.association is not None
    assert present.association.tenant_uid


def test_a_consumer_is_told_of_its_own_leases_and_deployments(
    tmp_path: Path, token_settings: TokenSettings, watch: Watch
) -> None:
    with leasing_world(tmp_path, token_settings) as world:
        machine, other = consumer(world), consumer(world, "other")
        active(world)
        view, others = associate(world, machine), associate(world, other)
        reader = watch(world, machine)
        reader.until(2)
        lease(world, other, others)
        lease(world, machine, view)
        deployed = GivenDeployment(state=DeploymentState.SERVING, version=1)
        world.core.leases.report(other.caller, others.association.name, deployed)
        world.core.leases.report(machine.caller, view.association.name, deployed)
        leased, reported = reader.until(4)[2:]
        assert leased.event is not None
        assert leased.event.event.principal == machine.spiffe_id
        assert reported.association is not None
        assert reported.association.association.deployment is not None
        assert reported.event is not None
        assert reported.event.event.type is EventType.DEPLOYMENT_REPORTED
        reader.go()
        assert len(reader.told) == 4


def test_grants_bring_into_sight_and_out_of_it_while_the_stream_is_open(ca: World, watch: Watch) -> None:
    machine = consumer(ca, scope=str(WEB))
    active(ca)
    active(ca, SHOP)
    associate(ca, machine)
    associate(ca, machine, SHOP)
    reader = watch(ca, machine)
    assert shown(reader.until(2)) == [(PRESENT, "web"), (SYNCED, "")]
    name, given = (
        GrantName("default", "shop"),
        GivenGrant(principal=machine.spiffe_id, role=Role.CONSUMER, scope=str(SHOP), profiles=None),
    )
    ca.core.grants.create(ADMINISTRATOR, name, given, key=None, validate_only=False)
    assert shown(reader.until(3))[2] == (CHANGED, "shop")
    ca.core.grants.delete(ADMINISTRATOR, name, key=None, validate_only=False)
    assert shown(reader.until(4))[3] == (REMOVED, "shop")
    renew(ca, SHOP)
    renew(ca)
    assert shown(reader.until(5))[4] == (CHANGED, "web")


def has_handed_out(world: World, seq: int) -> bool:
    return world.core.event_feed._position.seq >= seq


def granted(world: World, machine: Consumer, managed: ManagedCertificateName) -> GrantName:
    name = GrantName("default", managed.managed_certificate)
    given = GivenGrant(principal=machine.spiffe_id, role=Role.CONSUMER, scope=str(managed), profiles=None)
    world.core.grants.create(ADMINISTRATOR, name, given, key=None, validate_only=False)
    return name


@pytest.mark.parametrize("when", ["later", "at that moment"])
def test_who_came_back_is_told_of_what_goes_out_of_sight(
    ca: World, watch: Watch, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    machine = consumer(ca, scope=str(WEB))
    for name in (WEB, SHOP):
        active(ca, name)
        associate(ca, machine, name)
    grant = granted(ca, machine, SHOP)
    first = watch(ca, machine)
    told = first.until(3)
    assert shown(told) == [(PRESENT, "shop"), (PRESENT, "web"), (SYNCED, "")]
    first.go()

    def withdraw() -> None:
        ca.core.grants.delete(ADMINISTRATOR, grant, key=None, validate_only=False)

    resume = ConsumerScope.resume

    def late(scope: ConsumerScope, seq: int) -> None:
        # It holds no longer, and its event has not come yet.
        withdraw()
        resume(scope, seq)

    if when == "at that moment":
        monkeypatch.setattr(ConsumerScope, "resume", late)
    reader = watch(ca, machine, cursor=told[-1].cursor)
    assert shown(reader.until(1))[0] == (SYNCED, "")
    if when == "later":
        withdraw()
    until(reader, REMOVED)
    assert (REMOVED, "shop") in shown(reader.told)
    # What nobody changed is told again where one could not know what was told before.
    assert ((CHANGED, "web") in shown(reader.told)) == (when == "at that moment")
    renew(ca)
    assert until(reader, CHANGED, EventType.MANAGED_CERTIFICATE_RENEWED).name == str(WEB)


def test_what_ends_while_all_there_is_is_told_is_told_though_more_happens_to_it(
    ca: World, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = consumer(ca)
    for name in (WEB, SHOP):
        active(ca, name)
        associate(ca, machine, name)
    monkeypatch.setattr(managed_watch_scopes, "_PAGE", 1)
    pages = ConsumerScope.pages

    def slowly(scope: ConsumerScope) -> Iterator[list[ManagedChange]]:
        for number, page in enumerate(pages(scope)):
            if number:
                dissociate(ca)
                renew(ca)
                with ca.core.store.read("test") as tx:
                    head = events.head(tx).seq
                eventually(partial(has_handed_out, ca, head))
            yield page

    monkeypatch.setattr(ConsumerScope, "pages", slowly)
    answers = watch(ca, machine).until(4)
    assert shown(answers) == [(PRESENT, "shop"), (PRESENT, "web"), (SYNCED, ""), (REMOVED, "web")]


def test_a_revoked_consumer_and_one_without_grants_are_not_served_on(ca: World, watch: Watch) -> None:
    machine, other = consumer(ca), consumer(ca, "other", role=None)
    active(ca)
    associate(ca, machine)
    name, given = (
        GrantName("default", "only"),
        GivenGrant(principal=other.spiffe_id, role=Role.CONSUMER, scope="", profiles=None),
    )
    with pytest.raises(CertdError, match="PERMISSION_MISSING"):
        watch(ca, other)
    ca.core.grants.create(ADMINISTRATOR, name, given, key=None, validate_only=False)
    revoked, withdrawn, stays = watch(ca, machine), watch(ca, other), watch(ca)
    for reader in (revoked, withdrawn, stays):
        until(reader, SYNCED)
    ca.core.grants.delete(ADMINISTRATOR, name, key=None, validate_only=False)
    assert withdrawn.refusal(within=2.0).reason is Reason.PERMISSION_MISSING
    ca.core.identity_changes.revoke(ADMINISTRATOR, machine.name, key=None, validate_only=False)
    assert revoked.refusal(within=2.0).reason is Reason.CREDENTIAL_REVOKED
    label(ca, "one")
    until(stays, CHANGED, EventType.MANAGED_CERTIFICATE_UPDATED)


def test_an_identity_that_ends_is_not_served_on(ca: World, watch: Watch) -> None:
    machine = consumer(ca)
    active(ca)
    associate(ca, machine)
    reader = watch(ca, machine, service=service_of(ca, quiet=0.05))
    reader.until(3)
    ca.clock.advance(timedelta(days=400))
    assert reader.refusal(within=2.0).reason is Reason.CREDENTIAL_INVALID


def test_strangers_are_refused_alike_whether_there_is_something_or_not(ca: World) -> None:
    active(ca)

    def refusal(parent: str | None, *names: ManagedCertificateName) -> tuple[Reason, str]:
        request = ManagedWatchRequest(
            parent=None if parent is None else TenantName(parent), names=frozenset(names), cursor="x"
        )
        with pytest.raises(CertdError) as refused:
            ca.core.managed_watch.watch(STRANGER, request, CallBehind())
        message = refused.value.message
        for word in ("default", "nowhere", "web", "none"):
            message = message.replace(f"/{word}", "/…")
        return refused.value.reason, message

    assert refusal("default") == refusal("nowhere")
    assert refusal("default", WEB) == refusal("default", ManagedCertificateName("default", "none"))
    assert refusal(None)[0] is Reason.PERMISSION_MISSING
    give(ca, STRANGER.principal, Role.EXPORTER, str(WEB))
    with pytest.raises(CertdError, match="PERMISSION_MISSING"):
        ca.core.managed_watch.watch(STRANGER, ManagedWatchRequest(parent=TENANT), CallBehind())
    named = ManagedWatchRequest(parent=TENANT, names=frozenset({WEB}))
    assert next(ca.core.managed_watch.watch(STRANGER, named, CallBehind())).name == str(WEB)
    with pytest.raises(CertdError, match="TENANT_NOT_FOUND"):
        ca.core.managed_watch.watch(ADMINISTRATOR, ManagedWatchRequest(parent=TenantName("nowhere")), CallBehind())


def test_a_quiet_stream_says_that_it_is_alive_and_where_it_is(ca: World, watch: Watch) -> None:
    active(ca)
    reader = watch(ca, ADMINISTRATOR, WEB, service=service_of(ca, quiet=0.05))
    until(reader, ChangeKind.ALIVE)
    ca.core.tenants.create(ADMINISTRATOR, "other", GivenTenant(), key=None, validate_only=False)
    with ca.core.store.read("test") as tx:
        moved = cursor_of(events.head(tx))
    eventually(lambda: reader.told[-1].cursor == moved)


def test_events_of_others_wake_no_watcher_of_managed_certificates(ca: World, watch: Watch) -> None:
    machine = consumer(ca)
    active(ca)
    associate(ca, machine)
    readers = [watch(ca), watch(ca, machine), watch(ca, ADMINISTRATOR, WEB)]
    for reader in readers:
        until(reader, SYNCED)
    put: list[object] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("certd.services.watchers.Watcher.put", lambda _watcher, row: put.append(row.event.type))
        for number in range(5):
            ca.issue(f"host-{number}.example.internal")
        feed = ca.core.event_feed
        with ca.core.store.read("test") as tx:
            head = events.head(tx)
        eventually(lambda: feed._position.seq >= head.seq)
    assert put == []
    label(ca, "one")
    for reader in (readers[0], readers[2]):
        until(reader, CHANGED, EventType.MANAGED_CERTIFICATE_UPDATED)


def test_what_another_daemon_does_is_told_and_what_it_forbids_is_ended(
    postgres_url: str, tmp_path: Path, token_settings: TokenSettings, watch: Watch
) -> None:
    with two_worlds(tmp_path, token_settings, postgres_url) as (here, there):
        here.create_root()
        here.create_subordinate()
        active(here)
        machine, edge = consumer(here), consumer(here, "edge")
        associate(here, machine)
        associate(here, edge)
        readers = [watch(there), watch(there, machine), watch(there, edge)]
        for reader in readers:
            until(reader, SYNCED)
        renew(here)
        for reader in readers:
            until(reader, CHANGED, EventType.MANAGED_CERTIFICATE_RENEWED)
        here.core.identity_changes.revoke(ADMINISTRATOR, machine.name, key=None, validate_only=False)
        assert readers[1].refusal(within=2.0).reason is Reason.CREDENTIAL_REVOKED
        dissociate(here, "edge")
        until(readers[2], REMOVED)
        # A cursor of the one daemon is one of the other.
        cursor = readers[2].told[1].cursor
        assert shown(watch(here, edge, cursor=cursor).until(2))[-1] in {(REMOVED, "web"), (SYNCED, "")}
        for world, reader in ((there, readers[0]), (there, readers[2])):
            world.core.event_feed.close()
            assert reader.refusal(within=5.0).reason is Reason.SHUTTING_DOWN


def test_answers_are_of_the_state_when_they_are_made(ca: World, watch: Watch) -> None:
    active(ca)
    reader = watch(ca)
    until(reader, SYNCED)
    reader.hold()
    for value in ("one", "two", "three"):
        label(ca, value)
    reader.until(3)
    reader.go_on()
    labels = [
        each.managed_certificate.managed_certificate.labels["team"]
        for each in reader.until(5)
        if each.kind is CHANGED and each.managed_certificate is not None
    ]
    assert labels[1:] == ["three", "three"]
