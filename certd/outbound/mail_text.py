"""What mails say: in sentences what happened, to what, until when, and what to do about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from certd.clock import rfc3339
from certd.model.event import Event, EventType, NumberedEvent

_MOST_OF_A_DETAIL: Final = 300
_MOST_DETAILS: Final = 40
_LONGEST_SUBJECT: Final = 150


@dataclass(frozen=True, slots=True)
class _Words:
    """What is said of a type of events; each is handed the last part of the resource's name, and the details."""

    subject: Callable[[str, Mapping[str, str]], str]
    text: Callable[[str, Mapping[str, str]], str]


def subject_of(numbered: NumberedEvent) -> str:
    """Returns the subject of an event's mail: one line without control characters."""
    event = numbered.event
    words = _WORDS.get(event.type, _OTHER)
    subject = f"certd: {words.subject(_short(event), _shown(event.details, event))}"
    return _plain(subject)[:_LONGEST_SUBJECT]


def text_of(numbered: NumberedEvent, subscription: str) -> str:
    """Returns the text of an event's mail to a subscription of this name."""
    event = numbered.event
    details = _shown(event.details, event)
    words = _WORDS.get(event.type, _OTHER)
    facts = {
        "Resource": _plain(event.resource),
        "Happened": rfc3339(event.time),
        "By": _plain(event.principal),
        "Event": f"{event.type.value}, events/{numbered.seq}" if numbered.seq else event.type.value,
        **{name: value for name, value in details.items() if name not in {_TYPE, "message"}},
    }
    return "\n".join(
        [
            words.text(_plain(event.resource), details),
            "",
            *(f"{name}: {value}" for name, value in facts.items()),
            "",
            f"You get this mail by {subscription}.",
            f"    certctl subscription get {subscription}",
            "",
        ]
    )


_TYPE: Final = "type of the event"


def _shown(details: Mapping[str, str], event: Event) -> dict[str, str]:
    """Returns details as they may stand in a mail, and beside them the type."""
    few = list(details.items())[:_MOST_DETAILS]
    return {_plain(name)[:64]: _plain(value)[:_MOST_OF_A_DETAIL] for name, value in few} | {_TYPE: event.type.value}


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _short(event: Event) -> str:
    """Returns a resource as a subject names it: `web of tenant shop`."""
    # What happened to a version is told of what it is a version of.
    last = _plain(event.resource.partition("/versions/")[0].rpartition("/")[2])
    return last if event.tenant is None else f"{last} of tenant {event.tenant}"


def _until(details: Mapping[str, str]) -> str:
    """Returns when it ends, where the event says so."""
    end = details.get("not_after") or details.get("expire_time")
    return f" on {end}" if end else ""


def _by(details: Mapping[str, str]) -> str:
    """Returns in how many days it ends, and when, as far as the event says so."""
    until = _until(details)
    return _days(details) + (f",{until}" if until else "")


def _days(details: Mapping[str, str]) -> str:
    days = details.get("days") or details.get("days_left")
    if not days:
        return "soon"
    return "within a day" if days == "1" else f"within {days} days"


def _reason(details: Mapping[str, str]) -> str:
    reason = details.get("message") or details.get("reason")
    return f" The reason: {reason}" if reason else ""


def _late(details: Mapping[str, str]) -> str:
    """Returns who does not serve a new version, and what that one said last."""
    who = details.get("consumer") or "a consumer"
    if "failed_version" in details:
        said = f"it said that version {details['failed_version']} failed"
    elif "served_version" in details:
        said = f"it said that it serves version {details['served_version']}"
    else:
        said = "it has not said what it serves"
    words = details.get("message")
    return f"{who} does not serve it yet: {said}" + (f" ({words})." if words else ".")


def _named(name: str) -> str:
    return f"The managed certificate {name}"


