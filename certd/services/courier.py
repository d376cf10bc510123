"""Takes one event to the target of one subscription."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import partial
from typing import Protocol

from certd.metrics import DELIVERIES
from certd.model.delivery import Answer, Outcome
from certd.model.event import NumberedEvent
from certd.model.subscription import MailTarget, Subscription, WebhookTarget
from certd.outbound.message import Message


class PostsWebhooks(Protocol):
    """Posts events, one after the other."""

    def post(self, target: WebhookTarget, message: Message, now: datetime) -> Answer:
        """Posts one; returns what became of it."""


class Webhooks(Protocol):
    """Knows who posts events."""

    def session(self) -> AbstractContextManager[PostsWebhooks]:
        """Returns what posts while it is open."""


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

    @contextmanager
    def session(self) -> Iterator["Send"]:
        """Yields what sends one event after the other."""
        with self._webhooks.session() as webhooks:
            yield partial(self._send, webhooks)

    def _send(
        self,
        webhooks: PostsWebhooks,
        subscription: Subscription,
        event: NumberedEvent,
        message_id: str,
        now: datetime,
    ) -> Answer:
        match subscription.target:
            case WebhookTarget() as target:
                secrets = self._secrets.of(subscription.uid)
                if not secrets:
                    # It was deleted at this moment, and unsigned nothing goes out.
                    return Answer(outcome=Outcome.AWAY, error="the subscription has no secret")
                kind, message = "webhook", Message(message_id=message_id, event=event, secrets=secrets)
                answer = webhooks.post(target, message, now)
            case MailTarget() as target:
                kind, message = "mail", Message(message_id=message_id, event=event)
                answer = self._mail.send(target, message, str(subscription.name), now)
        DELIVERIES.labels(kind, answer.outcome.value).inc()
        return answer


class Send(Protocol):
    """Sends an event of a subscription."""

    def __call__(self, subscription: Subscription, event: NumberedEvent, message_id: str, now: datetime) -> Answer:
        """Returns what became of it. Raises what is our own failure: TOKEN_UNAVAILABLE and kin."""
