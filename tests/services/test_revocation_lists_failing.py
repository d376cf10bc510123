"""CRLs when signing fails, when a daemon dies over one, and when two make one at a time."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.model.event import EventType
from certd.model.names import AuthorityName
from certd.services.revocation_lists import RevocationListView, WantedList
from certd.services.status_locations import follow_clock
from certd.store import revocation_lists
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, CrashError, World, crash, two_worlds
from tests.services.revocation_books import (
    CA,
    due_time,
    entries,
    generated,
    key_of,
    number_of,
    of_type,
    published,
    revoke,
    row,
    run_job,
    settle,
)
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]


def refuse() -> None:
    """Stands for a token that does not sign."""
    raise CertdError(Reason.TOKEN_UNAVAILABLE, "the token is away: plug it in")


def failing(world: World) -> CertdError:
    world.steps.at["revocation-list.claimed"] = refuse
    with pytest.raises(CertdError) as failed:
        generated(world)
    return failed.value


def problems(world: World) -> list[str]:
    return world.core.health.complaints()


def test_the_last_good_one_stays_and_the_trouble_is_told_once(ca: World) -> None:
    settle(ca)
    ca.core.scheduler.stop()
    before = number_of(published(ca))
    revoke(ca, ca.issue("www.example.internal"))
    assert problems(ca) == []
    for _ in range(3):
        assert failing(ca).reason is Reason.TOKEN_UNAVAILABLE
    assert number_of(published(ca)) == before
    assert row(ca).last_error == "the token is away: plug it in"
    assert row(ca).changed_time is not None
    (told,) = of_type(ca, EventType.REVOCATION_LIST_FAILED)
    assert (told.resource, told.details["error"]) == (str(CA), "the token is away: plug it in")
    (problem,) = problems(ca)
    assert problem.startswith("1 ")
    assert EventType.REVOCATION_LIST_FAILED in problem
    # What serves is ready all the same: no other daemon does better.
    assert ca.core.health.problems() == []
    assert ca.core.server.describe(ADMINISTRATOR).complaints == tuple(problems(ca))
    assert len(generated(ca)) == 1
    assert (row(ca).last_error, problems(ca)) == ("", [])
    failing(ca)
    assert len(of_type(ca, EventType.REVOCATION_LIST_FAILED)) == 2


def test_the_scheduler_tries_again_and_tells_why_it_waits(ca: World) -> None:
    settle(ca)
    revoke(ca, ca.issue("www.example.internal"))
    ca.steps.at["revocation-list.claimed"] = refuse
    ca.clock.advance(timedelta(seconds=3))
    ca.core.scheduler.wake()
    eventually(lambda: row(ca).last_error)
    assert len(of_type(ca, EventType.REVOCATION_LIST_FAILED)) == 1
    ca.clock.advance(timedelta(minutes=10))
    settle(ca)
    assert (len(published(ca)), row(ca).last_error) == (1, "")


def test_one_of_a_clock_that_was_ahead_is_signed_anew_by_who_starts_with_the_right_time(ca: World) -> None:
    settle(ca)
    ca.core.scheduler.stop()
    ca.clock.advance(timedelta(days=400))
    ahead = number_of(generated(ca))
    ca.clock.advance(-timedelta(days=400))
    follow_clock(ca.core.store, ca.clock.now())
    assert due_time(ca) == ca.clock.now() + timedelta(seconds=2)
    run_job(ca)
    assert published(ca).last_update_utc == ca.clock.now()
    assert number_of(published(ca)) == ahead + 1
    # Those of the other authority begin in the past, and are left alone.
    assert row(ca, authority=AuthorityName("default", "root")).changed_time is None


def test_one_past_its_end_is_told(ca: World) -> None:
    settle(ca)
    ca.core.scheduler.stop()
    ca.clock.advance(timedelta(days=8))
    assert [problem.partition(" are ")[0] for problem in problems(ca)] == ["2 CRLs"]
    generated(ca)
    assert [problem.partition(" are ")[0] for problem in problems(ca)] == ["1 CRLs"]


@pytest.mark.parametrize("step", ["revocation-list.claimed", "revocation-list.signed"])
def test_a_death_over_one_leaves_the_one_before_and_has_another_made(ca: World, step: str) -> None:
    settle(ca)
    ca.core.scheduler.stop()
    serial, before = revoke(ca, ca.issue("www.example.internal")), number_of(published(ca))
    ca.steps.at[step] = crash
    with pytest.raises(CrashError):
        generated(ca)
    assert number_of(published(ca)) == before
    due = due_time(ca)
    assert due is not None
    assert due <= ca.clock.now() + timedelta(minutes=1)
    run_job(ca)
    assert set(entries(published(ca))) == {serial}
    assert number_of(published(ca)) > before


def test_the_one_that_was_begun_last_is_published(ca: World) -> None:
    settle(ca)
    ca.core.scheduler.stop()
    numbers = []
    serials = []

    def another() -> None:
        serials.append(revoke(ca, ca.issue("www.example.internal")))
        numbers.append(number_of(generated(ca)))

    ca.steps.at["revocation-list.signed"] = another
    # It is given what was published meanwhile, which says more than its own.
    assert number_of(generated(ca)) == numbers[0] == row(ca).number
    assert set(entries(published(ca))) == set(serials)


def test_two_daemons_sign_no_two_with_one_number_and_lose_no_entry(
    postgres_url: str, tmp_path: Path, token_settings: TokenSettings
) -> None:
    with two_worlds(tmp_path, token_settings, postgres_url) as daemons:
        first, _ = daemons
        first.create_root()
        first.create_subordinate()
        settle(first)
        issued = [first.issue(f"www{place}.example.internal") for place in range(24)]

        def revoked(place: int) -> str:
            return revoke(daemons[place % 2], issued[place])

        def made(place: int) -> RevocationListView | None:
            try:
                return daemons[place % 2].core.publication.lists.generate(ADMINISTRATOR, WantedList(authority=CA))
            except CertdError as error:
                if error.reason is not Reason.REQUEST_IN_PROGRESS:
                    raise
                return None

        with ThreadPoolExecutor(8) as pool:
            making = [pool.submit(made, place) for place in range(8)]
            serials = set(pool.map(revoked, range(24)))
            for one in making:
                one.result()
        settle(first)
        assert set(entries(published(first))) == serials

        def numbers() -> list[int]:
            told = of_type(first, EventType.REVOCATION_LIST_GENERATED)
            return [int(one.details["number"]) for one in told if one.resource == str(CA)]

        # An event is read once it has its place in the order, a moment after what it tells.
        eventually(lambda: max(numbers(), default=0) == row(first).number)
        assert len(numbers()) == len(set(numbers()))


def test_one_that_is_overtaken_before_any_is_published_is_made_again(world: World) -> None:
    world.core.scheduler.stop()
    world.create_root()
    world.create_subordinate()
    key = key_of(world)

    def another_begins() -> None:
        found = row(world)
        world.core.store.write("test", lambda tx: revocation_lists.claim(tx, found, world.clock.now()))

    world.steps.at["revocation-list.signed"] = another_begins
    assert number_of(generated(world)) == row(world).number == row(world).claimed_number
    assert key == row(world).key


def test_a_job_that_is_overtaken_is_no_failure_and_looks_again_in_a_minute(ca: World) -> None:
    settle(ca)
    ca.core.scheduler.stop()

    def another_begins() -> None:
        ca.core.store.write("test", lambda tx: revocation_lists.claim(tx, row(ca), ca.clock.now()))

    ca.steps.at["revocation-list.signed"] = another_begins
    before = row(ca).number
    run_job(ca)
    assert (row(ca).number, row(ca).last_error) == (before, "")
    assert due_time(ca) == ca.clock.now() + timedelta(minutes=1)
    run_job(ca)
    assert row(ca).number == row(ca).claimed_number > before
