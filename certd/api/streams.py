"""Slots for streams: an open stream holds a thread, and must never starve the calls that answer at once."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
import structlog

from certd.api.arrivals import Arrivals, Patience
from certd.errors import CertdError, Reason
from certd.metrics import STREAMS

_REFUSING_THREADS: Final = 4
"""Threads past the slots, which tell a watcher at once that all slots are taken instead of letting it wait."""
_RETRY_AFTER: Final = 10.0
_LOOKS: Final = 6
"""How often a send is looked at in that time."""
FEW_STREAMS: Final = 16
"""Streams that each caller may have, also when most slots are taken; all together of those who are nobody."""
_CROWDED: Final = 0.75
"""Share of the slots that a caller may have more than a few of."""
_FAREWELL: Final = 2.0
"""Seconds in which streams that are told to end may say why, before they are cut off."""

_log = structlog.get_logger("certd.api")


class OpenStream:
    """A stream that holds a slot.

    Args:
        context: of the call.
        authenticate: raises once the caller is no longer who they were.
        ends_by_itself: whether its method is told of the end of the server, and ends it with a status.
    """

    __slots__ = ("_authenticate", "context", "ends_by_itself", "sending_since")

    def __init__(
        self, context: grpc.ServicerContext, authenticate: Callable[[], object], *, ends_by_itself: bool
    ) -> None:
        self.context = context
        self._authenticate = authenticate
        self.ends_by_itself = ends_by_itself
        self.sending_since: float | None = None
        """When the answer that is on its way was handed over; None between two."""

    def authenticate(self) -> None:
        """Raises CREDENTIAL_INVALID or CREDENTIAL_REVOKED once the caller is no longer who they were."""
        self._authenticate()

    def is_open(self) -> bool:
        """Returns whether anybody reads the stream."""
        active: bool = self.context.is_active()
        return active

    def when_over(self, told: Callable[[], None]) -> None:
        """Has `told` called when nobody reads the stream any more, at once when that is so already."""
        if not self.context.add_callback(told):
            told()

    def sent(self, answers: Iterable[object]) -> Iterator[object]:
        """Returns the answers, and notes how long each is on its way."""
        for answer in answers:
            self.sending_since = time.monotonic()
            yield answer
            self.sending_since = None


class StreamSlots:
    """A pool of threads for streams, and the streams that are open.

    Args:
        number: streams that may be open at once.
        patience: seconds that the message of a stream may take; None for what `Arrivals` thinks right.
        longest_send: seconds that a reader may take nothing of what is sent.
    """

    def __init__(self, number: int, *, patience: Patience | None = None, longest_send: float = 30.0) -> None:
        self._number = number
        self._longest_send = longest_send
        self._changed = threading.Condition()
        self._open: set[OpenStream] = set()
        self._of_callers: Counter[str] = Counter()
        self._closed = False
        self.pool = ThreadPoolExecutor(max_workers=number + _REFUSING_THREADS, thread_name_prefix="grpc-stream")
        queue = self.pool._work_queue  # noqa: SLF001  # The pool does not tell otherwise what waits for its threads.
        self.arrivals = Arrivals(lambda: not queue.empty(), patience or Patience())
        """How the messages of streams are waited for."""
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._free_slots, name="grpc-slow-readers", daemon=True)
        self._watch.start()

    @contextlib.contextmanager
    def slot(self, stream: OpenStream, principal: str) -> Iterator[None]:
        """Holds a slot; raises TOO_MANY_WATCHERS when there is none for this caller, SHUTTING_DOWN after `close`."""
        with self._changed:
            self._check_room(principal)
            self._open.add(stream)
            self._of_callers[principal] += 1
        STREAMS.inc()
        try:
            yield
        finally:
            STREAMS.dec()
            with self._changed:
                self._open.discard(stream)
                self._of_callers[principal] -= 1
                if not self._of_callers[principal]:
                    del self._of_callers[principal]
                self._changed.notify_all()

    def close(self) -> None:
        """Ends every stream, so that a stop need not wait for watchers."""
        with self._changed:
            self._closed = True
            for stream in self._open:
                if not stream.ends_by_itself:
                    _cut_off(stream)
            self._changed.wait_for(lambda: not self._open, timeout=_FAREWELL)
            for stream in self._open:
                _cut_off(stream)
        self._stopping.set()
        self._watch.join()
        self.arrivals.stop()

    def _check_room(self, principal: str) -> None:
        if self._closed:
            raise CertdError(Reason.SHUTTING_DOWN, "the server is stopping; connect again")
        taken, own = len(self._open), self._of_callers[principal]
        if taken >= self._number:
            raise CertdError(
                Reason.TOO_MANY_WATCHERS,
                f"all {self._number} streams that this server serves at once are taken; try again later, or let"
                " [limits] maximum_watchers grow",
                retry_after=_RETRY_AFTER,
            )
        if not principal and own >= FEW_STREAMS:
            raise CertdError(
                Reason.TOO_MANY_WATCHERS,
                f"{own} streams of callers who are nobody are open, as many as may be; ask for the health again and"
                " again instead (Check), or try again later",
                retry_after=_RETRY_AFTER,
            )
        if own >= FEW_STREAMS and taken >= self._number * _CROWDED:
            raise CertdError(
                Reason.TOO_MANY_WATCHERS,
                f"{taken} of {self._number} streams are taken, {own} of them by {principal}, and the others are for"
                " those who have fewer; watch more by one stream, or try again later",
                retry_after=_RETRY_AFTER,
            )

    def _free_slots(self) -> None:
        """Cuts off those who take nothing: their thread waits in a send that nothing else would end."""
        while not self._stopping.wait(self._longest_send / _LOOKS):
            latest = time.monotonic() - self._longest_send
            with self._changed:
                stuck = [each for each in self._open if (each.sending_since or latest) < latest]
            for stream in stuck:
                _log.info("a stream ends, for its reader takes nothing", peer=stream.context.peer())
                _cut_off(stream)


def _cut_off(stream: OpenStream) -> None:
    stream.context.cancel()  # type: ignore[no-untyped-call]  # The stubs leave it untyped.
