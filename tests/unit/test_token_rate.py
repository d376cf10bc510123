"""Rates of the token process, and its memory of statements."""

from datetime import UTC, datetime, timedelta

import pytest

from certd.errors import CertdError, Reason
from certd.token.leases import SeenStatements
from certd.token.rate import BucketOfEach, TokenBucket

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Stopwatch:
    """Seconds, as `time.monotonic` tells them."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_a_bucket_fills_with_time_and_not_beyond_its_brim() -> None:
    watch = Stopwatch()
    bucket = TokenBucket(6, watch)
    assert [bucket.take() for _ in range(7)] == [0.0] * 6 + [10.0]
    watch.seconds += 10
    assert [bucket.take() for _ in range(2)] == [0.0, 10.0]
    watch.seconds += 3600
    assert [bucket.take() == 0.0 for _ in range(7)] == [True] * 6 + [False]


def test_each_name_has_a_bucket_of_its_own() -> None:
    buckets = BucketOfEach(1, most=10, now=Stopwatch())
    assert [buckets.take(name) for name in "aabb"] == [0.0, 60.0, 0.0, 60.0]


def test_names_past_the_bound_wait_and_nobody_gains_by_being_forgotten() -> None:
    watch = Stopwatch()
    buckets = BucketOfEach(1, most=2, now=watch)
    assert buckets.take("first") == 0.0
    watch.seconds += 20
    assert buckets.take("second") == 0.0
    assert buckets.take("third") == 40.0
    watch.seconds += 20
    # Whoever asks is remembered, whether it is let in or not.
    assert buckets.take("first") == pytest.approx(20.0)
    watch.seconds += 30
    assert buckets.take("third") == 10.0
    watch.seconds += 12
    taken = [buckets.take(name) for name in ("third", "fourth", "first", "third")]
    assert taken == pytest.approx([0.0, 18.0, 0.0, 60.0])


def test_a_full_memory_of_statements_refuses_rather_than_forgets() -> None:
    seen = SeenStatements(2)
    for digest in (b"one", b"two"):
        seen.check(digest, sign_time=NOW, now=NOW)
        seen.add(digest, sign_time=NOW)
    for digest, reason in ((b"three", Reason.RATE_LIMITED), (b"one", Reason.LEASE_REFUSED)):
        with pytest.raises(CertdError) as caught:
            seen.check(digest, sign_time=NOW, now=NOW + 5 * MINUTE)
        assert caught.value.reason is reason
    later = NOW + 5 * MINUTE + timedelta(microseconds=1)
    seen.check(b"three", sign_time=later, now=later)


def test_statements_are_forgotten_by_their_own_time_not_in_their_order() -> None:
    seen = SeenStatements(2)
    for digest, sign_time in ((b"late", NOW + 5 * MINUTE), (b"early", NOW - 5 * MINUTE)):
        seen.check(digest, sign_time=sign_time, now=NOW)
        seen.add(digest, sign_time=sign_time)
    later = NOW + MINUTE
    seen.check(b"next", sign_time=later, now=later)
    seen.add(b"next", sign_time=later)
    with pytest.raises(CertdError, match="before"):
        seen.check(b"late", sign_time=NOW + 5 * MINUTE, now=later)
