"""Deliveries: events go to the targets of subscriptions, each at least once, those of one resource in their order."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError
from certd.model.delivery import Outcome
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType, NumberedEvent
from certd.model.job import Job, JobKind
from certd.model.subscription import Subscription, SubscriptionState
from certd.services.courier import Courier
from certd.services.delivery_run import DeliveryRun
from certd.services.steps import StepHook
from certd.store import deliveries, jobs, subscriptions
from certd.store.store import Store, Transaction
from certd.store.values import microseconds

MOST_OF_A_TENANT: Final = 16
"""Runs of one tenant at once: its targets may all be slow to answer, and others have some as well."""
_PAUSE: Final = timedelta(seconds=1)
"""After which one beyond these asks again."""
_LONGEST_ERROR: Final = 500


class Deliveries:
    """What the scheduler does for subscriptions, and tests of targets."""

    def __init__(
        self, *, store: Store, clock: Clock, courier: Courier, wake_scheduler: Callable[[], None], step: StepHook
    ) -> None:
        self._store = store
        self._clock = clock
        self._courier = courier
        self._wake_scheduler = wake_scheduler
        self._step = step
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        """By tenant."""

    def stop(self) -> None:
        """Lets runs end after the try that they are at."""
        self._stopping.set()

    def deliver(self, subscription_uid: str) -> None:
        """Does what there is to do for a subscription: the run of its job. Ends quietly when it is gone or disabled."""
        with self._store.read("deliveries.begin") as tx:
            subscription = subscriptions.get_by_uid(tx, subscription_uid)
            waiting = deliveries.waiting(tx, subscription_uid)
        if subscription is None or subscription.state is not SubscriptionState.ENABLED:
            now = self._clock.now()
            self._store.write("deliveries.end", lambda tx: _end(tx, subscription_uid, now))
            return
        with self._place(subscription.tenant) as has_place:
            if not has_place:
                later = Job(kind=JobKind.DELIVER_EVENTS, subject=subscription_uid, due_time=self._clock.now() + _PAUSE)
                self._store.write("deliveries.later", lambda tx: jobs.put(tx, later))
                return
            with self._courier.session() as send:
                DeliveryRun(
                    store=self._store,
                    clock=self._clock,
                    send=send,
                    stopping=self._stopping.is_set,
                    step=self._step,
                    subscription=subscription,
                    waiting=waiting,
                ).run()

    @contextmanager
    def _place(self, tenant: str) -> Iterator[bool]:
        """Takes one of a tenant's places for runs, unless all are taken, and yields whether it did."""
        with self._lock:
            has_place = self._running[tenant] < MOST_OF_A_TENANT
            self._running[tenant] += has_place
        try:
            yield has_place
        finally:
            with self._lock:
                self._running[tenant] -= has_place
                if not self._running[tenant]:
                    del self._running[tenant]

    def blocked(self, tx: Transaction, subscription_uid: str, error: CertdError, until: datetime) -> None:
        """Writes into a subscription that the server itself cannot send now, in the transaction of the retry."""
        current = subscriptions.get_by_uid(tx, subscription_uid)
        if current is not None:
            told = replace(current, last_error=str(error)[:_LONGEST_ERROR], next_attempt_time=until)
            subscriptions.set_progress(tx, told)

    def test(self, subscription: Subscription, now: datetime) -> str:
        """Sends a test now; returns why the target did not take it, empty when it did.

        A target that takes it after it was away is sent to again at once. Raises TOKEN_UNAVAILABLE.
        """
        event = Event(
            time=now,
            type=EventType.SUBSCRIPTION_TEST,
            tenant=subscription.tenant,
            principal=SYSTEM_PRINCIPAL,
            resource=str(subscription.name),
        )
        message_id = f"test/{microseconds(now)}:{subscription.uid}"
        numbered = NumberedEvent(seq=0, event=event, chain_hash=b"")
        with self._courier.session() as send:
            answer = send(subscription, numbered, message_id, now)
        if answer.outcome is Outcome.TAKEN and subscription.next_attempt_time is not None:
            self._store.write("deliveries.is-back", lambda tx: _is_back(tx, subscription.uid, now))
            self._wake_scheduler()
        return answer.error


def _end(tx: Transaction, uid: str, now: datetime) -> None:
    """Ends the job of a subscription of which nothing is sent, unless it was enabled meanwhile."""
    current = subscriptions.get_by_uid(tx, uid)
    if current is None or current.state is not SubscriptionState.ENABLED:
        jobs.finish(tx, JobKind.DELIVER_EVENTS, uid)
    else:
        jobs.put(tx, Job(kind=JobKind.DELIVER_EVENTS, subject=uid, due_time=now))


def _is_back(tx: Transaction, uid: str, now: datetime) -> None:
    current = subscriptions.get_by_uid(tx, uid)
    if current is not None and current.next_attempt_time is not None:
        subscriptions.set_progress(tx, replace(current, attempts=0, last_error="", next_attempt_time=None))
        jobs.hasten(tx, JobKind.DELIVER_EVENTS, uid, now)
