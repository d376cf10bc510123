"""How often something may happen."""

import time


class TokenBucket:
    """Allows `per_minute` events in a minute, which may all come at once. For one thread."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._level = float(per_minute)
        self._filled = time.monotonic()

    def take(self) -> float:
        """Returns 0 when an event may happen now, and counts it; otherwise after how many seconds to ask again."""
        now = time.monotonic()
        per_second = self._per_minute / 60
        self._level = min(float(self._per_minute), self._level + (now - self._filled) * per_second)
        self._filled = now
        if self._level >= 1:
            self._level -= 1
            return 0.0
        return (1 - self._level) / per_second if per_second else 60.0
