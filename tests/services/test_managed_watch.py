"""Managed certificates watched by the people of a tenant, and what holds for every watcher."""

from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import Role
from certd.model.event import EventType
from certd.model.names import ManagedCertificateName, TenantName
from certd.services import managed_watch_scopes
from certd.services.event_cursors import cursor_of
from certd.services.managed_watch import ManagedWatchRequest
from certd.services.managed_watch_scopes import ChangeKind
from certd.services.tenants import GivenTenant
from certd.store import events
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, STRANGER, World, two_worlds
from tests.services.consumers import (
    WEB,
    active,
    associate,
    consumer,
    give,
)
from tests.services.managed_watching import (
    CHANGED,
    PRESENT,
    REMOVED,
    SHOP,
    SYNCED,
    TENANT,
    Watch,
    ca,
    delete,
    dissociate,
    label,
    renew,
    service_of,
    shown,
    until,
    watch,
)
from tests.services.watching import CallBehind
from tests.waiting import eventually

__all__ = ["ca", "postgres_server", "postgres_url", "watch"]


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
