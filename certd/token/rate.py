"""How often something may happen."""

import time
from collections import OrderedDict
from collections.abc import Callable

_MINUTE = 60.0


class TokenBucket:
    """Allows `per_minute` events in a minute, which may all come at once. For one thread."""

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._now = now
        self._level = float(per_minute)
        self._filled = now()

    @property
    def idle(self) -> float:
        """Seconds since it was last asked; after a minute it is as a new one."""
        return self._now() - self._filled

    def take(self) -> float:
        """Returns 0 when an event may happen now, and counts it; otherwise after how many seconds to ask again."""
        now = self._now()
        per_second = self._per_minute / _MINUTE
        self._level = min(float(self._per_minute), self._level + (now - self._filled) * per_second)
        self._filled = now
        if self._level >= 1:
            self._level -= 1
            return 0.0
        return (1 - self._level) / per_second if per_second else _MINUTE


class BucketOfEach:
    """A bucket for each name, for at most `most` names in a minute. For one thread."""

    def __init__(self, per_minute: int, *, most: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._most = most
        self._now = now
        # The name that was asked for longest ago comes first.
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, name: str) -> float:
        """Does what the bucket of this name does. A name past `most` waits until another was not asked for a minute."""
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= self._most:
                oldest, unused = next(iter(self._buckets.items()))
                if unused.idle < _MINUTE:
                    return _MINUTE - unused.idle
                del self._buckets[oldest]
            bucket = self._buckets[name] = TokenBucket(self._per_minute, self._now)
        self._buckets.move_to_end(name)
        return bucket.take()
