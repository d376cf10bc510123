"""Subscriptions in a world, with a target that answers what a test says."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Role
from certd.model.event import Event, EventType
from certd.model.names import SubscriptionName, TenantName
from certd.model.subscription import MailTarget, Subscription, WebhookTarget
from certd.services.failed_deliveries import FailedDeliveries
from certd.services.subscription_plan import NewSubscription, SubscriptionChange, SubscriptionView
from certd.services.subscription_secrets import SubscriptionSecrets
from certd.services.subscriptions import MadeSubscription, Subscriptions
from certd.services.wrapping_keys import WrappingKeys
from certd.store import events, notification_schema, schema, subscriptions
from certd.store.store import Transaction
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN, World, configuration, running_world
from tests.services.consumers import give
from tests.waiting import eventually

URL = "https://hooks.example.com:8443/certd?token=t0ken"
HOOK = WebhookTarget(url=URL)
MAIL = MailTarget(recipients=("oncall@example.com",))
DEFAULT = TenantName("default")
_table = notification_schema.subscriptions
_WRITER = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/writer", serial="0a")
_AUDITOR = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/auditor", serial="0b")


@dataclass
class Target:
    """Stands for what a subscription is sent to, and for the rules of where that may be."""

    answer: str = ""
    forbidden: set[str] = field(default_factory=set)
    tested: list[str] = field(default_factory=list)
    hold: threading.Event | None = None

    def check(self, url: str) -> None:
        if url in self.forbidden:
            raise CertdError(Reason.TARGET_NOT_ALLOWED, "the host is of this machine")

    def test(self, subscription: Subscription, _now: datetime) -> str:
        self.tested.append(str(subscription.name))
        if self.hold is not None:
            assert self.hold.wait(20)
        return self.answer


@dataclass(kw_only=True)
class Books:
    """A world with its subscriptions."""

    world: World
    target: Target
    secrets: SubscriptionSecrets
    subscriptions: Subscriptions
    failed: FailedDeliveries
    since: int = 0
    """Number of the last event of before."""

    @property
    def writer(self) -> Caller:
        """Who may change subscriptions, and not read events."""
        return _WRITER

    @property
    def auditor(self) -> Caller:
        """Who may read both, and change nothing."""
        return _AUDITOR

    def make(self, id_: str = "hook", *, caller: Caller = ADMINISTRATOR, **changes: Any) -> MadeSubscription:
        wanted: dict[str, Any] = {"name": name_of(id_), "target": HOOK}
        validate_only = changes.pop("validate_only", False)
        return self.subscriptions.create(caller, NewSubscription(**(wanted | changes)), validate_only=validate_only)

    def get(self, id_: str = "hook") -> SubscriptionView:
        return self.subscriptions.get(ADMINISTRATOR, name_of(id_))

    def change(self, id_: str = "hook", *, caller: Caller = ADMINISTRATOR, **changes: Any) -> SubscriptionView:
        key, validate_only = changes.pop("key", None), changes.pop("validate_only", False)
        change = SubscriptionChange(name=name_of(id_), **changes)
        return self.subscriptions.update(caller, change, key=key, validate_only=validate_only)

    def told(self, type_: EventType) -> list[Event]:
        return [event for event in self.events() if event.type is type_]

    def events(self) -> list[Event]:
        with self.world.core.store.read("test.events") as tx:
            return [each.event for each in events.page(tx, after_seq=self.since, limit=10_000)]

    def jobs(self) -> list[str]:
        with self.world.core.store.read("test.jobs") as tx:
            rows = tx.execute(select(schema.jobs.c.subject).where(schema.jobs.c.kind == "deliver-events"))
            return [row.subject for row in rows]

    def row(self, id_: str = "hook") -> Subscription:
        with self.world.core.store.read("test.row") as tx:
            found = subscriptions.get(tx, name_of(id_))
        assert found is not None
        return found


def name_of(id_: str, tenant: str = "default") -> SubscriptionName:
    return SubscriptionName(tenant, id_)


def books_of(world: World, *, sends_mail: bool = True) -> Books:
    """Returns the subscriptions of a world, as a daemon has them, but for the target."""
    core, target = world.core, Target()
    secrets = SubscriptionSecrets(
        store=core.store,
        token=core.token,
        clock=world.clock,
        wrapping_keys=WrappingKeys(store=core.store, token=core.token, clock=world.clock),
    )
    return Books(
        world=world,
        target=target,
        secrets=secrets,
        subscriptions=Subscriptions(
            store=core.store,
            clock=world.clock,
            access=core.access,
            secrets=secrets,
            webhooks=target,
            tester=target,
            sends_mail=sends_mail,
            wake_scheduler=lambda: None,
        ),
        failed=FailedDeliveries(store=core.store, clock=world.clock, access=core.access, wake_scheduler=lambda: None),
    )


@contextmanager
def running_books(folder: Path, token: TokenSettings, *, database_url: str = "") -> Iterator[Books]:
    """Runs a core whose subscriptions nobody sends, so that what waits to be sent is there to be looked at."""
    with ExitStack() as stack:
        config = configuration(folder, token, database_url=database_url)
        world = stack.enter_context(running_world(config, FakeClock()))
        world.core.scheduler.stop()
        send_nothing(world)
        give(world, _WRITER.principal, Role.ADMINISTRATOR)
        give(world, _AUDITOR.principal, Role.AUDITOR)
        yield books_of(world)


def send_nothing(world: World) -> None:
    """Ends deliveries, so that nothing is sent to targets that are nobody's."""
    world.core.delivering.wakes.stop()
    world.core.delivering.scheduler.stop()


def cleared(books: Books) -> Books:
    """Returns the books without the subscriptions and events of before, for a test that follows another."""
    store = books.world.core.store

    def clear(tx: Transaction) -> None:
        for uid in tx.execute(select(_table.c.uid)).scalars().all():
            subscriptions.delete(tx, uid)
        tx.execute(delete(schema.jobs).where(schema.jobs.c.kind == "deliver-events"))

    def last_seq() -> int | None:
        """Returns the number of the last event, once all have one."""
        with store.read("test.numbered") as tx:
            waiting = tx.execute(select(schema.unnumbered_events.c.id).limit(1)).first()
            return None if waiting else events.head(tx).seq

    store.write("test.clear", clear)
    since = eventually(last_seq)
    assert since is not None
    return replace(books_of(books.world), since=since)


def refused(call: Callable[[], object]) -> CertdError:
    with pytest.raises(CertdError) as error:
        call()
    return error.value
