"""Slots for streams: an open stream holds a thread, and must never starve the calls that answer at once."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc

from certd.api.arrivals import Arrivals, Patience
from certd.errors import CertdError, Reason

_REFUSING_THREADS: Final = 4
"""Threads past the slots, which tell a watcher at once that all slots are taken instead of letting it wait."""
_RETRY_AFTER: Final = 10.0


class StreamSlots:
    """A pool of threads for streams, and the streams that are open.

    Args:
        number: streams that may be open at once.
        patience: seconds that the message of a stream may take; None for what `Arrivals` thinks right.
    """

    def __init__(self, number: int, *, patience: Patience | None = None) -> None:
        self._number = number
        self._lock = threading.Lock()
        self._open: set[grpc.ServicerContext] = set()
        self._closed = False
        self.pool = ThreadPoolExecutor(max_workers=number + _REFUSING_THREADS, thread_name_prefix="grpc-stream")
        queue = self.pool._work_queue  # noqa: SLF001  # The pool does not tell otherwise what waits for its threads.
        self.arrivals = Arrivals(lambda: not queue.empty(), patience or Patience())
        """How the messages of streams are waited for."""

    @contextlib.contextmanager
    def slot(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Holds a slot; raises TOO_MANY_WATCHERS when all are taken and SHUTTING_DOWN after `close`."""
        with self._lock:
            if self._closed:
                raise CertdError(Reason.SHUTTING_DOWN, "the server is stopping; connect again")
            if len(self._open) >= self._number:
                raise CertdError(
                    Reason.TOO_MANY_WATCHERS,
                    f"all {self._number} streams that this server serves at once are taken; try again later",
                    retry_after=_RETRY_AFTER,
                )
            self._open.add(context)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(context)

    def close(self) -> None:
        """Ends every stream, so that a stop need not wait for watchers."""
        with self._lock:
            self._closed = True
            still_open = list(self._open)
        for context in still_open:
            context.cancel()  # type: ignore[no-untyped-call]  # The stubs leave it untyped.
        self.arrivals.stop()
