"""Rows of deliveries: what is tried next, and how it is found."""

from dataclasses import replace
from datetime import timedelta

from certd.model.delivery import Delivery, DeliveryState
from certd.model.subscription import Subscription, WebhookTarget
from certd.store import deliveries, subscriptions
from certd.store.store import Store, Transaction
from tests.store.explaining import Explaining
from tests.store.samples import NOW, add_tenant


def _subscribe(store: Store, uid: str = "s") -> Subscription:
    add_tenant(store)
    made = Subscription(
        tenant="default",
        subscription_id=uid,
        uid=uid,
        target=WebhookTarget(url="https://hook.example/"),
        event_types=("*",),
        delivered_seq=7,
        creator="certd",
        create_time=NOW,
        update_time=NOW,
    )
    assert store.write("test", lambda tx: subscriptions.insert(tx, made))
    return made


def _row(seq: int, resource: str, due: int, state: DeliveryState = DeliveryState.WAITING) -> Delivery:
    waits = state is DeliveryState.WAITING
    return Delivery(
        subscription_uid="s",
        seq=seq,
        resource=resource,
        state=state,
        due_time=NOW + timedelta(seconds=due) if waits else None,
        fail_time=None if waits else NOW,
    )


def _put(store: Store, *rows: Delivery) -> None:
    def work(tx: Transaction) -> None:
        for row in rows:
            deliveries.put(tx, row)

    store.write("test", work)


def test_what_is_due_next_waits_behind_no_other(store: Store) -> None:
    _subscribe(store)

    def next_seconds() -> float | None:
        with store.read("test") as tx:
            due = deliveries.next_due(tx, "s")
        return None if due is None else (due - NOW).total_seconds()

    assert next_seconds() is None
    _put(store, _row(3, "a", 50), _row(4, "a", 1), _row(5, "b", 40), _row(2, "b", 0, DeliveryState.FAILED))
    assert next_seconds() == 40
    store.write("test", lambda tx: deliveries.remove(tx, "s", 3))
    assert next_seconds() == 1
    with store.read("test") as tx:
        assert [row.seq for row in deliveries.waiting(tx, "s")] == [4, 5]
        assert deliveries.next_due(tx, "other") is None
    _put(store, _row(4, "a", 60), _row(5, "b", 0, DeliveryState.FAILED))
    assert next_seconds() == 60
    with store.read("test") as tx:
        assert [row.seq for row in deliveries.failed_page(tx, "s", after_seq=0, limit=10)] == [2, 5]


def test_progress_is_recorded_once_from_each_place(store: Store) -> None:
    made = _subscribe(store)
    moved = replace(made, delivered_seq=9, delivery_time=NOW, last_error="no", attempts=2, next_attempt_time=NOW)
    assert store.write("test", lambda tx: deliveries.advance(tx, moved, expected_seq=7)) == 1
    assert store.write("test", lambda tx: deliveries.advance(tx, moved, expected_seq=7)) is None
    with store.read("test") as tx:
        assert subscriptions.get_by_uid(tx, "s") == moved
    gone = replace(moved, uid="gone")
    assert store.write("test", lambda tx: deliveries.advance(tx, gone, expected_seq=9)) is None


def test_what_waits_before_another_is_found_by_its_resource(sqlite_store: Store) -> None:
    _subscribe(sqlite_store)

    def work(tx: Transaction) -> list[str]:
        explaining = Explaining(tx)
        deliveries.next_due(explaining, "s")
        return explaining.plans

    (plan,) = sqlite_store.write("test", work)
    assert "deliveries_resource (subscription_uid=? AND resource=? AND seq<?)" in plan
    assert "SCAN" not in plan
