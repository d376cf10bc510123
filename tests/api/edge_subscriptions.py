"""Subscriptions behind the edge that do as they are told."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from certd.model.access import Caller
from certd.model.delivery import Delivery, DeliveryState
from certd.model.event import Event, EventType, NumberedEvent
from certd.model.names import SubscriptionName, TenantName
from certd.model.subscription import MailTarget, Subscription, SubscriptionState, WebhookTarget
from certd.services.failed_deliveries import FailedDeliveries, FailedDelivery
from certd.services.idempotency import RequestKey
from certd.services.paging import Page, PageRequest
from certd.services.subscription_plan import NewSubscription, SubscriptionChange, SubscriptionView
from certd.services.subscriptions import MadeSubscription, RotatedSecret, Subscriptions
from tests.api.edge_profiles import Takes

MADE = datetime(2030, 1, 2, tzinfo=UTC)
HOOK = Subscription(
    tenant="default",
    subscription_id="hook",
    uid="0123",
    target=WebhookTarget(url="https://hooks.example.com/?token=t", trusted_roots="PEM"),
    event_types=("certificate.*",),
    resource="tenants/default/authorities/ca",
    state=SubscriptionState.DISABLED,
    delivered_seq=17,
    delivery_time=MADE + timedelta(hours=1),
    attempts=2,
    last_error="the target answers 503",
    next_attempt_time=MADE + timedelta(hours=2),
    display_name="On call",
    creator="spiffe://certd.test/identities/alice",
    create_time=MADE,
    update_time=MADE + timedelta(minutes=1),
    revision=3,
)
MAIL = replace(
    HOOK,
    subscription_id="mail",
    target=MailTarget(recipients=("oncall@example.com",)),
    state=SubscriptionState.ENABLED,
    delivery_time=None,
    next_attempt_time=None,
    last_error="",
)
FAILED = FailedDelivery(
    delivery=Delivery(
        subscription_uid="0123",
        seq=7,
        resource="tenants/default/authorities/ca",
        state=DeliveryState.FAILED,
        attempts=12,
        error="the target answers 410",
        due_time=None,
        fail_time=MADE,
    ),
    event=NumberedEvent(
        seq=7,
        event=Event(
            time=MADE,
            type=EventType.CERTIFICATE_ISSUED,
            tenant="default",
            principal="certd",
            resource="tenants/default/authorities/ca",
        ),
        chain_hash=b"h" * 32,
    ),
)


class FakeSubscriptions(Subscriptions):
    def __init__(self, told: Takes) -> None:
        self._told = told

    def create(self, caller: Caller, new: NewSubscription, *, validate_only: bool) -> MadeSubscription:
        self._told.take(caller, new, validate_only)
        return MadeSubscription(view=SubscriptionView(subscription=HOOK), secret="" if validate_only else "whsec_AAAA")

    def get(self, caller: Caller, name: SubscriptionName) -> SubscriptionView:
        self._told.take(caller, name)
        return SubscriptionView(subscription=HOOK, failed_delivery_count=5)

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[SubscriptionView]:
        self._told.take(caller, parent, request)
        return Page((SubscriptionView(subscription=HOOK), SubscriptionView(subscription=MAIL)), "next")

    def update(
        self, caller: Caller, change: SubscriptionChange, *, key: RequestKey | None, validate_only: bool
    ) -> SubscriptionView:
        self._told.take(caller, change, key, validate_only)
        return SubscriptionView(subscription=HOOK)

    def delete(self, caller: Caller, name: SubscriptionName, *, etag: str, key: RequestKey | None) -> None:
        self._told.take(caller, name, etag, key)

    def rotate_secret(self, caller: Caller, name: SubscriptionName) -> RotatedSecret:
        self._told.take(caller, name)
        return RotatedSecret(secret="whsec_BBBB", old_expire_time=MADE)

    def test(self, caller: Caller, name: SubscriptionName) -> str:
        self._told.take(caller, name)
        return "" if name.subscription == "hook" else "the target does not answer in time"


class FakeFailedDeliveries(FailedDeliveries):
    def __init__(self, told: Takes) -> None:
        self._told = told

    def page(self, caller: Caller, parent: SubscriptionName, request: PageRequest) -> Page[FailedDelivery]:
        self._told.take(caller, parent, request)
        return Page((FAILED,), "next")

    def retry(self, caller: Caller, name: SubscriptionName, seqs: Sequence[int]) -> int:
        self._told.take(caller, name, seqs)
        return 4
