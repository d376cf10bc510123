"""Rows of subscriptions: what somebody changes and what is delivered do not overwrite each other."""

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from certd.model.event import Event, EventType
from certd.model.names import SubscriptionName
from certd.model.subscription import (
    NOTICES,
    MailTarget,
    Subscription,
    SubscriptionState,
    WebhookTarget,
    default_event_types,
)
from certd.store import subscriptions
from certd.store.store import Store
from tests.store.samples import NOW, add_tenant

HOOK = WebhookTarget(url="https://hooks.example.internal/certd?token=t0ken", trusted_roots="PEM")


def subscription(id_: str, **changes: Any) -> Subscription:
    wanted: dict[str, Any] = {
        "tenant": "default",
        "subscription_id": id_,
        "uid": f"uid-{id_}",
        "target": HOOK,
        "event_types": ("managed-certificate.*",),
        "delivered_seq": 7,
        "creator": "spiffe://certd.internal/identities/admin",
        "create_time": NOW,
        "update_time": NOW,
    }
    return Subscription(**(wanted | changes))


def insert(store: Store, *wanted: Subscription) -> list[bool]:
    return [store.write("test", partial(subscriptions.insert, subscription=each)) for each in wanted]


def got(store: Store, name: SubscriptionName) -> Subscription | None:
    with store.read("test") as tx:
        return subscriptions.get(tx, name)


def test_one_comes_out_as_it_went_in(store: Store) -> None:
    add_tenant(store)
    hook = subscription("hook", resource="tenants/default/managedCertificates/web", display_name="On call")
    mail = subscription(
        "mail",
        target=MailTarget(recipients=("a@example.com", "b@example.com")),
        event_types=NOTICES,
        state=SubscriptionState.DISABLED,
        delivery_time=NOW,
        attempts=3,
        last_error="refused",
        next_attempt_time=NOW + timedelta(seconds=5),
        revision=4,
    )
    assert insert(store, hook, mail, subscription("hook", uid="another")) == [True, True, False]
    assert got(store, hook.name) == hook
    assert got(store, mail.name) == mail
    assert got(store, SubscriptionName("default", "none")) is None
    with store.read("test") as tx:
        assert subscriptions.get_by_uid(tx, "uid-mail") == mail
        assert subscriptions.get_by_uid(tx, "another") is None


def test_those_of_a_tenant_come_by_id(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "acme")
    insert(store, *(subscription(id_) for id_ in "bca"), subscription("a", tenant="acme", uid="acme-a"))
    with store.read("test") as tx:
        first = subscriptions.page(tx, "default", after=None, limit=2)
        rest = subscriptions.page(tx, "default", after="b", limit=2)
        assert not subscriptions.has_as_many(tx, "acme", 2)
        assert subscriptions.has_as_many(tx, "default", 3)
        assert not subscriptions.has_as_many(tx, "default", 4)
    assert [each.subscription_id for each in first] == ["a", "b"]
    assert [each.subscription_id for each in rest] == ["c"]


def test_positions_are_those_of_the_enabled_ones_of_every_tenant(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "acme")
    insert(
        store,
        subscription("a"),
        subscription("b", state=SubscriptionState.DISABLED),
        subscription("c", tenant="acme", delivered_seq=9, next_attempt_time=NOW),
    )
    with store.read("test") as tx:
        every = subscriptions.all_uids_with_position(tx)
        behind = subscriptions.all_uids_with_position(tx, after="uid-a", limit=1)
    assert [(each.uid, each.delivered_seq, each.next_attempt_time) for each in every] == [
        ("uid-a", 7, None),
        ("uid-c", 9, NOW),
    ]
    assert behind == every[1:]


def test_a_change_and_a_delivery_leave_each_other_alone(store: Store) -> None:
    add_tenant(store)
    made = subscription("a")
    insert(store, made)
    delivered = replace(made, delivered_seq=12, delivery_time=NOW, attempts=1, last_error="e", next_attempt_time=NOW)
    changed = replace(made, target=replace(HOOK, url="https://other.example"), state=SubscriptionState.DISABLED)
    assert store.write("test", lambda tx: subscriptions.set_progress(tx, delivered))
    assert store.write("test", lambda tx: subscriptions.update(tx, changed, 1)) == replace(changed, revision=2)
    assert store.write("test", lambda tx: subscriptions.update(tx, made, 1)) is None
    assert got(store, made.name) == replace(
        delivered, target=changed.target, state=SubscriptionState.DISABLED, revision=2
    )


def test_one_that_is_deleted_is_gone(store: Store) -> None:
    add_tenant(store)
    made = subscription("a")
    insert(store, made, subscription("b"))
    assert store.write("test", lambda tx: subscriptions.delete(tx, made.uid))
    assert not store.write("test", lambda tx: subscriptions.delete(tx, made.uid))
    assert not store.write("test", lambda tx: subscriptions.set_progress(tx, made))
    assert got(store, made.name) is None
    assert got(store, SubscriptionName("default", "b")) is not None


def event(type_: EventType = EventType.MANAGED_CERTIFICATE_RENEWED, **changes: Any) -> Event:
    wanted: dict[str, Any] = {
        "time": NOW,
        "type": type_,
        "tenant": "default",
        "principal": "certd",
        "resource": "tenants/default/managedCertificates/web",
    }
    return Event(**(wanted | changes))


@pytest.mark.parametrize(
    ("changes", "happened", "fits"),
    [
        ({}, event(), True),
        ({}, event(EventType.CERTIFICATE_ISSUED), False),
        ({"event_types": ("*",)}, event(EventType.CERTIFICATE_ISSUED), True),
        ({"event_types": ()}, event(EventType.CERTIFICATE_ISSUED), True),
        ({"event_types": ("managed-certificate.renewed",)}, event(), True),
        ({"event_types": ("managed-certificate.renew",)}, event(), False),
        ({"event_types": ("managed-certificate.renewal*", "grant.*")}, event(), False),
        ({}, event(tenant="acme"), False),
        ({}, event(tenant=None), False),
        ({"resource": "tenants/default/managedCertificates/web"}, event(), True),
        ({"resource": "tenants/default/managedCertificates"}, event(), True),
        ({"resource": "tenants/default/managedCertificates/we"}, event(), False),
        (
            {"event_types": ("*",)},
            event(EventType.DELIVERY_FAILED, resource="tenants/default/subscriptions/a"),
            False,
        ),
        (
            {"event_types": ("*",)},
            event(EventType.DELIVERY_FAILED, resource="tenants/default/subscriptions/b"),
            True,
        ),
        (
            {"event_types": ("*",)},
            event(EventType.SUBSCRIPTION_UPDATED, resource="tenants/default/subscriptions/a"),
            True,
        ),
    ],
)
def test_an_event_fits_by_tenant_type_and_resource(changes: dict[str, Any], happened: Event, *, fits: bool) -> None:
    assert subscription("a", **changes).fits(happened) is fits


def test_people_are_told_what_needs_somebody_and_programs_everything() -> None:
    mail = MailTarget(recipients=("a@example.com",))
    assert default_event_types(HOOK) == ("*",)
    assert subscription("a", target=mail, event_types=()).fits(event(EventType.MANAGED_CERTIFICATE_EXPIRING))
    assert not subscription("a", target=mail, event_types=()).fits(event())


def test_neither_events_nor_logs_have_the_query_of_a_url() -> None:
    assert HOOK.place == "https://hooks.example.internal"
    assert "t0ken" not in repr(subscription("a"))