_WORDS: Final[Mapping[EventType, _Words]] = {
    EventType.MANAGED_CERTIFICATE_EXPIRING: _Words(
        lambda short, details: f"{short} ends {_days(details)}",
        lambda name, details: (
            f"{_named(name)} ends {_by(details)}.{_reason(details)}\n\n"
            "If it is still needed, see why it was not renewed (certctl managed get) and renew it (certctl managed "
            "renew), or import its successor if it was imported (certctl managed import). If it is not, delete it."
        ),
    ),
    EventType.MANAGED_CERTIFICATE_EXPIRED: _Words(
        lambda short, _details: f"{short} has ended",
        lambda name, details: (
            f"{_named(name)} ended{_until(details)} and is no longer accepted by anybody.{_reason(details)}\n\n"
            "What still serves it fails. Renew it or import its successor now (certctl managed renew, certctl managed "
            "import), or delete it if nothing uses it any more."
        ),
    ),
    EventType.MANAGED_CERTIFICATE_RENEWAL_BLOCKED: _Words(
        lambda short, _details: f"the renewal of {short} is blocked",
        lambda name, details: (
            f"{_named(name)} could not be renewed and will end{_until(details)}.{_reason(details)}\n\n"
            "The renewal is tried again by itself once the reason is gone; certctl managed get shows when, and what is "
            "in its way."
        ),
    ),
    EventType.DEPLOYMENT_LATE: _Words(
        lambda short, _details: f"a new version of {short} is not served everywhere yet",
        lambda name, details: (
            f"{_named(name)} has a new version, and {_late(details)}\n\n"
            "See whether its agent runs and what it says (certd-agent status on that machine), or install the new "
            "version there by hand. certctl association list shows who serves what."
        ),
    ),
    EventType.AUTHORITY_EXPIRING: _Words(
        lambda short, details: f"the authority {short} ends {_days(details)}",
        lambda name, details: (
            f"The authority {name} ends {_by(details)}, and nothing that it issued is accepted after"
            " that.\n\nNobody renews an authority but people: make its successor in time, and have what it issued "
            "issued anew by that one."
        ),
    ),
    EventType.AUTHORITY_EXPIRED: _Words(
        lambda short, _details: f"the authority {short} has ended",
        lambda name, details: (
            f"The authority {name} ended{_until(details)}. What it issued is no longer accepted by anybody.\n\n"
            "Have what is still needed issued by another authority."
        ),
    ),
    EventType.MANAGED_CERTIFICATE_RENEWED: _Words(
        lambda short, _details: f"{short} was renewed",
        lambda name, details: (
            f"{_named(name)} was renewed; its new version ends{_until(details) or ' later'}.\n\n"
            "Agents fetch it by themselves. Where it was exported by hand, export and install it again."
        ),
    ),
    EventType.MANAGED_CERTIFICATE_REVOKED: _Words(
        lambda short, _details: f"{short} was revoked",
        lambda name, details: (
            f"{_named(name)} was revoked.{_reason(details)}\n\n"
            "What still serves it will be refused; see whether a new version took its place (certctl managed get)."
        ),
    ),
    EventType.DELIVERY_FAILED: _Words(
        lambda short, _details: f"events could not be delivered by the subscription {short}",
        lambda name, details: (
            f"Events that {name} sends were given up.{_reason(details)}\n\n"
            "See which ones (certctl subscription failed), mend the target, and have them sent again (certctl "
            "subscription retry)."
        ),
    ),
    EventType.SUBSCRIPTION_TEST: _Words(
        lambda _short, _details: "this is a test",
        lambda name, _details: f"Somebody asked for a test of {name}. Nothing happened, and there is nothing to do.",
    ),
}
_OTHER: Final = _Words(
    lambda short, details: f"{details[_TYPE]}: {short}",
    lambda name, details: (
        f"{name}: {details[_TYPE].partition('.')[2].replace('-', ' ') or details[_TYPE]}.{_reason(details)}"
    ),
)
