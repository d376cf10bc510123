"""One go at the events of a subscription: what waits for its next try first, then what is new.

What each answer means:

* Taken: `delivered_seq` moves on, or the row of what waited goes. Each is a commit of its own, so a kill between the
  answer and the commit repeats that one event and no other.
* Refused: the event becomes a row that is tried again by itself; events of other resources go on, later ones of the
  same resource become rows behind it.
* Away: the subscription waits as a whole, and `delivered_seq` stands. A target that perhaps stumbles over one event is
  handed another after some tries, and that one becomes a row: else the first event that a receiver has a defect for
  would hold up all others for days. When the other is not taken either, the target is away.

What is given up becomes a failed row.
"""

import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from certd.clock import Clock
from certd.metrics import FAILED_DELIVERIES
from certd.model.delivery import (
    LONGEST,
    LONGEST_BACKOFF,
    MOST_ATTEMPTS,
    MOST_STUMBLES,
    MOST_WAITING,
    Answer,
    Delivery,
    DeliveryState,
    Outcome,
    backoff,
)
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType, NumberedEvent
from certd.model.job import Job, JobKind
from certd.model.subscription import Subscription
from certd.services.courier import Send
from certd.services.steps import StepHook
from certd.store import deliveries, events, jobs, subscriptions
from certd.store.store import Store, Transaction

LONGEST_RUN: Final = 30.0
"""Seconds after which a run gives its worker to others."""
PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class _Failure:
    """What was given up."""

    seq: int
    error: str


