"""The threads that answer calls with one answer, and what becomes of calls for which there is no room.

gRPC gives a call to its pool without asking how many wait there already. So the pool counts, and past its bound a call
is answered at once by a thread of its own with SERVER_BUSY and when to come again, before it is even read: a server
that is asked for more than it can do goes on doing what it can.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from certd.api.arrivals import Arrivals, Patience, Strangers
from certd.errors import CertdError, Reason

_REFUSING_THREADS: Final = 1
_SHARE_OF_STRANGERS: Final = 4
_RETRY_AFTER: Final = 1.0


class WaitingCalls(ThreadPoolExecutor):
    """A pool that knows how many calls wait for one of its threads.

    Args:
        workers: calls worked on at once.
        most_waiting: calls that may wait for their turn; more are to be refused.
        patience: seconds that a message may take; None for what `Arrivals` thinks right.
    """

    def __init__(self, workers: int, *, most_waiting: int, patience: Patience | None = None) -> None:
        super().__init__(max_workers=workers, thread_name_prefix="grpc")
        self.arrivals = Arrivals(lambda: not self._work_queue.empty(), patience or Patience())
        """How the messages of calls are waited for."""
        self._most_waiting = max(1, most_waiting)
        self.strangers = Strangers(max(1, workers // _SHARE_OF_STRANGERS))
        """Whose messages threads wait for though they are nobody, where others are somebody."""
        self.refusing = ThreadPoolExecutor(max_workers=_REFUSING_THREADS, thread_name_prefix="grpc-refuse")
        """Where calls are refused."""

    @property
    def is_full(self) -> bool:
        """Whether a further call is to be refused."""
        # The pool's queue holds for a moment also what an idle thread is about to take.
        return self._work_queue.qsize() >= self._most_waiting

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  # As in the base.
        """Ends both pools, and what watches them."""
        self.refusing.shutdown(wait, cancel_futures=cancel_futures)
        super().shutdown(wait, cancel_futures=cancel_futures)
        self.arrivals.stop()


def busy() -> CertdError:
    """Returns the error of a call for which there is no room; those who are refused together do not return together."""
    return CertdError(
        Reason.SERVER_BUSY,
        "as many calls wait as this server takes; try again later, or let [limits] concurrent_calls and"
        " maximum_waiting_calls grow",
        retry_after=_RETRY_AFTER * random.uniform(0.5, 1.5),  # noqa: S311  # Jitter is no secret.
    )
