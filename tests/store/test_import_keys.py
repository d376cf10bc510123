"""Rows of import keys: the one that lives longest is found, those that ended are forgotten."""

from datetime import timedelta
from functools import partial
from typing import Any

from certd.model.import_key import ImportKey
from certd.pki.key_spec import SignatureAlgorithm
from certd.store import import_keys
from certd.store.store import Store
from tests.store.samples import NOW, add_tenant

DAY = timedelta(days=1)


def key(id_: str, *, ends: timedelta = 30 * DAY, **changes: Any) -> ImportKey:
    wanted: dict[str, Any] = {
        "tenant": "default",
        "import_key_id": id_,
        "public_key": b"p" * 32,
        "wrapping_key_number": 1,
        "sealed_key": b"sealed",
        "statement": b"statement",
        "signature": b"signature",
        "signature_algorithm": SignatureAlgorithm.ECDSA_WITH_SHA384,
        "authority_certificate": b"certificate",
        "create_time": NOW,
        "expire_time": NOW + ends,
    }
    return ImportKey(**(wanted | changes))


def insert(store: Store, *keys: ImportKey) -> None:
    for each in keys:
        store.write("test", partial(import_keys.insert, key=each))


def test_one_comes_out_as_it_went_in(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "acme")
    ours, theirs = key("k1"), key("k2", tenant="acme", public_key=b"q" * 32)
    insert(store, ours, theirs)
    with store.read("test") as tx:
        assert import_keys.get(tx, "default", "k1") == ours
        assert import_keys.get(tx, "acme", "k2") == theirs
        assert import_keys.get(tx, "default", "k2") is None
        assert import_keys.get(tx, "default", "k3") is None


def test_the_newest_is_that_which_lives_longest(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "acme")
    with store.read("test") as tx:
        assert import_keys.newest(tx, "default") is None
    longest = key("k2", ends=31 * DAY)
    insert(store, key("k1"), longest, key("k3"), key("k4", tenant="acme", ends=90 * DAY))
    with store.read("test") as tx:
        assert import_keys.newest(tx, "default") == longest


def test_what_has_ended_is_deleted_of_its_tenant_alone(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "acme")
    insert(
        store,
        key("k1", ends=-DAY),
        key("k2", ends=timedelta()),
        key("k3", ends=timedelta(microseconds=1)),
        key("k4", tenant="acme", ends=-DAY),
    )
    assert store.write("test", lambda tx: import_keys.delete_expired(tx, "default", NOW)) == 2
    with store.read("test") as tx:
        left = [import_keys.get(tx, tenant, f"k{n}") for tenant in ("default", "acme") for n in range(1, 5)]
    assert [each.import_key_id for each in left if each is not None] == ["k3", "k4"]
