"""What comes next of a managed certificate, in every state, by every policy."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateState, ManagedCertificateType
from certd.model.renewal import MaintenanceWindow, RenewalMode, RenewalPolicy, Span
from certd.model.renewal_steps import NextStep, awaited_maintenance, next_look, next_step
from tests.store.samples import managed

ISSUED = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
END = ISSUED + 90 * DAY
PLANNED = ISSUED + 60 * DAY
BEFORE, AFTER, EXPIRED = PLANNED - timedelta(seconds=1), PLANNED, END + DAY
WHEN_USED, NEVER = RenewalPolicy(mode=RenewalMode.WHEN_USED), RenewalPolicy(mode=RenewalMode.NEVER)
FORCED = {"forced_version": 1}


def active(**changes: Any) -> ManagedCertificate:
    """A managed certificate whose first version is replaced at PLANNED, with changes."""
    wanted: dict[str, Any] = {
        "state": ManagedCertificateState.ACTIVE,
        "current_version": 1,
        "not_after": END,
        "issue_time": ISSUED,
        "renewal_window": (PLANNED - DAY, PLANNED + DAY),
        "next_attempt_time": PLANNED,
        "association_count": 0,
        "exported_version": 0,
        "forced_version": 0,
        "renewal": RenewalPolicy(),
    }
    return replace(managed(), **(wanted | changes))


@pytest.mark.parametrize(
    ("changes", "now", "expected"),
    [
        ({}, BEFORE, NextStep.WAIT),
        ({}, AFTER, NextStep.MAKE_VERSION),
        ({}, EXPIRED, NextStep.MAKE_VERSION),
        ({"renewal_window": None}, BEFORE, NextStep.PLAN),
        ({"next_attempt_time": None}, AFTER, NextStep.PLAN),
        # By its mode.
        ({"renewal": WHEN_USED}, BEFORE, NextStep.WAIT),
        ({"renewal": WHEN_USED}, AFTER, NextStep.WAIT_FOR_USE),
        ({"renewal": WHEN_USED}, EXPIRED, NextStep.WAIT_FOR_USE),
        ({"renewal": WHEN_USED, "association_count": 1}, AFTER, NextStep.MAKE_VERSION),
        ({"renewal": WHEN_USED, "exported_version": 1}, AFTER, NextStep.MAKE_VERSION),
        ({"renewal": WHEN_USED, "current_version": 2, "exported_version": 1}, AFTER, NextStep.WAIT_FOR_USE),
        ({"renewal": NEVER}, AFTER, NextStep.NOTHING),
        # When somebody wants it now, or at a time.
        (FORCED, BEFORE, NextStep.WAIT),
        (FORCED, AFTER, NextStep.MAKE_VERSION),
        (FORCED | {"next_attempt_time": None, "renewal_window": None}, BEFORE, NextStep.MAKE_VERSION),
        (FORCED | {"renewal": NEVER}, AFTER, NextStep.MAKE_VERSION),
        (FORCED | {"renewal": WHEN_USED}, AFTER, NextStep.MAKE_VERSION),
        (FORCED | {"state": ManagedCertificateState.REVOKED}, AFTER, NextStep.MAKE_VERSION),
        # It was, and that version is replaced.
        ({"forced_version": 1, "current_version": 2}, BEFORE, NextStep.WAIT),
        # By its state and type.
        ({"state": ManagedCertificateState.PENDING, "current_version": 0}, BEFORE, NextStep.MAKE_VERSION),
        ({"state": ManagedCertificateState.FAILED, "current_version": 0}, AFTER, NextStep.NOTHING),
        ({"state": ManagedCertificateState.REVOKED}, AFTER, NextStep.NOTHING),
        ({"type": ManagedCertificateType.IMPORTED}, AFTER, NextStep.NOTHING),
    ],
)
def test_next_steps(changes: dict[str, Any], now: datetime, expected: NextStep) -> None:
    assert next_step(active(**changes), now) is expected


@pytest.mark.parametrize(
    ("now", "wait"),
    [
        (END - 30 * DAY, 3 * DAY),
        (END - timedelta(hours=10), timedelta(hours=1)),
        (END - timedelta(hours=2), timedelta(hours=1)),
        (END, DAY),
        (END + 300 * DAY, DAY),
    ],
)
def test_what_is_not_used_is_looked_at_again_the_more_often_the_less_is_left(now: datetime, wait: timedelta) -> None:
    assert next_look(active(), now) == now + wait


NIGHTLY = MaintenanceWindow(cron="0 2 * * *", duration=timedelta(hours=2))
WITH_NIGHTS = {"renewal": RenewalPolicy(maintenance_windows=(NIGHTLY,))}
NOON = PLANNED.replace(hour=12)
NIGHT = Span(NOON.replace(hour=2) + DAY, NOON.replace(hour=4) + DAY)


def test_a_renewal_waits_for_the_next_maintenance_window() -> None:
    assert awaited_maintenance(active(**WITH_NIGHTS), NOON) == NIGHT
    # It lasts.
    assert awaited_maintenance(active(**WITH_NIGHTS), NIGHT.start) is None
    assert awaited_maintenance(active(**WITH_NIGHTS), NIGHT.end - timedelta(seconds=1)) is None


def test_nothing_else_waits_for_one() -> None:
    assert awaited_maintenance(active(), NOON) is None
    assert awaited_maintenance(active(**WITH_NIGHTS, **FORCED), NOON) is None
    first = {"current_version": 0, "not_after": None, "state": ManagedCertificateState.PENDING}
    assert awaited_maintenance(active(**WITH_NIGHTS, **first), NOON) is None


def test_none_is_waited_for_once_there_is_no_more_time() -> None:
    """A tenth of what is left at the moment of the policy: here of a third of ninety days."""
    last = END - timedelta(seconds=90 * 86_400 * 33 // 1000)
    nearly = active(**WITH_NIGHTS)
    assert awaited_maintenance(nearly, last) is None
    assert awaited_maintenance(nearly, EXPIRED) is None
    # What begins before that ends with it.
    week = MaintenanceWindow(cron="0 0 * * *", duration=7 * DAY)
    at_last = last.replace(hour=0, minute=0, second=0)
    weekly = active(renewal=RenewalPolicy(maintenance_windows=(replace(week, cron=f"0 0 {at_last.day} * *"),)))
    assert awaited_maintenance(weekly, at_last - timedelta(hours=1)) == Span(at_last, last)