class DeliveryRun:
    """One run of the job of a subscription.

    Args:
        store: where the books are.
        clock: tells the time of each try.
        send: sends.
        stopping: whether the daemon ends.
        step: is called with the name of each step when it is done.
        subscription: as the books had it when the run began.
        waiting: what waits, in order.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        send: Send,
        stopping: Callable[[], bool],
        step: StepHook,
        subscription: Subscription,
        waiting: Sequence[Delivery],
    ) -> None:
        self._store = store
        self._clock = clock
        self._send = send
        self._stopping = stopping
        self._step = step
        self._subscription = subscription
        """As the books have it after our last commit."""
        self._waiting: defaultdict[str, deque[Delivery]] = defaultdict(deque)
        """By resource; the first of each is the one that is tried."""
        for delivery in waiting:
            self._waiting[delivery.resource].append(delivery)
        self._waiting_count = len(waiting)
        self._position = subscription.delivered_seq
        """Up to here everything was looked at."""
        self._began = time.monotonic()
        self._goes_on = True
        self._away = False
        self._has_doubted = False
        """Whether an event was passed because the target perhaps stumbles over it."""
        self._full = False
        self._failures: list[_Failure] = []
        """Those that no event tells of yet."""
        self._told = False

    def run(self) -> None:
        """Delivers, and says in the books when there is something to do next."""
        self._try_waiting()
        self._try_new()
        self._settle()

    def _may_go_on(self, part: float = 1.0) -> bool:
        """Returns whether the run goes on; `part` is how much of its time may have passed."""
        passed = time.monotonic() - self._began
        return self._goes_on and not self._away and passed < part * LONGEST_RUN and not self._stopping()

    def _try_waiting(self) -> None:
        """Tries what is due of that which waits, each resource's first one first."""
        # Not all the time, lest nothing new goes out beside much that is refused slowly.
        while self._may_go_on(0.5):
            now = self._clock.now()
            due = [queue[0] for queue in self._waiting.values() if _is_due(queue[0], now)]
            if not due:
                return
            delivery = min(due, key=lambda one: one.seq)
            with self._store.read("deliveries.event") as tx:
                found = events.page(tx, after_seq=delivery.seq - 1, limit=1)
            self._deliver(found[0], delivery)

    def _try_new(self) -> None:
        """Tries what came after the last event that was looked at, page by page."""
        while self._may_go_on():
            with self._store.read("deliveries.page") as tx:
                page = events.page(tx, after_seq=self._position, limit=PAGE, tenant=self._subscription.tenant)
                newest = events.head(tx).seq
            for numbered in page:
                if not self._subscription.fits(numbered.event):
                    self._position = numbered.seq
                    continue
                if not self._may_go_on():
                    return
                if self._waiting_count >= MOST_WAITING:
                    self._full = True
                    return
                if numbered.event.resource in self._waiting:
                    self._put_behind(numbered)
                else:
                    self._deliver(numbered, None)
            if self._may_go_on() and len(page) < PAGE:
                self._position = max(self._position, newest)
                return

    def _deliver(self, numbered: NumberedEvent, waited: Delivery | None) -> None:
        """Sends an event and records what became of it; `waited` is its row, if it has one."""
        now = self._clock.now()
        subscription = self._subscription
        message_id = f"events/{numbered.seq}:{subscription.uid}"
        answer = self._send(subscription, numbered, message_id, now)
        self._step("deliver.1.answered")
        progressed = replace(
            subscription,
            delivered_seq=subscription.delivered_seq if waited else numbered.seq,
            attempts=0,
            last_error=answer.error,
            next_attempt_time=None,
        )
        match answer.outcome:
            case Outcome.TAKEN:
                self._record(replace(progressed, delivery_time=now), numbered, None, waited=waited, now=now)
            case Outcome.REFUSED:
                attempts = (waited.attempts if waited else 0) + 1
                gives_up = attempts >= MOST_ATTEMPTS or self._is_old(numbered, now)
                row = self._row(numbered, attempts, answer.error, now, gives_up=gives_up)
                self._record(progressed, numbered, row, waited=waited, now=now)
            case Outcome.AWAY:
                self._wait(progressed, numbered, answer, waited=waited, now=now)

    def _wait(
        self,
        progressed: Subscription,
        numbered: NumberedEvent,
        answer: Answer,
        *,
        waited: Delivery | None,
        now: datetime,
    ) -> None:
        """Records that the target is away; an old event is given up, any other stays where it is."""
        attempts = self._subscription.attempts + 1
        if answer.perhaps_the_event and not self._has_doubted and (waited or attempts >= MOST_STUMBLES):
            self._has_doubted = True
            tried = waited.attempts + 1 if waited else attempts
            row = self._row(numbered, tried, answer.error, now, gives_up=self._is_old(numbered, now))
            self._record(replace(progressed, attempts=attempts), numbered, row, waited=waited, now=now)
            return
        self._away = True
        pause = backoff(attempts, random.random())  # noqa: S311  # Jitter is no secret.
        if answer.retry_after is not None:
            pause = max(pause, min(answer.retry_after, LONGEST_BACKOFF))
        waits = replace(progressed, attempts=attempts, next_attempt_time=now + pause)
        if self._is_old(numbered, now):
            tried = (waited.attempts if waited else 0) + attempts
            row = self._row(numbered, tried, answer.error, now, gives_up=True)
            self._record(waits, numbered, row, waited=waited, now=now)
            return
        self._commit(replace(waits, delivered_seq=self._subscription.delivered_seq), lambda _tx: None)

    def _is_old(self, numbered: NumberedEvent, now: datetime) -> bool:
        # What happened before it was made, enabled or changed could not be delivered before that.
        return now - max(numbered.event.time, self._subscription.update_time) > LONGEST

    def _row(self, numbered: NumberedEvent, attempts: int, error: str, now: datetime, *, gives_up: bool) -> Delivery:
        return Delivery(
            subscription_uid=self._subscription.uid,
            seq=numbered.seq,
            resource=numbered.event.resource,
            state=DeliveryState.FAILED if gives_up else DeliveryState.WAITING,
            attempts=attempts,
            error=error,
            due_time=None if gives_up else now + backoff(attempts, random.random()),  # noqa: S311  # As above.
            fail_time=now if gives_up else None,
        )

    def _put_behind(self, numbered: NumberedEvent) -> None:
        """Puts an event behind those of its resource that wait."""
        row = Delivery(
            subscription_uid=self._subscription.uid,
            seq=numbered.seq,
            resource=numbered.event.resource,
            due_time=self._clock.now(),
        )
        self._waiting[row.resource].append(row)
        self._waiting_count += 1
        self._position = numbered.seq
        self._commit(replace(self._subscription, delivered_seq=numbered.seq), lambda tx: deliveries.put(tx, row))

    def _record(
        self,
        progressed: Subscription,
        numbered: NumberedEvent,
        row: Delivery | None,
        *,
        waited: Delivery | None,
        now: datetime,
    ) -> None:
        """Commits that an event was dealt with: it is a row now, or needs none."""
        fails = row is not None and row.state is DeliveryState.FAILED
        if fails:
            FAILED_DELIVERIES.inc()
            # Of the failure to tell of a failure nothing is told: two subscriptions would tell each other for ever.
            if numbered.event.type is not EventType.DELIVERY_FAILED:
                self._failures.append(_Failure(numbered.seq, progressed.last_error))
        tells = bool(self._failures) and not self._told

        def change(tx: Transaction) -> None:
            if row is not None:
                deliveries.put(tx, row)
            elif waited is not None:
                deliveries.remove(tx, waited.subscription_uid, waited.seq)
            if tells:
                tx.event(_failed(progressed, self._failures, now))

        self._forget(waited)
        if row is not None and not fails:
            # Before those that wait behind it.
            self._waiting[row.resource].appendleft(row)
            self._waiting_count += 1
        if waited is None:
            self._position = numbered.seq
        self._commit(progressed, change)
        if tells:
            # The others of this run are told of together, at its end.
            self._failures, self._told = [], True

    def _forget(self, waited: Delivery | None) -> None:
        if waited is not None:
            queue = self._waiting[waited.resource]
            queue.popleft()
            self._waiting_count -= 1
            if not queue:
                del self._waiting[waited.resource]

    def _commit(self, progressed: Subscription, change: Callable[[Transaction], None]) -> None:
        """Commits a change with how far the events were sent; the run ends where that is another's by now."""
        known = self._subscription

        def write(tx: Transaction) -> tuple[int | None, Subscription]:
            revision, recorded = self._advance(tx, progressed)
            if revision is not None and recorded is progressed:
                change(tx)
            return revision, recorded

        revision, recorded = self._store.write("deliveries.advance", write)
        self._step("deliver.2.recorded")
        if revision is not None:
            self._subscription = recorded
        # It was changed, deleted or is sent by another: what was known of it is not so any more.
        self._goes_on = revision == known.revision

    def _advance(self, tx: Transaction, progressed: Subscription) -> tuple[int | None, Subscription]:
        """Records how far the events were sent; returns its revision, None where that is another's by now, and how far.

        What the run passed by was perhaps asked for meanwhile: then it passes nothing, and the next run begins there.
        """
        known = self._subscription
        revision = deliveries.advance(tx, progressed, expected_seq=known.delivered_seq)
        if revision in {None, known.revision} or progressed.delivered_seq == known.delivered_seq:
            return revision, progressed
        current = subscriptions.get_by_uid(tx, known.uid)
        if current is None or (current.event_types, current.resource) == (known.event_types, known.resource):
            return revision, progressed
        stays = replace(progressed, delivered_seq=known.delivered_seq)
        deliveries.advance(tx, stays, expected_seq=progressed.delivered_seq)
        return revision, stays

    def _settle(self) -> None:
        """Records the end of the run, and when the next one is."""
        now = self._clock.now()
        known = self._subscription

        def settle(tx: Transaction) -> None:
            moved, more = self._looked_at(tx)
            revision, moved = self._advance(tx, moved)
            if revision is None:
                if subscriptions.get_by_uid(tx, known.uid) is None:
                    jobs.finish(tx, JobKind.DELIVER_EVENTS, known.uid)
                # Else another sends its events, and says itself when it goes on.
                return
            if self._failures:
                tx.event(_failed(known, self._failures, now))
            if more or revision != known.revision:
                due: datetime | None = now
            elif self._away:
                due = moved.next_attempt_time
            else:
                due = deliveries.next_due(tx, moved.uid)
            if due is None:
                jobs.finish(tx, JobKind.DELIVER_EVENTS, known.uid)
            else:
                jobs.put(tx, Job(kind=JobKind.DELIVER_EVENTS, subject=known.uid, due_time=due))

        self._store.write("deliveries.settle", settle)
        self._step("deliver.3.settled")

    def _looked_at(self, tx: Transaction) -> tuple[Subscription, bool]:
        """Returns how far everything was sent that fits, and whether there is more that could be sent now."""
        known = self._subscription
        moved = replace(known, delivered_seq=max(known.delivered_seq, self._position))
        if self._away or self._full:
            return moved, False
        # What was numbered since we looked last: whoever told of it left it to us.
        page = events.page(tx, after_seq=moved.delivered_seq, limit=PAGE, tenant=known.tenant)
        more = len(page) == PAGE or any(known.fits(numbered.event) for numbered in page)
        return (moved, True) if more else (replace(moved, delivered_seq=events.head(tx).seq), False)


def _is_due(delivery: Delivery, now: datetime) -> bool:
    # What is due later than it can be was put there by a clock that was ahead.
    return delivery.due_time is None or not now < delivery.due_time <= now + LONGEST_BACKOFF


def _failed(subscription: Subscription, failures: Sequence[_Failure], now: datetime) -> Event:
    return Event(
        time=now,
        type=EventType.DELIVERY_FAILED,
        tenant=subscription.tenant,
        principal=SYSTEM_PRINCIPAL,
        resource=str(subscription.name),
        details={
            "count": str(len(failures)),
            "first_event": f"events/{failures[0].seq}",
            "last_event": f"events/{failures[-1].seq}",
            "message": failures[-1].error,
        },
    )
