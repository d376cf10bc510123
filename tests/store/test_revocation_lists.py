"""Rows of CRLs: marks, claims, URLs, and how the database finds what stands on one."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from certd.model.authority import AuthorityState
from certd.model.job import Job, JobKind
from certd.model.revocation_list import RevocationList, RevocationListKey
from certd.store import authorities, jobs, revocation_lists, revoked_certificates
from certd.store.revoked_certificates import Scope
from certd.store.store import Store, Transaction
from tests.store.explaining import Explaining
from tests.store.samples import add_tenant, authority

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
UID = "u"
KEY, SECOND = RevocationListKey(UID, 1, 0), RevocationListKey(UID, 1, 2)


def ensure(store: Store, urls: dict[int, list[str]], now: datetime = NOW) -> None:
    store.write("test", lambda tx: revocation_lists.ensure_rows(tx, UID, 1, urls, now=now))


def mark(store: Store, partition: int | None, now: datetime = NOW) -> None:
    store.write("test", lambda tx: revocation_lists.mark_changed(tx, UID, 1, partition, now))


def found(store: Store, key: RevocationListKey = KEY) -> RevocationList:
    with store.read("test") as tx:
        row = revocation_lists.get(tx, key)
    assert row is not None
    return row


def due(store: Store, key: RevocationListKey = KEY) -> datetime | None:
    with store.read("test") as tx:
        return jobs.due_time(tx, JobKind.GENERATE_REVOCATION_LIST, revocation_lists.subject_of(*key))


def claim(store: Store, now: datetime = NOW, key: RevocationListKey = KEY) -> int:
    row = found(store, key)
    return store.write("test", lambda tx: revocation_lists.claim(tx, row, now))


def made(row: RevocationList, number: int, *, final: bool = False) -> RevocationList:
    return RevocationList(
        key=row.key,
        number=number,
        claimed_number=number,
        this_update=NOW,
        next_update=LATER,
        entry_count=3,
        size_bytes=4,
        sha256=b"hash",
        urls=row.urls,
        changed_time=row.changed_time,
        last_error="",
        final=final,
    )


def publish(store: Store, number: int, *, final: bool = False) -> bool:
    row = made(found(store), number, final=final)
    return store.write("test", lambda tx: revocation_lists.publish(tx, row, b"list"))


def put_off(store: Store, key: RevocationListKey) -> None:
    """Has the job of a CRL due in a year, as after it was signed."""
    subject, year = revocation_lists.subject_of(*key), NOW + timedelta(days=365)
    job = Job(kind=JobKind.GENERATE_REVOCATION_LIST, subject=subject, due_time=year)
    store.write("test", lambda tx: jobs.put(tx, job))


def test_a_new_one_is_due_at_once(store: Store) -> None:
    ensure(store, {0: ["http://a/1.crl"], 2: ["http://a/1/2.crl", "http://a/1/2.crl"]})
    assert (due(store), due(store, SECOND)) == (NOW, NOW)
    assert (found(store).number, found(store).urls) == (0, ("http://a/1.crl",))
    assert found(store, SECOND).urls == ("http://a/1/2.crl",)
    with store.read("test") as tx:
        assert [one.key for one in revocation_lists.of_key(tx, UID, 1)] == [KEY, SECOND]
        assert revocation_lists.of_key(tx, UID, 2) == []


def test_a_new_url_is_added_for_ever_and_has_the_list_signed_again(store: Store) -> None:
    ensure(store, {0: ["http://a/"], 2: ["http://a/2"]})
    for key in (KEY, SECOND):
        put_off(store, key)
    ensure(store, {0: ["http://a/"], 2: ["http://b/2"]}, LATER)
    assert found(store, SECOND).urls == ("http://a/2", "http://b/2")
    assert (found(store).changed_time, found(store, SECOND).changed_time) == (None, LATER)
    assert due(store, SECOND) == LATER + revocation_lists.GATHERING
    assert due(store) == NOW + timedelta(days=365)
    with store.read("test") as tx:
        assert revocation_lists.urls(tx, UID, 1, 2) == ["http://a/2", "http://b/2"]
        assert revocation_lists.urls(tx, UID, 1, 9) == []


def test_a_change_marks_the_complete_one_and_the_partition_once(store: Store) -> None:
    ensure(store, {0: [], 1: ["http://a/1"], 2: ["http://a/2"]})
    put_off(store, KEY)
    mark(store, 2)
    mark(store, None, LATER)
    mark(store, 2, LATER)
    assert (found(store).changed_time, found(store, SECOND).changed_time) == (NOW, NOW)
    assert found(store, RevocationListKey(UID, 1, 1)).changed_time is None
    assert due(store) == NOW + revocation_lists.GATHERING


def test_where_none_is_signed_nothing_is_marked(store: Store) -> None:
    mark(store, 7)
    assert due(store) is None


def test_the_last_one_is_followed_by_another_when_something_changes_and_the_key_is_there(store: Store) -> None:
    ensure(store, {0: []})
    assert publish(store, claim(store), final=True)
    assert found(store).changed_time is None
    mark(store, None, LATER)
    assert (found(store).final, found(store).changed_time) == (False, LATER)
    assert publish(store, claim(store), final=True)
    ensure(store, {0: []}, LATER)
    assert (found(store).final, found(store).changed_time) == (False, LATER)


def test_the_last_one_of_a_purged_authority_stays_as_it_is(store: Store) -> None:
    add_tenant(store)
    store.write("test", lambda tx: authorities.insert(tx, authority(uid=UID, state=AuthorityState.PURGED)))
    ensure(store, {0: []})
    assert publish(store, claim(store), final=True)
    mark(store, None, LATER)
    assert (found(store).final, found(store).changed_time) == (True, None)


def test_numbers_are_the_time_and_never_the_same(store: Store) -> None:
    ensure(store, {0: []})
    first = claim(store)
    assert first == int(NOW.timestamp() * 1000)
    assert [claim(store), claim(store, NOW - timedelta(days=1))] == [first + 1, first + 2]
    assert claim(store, LATER) == int(LATER.timestamp() * 1000)
    row = found(store)
    store.write("test", lambda tx: revocation_lists.raise_number(tx, row, 2**50))
    assert claim(store, LATER) == 2**50 + 1
    store.write("test", lambda tx: revocation_lists.raise_number(tx, found(store), 5))
    assert claim(store, LATER) == 2**50 + 2


def test_only_what_was_claimed_last_is_published(store: Store) -> None:
    ensure(store, {0: []})
    first, second = claim(store), claim(store)
    assert not publish(store, first)
    assert found(store).number == 0
    assert publish(store, second)
    with store.read("test") as tx:
        assert revocation_lists.content(tx, KEY) == (b"list", b"hash")
        assert revocation_lists.content(tx, SECOND) is None
    assert (found(store).number, found(store).entry_count, found(store).size_bytes) == (second, 3, 4)


def test_a_claim_takes_the_mark_and_a_change_after_it_sets_another(store: Store) -> None:
    ensure(store, {0: []})
    mark(store, None)
    number = claim(store)
    assert found(store).changed_time is None
    mark(store, None, LATER)
    assert publish(store, number)
    assert found(store).changed_time == LATER


def test_a_failure_is_the_first_once(store: Store) -> None:
    ensure(store, {0: []})

    def fail() -> bool:
        return store.write("test", lambda tx: revocation_lists.fail(tx, found(store), "why", LATER))

    assert [fail(), fail()] == [True, False]
    assert (found(store).last_error, found(store).changed_time) == ("why", LATER)
    with store.read("test") as tx:
        assert revocation_lists.troubled(tx, NOW) == (1, 0)
    assert publish(store, claim(store))
    with store.read("test") as tx:
        assert revocation_lists.troubled(tx, NOW) == (0, 0)
        assert revocation_lists.troubled(tx, LATER + timedelta(seconds=1)) == (0, 1)
    assert fail()


def change(store: Store, number: int) -> None:
    """Commits something that a CRL must say, and its mark."""

    def work(tx: Transaction) -> None:
        jobs.put(tx, Job(kind=JobKind.SIGN_CHECKPOINT, subject=str(number), due_time=NOW))
        revocation_lists.mark_changed(tx, UID, 1, None, NOW)

    store.write("test", work)


def changes_read(store: Store) -> int:
    with store.read("test") as tx:
        return int(tx.execute(text("SELECT count(*) FROM jobs WHERE kind = 'sign-checkpoint'")).scalar_one())


def test_no_change_is_missed_whoever_claims_meanwhile(store: Store) -> None:
    """What was committed before a claim is read after it, and what is committed later marks the row again."""
    ensure(store, {0: []})
    with ThreadPoolExecutor(3) as pool:
        changing = [pool.submit(change, store, number) for number in range(24)]
        while True:
            ended = all(one.done() for one in changing)
            claim(store)
            seen = changes_read(store)
            if ended:
                break
            if found(store).changed_time is None:
                # What was committed since has come with a mark.
                assert changes_read(store) == seen or found(store).changed_time is not None
    assert (seen, found(store).changed_time) == (24, None)


@pytest.mark.parametrize("partition", [0, 3])
def test_what_stands_on_one_is_read_by_indexes(sqlite_store: Store, partition: int) -> None:
    scope = Scope(UID, 1, partition)
    with sqlite_store.read("test") as tx:
        explaining = Explaining(tx)
        revoked_certificates.any_code(explaining, scope)
        revoked_certificates.left_until(explaining, scope, NOW)
        revoked_certificates.last_end(explaining, UID, 1)
        for statements in (revoked_certificates._REVOKED_ENTRIES, revoked_certificates._CODE_ENTRIES):
            values = {**revoked_certificates._values(scope, partition or None), "of_end": 1}
            place = {"after_end": 0, "after_serial": ""}
            explaining.execute(statements.of(partition or None), {**values, **place})
        revocation_lists.troubled(explaining, NOW)
    plans = json.dumps(explaining.plans)
    assert not any("TEMP B-TREE" in plan for plan in explaining.plans), plans
    assert not any(line.startswith("SCAN certificates") for plan in explaining.plans for line in plan.split("\n")), (
        plans
    )
    assert plans.count("certificates_revoked_code (authority_uid=? AND key_number=? AND crl_partition=?") == 2
    assert "certificates_revoked (authority_uid=? AND key_number=? AND crl_partition=? AND not_after<?)" in plans
    assert "certificates_not_after (authority_uid=? AND key_number=?)" in plans
    assert "revocation_lists_failed" in plans
    assert "revocation_lists_next_update (next_update<?)" in plans
