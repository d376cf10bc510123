"""The threads that answer calls with one answer, and what becomes of calls for which there is no room.

gRPC gives a call to its pool without asking how many wait there already. So the pool counts, and past its bound a call
is answered at once by a thread of its own with SERVER_BUSY and when to come again, before it is even read: a server
that is asked for more than it can do goes on doing what it can.
"""

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from certd.errors import CertdError, Reason

T = TypeVar("T")

_REFUSING_THREADS: Final = 1
_RETRY_AFTER: Final = 1.0


class WaitingCalls(ThreadPoolExecutor):
    """A pool that knows how many calls wait for one of its threads.

    Args:
        workers: calls worked on at once.
        most_waiting: calls that may wait for their turn; more are to be refused.
    """

    def __init__(self, workers: int, *, most_waiting: int) -> None:
        super().__init__(max_workers=workers, thread_name_prefix="grpc")
        self._room = workers + most_waiting
        self._lock = threading.Lock()
        self._inside = 0
        self.refusing = ThreadPoolExecutor(max_workers=_REFUSING_THREADS, thread_name_prefix="grpc-refuse")
        """Where calls are refused."""

    @property
    def is_full(self) -> bool:
        """Whether a further call is to be refused."""
        return self._inside >= self._room

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:  # noqa: ANN401  # As in the base.
        """Takes a call; it is inside until it has been answered."""
        with self._lock:
            self._inside += 1
        try:
            future = super().submit(fn, *args, **kwargs)
        except BaseException:
            self._left()
            raise
        future.add_done_callback(self._left)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  # As in the base.
        """Ends both pools."""
        self.refusing.shutdown(wait, cancel_futures=cancel_futures)
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _left(self, _future: object = None) -> None:
        with self._lock:
            self._inside -= 1


def busy() -> CertdError:
    """Returns the error of a call for which there is no room; those who are refused together do not return together."""
    return CertdError(
        Reason.SERVER_BUSY,
        "as many calls wait as this server takes; try again later, or let [limits] concurrent_calls and"
        " maximum_waiting_calls grow",
        retry_after=_RETRY_AFTER * random.uniform(0.5, 1.5),  # noqa: S311  # Jitter is no secret.
    )
