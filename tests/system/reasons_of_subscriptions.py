"""How the reasons of subscriptions are raised."""

from typing import Final

from certd.errors import Reason
from certd.v1.event_service_pb2 import CreateSubscriptionRequest, GetSubscriptionRequest
from certd.v1.subscription_pb2 import Subscription, Webhook
from tests.system.reason_server import TENANT, Raised, Server, Told

_PUBLIC: Final = "https://9.9.9.9/"
"""An address that may be dialled; nobody does, for the subscription is disabled."""


def _subscription(url: str, subscription_id: str = "twice") -> CreateSubscriptionRequest:
    wanted = Subscription(webhook=Webhook(url=url), state=Subscription.DISABLED)
    return CreateSubscriptionRequest(parent=TENANT, subscription_id=subscription_id, subscription=wanted)


def _subscribed_twice(server: Server) -> Told:
    server.ask(_subscription(_PUBLIC))
    return server.refused(_subscription(_PUBLIC))


RAISED_OF_SUBSCRIPTIONS: Final = {
    Reason.SUBSCRIPTION_NOT_FOUND: Raised(
        by=lambda it: it.refused(GetSubscriptionRequest(name=f"{TENANT}/subscriptions/none")), remedy="exist"
    ),
    Reason.SUBSCRIPTION_EXISTS: Raised(by=_subscribed_twice, remedy="choose another subscription_id"),
    Reason.TARGET_NOT_ALLOWED: Raised(
        by=lambda it: it.refused(_subscription("https://10.1.2.3/", "private")), remedy="notify.allowed_networks"
    ),
}
