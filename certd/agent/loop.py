"""One thread decides, others work: what they have to tell is done in that thread, one after the other."""

import queue
import select
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Final

_ENOUGH: Final = 4096


class Loop:
    """What the deciding thread waits on: time, signals, and what other threads post.

    A handler of Python runs between any two steps of the main thread and may take no lock; so signals come through a
    socket, as what is posted does.
    """

    def __init__(self) -> None:
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def listen(self, signals: Sequence[signal.Signals]) -> None:
        """Takes signals; to be called in the main thread. One that comes twice ends the process, but for SIGHUP."""
        signal.set_wakeup_fd(self._sender.fileno())

        def handle(number: int, _frame: FrameType | None) -> None:
            if number != signal.SIGHUP:
                signal.signal(number, signal.SIG_DFL)

        for number in signals:
            signal.signal(number, handle)

    def post(self, work: Callable[[], None]) -> None:
        """Has work done by the deciding thread, soon; from any thread."""
        self._posted.put(work)
        # Full means that it wakes anyway, closed that nobody waits any more.
        with suppress(OSError):
            self._sender.send(b"\0")

    def wait(self, seconds: float) -> list[int]:
        """Waits so long at most, does what was posted, and returns the signals that came."""
        select.select([self._receiver], [], [], max(0.0, seconds))
        signals: list[int] = []
        with suppress(BlockingIOError):
            signals = [number for number in self._receiver.recv(_ENOUGH) if number]
        with suppress(queue.Empty):
            while True:
                self._posted.get_nowait()()
        return signals

    def close(self) -> None:
        """Waits for nothing any more."""
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        self._receiver.close()
        self._sender.close()
