"""The part of the composition root that makes what tells others of events: subscriptions, and who delivers to them."""

from collections.abc import Callable
from dataclasses import dataclass

from certd.clock import Clock
from certd.config_notify import Notify, mail_server
from certd.model.job import JobKind
from certd.outbound.addresses import Reach
from certd.outbound.mail import Mail
from certd.outbound.webhook import Webhooks
from certd.scheduler import Scheduler, Waker
from certd.services.access import Access
from certd.services.courier import Courier
from certd.services.deliveries import Deliveries
from certd.services.delivery_wakes import DeliveryWakes
from certd.services.failed_deliveries import FailedDeliveries
from certd.services.steps import StepHook
from certd.services.subscription_secrets import SubscriptionSecrets
from certd.services.subscriptions import Subscriptions
from certd.services.wrapping_keys import WrappingKeys
from certd.store.store import Store
from certd.token.client import TokenClient

_AT_ONCE = 64
"""Subscriptions whose targets are waited for; one tenant has a fourth of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivering:
    """What delivers events."""

    subscriptions: Subscriptions
    failed_deliveries: FailedDeliveries
    secrets: SubscriptionSecrets
    deliveries: Deliveries
    wakes: DeliveryWakes
    scheduler: Scheduler
    """Of its own, because it waits for strangers."""

    def start(self) -> None:
        """Starts to deliver."""
        self.scheduler.start()
        self.wakes.start()

    def stop(self) -> None:
        """Ends it; what is under way is not waited for longer than a stop may last."""
        self.wakes.stop()
        self.deliveries.stop()
        self.scheduler.stop()


def delivering(
    notify: Notify,
    *,
    store: Store,
    token: TokenClient,
    clock: Clock,
    access: Access,
    wrapping_keys: WrappingKeys,
    epoch: Callable[[], int],
    step: StepHook,
) -> Delivering:
    """Constructs it."""
    secrets = SubscriptionSecrets(store=store, token=token, clock=clock, wrapping_keys=wrapping_keys)
    webhooks = Webhooks(Reach(networks=notify.allowed_networks))
    waker = Waker()
    deliveries = Deliveries(
        store=store,
        clock=clock,
        courier=Courier(webhooks=webhooks, mail=Mail(mail_server(notify)), secrets=secrets),
        wake_scheduler=waker,
        step=step,
    )
    return Delivering(
        subscriptions=Subscriptions(
            store=store,
            clock=clock,
            access=access,
            secrets=secrets,
            webhooks=webhooks,
            tester=deliveries,
            sends_mail=notify.smtp is not None,
            wake_scheduler=waker,
        ),
        failed_deliveries=FailedDeliveries(store=store, clock=clock, access=access, wake_scheduler=waker),
        secrets=secrets,
        deliveries=deliveries,
        wakes=DeliveryWakes(store=store, clock=clock, wake_scheduler=waker),
        scheduler=Scheduler(
            store=store,
            clock=clock,
            runs={JobKind.DELIVER_EVENTS: deliveries.deliver},
            together={},
            blocked={JobKind.DELIVER_EVENTS: deliveries.blocked},
            epoch=epoch,
            beats=(),
            waker=waker,
            workers=_AT_ONCE,
            apart=True,
            step=step,
        ),
    )
