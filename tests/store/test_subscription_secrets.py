"""Rows of secrets of webhooks: two are live at most, and they are found among what is sealed under a wrapping key."""

from datetime import timedelta
from functools import partial

import pytest

from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.store import sealed_under, subscription_secrets, subscriptions, wrapping_keys
from certd.store.sealed_under import SecretBlob
from certd.store.store import Store, Transaction
from tests.store.samples import NOW, add_tenant
from tests.store.test_subscriptions import subscription

DAY = timedelta(days=1)
ONE, OTHER = subscription("a"), subscription("b")


@pytest.fixture
def keys(store: Store) -> tuple[WrappingKey, WrappingKey]:
    """The primary wrapping keys of a tenant with two subscriptions, and of another tenant with one."""
    add_tenant(store)
    add_tenant(store, "acme")
    made = []
    for tenant in ("default", "acme"):
        key = WrappingKey(
            tenant=tenant,
            number=1,
            key_id=tenant.ljust(16).encode(),
            state=WrappingKeyState.PRIMARY,
            create_time=NOW,
        )
        made.append(store.write("test", partial(wrapping_keys.claim, key=key)))
    for each in (ONE, OTHER, subscription("c", tenant="acme")):
        store.write("test", partial(subscriptions.insert, subscription=each))
    return made[0], made[1]


def insert(store: Store, uid: str, number: int, *, tenant: str = "default", under: int = 1) -> None:
    def work(tx: Transaction) -> None:
        subscription_secrets.insert(
            tx,
            subscription_uid=uid,
            number=number,
            tenant=tenant,
            wrapping_key_number=under,
            blob=f"{uid} {number}".encode(),
        )

    store.write("test", work)


def live(store: Store, uid: str, *, after: timedelta = timedelta()) -> list[int]:
    with store.read("test") as tx:
        return [row.number for row in subscription_secrets.live(tx, uid, NOW + after)]


def test_a_secret_comes_with_what_opens_it(store: Store, keys: tuple[WrappingKey, WrappingKey]) -> None:
    insert(store, ONE.uid, 1)
    with store.read("test") as tx:
        (row,) = subscription_secrets.live(tx, ONE.uid, NOW)
        assert subscription_secrets.newest_number(tx, ONE.uid) == 1
        assert subscription_secrets.newest_number(tx, OTHER.uid) == 0
    assert (row.blob, row.wrapping_key_id, row.expire_time) == (b"uid-a 1", keys[0].key_id, None)
    assert row.tenant_uid


@pytest.mark.usefixtures("keys")
def test_an_old_one_ends_in_time_and_one_before_it_at_once(store: Store) -> None:
    insert(store, ONE.uid, 1)
    insert(store, ONE.uid, 2)
    store.write("test", lambda tx: subscription_secrets.outdate(tx, ONE.uid, 1, NOW + DAY))
    assert live(store, ONE.uid) == [2, 1]
    assert live(store, ONE.uid, after=DAY) == [2]
    insert(store, ONE.uid, 3)
    insert(store, OTHER.uid, 1)
    store.write("test", lambda tx: subscription_secrets.outdate(tx, ONE.uid, 2, NOW + 2 * DAY))
    assert live(store, ONE.uid) == [3, 2]
    assert store.write("test", lambda tx: subscription_secrets.delete_expired(tx, NOW + DAY, limit=10)) == 0
    assert store.write("test", lambda tx: subscription_secrets.delete_expired(tx, NOW + 2 * DAY, limit=10)) == 1
    assert live(store, ONE.uid) == [3]
    assert live(store, OTHER.uid) == [1]


@pytest.mark.usefixtures("keys")
def test_few_are_deleted_at_once(store: Store) -> None:
    for uid in (ONE.uid, OTHER.uid, "uid-c"):
        insert(store, uid, 1)
        store.write("test", partial(subscription_secrets.outdate, subscription_uid=uid, number=1, expire_time=NOW))
    deleted = [store.write("test", lambda tx: subscription_secrets.delete_expired(tx, NOW, limit=2)) for _ in range(3)]
    assert deleted == [2, 1, 0]


def test_they_are_found_under_their_key_page_after_page_and_sealed_anew(
    store: Store, keys: tuple[WrappingKey, WrappingKey]
) -> None:
    ours, theirs = keys
    for uid in (ONE.uid, OTHER.uid):
        insert(store, uid, 1)
        insert(store, uid, 2)
    insert(store, "uid-c", 1, tenant="acme")
    found: list[SecretBlob] = []
    with store.read("test") as tx:
        while page := sealed_under.page(tx, ours, found[-1] if found else None, 3):
            assert all(isinstance(one, SecretBlob) for one in page)
            found += [one for one in page if isinstance(one, SecretBlob)]
        assert (sealed_under.count(tx, ours), sealed_under.count(tx, theirs)) == (4, 1)
        assert sealed_under.is_needed(tx, theirs)
    assert [(one.subscription_id, one.number) for one in found] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert found[1].name == "tenants/default/subscriptions/a, secret 2"

    def reseal(tx: Transaction) -> tuple[WrappingKey, int]:
        new = wrapping_keys.rotate(tx, ours, key_id=b"n" * 16, now=NOW)
        assert new is not None
        anew = [(one, b"anew") for one in found[:3]]
        return new, sealed_under.replace_blobs(tx, anew, old=ours, new=new)

    new, replaced = store.write("test", reseal)
    assert replaced == 3
    with store.read("test") as tx:
        assert (sealed_under.count(tx, ours), sealed_under.count(tx, new)) == (1, 3)
        rows = subscription_secrets.live(tx, OTHER.uid, NOW)
    assert [(row.number, row.blob, row.wrapping_key_id) for row in rows] == [
        (2, b"uid-b 2", ours.key_id),
        (1, b"anew", new.key_id),
    ]
    # What is under the new one already is left alone.
    again = partial(sealed_under.replace_blobs, resealed=[(found[0], b"late")], old=ours, new=new)
    assert store.write("test", again) == 0
    store.write("test", lambda tx: subscriptions.delete(tx, OTHER.uid))
    with store.read("test") as tx:
        assert not sealed_under.is_needed(tx, ours)
