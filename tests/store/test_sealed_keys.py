"""The sealed keys of versions that ended are deleted, and no others."""

from datetime import datetime, timedelta

from sqlalchemy import insert, select

from certd.store import managed_certificates, managed_schema, managed_versions, sealed_keys, wrapping_keys
from certd.store.store import Store, Transaction
from tests.store.samples import LATER, NOW, add_tenant, managed, version, wrapping_key

SECOND = timedelta(seconds=1)


def stand(store: Store, versions: int) -> str:
    """Makes a managed certificate with so many versions, each with its key, also for one consumer."""
    add_tenant(store)
    one = managed()

    def work(tx: Transaction) -> None:
        managed_certificates.insert(tx, one)
        wrapping_keys.claim(tx, wrapping_key())
        association: dict[str, object] = {
            "managed_certificate_uid": one.uid,
            "association_id": "agent",
            "tenant": "default",
            "consumer": "identities/agent",
            "consumer_spiffe_id": "spiffe://test.internal/identities/agent",
            "creator": "certd",
            "create_time": 0,
            "leased_version": 0,
        }
        tx.execute(insert(managed_schema.associations), association)
        for number in range(1, versions + 1):
            managed_versions.insert(tx, version(one, number))
            sealed_keys.insert(tx, one.uid, number, 1, b"blob")
            key = {"managed_certificate_uid": one.uid, "association_id": "agent", "version": number}
            tx.execute(insert(managed_schema.association_keys), key | {"wrapping_key_number": 1, "blob": b"blob"})

    store.write("test", work)
    return one.uid


def set_expiry(store: Store, uid: str, number: int, time: datetime | None) -> None:
    store.write("test", lambda tx: sealed_keys.set_expiry(tx, uid, number, time))


def delete(store: Store, now: datetime, limit: int = 10) -> int:
    return store.write("test", lambda tx: sealed_keys.delete_expired(tx, now, limit))


def left(store: Store) -> tuple[list[int], list[int]]:
    with store.read("test") as tx:
        custody = tx.execute(select(managed_schema.sealed_keys.c.version)).scalars()
        associations = tx.execute(select(managed_schema.association_keys.c.version)).scalars()
        return sorted(custody), sorted(associations)


def test_they_are_deleted_after_their_end_with_those_of_consumers(store: Store) -> None:
    uid = stand(store, 3)
    set_expiry(store, uid, 1, NOW)
    set_expiry(store, uid, 2, LATER)
    assert delete(store, NOW) == 0
    assert delete(store, NOW + SECOND) == 1
    assert left(store) == ([2, 3], [2, 3])
    assert delete(store, LATER + SECOND) == 1
    assert left(store) == ([3], [3])


def test_a_version_that_is_current_again_keeps_its_key(store: Store) -> None:
    uid = stand(store, 1)
    set_expiry(store, uid, 1, NOW)
    set_expiry(store, uid, 1, None)
    assert delete(store, LATER) == 0
    assert left(store) == ([1], [1])


def test_not_more_than_so_many_are_deleted_at_once_the_longest_ended_first(store: Store) -> None:
    uid = stand(store, 3)
    for number in (1, 2, 3):
        set_expiry(store, uid, number, NOW - number * SECOND)
    assert delete(store, NOW, limit=2) == 2
    assert left(store) == ([1], [1])
    assert delete(store, NOW, limit=2) == 1
    assert delete(store, NOW, limit=2) == 0
