"""What is sent, and what is told on of the answers."""

from dataclasses import dataclass, field
from typing import Final

from certd.model.event import NumberedEvent

MOST_TOLD: Final = 200
"""Characters of an answer that are told on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An event on its way to a subscription."""

    message_id: str
    """The same at every try."""
    event: NumberedEvent
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """By which it is signed, the newest first; none for mail."""


def shown(text: str) -> str:
    """Returns what people may be shown of a stranger's words: printable, in one line, and not much."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * MOST_TOLD])
    return " ".join(printable.split())[:MOST_TOLD]
