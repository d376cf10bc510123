"""What is written for many new versions at once is what would be written for each."""

from dataclasses import replace
from datetime import timedelta

import pytest

from certd.errors import CertdError, Reason
from certd.model.job import Job, JobKind
from certd.model.managed_certificate import (
    RENEWAL_BLOCKED,
    Condition,
    ManagedCertificate,
    ManagedCertificateState,
)
from certd.store import jobs, managed_certificates, managed_versions, sealed_keys, wrapping_keys
from certd.store.sealed_keys import SealedKey
from certd.store.store import Store, Transaction
from tests.store.samples import LATER, NOW, add_tenant, managed, version, wrapping_key

KIND = JobKind.ADVANCE_MANAGED_CERTIFICATE
# More than fit into one statement, and not a number that halves well.
COUNT = 83


@pytest.fixture
def several(store: Store) -> list[ManagedCertificate]:
    """Declared, each, and as they stand in the order of their uids."""
    add_tenant(store)
    made = [managed(f"m{number}") for number in range(COUNT)]

    def work(tx: Transaction) -> None:
        wrapping_keys.claim(tx, wrapping_key())
        for one in made:
            managed_certificates.insert(tx, one)

    store.write("test", work)
    return sorted(made, key=lambda one: one.uid)


def uids(several: list[ManagedCertificate]) -> list[str]:
    return [one.uid for one in several]


def test_many_are_read_by_uid_those_that_are_there(store: Store, several: list[ManagedCertificate]) -> None:
    wanted = ["absent", *reversed(uids(several))]
    with store.read("test") as tx:
        assert managed_certificates.get_many(tx, wanted) == several
        assert managed_certificates.there(tx, wanted) == set(uids(several))
        assert managed_certificates.get_many(tx, []) == []
    assert store.write("test", lambda tx: managed_certificates.get_many(tx, wanted, to_change=True)) == several


def test_versions_in_the_making(store: Store, several: list[ManagedCertificate]) -> None:
    first = [version(one) for one in several]
    assert store.write("test", lambda tx: managed_versions.insert_all(tx, first)) == COUNT
    # Two daemons may come here; the first key is the one that stays.
    second = [replace(one, public_key=b"another") for one in first]
    assert store.write("test", lambda tx: managed_versions.insert_all(tx, second)) == 0
    with store.read("test") as tx:
        assert managed_versions.in_making(tx, uids(several)) == {one.managed_certificate_uid: one for one in first}
    issued = [
        replace(one, serial=f"{place:04x}", not_before=NOW, not_after=LATER) for place, one in enumerate(first[1:])
    ]
    store.write("test", lambda tx: managed_versions.set_issued_all(tx, issued))
    with store.read("test") as tx:
        assert managed_versions.in_making(tx, uids(several)) == {several[0].uid: first[0]}
        assert [managed_versions.get(tx, one.managed_certificate_uid, 1) for one in issued] == issued


def test_the_next_version_is_the_one_in_the_making(store: Store, several: list[ManagedCertificate]) -> None:
    one = several[0]

    def work(tx: Transaction) -> None:
        managed_versions.insert_all(tx, [version(one, 1), version(one, 2)])
        managed_versions.set_issued_all(tx, [replace(version(one, 1), serial="01", not_before=NOW, not_after=LATER)])
        managed_certificates.set_versions(tx, [replace(one, current_version=1)])

    store.write("test", work)
    with store.read("test") as tx:
        assert managed_versions.in_making(tx, uids(several)) == {one.uid: version(one, 2)}


def test_what_changes_with_the_version_is_replaced_from_the_revision_that_was_read(
    store: Store, several: list[ManagedCertificate]
) -> None:
    blocked = Condition(type=RENEWAL_BLOCKED, status=True, reason="R", message="m", last_transition_time=NOW)
    changed = [
        replace(
            one,
            state=ManagedCertificateState.ACTIVE,
            current_version=place,
            not_after=LATER,
            issue_time=NOW,
            renewal_window=(NOW, LATER) if place % 2 else None,
            next_attempt_time=LATER if place % 2 else None,
            conditions=(blocked,) if place % 3 else (),
            update_time=LATER,
        )
        for place, one in enumerate(several)
    ]
    assert store.write("test", lambda tx: managed_certificates.set_versions(tx, changed)) == COUNT
    with store.read("test") as tx:
        read = managed_certificates.get_many(tx, uids(several))
    assert read == [replace(one, revision=2) for one in changed]
    # By now they have another revision; one of them was read since.
    stale = [*changed[1:], replace(read[0], current_version=9)]
    assert store.write("test", lambda tx: managed_certificates.set_versions(tx, stale)) == 1


