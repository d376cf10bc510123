"""Rows of deliveries: events that a subscription's target did not take yet, and those that were given up."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, bindparam, delete, func, literal, literal_column, select, update

from certd.model.delivery import MOST_FAILED, MOST_WAITING, Delivery, DeliveryState
from certd.model.subscription import Subscription
from certd.store import notification_schema
from certd.store.dialect import insert_or_replace
from certd.store.transaction import Transaction
from certd.store.values import microseconds, optional_microseconds, optional_time_of

_deliveries = notification_schema.deliveries
_subscriptions = notification_schema.subscriptions

_COLUMNS: Final = ("resource", "state", "attempts", "error", "due_time", "fail_time")
_WAITING: ColumnElement[str] = literal_column(f"'{DeliveryState.WAITING}'")
_FAILED: ColumnElement[str] = literal_column(f"'{DeliveryState.FAILED}'")
_SELECT: Select[Any] = select(
    _deliveries.c.subscription_uid,
    _deliveries.c.seq,
    _deliveries.c.resource,
    _deliveries.c.state,
    _deliveries.c.attempts,
    _deliveries.c.error,
    _deliveries.c.due_time,
    _deliveries.c.fail_time,
)
_OF_SUBSCRIPTION = _deliveries.c.subscription_uid == bindparam("of_subscription")
_FAILED_OF = (_OF_SUBSCRIPTION, _deliveries.c.state == _FAILED)
_WAITING_PAGE = (
    _SELECT.where(_OF_SUBSCRIPTION, _deliveries.c.state == _WAITING)
    .order_by(_deliveries.c.seq)
    .limit(bindparam("most"))
)
_FAILED_PAGE = (
    _SELECT.where(*_FAILED_OF, _deliveries.c.seq > bindparam("after"))
    .order_by(_deliveries.c.seq)
    .limit(bindparam("most"))
)
_PUT = insert_or_replace(_deliveries, key=["subscription_uid", "seq"], replaced=_COLUMNS)
_REMOVE = delete(_deliveries).where(_OF_SUBSCRIPTION, _deliveries.c.seq == bindparam("of_seq"))
_NEWEST_TO_FORGET = (
    select(_deliveries.c.seq)
    .where(*_FAILED_OF)
    .order_by(_deliveries.c.seq.desc())
    .limit(1)
    .offset(literal_column(str(MOST_FAILED)))
)
_FORGET = delete(_deliveries).where(*_FAILED_OF, _deliveries.c.seq <= bindparam("until"))
_FEW_FAILED = select(literal(1)).where(*_FAILED_OF).limit(bindparam("most")).subquery()
_COUNT_FAILED = select(func.count()).select_from(_FEW_FAILED)
_FAILED_SEQS = (
    select(_deliveries.c.seq).where(*_FAILED_OF).order_by(_deliveries.c.seq).limit(literal_column(str(MOST_FAILED)))
)
_RETRY = (
    update(_deliveries)
    .where(*_FAILED_OF, _deliveries.c.seq.in_(bindparam("seqs", expanding=True)))
    .values(state=_WAITING, attempts=literal_column("0"), due_time=bindparam("now"), fail_time=None)
)
_BEFORE = _deliveries.alias("before")
_NEXT_DUE = select(func.min(_deliveries.c.due_time)).where(
    _OF_SUBSCRIPTION,
    _deliveries.c.state == _WAITING,
    ~select(literal(1))
    .where(
        _BEFORE.c.subscription_uid == _deliveries.c.subscription_uid,
        _BEFORE.c.resource == _deliveries.c.resource,
        _BEFORE.c.seq < _deliveries.c.seq,
        _BEFORE.c.state == _WAITING,
    )
    .exists(),
)
_ADVANCE = (
    update(_subscriptions)
    .where(_subscriptions.c.uid == bindparam("of_uid"), _subscriptions.c.delivered_seq == bindparam("expected_seq"))
    .values(
        delivered_seq=bindparam("to_seq"),
        delivery_time=bindparam("at"),
        attempts=bindparam("tries"),
        last_error=bindparam("error"),
        next_attempt_time=bindparam("next_time"),
    )
    .returning(_subscriptions.c.revision)
)


def waiting(tx: Transaction, subscription_uid: str) -> list[Delivery]:
    """Returns what waits, in the order of the events."""
    # By retries there may be that many more than wait otherwise.
    parameters = {"of_subscription": subscription_uid, "most": MOST_WAITING + MOST_FAILED}
    return [_delivery(row) for row in tx.execute(_WAITING_PAGE, parameters)]


def next_due(tx: Transaction, subscription_uid: str) -> datetime | None:
    """Returns when the next of what waits, and waits behind no other, is tried again, which may be past."""
    return optional_time_of(tx.execute(_NEXT_DUE, {"of_subscription": subscription_uid}).scalar())


def failed_page(tx: Transaction, subscription_uid: str, *, after_seq: int, limit: int) -> list[Delivery]:
    """Returns up to `limit` failed deliveries behind an event, in the order of the events."""
    parameters = {"of_subscription": subscription_uid, "after": after_seq, "most": limit}
    return [_delivery(row) for row in tx.execute(_FAILED_PAGE, parameters)]


def count_failed(tx: Transaction, subscription_uid: str) -> int:
    """Returns how many failed deliveries are kept; MOST_FAILED stands for that many or more."""
    count: int = tx.execute(_COUNT_FAILED, {"of_subscription": subscription_uid, "most": MOST_FAILED}).scalar_one()
    return count


def retry(tx: Transaction, subscription_uid: str, seqs: Sequence[int] | None, now: datetime) -> int:
    """Has failed deliveries tried anew: these, or all; returns how many of them there were.

    Whoever calls it hastens the job of the subscription.
    """
    if seqs is None:
        seqs = list(tx.execute(_FAILED_SEQS, {"of_subscription": subscription_uid}).scalars())
    if not seqs:
        return 0
    parameters = {"of_subscription": subscription_uid, "seqs": list(seqs), "now": microseconds(now)}
    return tx.execute(_RETRY, parameters).rowcount


def put(tx: Transaction, delivery: Delivery) -> None:
    """Inserts a delivery, or replaces the one of the same event; past MOST_FAILED the oldest failed ones go."""
    tx.execute(
        _PUT,
        {
            "subscription_uid": delivery.subscription_uid,
            "seq": delivery.seq,
            "resource": delivery.resource,
            "state": delivery.state.value,
            "attempts": delivery.attempts,
            "error": delivery.error,
            "due_time": optional_microseconds(delivery.due_time),
            "fail_time": optional_microseconds(delivery.fail_time),
        },
    )
    if delivery.state is DeliveryState.FAILED:
        of = {"of_subscription": delivery.subscription_uid}
        until = tx.execute(_NEWEST_TO_FORGET, of).scalar()
        if until is not None:
            tx.execute(_FORGET, {**of, "until": until})


def remove(tx: Transaction, subscription_uid: str, seq: int) -> None:
    """Deletes a delivery: it was taken."""
    tx.execute(_REMOVE, {"of_subscription": subscription_uid, "of_seq": seq})


def advance(tx: Transaction, subscription: Subscription, *, expected_seq: int) -> int | None:
    """Records how far a subscription's events were sent, if nobody else sent them on from `expected_seq` meanwhile.

    Returns its revision, by which one sees whether somebody changed it; None, with nothing changed, when another
    sends them, or the subscription is gone.
    """
    revision: int | None = tx.execute(
        _ADVANCE,
        {
            "of_uid": subscription.uid,
            "expected_seq": expected_seq,
            "to_seq": subscription.delivered_seq,
            "at": optional_microseconds(subscription.delivery_time),
            "tries": subscription.attempts,
            "error": subscription.last_error,
            "next_time": optional_microseconds(subscription.next_attempt_time),
        },
    ).scalar()
    return revision


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        subscription_uid=row.subscription_uid,
        seq=row.seq,
        resource=row.resource,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        error=row.error,
        due_time=optional_time_of(row.due_time),
        fail_time=optional_time_of(row.fail_time),
    )
