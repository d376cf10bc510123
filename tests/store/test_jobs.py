"""Jobs are claimed by one at a time."""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from certd.model.job import Job, JobKind
from certd.store import jobs, owners
from certd.store.store import Store, Transaction
from tests.store.explaining import Explaining
from tests.store.samples import NOW
from tests.store.waiting import run_together

KIND = JobKind.ADVANCE_MANAGED_CERTIFICATE
LEASE = timedelta(minutes=1)


def job(subject: str, due_time: datetime = NOW, attempt: int = 0) -> Job:
    return Job(kind=KIND, subject=subject, due_time=due_time, attempt=attempt)


def put(store: Store, *several: Job) -> None:
    def work(tx: Transaction) -> None:
        for one in several:
            jobs.put(tx, one)

    store.write("test", work)


def claim(store: Store, now: datetime = NOW, limit: int = 10, owner_epoch: int = 1) -> list[Job]:
    return store.write(
        "claim",
        lambda tx: jobs.claim(tx, now, lease_until=now + LEASE, owner_epoch=owner_epoch, limit=limit),
    )


def next_due(store: Store) -> datetime | None:
    with store.read("test") as tx:
        return jobs.next_due(tx)


def test_of_many_that_are_due_a_fourth_are_those_that_became_due_last(store: Store) -> None:
    """Who waits for something now does not wait for all that was left undone."""
    old = [job(f"old-{number:02}", NOW - timedelta(hours=20 - number)) for number in range(20)]
    put(store, *old, job("new"), job("later", NOW + timedelta(seconds=1)))
    found = [one.subject for one in claim(store, limit=8)]
    assert found == [*(one.subject for one in old[:6]), "new", "old-19"]
    while several := claim(store, limit=8):
        found += [one.subject for one in several]
    assert sorted(found) == ["new", *(one.subject for one in old)]


@pytest.mark.parametrize("count", range(1, 12))
def test_each_that_is_due_is_claimed_once_however_many_there_are(store: Store, count: int) -> None:
    put(store, *(job(f"m{number}", NOW - timedelta(seconds=number)) for number in range(count)))
    found = [one.subject for one in claim(store, limit=8)]
    assert len(set(found)) == len(found) == min(count, 8)


def test_jobs_are_claimed_when_they_are_due_the_longest_due_first(store: Store) -> None:
    assert next_due(store) is None
    put(store, job("later", NOW + timedelta(hours=1)), job("b", NOW), job("a", NOW - timedelta(seconds=1)))
    assert next_due(store) == NOW - timedelta(seconds=1)
    assert claim(store, limit=1) == [replace(job("a", NOW - timedelta(seconds=1)), attempt=1)]
    assert claim(store) == [replace(job("b"), attempt=1)]
    assert claim(store) == []
    # The leases are what passes next.
    assert next_due(store) == NOW + LEASE


def test_a_job_whose_lease_has_passed_is_claimed_again_and_counts_its_attempts(store: Store) -> None:
    put(store, job("a"))
    assert claim(store) == [replace(job("a"), attempt=1)]
    assert claim(store, NOW + LEASE - timedelta(microseconds=1)) == []
    assert claim(store, NOW + LEASE) == [replace(job("a"), attempt=2)]


def test_what_the_dead_had_claimed_is_due_again_at_once(store: Store) -> None:
    put(store, job("of the dead"), job("of the living"))
    dead = store.write("test", lambda tx: owners.begin(tx, NOW, NOW + timedelta(hours=1)))
    claim(store, limit=1, owner_epoch=dead)
    assert store.write("test", lambda tx: jobs.release_of_ended_owners(tx, NOW)) == 0
    store.write("test", lambda tx: owners.end(tx, dead))
    living = store.write("test", lambda tx: owners.begin(tx, NOW, NOW + timedelta(hours=1)))
    claim(store, limit=1, owner_epoch=living)
    assert claim(store) == []
    assert store.write("test", lambda tx: jobs.release_of_ended_owners(tx, NOW)) == 1
    assert [(one.subject, one.attempt) for one in claim(store)] == [("of the dead", 2)]


def test_a_finished_job_is_gone(store: Store) -> None:
    put(store, job("a"), job("b"))
    claim(store)
    assert store.write("test", lambda tx: jobs.finish(tx, KIND, "a"))
    assert not store.write("test", lambda tx: jobs.finish(tx, KIND, "a"))
    assert not store.write("test", lambda tx: jobs.finish(tx, JobKind.ADVANCE_AUTHORITY, "b"))
    assert claim(store, NOW + LEASE) == [replace(job("b"), attempt=2)]


def test_putting_a_job_again_replaces_its_time(store: Store) -> None:
    put(store, job("a"))
    (claimed,) = claim(store)
    again = replace(claimed, due_time=NOW + timedelta(minutes=5))
    put(store, again)
    assert next_due(store) == again.due_time
    assert claim(store, NOW + LEASE) == []
    assert claim(store, again.due_time) == [replace(again, attempt=2)]


def test_a_job_that_was_put_again_meanwhile_is_not_finished(store: Store) -> None:
    put(store, job("a"))
    (claimed,) = claim(store)
    put(store, job("a", NOW + timedelta(seconds=1)))
    assert not store.write("test", lambda tx: jobs.finish(tx, KIND, "a", due_time=claimed.due_time))
    assert [one.subject for one in claim(store, NOW + timedelta(seconds=1))] == ["a"]
    assert store.write("test", lambda tx: jobs.finish(tx, KIND, "a", due_time=NOW + timedelta(seconds=1)))