def test_sealed_keys_are_kept_together_and_end_together(store: Store, several: list[ManagedCertificate]) -> None:
    keys = [SealedKey(managed_uid=one.uid, version=1, wrapping_key_number=1, blob=one.uid.encode()) for one in several]

    def work(tx: Transaction) -> None:
        managed_versions.insert_all(tx, [version(one) for one in several])
        sealed_keys.insert_all(tx, "default", keys)

    store.write("test", work)
    with store.read("test") as tx:
        assert [sealed_keys.get(tx, one.uid, 1) for one in several] == [one.uid.encode() for one in several]
    ends = [(one.uid, 1, NOW) for one in several[1:]]
    store.write("test", lambda tx: sealed_keys.set_expiries(tx, ends))
    assert store.write("test", lambda tx: sealed_keys.delete_expired(tx, LATER, 2 * COUNT)) == COUNT - 1
    with store.read("test") as tx:
        assert sealed_keys.get(tx, several[0].uid, 1)


def test_no_key_is_kept_under_another_wrapping_key(store: Store, several: list[ManagedCertificate]) -> None:
    keys = [
        SealedKey(managed_uid=one.uid, version=1, wrapping_key_number=number, blob=b"blob")
        for one, number in zip(several, (1, 2), strict=False)
    ]

    def work(tx: Transaction) -> None:
        managed_versions.insert_all(tx, [version(one) for one in several])
        sealed_keys.insert_all(tx, "default", keys)

    with pytest.raises(CertdError, match="wrapping key 2") as refused:
        store.write("test", work)
    assert refused.value.reason is Reason.STATE_FORBIDS
    with store.read("test") as tx:
        assert sealed_keys.get(tx, several[0].uid, 1) is None


def test_many_jobs_are_put_and_put_again(store: Store) -> None:
    put = [Job(kind=KIND, subject=f"{number:03}", due_time=NOW) for number in range(COUNT)]
    store.write("test", lambda tx: jobs.put_all(tx, put))
    later = [replace(job, due_time=NOW + timedelta(hours=1), attempt=2) for job in put[1:]]
    store.write("test", lambda tx: jobs.put_all(tx, later))

    def claim(tx: Transaction) -> list[Job]:
        return jobs.claim(tx, LATER, lease_until=LATER, owner_epoch=1, limit=2 * COUNT)

    claimed = store.write("test", claim)
    assert claimed == [replace(put[0], attempt=1), *(replace(job, attempt=3) for job in later)]


def test_how_many_jobs_are_due_in_hours_that_follow_each_other(store: Store) -> None:
    put = [Job(kind=KIND, subject=f"{number}", due_time=NOW + number * timedelta(minutes=1)) for number in range(COUNT)]
    store.write("test", lambda tx: jobs.put_all(tx, put))
    hour = timedelta(hours=1)
    with store.read("test") as tx:
        assert jobs.loads(tx, NOW, hour, 3, most=1000) == [60, COUNT - 60, 0]
        assert jobs.loads(tx, NOW - hour, hour, 2, most=1000) == [0, 60]
        assert jobs.loads(tx, NOW, timedelta(minutes=7), 12, most=1000) == [7] * 11 + [COUNT - 77]
        # It is not counted to the end.
        assert jobs.loads(tx, NOW, hour, 2, most=COUNT) is None
        assert jobs.loads(tx, NOW, hour, 2, most=COUNT + 1) == [60, COUNT - 60]


def test_nothing_is_written_for_none(store: Store) -> None:
    def work(tx: Transaction) -> int:
        sealed_keys.set_expiries(tx, [])
        jobs.put_all(tx, [])
        return managed_certificates.set_versions(tx, []) + managed_versions.insert_all(tx, [])

    assert store.write("test", work) == 0
