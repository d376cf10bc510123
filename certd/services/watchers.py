"""Watchers: what each of them has not taken yet, and how they are woken.

What one event tells a thousand watchers is told to a few at a time: each has a thread, and a thousand threads that want
to run at one moment would keep every call of others waiting.
"""

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from certd.errors import CertdError
from certd.model.event import Event, NumberedEvent
from certd.store.event_chain import ChainHead

AWAKE_AT_ONCE: Final = 2
"""More make it no quicker, for one works at a time, and calls wait for all of them."""
_LONGEST_TURN: Final = 0.25
"""Seconds after which the next is woken in any case."""

Wants = Callable[[Event], bool]


class TooSlowError(Exception):
    """A watcher did not take its events while others came, and some of them are lost to it."""


class Watcher:
    """One who watches.

    Args:
        position: the last event before those that it is handed.
        wants: holds for the events of its topics that are handed to it; None: for all.
        most: events that may wait.
        waking: wakes it.
    """

    __slots__ = (
        "_called",
        "_changed",
        "_ended",
        "_error",
        "_has_turn",
        "_is_called_for",
        "_is_waiting",
        "_most",
        "_overflown",
        "_waiting",
        "_waking",
        "position",
        "wants",
    )

    def __init__(self, position: ChainHead, wants: Wants | None, most: int, waking: "Waking") -> None:
        self.position = position
        self.wants = wants
        self._most = most
        self._waking = waking
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[NumberedEvent] = deque()
        self._called = False
        """Whether there is a reason to look, besides events that wait."""
        self._is_waiting = False
        self._is_called_for = False
        """Whether it stands in the queue of those who are to be woken."""
        self._has_turn = False
        self._overflown = False
        self._ended = False
        self._error: CertdError | None = None

    def put(self, event: NumberedEvent) -> None:
        """Hands it an event; one too many, and it gets none any more."""
        with self._changed:
            if len(self._waiting) < self._most and not self._overflown:
                self._waiting.append(event)
            else:
                self._overflown = True
                self._waiting.clear()
            self._call_for()

    def wake(self) -> None:
        """Has it look at itself, though nothing came."""
        with self._changed:
            self._called = True
            self._call_for()

    def end(self, error: CertdError | None = None) -> None:
        """Ends it: with an error, or because there is nobody any more to whom anything could be told."""
        with self._changed:
            self._ended = True
            self._error = self._error or error
            self._changed.notify()

    @property
    def has_nothing(self) -> bool:
        """Whether it has taken all that was handed to it."""
        return not self._waiting and not self._overflown

    def take(self, timeout: float) -> list[NumberedEvent] | None:
        """Waits for events and returns them: none after `timeout` seconds or a wake, None when it has ended.

        Raises TooSlowError, and what it was ended with. It has its turn until `rest`, or the next `take`.
        """
        self.rest()
        with self._changed:
            if not (self._waiting or self._called or self._overflown or self._ended) and timeout > 0:
                self._is_waiting = True
                self._changed.wait(timeout)
                self._is_waiting = False
            self._called = False
            if self._error is not None:
                raise self._error.another()
            if self._ended:
                return None
            if self._overflown:
                raise TooSlowError
            taken = list(self._waiting)
            self._waiting.clear()
            return taken

    def rest(self) -> None:
        """Lets the next one be woken; called before what may take long."""
        with self._changed:
            has_turn, self._has_turn = self._has_turn, False
        if has_turn:
            self._waking.next()

    def take_turn(self, *, counted: bool) -> bool:
        """Wakes it when it waits, and returns whether it did; a `counted` turn is given back by `rest`."""
        with self._changed:
            self._is_called_for = False
            woken, self._is_waiting = self._is_waiting, False
            if woken:
                self._has_turn = counted
                self._changed.notify()
            return woken

    def _call_for(self) -> None:
        if self._is_waiting and not self._is_called_for:
            self._is_called_for = True
            self._waking.call_for(self)


class Waking:
    """The thread that wakes watchers, a few at a time.

    Args:
        at_once: how many are awake.
    """

    def __init__(self, at_once: int = AWAKE_AT_ONCE) -> None:
        self._turns = threading.Semaphore(at_once)
        self._wanted: SimpleQueue[Watcher | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="event-waking", daemon=True)
        self._thread.start()

    def call_for(self, watcher: Watcher) -> None:
        """Has a watcher woken in its turn."""
        self._wanted.put(watcher)

    def next(self) -> None:
        """Gives a turn back."""
        self._turns.release()

    def stop(self) -> None:
        """Wakes nobody any more."""
        self._wanted.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (watcher := self._wanted.get()) is not None:
            # One that is stuck holds up the others no longer than this.
            counted = self._turns.acquire(timeout=_LONGEST_TURN)
            woken = watcher.take_turn(counted=counted)
            if counted and not woken:
                self._turns.release()
