"""Of which certificates it is told that they end, when, and in which words."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certd.clock import rfc3339
from certd.model.authority import AuthorityState, AuthorityType
from certd.model.certificate import RevocationReason
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.notice import AUTHORITY_NOTICE_DAYS, rotation_is_due
from certd.store import managed_versions
from certd.store.store import Transaction
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.notice_books import (
    DAY,
    EXPIRED,
    EXPIRING,
    IMPORTED,
    MINUTE,
    NEVER,
    WHEN_USED,
    Daemon,
    daemon_on,
)

__all__ = ["postgres_server", "postgres_url"]

ALL = [45, 30, 15, 7, 3, 1, 0]


@pytest.fixture(params=["sqlite", "postgresql"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    url = f"sqlite:///{tmp_path}/certd.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    with daemon_on(url, FakeClock()) as running:
        running.tell()
        yield running


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Daemon]:
    """On SQLite, for what does not depend on the engine."""
    with daemon_on(f"sqlite:///{tmp_path}/certd.db", FakeClock()) as running:
        running.tell()
        yield running


def test_what_is_not_renewed_is_told_at_each_number_of_days_and_past_its_end(daemon: Daemon) -> None:
    uid = daemon.put(left=60 * DAY, **IMPORTED, association_count=3)
    ends = daemon.clock.now() + 60 * DAY
    daemon.live(70 * DAY)
    assert daemon.told(uid) == ALL
    first, *_, last = daemon.events()
    for event in (first, last):
        assert event.resource == "tenants/default/managedCertificates/web/versions/1"
        assert (event.tenant, event.principal) == ("default", SYSTEM_PRINCIPAL)
        assert {"not_after", "version", "type", "names", "reason", "message", "used_by", "uid"} <= event.details.keys()
        assert event.details["not_after"] == rfc3339(ends)
        assert (event.details["version"], event.details["used_by"]) == ("1", "3")
        assert (event.details["type"], event.details["reason"]) == ("IMPORTED", "Imported")
        assert event.details["names"] == "www.example.internal, a.example, 10.0.0.1"
    assert (first.type, first.details["days"], last.type) == (EXPIRING, "45", EXPIRED)
    assert "days" not in last.details
    assert timedelta() < first.time - (ends - 45 * DAY) <= DAY
    assert timedelta() < last.time - ends <= DAY


# Of certificates of ninety days: the window is from 47 to 12 days before the end, the plan between the two.
_RENEWED_IN_TIME: dict[str, dict[str, Any]] = {
    "planned": {},
    "associated": {"association_count": 1, "renewal": WHEN_USED},
    "exported": {"exported_version": 1, "renewal": WHEN_USED},
    "wanted-now": {"renewal": NEVER, "forced_version": 1},
}
_OF_NO_USE: dict[str, dict[str, Any]] = {
    "revoked": {"state": ManagedCertificateState.REVOKED, "renewal": NEVER},
    "failed": {"state": ManagedCertificateState.FAILED, "current_version": 0, "not_after": None},
    "pending": {"state": ManagedCertificateState.PENDING, "current_version": 0, "not_after": None},
}
_LEFT_TO_END: dict[str, tuple[str, dict[str, Any]]] = {
    "unused": ("NotUsed", {"renewal": WHEN_USED}),
    "exported-before-its-renewal": (
        "NotUsed",
        {"renewal": WHEN_USED, "exported_version": 1, "current_version": 2},
    ),
    "never": ("NotPlanned", {"renewal": NEVER}),
    "imported": ("Imported", IMPORTED),
    "renewed-on-demand-before": ("NotPlanned", {"renewal": NEVER, "forced_version": 1, "current_version": 2}),
}


def test_who_is_told_of_and_who_is_not(daemon: Daemon) -> None:
    for name, changes in (_RENEWED_IN_TIME | _OF_NO_USE).items():
        daemon.put(name, left=60 * DAY, **changes)
    left = {daemon.put(name, left=60 * DAY, **changes): why for name, (why, changes) in _LEFT_TO_END.items()}
    # Past the moment of the renewals, which are due then and not made: that they are not is told of later.
    daemon.live(31 * DAY)
    assert {event.details["uid"] for event in daemon.events()} == left.keys()
    for name in _RENEWED_IN_TIME:
        daemon.succeed_named(name, left=90 * DAY)
    daemon.live(30 * DAY)
    for uid, why in left.items():
        assert daemon.told(uid) == ALL
        assert {event.details["reason"] for event in daemon.events() if event.details["uid"] == uid} == {why}
    assert len(daemon.events()) == len(left) * len(ALL)


def test_a_renewal_that_is_made_in_time_is_told_nothing_of(quick: Daemon) -> None:
    uid = quick.put(left=60 * DAY)
    quick.live(30 * DAY)
    quick.succeed(uid, left=90 * DAY)
    quick.live(44 * DAY)
    assert quick.told() == []


def test_one_whose_renewal_is_blocked_is_told_from_then_on(quick: Daemon) -> None:
    uid = quick.put(left=60 * DAY)
    quick.live(20 * DAY)
    quick.block(uid)
    quick.live(20 * DAY)
    assert quick.told(uid) == [30]
    assert quick.events()[0].details["reason"] == "AUTHORITY_NOT_ENABLED"
    assert quick.events()[0].details["message"] == "Enable it."
    quick.change(uid, conditions=(), next_attempt_time=quick.clock.now() + 10 * DAY)
    quick.live(9 * DAY)
    assert quick.told(uid) == [30]
    quick.block(uid, "TOKEN_UNAVAILABLE")
    quick.live(12 * DAY)
    assert quick.told(uid) == [30, 7, 3, 1, 0]


def test_one_whose_window_has_passed_and_that_nobody_renews_is_told(quick: Daemon) -> None:
    uid = quick.put(left=60 * DAY)
    quick.live(50 * DAY)
    assert quick.told(uid) == []
    quick.live(11 * DAY)
    assert quick.told(uid) == [7, 3, 1, 0]
    assert {event.details["reason"] for event in quick.events()} == {"Overdue"}


def test_one_that_waits_for_a_maintenance_window_is_renewed_in_time(quick: Daemon) -> None:
    """The wait may be longer than the window of the renewal, and ends before the certificate does."""
    uid = quick.put(left=60 * DAY)
    quick.change(uid, next_attempt_time=quick.clock.now() + 56 * DAY)
    quick.live(55 * DAY)
    assert quick.told(uid) == []


def test_a_plan_past_the_end_is_none(quick: Daemon) -> None:
    """As a clock leaves it that was ahead."""
    uid = quick.put(left=60 * DAY)
    quick.change(uid, next_attempt_time=quick.clock.now() + 400 * DAY)
    quick.live(54 * DAY)
    assert quick.told(uid) == [7]


def test_what_somebody_wants_renewed_is_not_told_while_that_goes_on(quick: Daemon) -> None:
    uid = quick.put(left=60 * DAY, renewal=NEVER, renewal_window=None, next_attempt_time=None)
    quick.live(14 * DAY)
    quick.change(uid, forced_version=1, next_attempt_time=quick.clock.now() + 2 * DAY)
    quick.live(DAY + DAY / 2)
    assert quick.told(uid) == []
    # It is due, and one after another is made.
    quick.clock.advance(DAY)
    quick.restart()
    quick.tell()
    assert quick.told(uid) == []
    quick.block(uid)
    quick.live(15 * DAY)
    assert quick.told(uid) == [30]


def test_a_daemon_that_was_away_first_makes_the_renewals_that_are_due(quick: Daemon) -> None:
    """Of which it cannot say yet that they are missing. What has ended meanwhile has ended."""
    kept = quick.put("kept", left=60 * DAY)
    ended = quick.put("ended", left=40 * DAY)
    quick.clock.advance(54 * DAY)
    quick.restart()
    quick.tell()
    assert quick.told(kept) == []
    assert [event.details["uid"] for event in quick.events()] == [ended]
    assert quick.events()[0].type is EXPIRED
    # After a day they are.
    quick.live(4 * DAY)
    assert quick.told(kept) == [3]


@pytest.mark.parametrize("away", [timedelta(days=44, hours=12), timedelta(days=50)])
def test_a_daemon_that_was_away_tells_the_last_of_what_has_passed(daemon: Daemon, away: timedelta) -> None:
    uid = daemon.put(left=60 * DAY, **IMPORTED)
    daemon.clock.advance(away)
    daemon.restart()
    daemon.tell()
    left = 60 * DAY - away
    assert daemon.told(uid) == [30 if left > 15 * DAY else 15]
    daemon.live(20 * DAY)
    assert daemon.told(uid) == [days for days in ALL if timedelta(days=days) < left or days == daemon.told(uid)[0]]


def test_an_import_below_a_number_of_days_is_told_at_the_next_one(daemon: Daemon) -> None:
    uid = daemon.put(left=29 * DAY, issue_time=daemon.clock.now(), **IMPORTED)
    daemon.tell()
    assert daemon.told() == []
    daemon.live(13 * DAY)
    assert daemon.told() == []
    daemon.live(DAY + DAY / 2)
    assert daemon.told(uid) == [15]


def test_an_import_in_the_minute_before_a_round_is_no_other(quick: Daemon) -> None:
    """What lasts a day is not told a minute after it was made that it ends in a day."""
    quick.clock.advance(MINUTE)
    uid = quick.put(left=DAY - timedelta(seconds=1), issue_time=quick.clock.now(), **IMPORTED)
    quick.tell()
    assert quick.told() == []
    quick.live(2 * DAY)
    assert quick.told(uid) == [0]


def test_a_policy_that_becomes_never_below_a_number_of_days_is_told_at_the_next_one(quick: Daemon) -> None:
    uid = quick.put(left=60 * DAY)
    quick.live(20 * DAY)
    quick.change(uid, renewal=NEVER)
    quick.tell()
    assert quick.told() == []
    quick.live(11 * DAY)
    assert quick.told(uid) == [30]


def test_a_roll_back_to_what_ends_sooner_is_told_at_the_next_number_of_days(quick: Daemon) -> None:
    """And the version that it left is not."""
    first = quick.clock.now() + 28 * DAY
    uid = quick.put(left=28 * DAY, **IMPORTED, issue_time=quick.clock.now() - 62 * DAY)
    quick.succeed(uid, left=200 * DAY)
    quick.tell()
    quick.change(uid, current_version=1, not_after=first, issue_time=first - 90 * DAY)
    quick.live(14 * DAY)
    assert quick.told(uid) == [15]
    assert quick.events()[0].details["version"] == "1"


def test_a_renewed_version_is_told_anew(quick: Daemon) -> None:
    uid = quick.put(left=46 * DAY, **IMPORTED)
    quick.live(20 * DAY)
    quick.succeed(uid, left=50 * DAY)
    quick.live(25 * DAY)
    assert [(event.resource[-1], event.details["days"]) for event in quick.events()] == [
        ("1", "45"),
        ("1", "30"),
        ("2", "45"),
        ("2", "30"),
    ]


def test_a_version_that_is_revoked_beside_one_that_lives_is_told_nothing_of(quick: Daemon) -> None:
    uid = quick.put(left=46 * DAY, renewal=NEVER)

    def revoke(tx: Transaction) -> bool:
        reason = RevocationReason.SUPERSEDED
        return managed_versions.set_revoked(tx, uid, 1, revoke_time=quick.clock.now(), reason=reason)

    assert quick.store.write("test.revoke", revoke)
    quick.live(50 * DAY)
    assert quick.told() == []


def test_each_tenant_has_its_own_days(daemon: Daemon) -> None:
    ours = daemon.put("web", left=70 * DAY, **IMPORTED)
    theirs = daemon.put("web", left=70 * DAY, tenant_id="acme", **IMPORTED)
    daemon.live(72 * DAY)
    assert daemon.told(ours) == ALL
    assert daemon.told(theirs) == [60, 10, 0]
    assert {event.tenant for event in daemon.events() if event.details["uid"] == theirs} == {"acme"}


def test_days_that_are_new_begin_at_the_present(quick: Daemon) -> None:
    """Who wants to hear of 80 days from now on does not hear of all that have fewer."""
    below = quick.put("below", left=70 * DAY, **IMPORTED)
    above = quick.put("above", left=90 * DAY, **IMPORTED)
    quick.set_days(80, 20)
    quick.live(60 * DAY)
    assert quick.told(below) == [20]
    assert quick.told(above) == [80]
    # Taken back and wanted once more, they begin anew.
    quick.set_days(20)
    quick.tell()
    third = quick.put("third", left=70 * DAY, **IMPORTED)
    quick.live(2 * DAY)
    quick.set_days(80, 20)
    quick.live(20 * DAY)
    assert quick.told(third) == []


def test_what_ended_before_there_were_notices_is_not_told(tmp_path: Path) -> None:
    """A database of years: the first round tells of nothing, the next of what comes near then."""
    with daemon_on(f"sqlite:///{tmp_path}/certd.db", FakeClock()) as running:
        running.put("old", left=-400 * DAY, **IMPORTED)
        running.put("near", left=10 * DAY, **IMPORTED)
        running.put_authority(left=-DAY)
        running.tell()
        assert running.told() == []
        running.live(5 * DAY)
        assert running.told() == [7]


def test_authorities_are_told_of_earlier(daemon: Daemon) -> None:
    uid = daemon.put_authority(left=400 * DAY, type=AuthorityType.ROOT)
    daemon.live(401 * DAY, step=2 * DAY)
    # Steps of two days are a daemon that was away: what has passed before the end is told once.
    assert daemon.told(uid) == [*AUTHORITY_NOTICE_DAYS, 0]
    first, *_, last = daemon.events()
    assert (first.type, last.type) == (EventType.AUTHORITY_EXPIRING, EventType.AUTHORITY_EXPIRED)
    assert (first.resource, first.tenant) == ("tenants/default/authorities/ca", "default")
    assert (first.details["days"], first.details["type"], first.details["state"]) == ("365", "ROOT", "ENABLED")


def test_authorities_that_are_disabled_end_too_and_others_do_not(quick: Daemon) -> None:
    disabled = quick.put_authority("disabled", left=8 * DAY, state=AuthorityState.DISABLED)
    quick.put_authority("awaits", left=None, state=AuthorityState.AWAITING_CERTIFICATE)
    quick.put_authority("system", left=8 * DAY, tenant=None)
    quick.live(2 * DAY)
    assert [event.details["uid"] for event in quick.events()] == [disabled]
    assert quick.told() == [7]


def test_authorities_that_issue_for_long_are_told_while_a_next_key_still_helps(daemon: Daemon) -> None:
    """What it issues lives 824 days: at 1.5 times as much before its end, and not later, another key is due."""
    uid = daemon.put_authority(left=4000 * DAY, type=AuthorityType.ROOT)
    idle = daemon.put_authority("idle", left=4000 * DAY)
    daemon.live(10 * DAY)
    daemon.certify(uid, lifetime=824 * DAY)
    daemon.live(2000 * DAY, step=200 * DAY)
    # All that it issued has ended meanwhile.
    assert daemon.told() == []
    daemon.certify(uid, lifetime=824 * DAY)
    daemon.live(1000 * DAY, step=50 * DAY)
    assert daemon.told(uid) == [1460]
    assert daemon.told(idle) == []


@pytest.mark.parametrize(
    ("days", "longest", "due"),
    [
        (1460, 824, True),
        (1460, 729, False),
        (1095, 729, True),
        (545, 243, False),
        (545, 244, True),
        (1460, None, False),
    ],
)
def test_when_a_next_key_is_due(days: int, longest: int | None, due: bool) -> None:  # noqa: FBT001  # Of a table.
    assert rotation_is_due(days, None if longest is None else longest * DAY) is due
