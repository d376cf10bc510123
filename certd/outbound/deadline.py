"""How long something may take in all."""

import time
from collections.abc import Callable


class Deadline:
    """The end of something that may take so many seconds, and be silent for `patience` of them."""

    def __init__(
        self, seconds: float, *, patience: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._seconds = seconds
        self._patience = seconds if patience is None else patience

    def left(self, most: float | None = None) -> float:
        """Returns the seconds that the next wait may take, `most` at most; TimeoutError when none are left."""
        left = self._end - self._clock()
        if left <= 0:
            raise TimeoutError(f"it took more than {self._seconds:g} seconds")
        return min(left, self._patience if most is None else most)
