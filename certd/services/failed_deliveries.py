"""Failed deliveries: what a subscription's target never took, read and tried anew by people."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from certd.clock import Clock
from certd.errors import field_invalid
from certd.model.access import Caller, Permission
from certd.model.delivery import Delivery
from certd.model.event import EventType, NumberedEvent
from certd.model.job import JobKind
from certd.model.names import SubscriptionName, TenantName
from certd.services.access import Access
from certd.services.paging import Page, PageRequest, page_of
from certd.services.subscription_plan import event_of
from certd.services.subscriptions import existing_subscription
from certd.store import deliveries, events, jobs
from certd.store.store import Store, Transaction

_DIGITS: Final = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedDelivery:
    """A delivery that was given up, with what was not delivered."""

    delivery: Delivery
    event: NumberedEvent


class FailedDeliveries:
    """The use cases of failed deliveries."""

    def __init__(self, *, store: Store, clock: Clock, access: Access, wake_scheduler: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._wake_scheduler = wake_scheduler

    def page(self, caller: Caller, parent: SubscriptionName, request: PageRequest) -> Page[FailedDelivery]:
        """Returns a page of what could not be delivered, the oldest first. Raises SUBSCRIPTION_NOT_FOUND.

        It shows events, so it needs the permission to read these as well.
        """
        self._access.require(caller, Permission.SUBSCRIPTION_READ, str(parent))
        self._access.require(caller, Permission.EVENT_READ, str(TenantName(parent.tenant)))
        with self._store.read("failed-deliveries.page") as tx:
            uid = existing_subscription(tx, parent).uid
            # Another subscription of the same name has other ones.
            query = f"failedDeliveries {uid}"
            after = request.after(query)
            after_seq = 0 if after is None else _seq(after[0])
            found = deliveries.failed_page(tx, uid, after_seq=after_seq, limit=request.size + 1)
            with_events = [_with_event(tx, one) for one in found]
        return page_of(with_events, request, query, key=lambda one: [str(one.delivery.seq)])

    def retry(self, caller: Caller, name: SubscriptionName, seqs: Sequence[int]) -> int:
        """Has failed deliveries tried anew, these or all; returns how many there were.

        Raises SUBSCRIPTION_NOT_FOUND.
        """
        self._access.require(caller, Permission.SUBSCRIPTION_WRITE, str(name))
        now = self._clock.now()

        def retry(tx: Transaction) -> int:
            found = existing_subscription(tx, name)
            retried = deliveries.retry(tx, found.uid, sorted(set(seqs)) or None, now)
            if retried:
                details = {"retried_count": str(retried)}
                tx.event(event_of(EventType.SUBSCRIPTION_UPDATED, found, caller.principal, now, details))
                jobs.hasten(tx, JobKind.DELIVER_EVENTS, found.uid, now)
            return retried

        retried = self._store.write("failed-deliveries.retry", retry)
        self._wake_scheduler()
        return retried


def _with_event(tx: Transaction, delivery: Delivery) -> FailedDelivery:
    (event,) = events.page(tx, after_seq=delivery.seq - 1, limit=1)
    return FailedDelivery(delivery=delivery, event=event)


def _seq(text: str) -> int:
    """Returns the number of a page token."""
    if not text.isdigit() or len(text) > _DIGITS:
        raise field_invalid("page_token", "is not a token that this server gave")
    return int(text)
