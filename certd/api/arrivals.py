"""Messages on their way in, and the end of calls whose message does not come.

gRPC begins a call with its headers. Who sends those and then nothing would hold a thread for as long as they like, and
a few such strangers all of them. So nobody waits for a message before its caller is let in, and only so long for it:
the shorter the more others wait for a thread.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog

from certd.errors import field_invalid

_LOOKS: Final = 4
"""How often a wait is looked at in the time that it may last."""
_LONGEST_PAUSE: Final = 1.0
_SILENCE: Final = 0.1
"""Seconds after which a message is late."""

_log = structlog.get_logger("certd.api")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How many seconds a message may take, from the admission of its call to its last byte."""

    seconds: float = 30.0
    when_others_wait: float = 2.0
    """The same, while calls wait for a thread."""


class Strangers:
    """Calls of those who are nobody, while their message is on its way: a few at once.

    A message comes with its call, as a rule, so one that does not makes room for the next.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._since: dict[grpc.ServicerContext, float] = {}

    def enter(self, context: grpc.ServicerContext) -> bool:
        """Takes a place, and ends the call that waited longest where there is none; False when all have just come."""
        now = time.monotonic()
        with self._lock:
            oldest = next(iter(self._since.items())) if len(self._since) >= self._most else None
            if oldest is not None:
                if now - oldest[1] < _SILENCE:
                    return False
                del self._since[oldest[0]]
            self._since[context] = now
        if oldest is not None:
            oldest[0].cancel()  # type: ignore[no-untyped-call]  # As below.
        return True

    def leave(self, context: grpc.ServicerContext) -> None:
        """Gives the place back."""
        with self._lock:
            self._since.pop(context, None)


class Arrivals:
    """Waits for messages, and no longer than it may.

    Args:
        others_wait: returns whether calls wait for a thread.
        patience: how long a message may take.
    """

    def __init__(self, others_wait: Callable[[], bool], patience: Patience) -> None:
        self._others_wait = others_wait
        self._patience = patience
        self._waiting: dict[grpc.ServicerContext, float] = {}
        """Calls whose message is on its way, and since when."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="grpc-arrivals", daemon=True)
        self._thread.start()

    def first(self, messages: Iterator[Any], context: grpc.ServicerContext) -> Any:  # noqa: ANN401  # Bytes, as a rule.
        """Returns the first message of a call; raises FIELD_INVALID when there is none, RpcError when it takes long."""
        self._waiting[context] = time.monotonic()
        try:
            return next(messages)
        except StopIteration:
            raise field_invalid("request", "the call ended before its message came") from None
        finally:
            del self._waiting[context]

    def stop(self) -> None:
        """Looks no more."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        shortest = min(self._patience.seconds, self._patience.when_others_wait)
        pause = min(shortest / _LOOKS, _LONGEST_PAUSE)
        while not self._stopping.wait(pause):
            seconds = self._patience.when_others_wait if self._others_wait() else self._patience.seconds
            latest = time.monotonic() - seconds
            # A copy, made at once: threads come and go.
            for context, since in list(self._waiting.items()):
                if since < latest:
                    _log.info("a call ends, for its message did not come", peer=context.peer(), seconds=seconds)
                    context.cancel()  # type: ignore[no-untyped-call]  # The stubs leave it untyped.
