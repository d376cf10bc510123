"""What callers say of subscriptions, and what is told of them in events."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from certd.errors import CertdError, Reason, field_invalid
from certd.model.event import Event, EventType
from certd.model.names import SubscriptionName
from certd.model.subscription import (
    MailTarget,
    Subscription,
    SubscriptionState,
    Target,
    WebhookTarget,
    default_event_types,
)

URL: Final = "webhook.url"
TRUSTED_ROOTS: Final = "webhook.trusted_roots"
RECIPIENTS: Final = "mail.recipients"
EVENT_TYPES: Final = "event_types"
RESOURCE: Final = "resource"
STATE: Final = "state"
DISPLAY_NAME: Final = "display_name"

OF_WEBHOOKS: Final = frozenset({URL, TRUSTED_ROOTS})
OF_MAIL: Final = frozenset({RECIPIENTS})
OF_BOTH: Final = frozenset({EVENT_TYPES, RESOURCE, STATE, DISPLAY_NAME})
CHANGEABLE: Final = OF_WEBHOOKS | OF_MAIL | OF_BOTH
"""Paths of a mask."""
WHO_READS_WHAT: Final = CHANGEABLE - {STATE, DISPLAY_NAME}
"""Whoever decides these could have every event of the tenant sent to themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSubscription:
    """What a caller asks for."""

    name: SubscriptionName
    target: Target
    event_types: tuple[str, ...] = ()
    """Empty: the default of the target."""
    resource: str = ""
    state: SubscriptionState = SubscriptionState.ENABLED
    display_name: str = ""
    after_seq: int = 0
    """Number of the event after which it begins; 0: the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionChange:
    """What a caller wants changed."""

    name: SubscriptionName
    fields: frozenset[str]
    """Of CHANGEABLE; the others are left alone."""
    url: str = field(default="", repr=False)
    trusted_roots: str = field(default="", repr=False)
    recipients: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()
    resource: str = ""
    state: SubscriptionState = SubscriptionState.ENABLED
    display_name: str = ""
    etag: str = ""
    """That of the revision that the caller has read; empty when that does not matter."""

    def applied(self, found: Subscription) -> Subscription:
        """Returns a subscription as it is wanted; raises FIELD_INVALID for fields of the other kind of target."""
        target = self._target(found)
        planned = replace(found, target=target)
        if EVENT_TYPES in self.fields:
            planned = replace(planned, event_types=self.event_types or default_event_types(target))
        if RESOURCE in self.fields:
            planned = replace(planned, resource=self.resource)
        if STATE in self.fields:
            planned = replace(planned, state=self.state)
        if DISPLAY_NAME in self.fields:
            planned = replace(planned, display_name=self.display_name)
        return planned

    def _target(self, found: Subscription) -> Target:
        target = found.target
        match target:
            case WebhookTarget():
                self._refuse(OF_MAIL, "sends to a webhook, and its kind does not change; make another one for mail")
                url = self.url if URL in self.fields else target.url
                roots = self.trusted_roots if TRUSTED_ROOTS in self.fields else target.trusted_roots
                return WebhookTarget(url=url, trusted_roots=roots)
            case MailTarget():
                self._refuse(OF_WEBHOOKS, "sends mail, and its kind does not change; make another one for a webhook")
                return MailTarget(recipients=self.recipients) if RECIPIENTS in self.fields else target

    def _refuse(self, of_the_other: frozenset[str], why: str) -> None:
        wrong = sorted(self.fields & of_the_other)
        if wrong:
            raise field_invalid(f"subscription.{wrong[0]}", f"{self.name} {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionView:
    """A subscription as a caller sees it."""

    subscription: Subscription
    failed_delivery_count: int = 0
    """Failed deliveries that are kept; `model.delivery.MOST_FAILED` stands for that many or more."""


def differences(before: Subscription, after: Subscription) -> dict[str, str]:
    """Returns what is told of a change: each field that differs, with what it is now."""
    old, new = told(before), told(after)
    found = {name: value for name, value in new.items() if old.get(name) != value}
    if isinstance(before.target, WebhookTarget) and isinstance(after.target, WebhookTarget):
        if before.target.url != after.target.url:
            # Also when it differs in its query alone, which is not told.
            found["target"] = after.target.place
        if before.target.trusted_roots != after.target.trusted_roots:
            found["trusted_roots"] = "changed" if after.target.trusted_roots else "removed"
    return found


def told(subscription: Subscription) -> dict[str, str]:
    """Returns what events tell of a subscription; never the query of a URL, which may hold what grants access."""
    return {
        "target": subscription.target.place,
        EVENT_TYPES: ",".join(subscription.event_types),
        RESOURCE: subscription.resource,
        STATE: subscription.state.value,
        DISPLAY_NAME: subscription.display_name,
    }


def event_of(
    type_: EventType, subscription: Subscription, principal: str, now: datetime, details: dict[str, str]
) -> Event:
    """Returns the event of what somebody did to a subscription."""
    return Event(
        time=now,
        type=type_,
        tenant=subscription.tenant,
        principal=principal,
        resource=str(subscription.name),
        details=details,
    )


def exists(name: SubscriptionName) -> CertdError:
    """Returns the error of an id that is taken."""
    return CertdError(
        Reason.SUBSCRIPTION_EXISTS,
        f"{name} exists already: choose another subscription_id, or change it with UpdateSubscription. If you made it"
        " just now and did not receive its secret, RotateSubscriptionSecret gives a new one",
        resource=str(name),
    )


def etag_mismatch(found: Subscription) -> CertdError:
    """Returns the error of an etag that is not the current one."""
    return CertdError(
        Reason.ETAG_MISMATCH,
        f"{found.name} has changed since it was read; read it again and repeat the change with its etag",
        metadata={"etag": found.etag},
        resource=str(found.name),
    )
