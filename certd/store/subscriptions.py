"""Rows of subscriptions. What somebody changes grows their revision; how far their events were sent does not."""

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, literal_column, select
from sqlalchemy import delete as delete_from
from sqlalchemy import update as update_of

from certd.model.names import SubscriptionName
from certd.model.subscription import MailTarget, Subscription, SubscriptionState, Target, WebhookTarget
from certd.store import notification_schema
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, optional_microseconds, optional_time_of, time_of

_subscriptions = notification_schema.subscriptions
_deliveries = notification_schema.deliveries
_secrets = notification_schema.subscription_secrets
_WEBHOOK, _MAIL = "WEBHOOK", "MAIL"

_SELECT: Select[Any] = select(
    _subscriptions.c.tenant,
    _subscriptions.c.subscription_id,
    _subscriptions.c.uid,
    _subscriptions.c.kind,
    _subscriptions.c.target,
    _subscriptions.c.event_types,
    _subscriptions.c.resource,
    _subscriptions.c.state,
    _subscriptions.c.delivered_seq,
    _subscriptions.c.delivery_time,
    _subscriptions.c.attempts,
    _subscriptions.c.last_error,
    _subscriptions.c.next_attempt_time,
    _subscriptions.c.display_name,
    _subscriptions.c.creator,
    _subscriptions.c.create_time,
    _subscriptions.c.update_time,
    _subscriptions.c.revision,
)
_OF_TENANT = _subscriptions.c.tenant == bindparam("of_tenant")
_OF_UID = _subscriptions.c.uid == bindparam("key")
_GET = _SELECT.where(_OF_TENANT, _subscriptions.c.subscription_id == bindparam("id"))
_GET_BY_UID = _SELECT.where(_OF_UID)
_PAGE = (
    _SELECT.where(_OF_TENANT, _subscriptions.c.subscription_id > bindparam("after"))
    .order_by(_subscriptions.c.subscription_id)
    .limit(bindparam("most"))
)
_IDS = select(_subscriptions.c.subscription_id).where(_OF_TENANT).limit(bindparam("most"))
_POSITIONS = (
    select(
        _subscriptions.c.uid,
        _subscriptions.c.delivered_seq,
        _subscriptions.c.next_attempt_time,
        _subscriptions.c.revision,
    )
    .where(_subscriptions.c.uid > bindparam("after"), _subscriptions.c.state == literal_column("'ENABLED'"))
    .order_by(_subscriptions.c.uid)
    .limit(bindparam("most"))
)
_INSERT = insert_if_absent(_subscriptions)
_UPDATE = update_of(_subscriptions).where(_OF_UID, _subscriptions.c.revision == bindparam("expected_revision"))
_SET_PROGRESS = update_of(_subscriptions).where(_OF_UID)
_DELETE = delete_from(_subscriptions).where(_OF_UID)
_DELETE_PARTS = (
    delete_from(_deliveries).where(_deliveries.c.subscription_uid == bindparam("key")),
    delete_from(_secrets).where(_secrets.c.subscription_uid == bindparam("key")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a subscription is whose events are sent."""

    uid: str
    delivered_seq: int
    next_attempt_time: datetime | None
    revision: int


def insert(tx: Transaction, subscription: Subscription) -> bool:
    """Inserts a subscription; returns False, and changes nothing, when its tenant has one with this id."""
    columns = {
        "tenant": subscription.tenant,
        "subscription_id": subscription.subscription_id,
        "uid": subscription.uid,
        "creator": subscription.creator,
        "create_time": microseconds(subscription.create_time),
        "revision": subscription.revision,
        **_changed_columns(subscription),
        **_progress_columns(subscription),
    }
    return tx.execute(_INSERT, columns).rowcount == 1


def get(tx: Transaction, name: SubscriptionName) -> Subscription | None:
    """Returns a subscription; None when there is none."""
    row = tx.execute(_GET, {"of_tenant": name.tenant, "id": name.subscription}).first()
    return None if row is None else _subscription(row)


def get_by_uid(tx: Transaction, uid: str) -> Subscription | None:
    """Returns the subscription with this uid; None when there is none."""
    row = tx.execute(_GET_BY_UID, {"key": uid}).first()
    return None if row is None else _subscription(row)


def page(tx: Transaction, tenant: str, *, after: str | None, limit: int) -> list[Subscription]:
    """Returns up to `limit` subscriptions of a tenant in the order of their ids, from behind the id `after`."""
    parameters = {"of_tenant": tenant, "after": after or "", "most": limit}
    return [_subscription(row) for row in tx.execute(_PAGE, parameters)]


def has_as_many(tx: Transaction, tenant: str, number: int) -> bool:
    """Returns whether a tenant has `number` subscriptions or more; looks at no more of them."""
    return len(tx.execute(_IDS, {"of_tenant": tenant, "most": number}).all()) >= number


def all_uids_with_position(tx: Transaction, *, after: str = "", limit: int = 1000) -> list[Position]:
    """Returns up to `limit` enabled subscriptions of all tenants in the order of their uids, from behind `after`."""
    return [
        Position(
            uid=row.uid,
            delivered_seq=row.delivered_seq,
            next_attempt_time=optional_time_of(row.next_attempt_time),
            revision=row.revision,
        )
        for row in tx.execute(_POSITIONS, {"after": after, "most": limit})
    ]


def update(tx: Transaction, subscription: Subscription, expected_revision: int) -> Subscription | None:
    """Replaces what somebody may change, if the row still has `expected_revision`, and counts it up by one.

    How far its events were sent stays as the row has it. Returns the subscription with its new revision; None, with
    nothing changed, when another was faster.
    """
    changed = replace(subscription, revision=expected_revision + 1)
    parameters = {
        **_changed_columns(changed),
        "revision": changed.revision,
        "key": changed.uid,
        "expected_revision": expected_revision,
    }
    return changed if tx.execute(_UPDATE, parameters).rowcount == 1 else None


def set_progress(tx: Transaction, subscription: Subscription) -> bool:
    """Records how far events were sent: position, last delivery, attempts, last error and next attempt.

    Returns whether the subscription is still there. Its revision stays, whatever else of it was changed meanwhile.
    """
    return tx.execute(_SET_PROGRESS, {**_progress_columns(subscription), "key": subscription.uid}).rowcount == 1


def delete(tx: Transaction, uid: str) -> bool:
    """Deletes a subscription with its deliveries and secrets; returns whether it was there."""
    for statement in _DELETE_PARTS:
        tx.execute(statement, {"key": uid})
    return tx.execute(_DELETE, {"key": uid}).rowcount == 1


def _changed_columns(subscription: Subscription) -> dict[str, object]:
    kind, target = _target_columns(subscription.target)
    return {
        "kind": kind,
        "target": target,
        "event_types": json_text(list(subscription.event_types)),
        "resource": subscription.resource,
        "state": subscription.state.value,
        "display_name": subscription.display_name,
        "update_time": microseconds(subscription.update_time),
    }


def _progress_columns(subscription: Subscription) -> dict[str, object]:
    return {
        "delivered_seq": subscription.delivered_seq,
        "delivery_time": optional_microseconds(subscription.delivery_time),
        "attempts": subscription.attempts,
        "last_error": subscription.last_error,
        "next_attempt_time": optional_microseconds(subscription.next_attempt_time),
    }


def _target_columns(target: Target) -> tuple[str, str]:
    match target:
        case WebhookTarget():
            return _WEBHOOK, json_text({"url": target.url, "trusted_roots": target.trusted_roots})
        case MailTarget():
            return _MAIL, json_text({"recipients": list(target.recipients)})


def _target(kind: str, text: str) -> Target:
    found = json.loads(text)
    if kind == _WEBHOOK:
        return WebhookTarget(url=found["url"], trusted_roots=found["trusted_roots"])
    return MailTarget(recipients=tuple(found["recipients"]))


def _subscription(row: Row[Any]) -> Subscription:
    return Subscription(
        tenant=row.tenant,
        subscription_id=row.subscription_id,
        uid=row.uid,
        target=_target(row.kind, row.target),
        event_types=tuple(json.loads(row.event_types)),
        resource=row.resource,
        state=SubscriptionState(row.state),
        delivered_seq=row.delivered_seq,
        delivery_time=optional_time_of(row.delivery_time),
        attempts=row.attempts,
        last_error=row.last_error,
        next_attempt_time=optional_time_of(row.next_attempt_time),
        display_name=row.display_name,
        creator=row.creator,
        create_time=time_of(row.create_time),
        update_time=time_of(row.update_time),
        revision=row.revision,
    )
