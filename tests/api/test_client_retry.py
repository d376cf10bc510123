"""The rules of trying again, each alone."""

import pytest

from certd.client.failure import CallFailed
from certd.client.retry import RetryPolicy, delay_before_retry

POLICY = RetryPolicy(total=10, first_delay=0.1, longest_delay=2)


def delay(
    code: str,
    reason: str = "",
    *,
    retry_after: float | None = None,
    tries: int = 1,
    elapsed: float = 0,
    repeatable: bool = True,
    jitter: float = 1,
) -> float | None:
    failure = CallFailed(reason or code, "it failed", code=code, retry_after=retry_after)
    return delay_before_retry(failure, POLICY, tries=tries, elapsed=elapsed, repeatable=repeatable, jitter=jitter)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("UNAVAILABLE", "TOKEN_UNAVAILABLE"),
        ("UNAVAILABLE", ""),
        ("ABORTED", "REQUEST_IN_PROGRESS"),
        ("ABORTED", "OWNERSHIP_LOST"),
    ],
)
def test_what_may_pass_is_tried_again(code: str, reason: str) -> None:
    assert delay(code, reason) is not None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("ABORTED", "ETAG_MISMATCH"),
        ("NOT_FOUND", "AUTHORITY_NOT_FOUND"),
        ("INTERNAL", "INTERNAL"),
        ("DEADLINE_EXCEEDED", ""),
        ("RESOURCE_EXHAUSTED", ""),
        ("PERMISSION_DENIED", "PERMISSION_MISSING"),
    ],
)
def test_what_does_not_pass_is_not(code: str, reason: str) -> None:
    assert delay(code, reason) is None


def test_the_delay_doubles_to_its_bound() -> None:
    assert [delay("UNAVAILABLE", tries=n) for n in (1, 2, 3, 5, 6, 40)] == pytest.approx([0.1, 0.2, 0.4, 1.6, 2, 2])


def test_jitter_takes_at_most_half() -> None:
    assert delay("UNAVAILABLE", jitter=0) == pytest.approx(0.05)


def test_never_earlier_than_the_server_says() -> None:
    found = delay("RESOURCE_EXHAUSTED", "RATE_LIMITED", retry_after=3, jitter=0)
    assert found is not None
    assert 3 <= found < 3.1


def test_no_try_begins_after_the_total() -> None:
    assert delay("UNAVAILABLE", elapsed=9.95) is None
    assert delay("RESOURCE_EXHAUSTED", "RATE_LIMITED", retry_after=30) is None


def test_a_call_that_must_not_run_twice_is_repeated_only_when_the_server_asks_for_it() -> None:
    assert delay("UNAVAILABLE", repeatable=False) is None
    assert delay("UNAVAILABLE", "TOKEN_UNAVAILABLE", repeatable=False, retry_after=0.5) is not None
