"""Which certificate is looked at when. The deciding thread calls; a thread works for each that is due, four at most."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from certd.agent.commands import StoppedError
from certd.agent.config import Certificate
from certd.agent.errors import AgentError
from certd.agent.keeper import Keeper
from certd.agent.log import fields
from certd.agent.loop import Loop
from certd.agent.server import Server
from certd.agent.standing import Standing
from certd.agent.watching import SELDOM, is_refusal, pause
from certd.client.failure import CallFailed
from certd.errors import CertdError
from certd.v1.association_pb2 import Association

_WORKERS: Final = 4
_LONGEST_PAUSE: Final = 60.0
"""Seconds between tries to reach the server for one certificate."""
_SHORTEST_RETRY: Final = 5.0
_LASTING: Final = frozenset({"PERMISSION_DENIED", "NOT_FOUND", "UNAUTHENTICATED"})
"""What passes only when somebody does something."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Slot:
    """A certificate, in time."""

    keeper: Keeper
    standing: Standing
    due: float = 0.0
    """On the monotonic clock."""
    running: bool = False
    restored: bool = False
    """Whether what was deployed before was seen to."""
    told: Association | None = None
    """What the server told of it since it was looked at."""
    again: bool = False
    """Whether something happened since a thread began to work."""
    tries: int = 0
    """Failures to reach the server, in a row."""
    error: str = ""

    @property
    def certificate(self) -> Certificate:
        """Its configuration."""
        return self.keeper.certificate


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a look at a certificate went."""

    failure: CallFailed | None = None
    """Of the server, or of the way to it."""
    error: str = ""
    """Of this machine."""


class Slots:
    """All certificates.

    Args:
        loop: of the deciding thread.
        poll_interval: seconds after which each is looked at, also when nothing was told of it; up to twice as many.
        stop: set when the agent ends.
        refused: called when the server does not take the identity.
    """

    def __init__(
        self, loop: Loop, *, poll_interval: float, stop: threading.Event, refused: Callable[[CallFailed], None]
    ) -> None:
        self.poll_interval = poll_interval
        self._loop = loop
        self._stop = stop
        self._refused = refused
        self._slots: dict[str, Slot] = {}
        self._busy = 0

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def busy(self) -> bool:
        """Whether a thread works."""
        return self._busy > 0

    @property
    def restored(self) -> bool:
        """Whether all that was deployed before was seen to."""
        return all(slot.restored for slot in self._slots.values())

    def ends(self) -> list[datetime]:
        """Returns when the certificates that are served end; from any thread."""
        ends = [slot.standing.not_after for slot in tuple(self._slots.values())]
        return [end for end in ends if end is not None]

    def fill(self, keepers: Iterable[Keeper]) -> None:
        """Replaces all; each is due, also one that waits after a failure."""
        self._slots = {each.certificate.name: Slot(keeper=each, standing=each.standing) for each in keepers}
        for slot in self._slots.values():
            with suppress(AgentError):
                slot.keeper.forgive()

    def start_due(self, server: Server | None) -> None:
        """Starts work for what is due; without a server, only on what was deployed before."""
        now = time.monotonic()
        for slot in self._slots.values():
            if self._busy >= _WORKERS:
                return
            if not slot.running and slot.due <= now and (server is not None or not slot.restored):
                self._start(slot, server)

    def patience(self, *, online: bool) -> float:
        """Returns the seconds until something is due; infinity when nothing will be by itself."""
        if self._busy >= _WORKERS:
            return float("inf")
        waiting = [s.due for s in self._slots.values() if not s.running and (online or not s.restored)]
        return max(0.0, min(waiting, default=float("inf")) - time.monotonic())

    def changed(self, association: Association) -> None:
        """The server told of an association."""
        for slot in self._slots.values():
            if slot.certificate.association == association.name:
                slot.told, slot.due, slot.again = association, 0.0, True

    def removed(self, name: str) -> None:
        """The server told that a managed certificate, or the association with it, is no more."""
        for slot in self._slots.values():
            if slot.certificate.managed_certificate == name:
                slot.told, slot.due, slot.again = None, 0.0, True

    def wake(self, name: str) -> None:
        """A program came to take a certificate."""
        slot = self._slots.get(name)
        if slot is not None:
            slot.due, slot.again = 0.0, True

    def hurry(self) -> None:
        """The server is there again: what failed for want of it is due soon, not all at once."""
        for slot in self._slots.values():
            if slot.tries:
                slot.due = min(slot.due, time.monotonic() + random.random())  # noqa: S311  # It spreads calls in time.

    def begin_anew(self) -> None:
        """There is another connection: all is due."""
        for slot in self._slots.values():
            slot.due, slot.tries = 0.0, 0

    def put_off(self) -> None:
        """The server takes nothing from this identity: nothing is due for a good while."""
        now = time.monotonic()
        for slot in self._slots.values():
            slot.due = max(slot.due, now + random.uniform(*SELDOM))  # noqa: S311  # As above.

    def _start(self, slot: Slot, server: Server | None) -> None:
        told, slot.told, slot.running, slot.again = slot.told, None, True, False
        self._busy += 1

        def work() -> None:
            outcome = _look(slot, server, told)
            self._loop.post(lambda: self._done(slot, outcome))

        threading.Thread(target=work, name=slot.certificate.name, daemon=True).start()

    def _done(self, slot: Slot, outcome: _Outcome) -> None:
        self._busy -= 1
        slot.running, slot.standing = False, slot.keeper.standing
        first, slot.restored = not slot.restored, True
        failure = outcome.failure
        text = outcome.error if failure is None else f"{failure.reason}: {failure.message}"
        if text and text != slot.error and not self._stop.is_set():
            _log.warning("%s", text, extra=fields(certificate=slot.certificate.name))
        slot.error = text
        slot.tries = slot.tries + 1 if text else 0
        slot.due = time.monotonic() + self._delay(slot, failure)
        if (first and not text) or slot.again:
            slot.due = 0.0
        if failure is not None and is_refusal(failure):
            self._refused(failure)

    def _delay(self, slot: Slot, failure: CallFailed | None) -> float:
        """Returns the seconds until the next look."""
        if slot.tries:
            lasting = failure is not None and failure.code in _LASTING
            return pause(failure, slot.tries, longest=max(_LONGEST_PAUSE, self.poll_interval * lasting))
        poll = self.poll_interval * random.uniform(1, 2)  # noqa: S311  # It spreads agents in time.
        held, retry = slot.keeper.held_for, slot.keeper.retry_in
        if held is not None:
            return min(poll, held)
        return poll if retry is None else min(poll, max(retry, _SHORTEST_RETRY))


def _look(slot: Slot, server: Server | None, told: Association | None) -> _Outcome:
    try:
        if not slot.restored:
            slot.keeper.restore()
        elif server is not None:
            slot.keeper.advance(server, told)
    except CallFailed as failure:
        return _Outcome(failure=failure)
    except CertdError as error:
        return _Outcome(failure=CallFailed(error.reason, error.message))
    except StoppedError:
        return _Outcome()
    except AgentError as error:
        return _Outcome(error=error.message)
    except Exception as error:  # noqa: BLE001  # A mistake with one certificate must not end the agent of others.
        _log.exception("unexpected", extra=fields(certificate=slot.certificate.name))
        return _Outcome(error=f"unexpected: {type(error).__name__}")
    return _Outcome()
