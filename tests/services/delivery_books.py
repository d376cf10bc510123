"""Deliveries on a real store, with a fake clock, a target that does what a test says, and no threads."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from certd.model.delivery import Answer, Delivery, Outcome
from certd.model.event import Event, EventType, NumberedEvent
from certd.model.job import JobKind
from certd.model.subscription import Subscription, WebhookTarget
from certd.services.courier import Courier, Send
from certd.services.deliveries import Deliveries
from certd.services.delivery_wakes import DeliveryWakes
from certd.store import deliveries, events, jobs, subscriptions
from certd.store.store import Store, Transaction
from tests.databases import migrated
from tests.fakes import FakeClock
from tests.services.conftest import CrashError, Steps
from tests.waiting import eventually

UID = "s-1"
TAKEN = Answer(outcome=Outcome.TAKEN)
REFUSED = Answer(outcome=Outcome.REFUSED, error="no")
AWAY = Answer(outcome=Outcome.AWAY, error="away")
STUMBLES = Answer(outcome=Outcome.AWAY, error="a defect", perhaps_the_event=True)


@dataclass
class FakeTarget(Courier):
    """Takes everything, unless a test says otherwise."""

    answer: Callable[[NumberedEvent], Answer] = lambda _event: TAKEN
    tried: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    message_ids: list[str] = field(default_factory=list)

    @contextmanager
    def session(self) -> Iterator[Send]:
        yield self._take

    def _take(self, subscription: Subscription, event: NumberedEvent, message_id: str, now: datetime) -> Answer:
        del now
        assert isinstance(subscription.target, WebhookTarget)
        answer = self.answer(event)
        self.tried.append(event.seq)
        self.message_ids.append(message_id)
        if answer.outcome is Outcome.TAKEN:
            self.taken.append(event.seq)
            self.urls.append(subscription.target.url)
        return answer


@dataclass(kw_only=True)
class Books:
    """One subscription, and short ways to use it."""

    store: Store
    clock: FakeClock
    steps: Steps = field(default_factory=Steps)
    target: FakeTarget = field(default_factory=FakeTarget)
    deliveries: Deliveries = field(init=False)
    wakes: DeliveryWakes = field(init=False)

    def __post_init__(self) -> None:
        self.wakes = DeliveryWakes(store=self.store, clock=self.clock, wake_scheduler=lambda: None)
        self.deliveries = Deliveries(
            store=self.store,
            clock=self.clock,
            courier=self.target,
            wake_scheduler=lambda: None,
            step=self.steps,
        )

    def subscribe(self, uid: str = UID, **changes: Any) -> Subscription:
        now = self.clock.now()
        wanted: dict[str, Any] = {
            "tenant": "default",
            "subscription_id": uid,
            "uid": uid,
            "target": WebhookTarget(url="https://hook.example/"),
            "event_types": ("managed-certificate.*", "subscription.*"),
            "delivered_seq": self.newest(),
            "creator": "certd",
            "create_time": now,
            "update_time": now,
        }
        made = Subscription(**(wanted | changes))
        assert self.store.write("test", lambda tx: subscriptions.insert(tx, made))
        return made

    def emit(self, *resources: str, type_: EventType = EventType.MANAGED_CERTIFICATE_RENEWED) -> list[int]:
        """Records an event of each resource; returns their numbers."""
        before = self.newest()

        def work(tx: Transaction) -> None:
            for resource in resources:
                tx.event(
                    Event(
                        time=self.clock.now(),
                        type=type_,
                        tenant="default",
                        principal="certd",
                        resource=f"tenants/default/managedCertificates/{resource}",
                    )
                )

        self.store.write("test", work)
        # On PostgreSQL they are numbered soon after.
        eventually(lambda: self.newest() == before + len(resources))
        return list(range(before + 1, before + len(resources) + 1))

    def newest(self) -> int:
        with self.store.read("test") as tx:
            return events.head(tx).seq

    def subscription(self, uid: str = UID) -> Subscription:
        with self.store.read("test") as tx:
            found = subscriptions.get_by_uid(tx, uid)
        assert found is not None
        return found

    def change(self, uid: str = UID, **changes: Any) -> None:
        def work(tx: Transaction) -> None:
            found = subscriptions.get_by_uid(tx, uid)
            assert found is not None
            assert subscriptions.update(tx, replace(found, **changes), found.revision)
            jobs.hasten(tx, JobKind.DELIVER_EVENTS, uid, self.clock.now())

        self.store.write("test", work)

    def waiting(self) -> list[Delivery]:
        with self.store.read("test") as tx:
            return deliveries.waiting(tx, UID)

    def failed(self) -> list[Delivery]:
        with self.store.read("test") as tx:
            return deliveries.failed_page(tx, UID, after_seq=0, limit=2000)

    def due(self, uid: str = UID) -> datetime | None:
        with self.store.read("test") as tx:
            return jobs.due_time(tx, JobKind.DELIVER_EVENTS, uid)

    def events_of(self, type_: EventType) -> list[Event]:
        with self.store.read("test") as tx:
            return [one.event for one in events.page(tx, after_seq=0, limit=10_000) if one.event.type == type_]

    def go(self, uid: str = UID) -> None:
        """Wakes who wants something, and does the job while it is due."""
        for _ in range(1000):
            self.wakes.look()
            due = self.due(uid)
            if due is None or due > self.clock.now():
                return
            self.deliveries.deliver(uid)
        raise AssertionError("it does not come to an end")

    def go_until_nothing_is_due(self, *, most: timedelta = timedelta(days=30), patience: int = 10_000) -> None:
        """Lets time pass until the job has ended; a daemon that died begins again."""
        end = self.clock.now() + most
        for _ in range(patience):
            try:
                self.go()
            except CrashError:
                continue
            due = self.due()
            if due is None:
                return
            assert due <= end, "it takes too long"
            self.clock.advance(max(due - self.clock.now(), timedelta()))
        raise AssertionError("it does not come to an end")


@contextmanager
def books_on(url: str) -> Iterator[Books]:
    """Books on an empty database."""
    clock = FakeClock()
    migrated(url)
    store = Store.open(url, clock=clock)
    try:
        from tests.store.samples import add_tenant

        add_tenant(store)
        yield Books(store=store, clock=clock)
    finally:
        store.close()


def firsts(seqs: list[int]) -> list[int]:
    """Returns each number once, where it came first."""
    return list(dict.fromkeys(seqs))


def answers(script: dict[int, list[Answer]]) -> Callable[[NumberedEvent], Answer]:
    """Returns what answers an event by its script, and takes it after that."""
    tries: Counter[int] = Counter()

    def answer(event: NumberedEvent) -> Answer:
        tries[event.seq] += 1
        planned = script.get(event.seq, [])
        return planned[tries[event.seq] - 1] if tries[event.seq] <= len(planned) else TAKEN

    return answer


def repeatedly(answer: Answer, times: int) -> list[Answer]:
    return [answer] * times
