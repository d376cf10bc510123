"""Managed certificates watched by the consumers that serve them."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import Role
from certd.model.association import DeploymentState
from certd.model.event import EventType
from certd.model.names import GrantName, ManagedCertificateName
from certd.services import managed_watch_scopes
from certd.services.grants import GivenGrant
from certd.services.leases import GivenDeployment
from certd.services.managed_watch_scopes import ConsumerScope, ManagedChange
from certd.services.tenants import GivenTenant
from certd.store import events
from certd.token.settings import TokenSettings
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.consumers import (
    WEB,
    Consumer,
    active,
    associate,
    association_name,
    consumer,
    lease,
    leasing_world,
)
from tests.services.managed_watching import (
    CHANGED,
    PRESENT,
    REMOVED,
    SHOP,
    SYNCED,
    Watch,
    ca,
    dissociate,
    label,
    renew,
    service_of,
    shown,
    until,
    watch,
)
from tests.waiting import eventually

__all__ = ["ca", "watch"]


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
