"""Takes one event to the target of one subscription."""

from datetime import datetime
from typing import Protocol

from certd.metrics import DELIVERIES
from certd.model.delivery import Answer, Outcome
from certd.model.event import NumberedEvent
from certd.model.subscription import MailTarget, Subscription, WebhookTarget
from certd.outbound.message import Message


class Webhooks(Protocol):
    """Posts events."""

    def post(self, target: WebhookTarget, message: Message, now: datetime) -> Answer:
        """Posts one; returns what became of it."""


class Mail(Protocol):
    """Mails events."""

    def send(self, target: MailTarget, message: Message, subscription: str, now: datetime) -> Answer:
        """Mails one; returns what became of it."""


class Secrets(Protocol):
    """Knows by what webhooks are signed."""

    def of(self, subscription_uid: str) -> tuple[bytes, ...]:
        """Returns the secrets of a subscription, the newest first; raises TOKEN_UNAVAILABLE."""


class Courier:
    """Sends, and counts what became of it."""

    def __init__(self, *, webhooks: Webhooks, mail: Mail, secrets: Secrets) -> None:
        self._webhooks = webhooks
        self._mail = mail
        self._secrets = secrets

    def send(self, subscription: Subscription, event: NumberedEvent, message_id: str, now: datetime) -> Answer:
        """Sends an event; returns what became of it. Raises what is our own failure: TOKEN_UNAVAILABLE and kin."""
        match subscription.target:
            case WebhookTarget() as target:
                secrets = self._secrets.of(subscription.uid)
                if not secrets:
                    # It was deleted at this moment, and unsigned nothing goes out.
                    return Answer(outcome=Outcome.AWAY, error="the subscription has no secret")
                kind, message = "webhook", Message(message_id=message_id, event=event, secrets=secrets)
                answer = self._webhooks.post(target, message, now)
            case MailTarget() as target:
                kind, message = "mail", Message(message_id=message_id, event=event)
                answer = self._mail.send(target, message, str(subscription.name), now)
        DELIVERIES.labels(kind, answer.outcome.value).inc()
        return answer
