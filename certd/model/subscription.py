"""Subscriptions: who is told of events, and how far they were."""

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from certd.model.event import Event, EventType
from certd.model.names import SubscriptionName

ANYTHING: Final = "*"
"""The end of a type that stands for whatever follows."""
MOST_OF_A_TENANT: Final = 100
"""Subscriptions that a tenant may have."""

EVERY_TYPE: Final = (ANYTHING,)
NOTICES: Final = (
    EventType.MANAGED_CERTIFICATE_EXPIRING.value,
    EventType.MANAGED_CERTIFICATE_EXPIRED.value,
    EventType.MANAGED_CERTIFICATE_RENEWAL_BLOCKED.value,
    EventType.DEPLOYMENT_LATE.value,
    EventType.AUTHORITY_EXPIRING.value,
    EventType.AUTHORITY_EXPIRED.value,
)
"""What people want to be told of: that which needs somebody to do something."""


class SubscriptionState(enum.StrEnum):
    """Whether events are sent. The same names as the proto's."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookTarget:
    """A URL to which events are posted."""

    url: str = field(repr=False)
    """https; its path and its query may hold what nobody else should read, as those of chat services do."""
    trusted_roots: str = field(default="", repr=False)
    """PEM of the roots by which the target is verified; empty: those of the system."""

    @property
    def place(self) -> str:
        """Scheme, host and port, for events and logs."""
        return urlunsplit(urlsplit(self.url)._replace(path="", query="", fragment=""))


@dataclass(frozen=True, slots=True, kw_only=True)
class MailTarget:
    """Addresses to which events are mailed."""

    recipients: tuple[str, ...]

    @property
    def place(self) -> str:
        """The addresses, for events and logs."""
        return ", ".join(self.recipients)


Target = WebhookTarget | MailTarget


def default_event_types(target: Target) -> tuple[str, ...]:
    """Returns what is sent to a target when nobody says what: to people the notices, to programs every event."""
    return NOTICES if isinstance(target, MailTarget) else EVERY_TYPE


def type_fits(wanted: str, event_type: str) -> bool:
    """Returns whether a type of events is the wanted one, or begins as that does when it ends in `*`."""
    return event_type.startswith(wanted[:-1]) if wanted.endswith(ANYTHING) else event_type == wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Events of a tenant that are sent to a webhook or by mail."""

    tenant: str
    subscription_id: str
    uid: str
    """Opaque, never used again."""
    target: Target
    event_types: tuple[str, ...]
    """A type may end in `*`; never empty once it is made."""
    resource: str = ""
    """Only events of this resource and those below it; empty: of the whole tenant."""
    state: SubscriptionState = SubscriptionState.ENABLED
    delivered_seq: int
    """Every event up to this one was delivered, is put back, has failed or does not fit."""
    delivery_time: datetime | None = None
    """When something was last delivered."""
    attempts: int = 0
    """Tries of the target since it last took anything."""
    last_error: str = ""
    """Why the last try failed; empty when it did not."""
    next_attempt_time: datetime | None = None
    """When the target is tried again after a failure."""
    display_name: str = ""
    creator: str
    create_time: datetime
    update_time: datetime
    revision: int = 1
    """Grows with every change that somebody makes, not with what is delivered; the etag is made of it."""

    @property
    def name(self) -> SubscriptionName:
        """Its resource name."""
        return SubscriptionName(self.tenant, self.subscription_id)

    @property
    def etag(self) -> str:
        """Another one for every revision."""
        return f"{self.uid}-{self.revision}"

    def fits(self, event: Event) -> bool:
        """Returns whether an event is to be sent: of its tenant, type and resource, and no failure to send to it."""
        if event.tenant != self.tenant:
            return False
        if event.type is EventType.DELIVERY_FAILED and event.resource == str(self.name):
            return False
        if self.resource and event.resource != self.resource and not event.resource.startswith(f"{self.resource}/"):
            return False
        wanted = self.event_types or default_event_types(self.target)
        return any(type_fits(each, event.type.value) for each in wanted)
