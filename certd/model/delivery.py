"""Deliveries: what became of an event that was sent to a subscription's target."""

import base64
import enum
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from certd.model.event import NumberedEvent

MOST_WAITING: Final = 1000
"""Events that wait behind others or for their next try; past that the subscription waits as a whole."""
MOST_FAILED: Final = 1000
"""Failed deliveries that are kept of a subscription; the oldest go."""
MOST_STUMBLES: Final = 5
"""Tries after which it is seen whether a target takes another event than the one over which it perhaps stumbles."""
MOST_ATTEMPTS: Final = 12
"""Tries of an event that the target refuses."""
LONGEST: Final = timedelta(days=3)
"""After which an event that was tried is given up."""
FIRST_BACKOFF: Final = timedelta(seconds=5)
LONGEST_BACKOFF: Final = timedelta(hours=1)


class Outcome(enum.StrEnum):
    """How a try ended."""

    TAKEN = "taken"
    REFUSED = "refused"
    """The target answers, and does not take this event."""
    AWAY = "away"
    """The target does not answer, or says that it takes nothing now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a target says."""

    outcome: Outcome
    error: str = ""
    """Why it was not taken, for people; beside TAKEN, who did not get it."""
    retry_after: timedelta | None = None
    """When to try again, where the target says so."""
    perhaps_the_event: bool = False
    """Beside AWAY: whether the target perhaps stumbles over this event alone."""


class DeliveryState(enum.StrEnum):
    """Whether it is tried again."""

    WAITING = "WAITING"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An event that the target did not take yet, or never."""

    subscription_uid: str
    seq: int
    """Of the event."""
    resource: str
    """Of the event; those of one resource are delivered in their order."""
    state: DeliveryState = DeliveryState.WAITING
    attempts: int = 0
    error: str = ""
    due_time: datetime | None
    """When it is tried again, unless one before it waits; None: it was given up."""
    fail_time: datetime | None = None


def backoff(attempts: int, jitter: float) -> timedelta:
    """Returns how long to wait after so many tries, from 5 seconds to 1 hour; `jitter` from 0 to 1 takes up to 1/4."""
    whole: timedelta = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(attempts - 1, 16))
    return whole * (1 - jitter / 4)


def event_document(numbered: NumberedEvent) -> dict[str, object]:
    """Returns an event in the JSON mapping of the API's message `Event`; one without a number has no name."""
    event = numbered.event
    document: dict[str, object] = {
        "name": f"events/{numbered.seq}" if numbered.seq else "",
        "seq": str(numbered.seq) if numbered.seq else "",
        "time": _timestamp(event.time),
        "type": event.type.value,
        "tenant": "" if event.tenant is None else f"tenants/{event.tenant}",
        "principal": event.principal,
        "resource": event.resource,
        "details": dict(event.details),
        "chainHash": base64.b64encode(numbered.chain_hash).decode(),
    }
    # The mapping leaves out what is empty.
    return {name: value for name, value in document.items() if value}


def _timestamp(moment: datetime) -> str:
    """Returns a time as Protobuf's JSON has it: with 0, 3 or 6 digits of a second."""
    whole = f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
    micros = moment.microsecond
    if not micros:
        return f"{whole}Z"
    return f"{whole}.{micros:06}Z" if micros % 1000 else f"{whole}.{micros // 1000:03}Z"