def test_no_job_is_claimed_twice_by_many_threads(store: Store) -> None:
    count = 100
    put(store, *(job(f"{number}", NOW - timedelta(seconds=number)) for number in range(count)))

    def worker() -> list[str]:
        mine: list[str] = []
        while found := claim(store, limit=3):
            mine += [one.subject for one in found]
        return mine

    claimed = Counter(subject for mine in run_together([worker] * 8) for subject in mine)
    assert claimed == Counter(f"{number}" for number in range(count))


def hasten(store: Store, subject: str, due_time: datetime) -> None:
    store.write("test", lambda tx: jobs.hasten(tx, KIND, subject, due_time))


def test_a_job_is_hastened_and_never_delayed(store: Store) -> None:
    put(store, job("a", NOW + timedelta(hours=1), attempt=3))
    hasten(store, "a", NOW)
    hasten(store, "a", NOW + timedelta(minutes=1))
    assert next_due(store) == NOW
    assert claim(store) == [replace(job("a"), attempt=4)]


def test_what_has_no_job_gets_one_by_hastening(store: Store) -> None:
    hasten(store, "a", NOW)
    assert claim(store) == [replace(job("a"), attempt=1)]


def test_who_works_on_a_job_is_not_joined_by_another_when_it_is_hastened(store: Store) -> None:
    put(store, job("a"))
    claim(store)
    hasten(store, "a", NOW - timedelta(minutes=1))
    assert claim(store) == []
    assert claim(store, NOW + LEASE) == [replace(job("a"), attempt=2)]


def test_a_kind_that_only_a_newer_release_knows_blocks_nothing(store: Store) -> None:
    """As many as would fill every claim, and due for longer than ours."""
    foreign = text(
        "INSERT INTO jobs (kind, subject, due_time, available_time, attempt) "
        "VALUES ('a-kind-of-tomorrow', :subject, 0, 0, 0)"
    )
    store.write("test", lambda tx: tx.execute(foreign, [{"subject": f"{number}"} for number in range(20)]))
    assert next_due(store) is None
    put(store, job("a"))
    assert next_due(store) == NOW
    assert claim(store) == [replace(job("a"), attempt=1)]
    assert claim(store) == []


def test_a_job_is_put_back_by_who_has_it(store: Store) -> None:
    put(store, job("a"), job("ended"), job("put again"), job("taken over"))
    claimed = {one.subject: one for one in claim(store)}
    store.write("test", lambda tx: jobs.finish(tx, KIND, "ended"))
    put(store, job("put again", NOW + timedelta(days=1)))
    later = NOW + timedelta(seconds=5)
    assert not put_back(store, claimed["a"], later, owner_epoch=2)
    assert put_back(store, claimed["a"], later)
    assert not put_back(store, claimed["a"], later)
    assert not put_back(store, claimed["ended"], later)
    assert not put_back(store, claimed["put again"], later)
    assert claim(store, NOW + LEASE - timedelta(microseconds=1)) == [replace(job("a", later), attempt=2)]
    # Its lease had passed, and the same daemon began it anew.
    assert [one.subject for one in claim(store, NOW + LEASE)] == ["taken over"]
    assert not put_back(store, claimed["taken over"], later)


def put_back(store: Store, claimed: Job, due_time: datetime, owner_epoch: int = 1) -> bool:
    again = replace(claimed, due_time=due_time)
    return store.write("test", lambda tx: jobs.put_back(tx, again, owner_epoch=owner_epoch))


def test_what_is_due_is_found_by_its_time_however_many_jobs_there_are(sqlite_store: Store) -> None:
    """By kind it would be found among all, one for each managed certificate."""
    put(sqlite_store, *(job(f"m{number}") for number in range(20)))

    def work(tx: Transaction) -> list[str]:
        explaining = Explaining(tx)
        assert len(jobs.claim(explaining, NOW, lease_until=NOW + LEASE, owner_epoch=1, limit=8)) == 8
        assert jobs.next_due(explaining) == NOW
        return explaining.plans

    oldest, newest, following = sqlite_store.write("test", work)
    for plan in (oldest, newest):
        assert plan.startswith("SEARCH jobs USING INDEX jobs_available_time (available_time<?)")
    assert following == "SCAN jobs USING INDEX jobs_available_time"


def test_jobs_apart_are_claimed_apart(store: Store) -> None:
    """Nobody who works on others waits for them, and the other way round."""
    deliveries = [replace(job(f"s{number}"), kind=JobKind.DELIVER_EVENTS) for number in range(3)]
    put(store, job("m"), *deliveries)

    def claim_apart(tx: Transaction) -> list[Job]:
        return jobs.claim(tx, NOW, lease_until=NOW + LEASE, owner_epoch=1, limit=2, apart=True)

    with store.read("test") as tx:
        assert jobs.next_due(tx, apart=True) == jobs.next_due(tx) == NOW
    assert [one.subject for one in claim(store)] == ["m"]
    assert [one.subject for one in store.write("test", claim_apart)] == ["s0", "s1"]
    assert [one.subject for one in store.write("test", claim_apart)] == ["s2"]
    assert not store.write("test", claim_apart)
    with store.read("test") as tx:
        assert jobs.next_due(tx, apart=True) == NOW + LEASE


def test_jobs_apart_are_found_by_their_kind(sqlite_store: Store) -> None:
    put(sqlite_store, *(job(f"m{number}") for number in range(20)))

    def work(tx: Transaction) -> list[str]:
        explaining = Explaining(tx)
        assert not jobs.claim(explaining, NOW, lease_until=NOW + LEASE, owner_epoch=1, limit=8, apart=True)
        assert jobs.next_due(explaining, apart=True) is None
        return explaining.plans

    for plan in sqlite_store.write("test", work):
        assert "USING INDEX sqlite_autoindex_jobs_1 (kind=?)" in plan
