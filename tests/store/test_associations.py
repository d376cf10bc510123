"""Rows of associations, and of the keys that are sealed for their consumers."""

from dataclasses import replace

import pytest
from sqlalchemy import insert

from certd.errors import CertdError, Reason
from certd.model.association import Association, Deployment, DeploymentState
from certd.model.managed_certificate import ManagedCertificate
from certd.model.wrapping_key import WrappingKeyState
from certd.store import (
    association_keys,
    associations,
    managed_certificates,
    managed_schema,
    managed_versions,
    sealed_keys,
    wrapping_keys,
)
from certd.store.store import Store, Transaction
from tests.store.explaining import Explaining
from tests.store.samples import LATER, NOW, add_tenant, association, managed, version, wrapping_key
from tests.store.waiting import run_together


def add_managed(store: Store, *ids: str, tenant: str = "default", count: int = 1) -> list[ManagedCertificate]:
    """Adds managed certificates that say how many associations they have."""
    made = [managed(id_, tenant=tenant, association_count=count, current_version=3) for id_ in ids]

    def add(tx: Transaction) -> None:
        for one in made:
            managed_certificates.insert(tx, one)

    store.write("test", add)
    return made


def add(store: Store, *those: Association) -> None:
    for one in those:
        assert store.write("test", lambda tx, one=one: associations.insert(tx, one))  # type: ignore[misc]  # mypy infers no type for a default.


def test_an_association_comes_out_as_it_went_in_and_changes(store: Store) -> None:
    add_tenant(store)
    (web,) = add_managed(store, "web")
    one = association(web)
    add(store, one)
    deployment = Deployment(
        state=DeploymentState.FAILED, version=3, certificate_sha256=bytes(32), message="kaputt: ü", report_time=LATER
    )
    with store.read("test") as tx:
        assert associations.get(tx, one.name) == one
        assert associations.get(tx, replace(one.name, association="other")) is None
        assert associations.of_consumer(tx, web.uid, one.consumer_spiffe_id) == one
        assert associations.of_consumer(tx, web.uid, "spiffe://example/identities/other") is None
    assert store.write("test", lambda tx: associations.set_leased(tx, one, 2, LATER))
    assert store.write("test", lambda tx: associations.set_deployment(tx, one, deployment))
    with store.read("test") as tx:
        changed = replace(one, leased_version=2, lease_time=LATER, deployment=deployment)
        assert associations.get(tx, one.name) == changed
    assert store.write("test", lambda tx: associations.delete(tx, one))
    assert not store.write("test", lambda tx: associations.delete(tx, one))
    assert not store.write("test", lambda tx: associations.set_leased(tx, one, 2, LATER))
    assert not store.write("test", lambda tx: associations.set_deployment(tx, one, deployment))


def test_an_id_and_a_consumer_have_one_association_each_with_a_managed_certificate(store: Store) -> None:
    add_tenant(store)
    web, shop = add_managed(store, "web", "shop")
    add(store, association(web), association(shop))
    for taken in (association(web, consumer="other"), association(web, "other", consumer="machine")):
        assert not store.write("test", lambda tx, taken=taken: associations.insert(tx, taken))  # type: ignore[misc]  # As above.


def test_of_two_at_once_one_is_inserted(store: Store) -> None:
    add_tenant(store)
    (web,) = add_managed(store, "web")

    def attempt() -> bool:
        return store.write("test", lambda tx: associations.insert(tx, association(web)))

    assert sorted(run_together([attempt] * 8)) == [False] * 7 + [True]


def test_pages_are_by_name(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "other")
    shop, web = add_managed(store, "shop", "web")
    add_managed(store, "alone", count=0)
    (foreign,) = add_managed(store, "web", tenant="other")
    # Of the same consumers too, and not in their order.
    expected = [association(one, id_) for one in (shop, web) for id_ in ("a", "b", "c")]
    add(store, *reversed(expected), association(foreign, "a"))
    consumer = expected[1].consumer_spiffe_id
    with store.read("test") as tx:
        assert associations.page(tx, web.uid, after="", limit=2) == expected[3:5]
        assert associations.page(tx, web.uid, after="b", limit=9) == expected[5:]
        assert associations.page_of_tenant(tx, "default", limit=4) == expected[:4]
        for place, one in enumerate(expected):
            after = (one.name.managed_certificate.managed_certificate, one.name.association)
            assert associations.page_of_tenant(tx, "default", after=after, limit=9) == expected[place + 1 :]
        assert associations.page_of_consumer(tx, "default", consumer, limit=9) == [expected[1], expected[4]]
        assert associations.page_of_consumer(tx, "default", consumer, after=("shop", "b"), limit=9) == [expected[4]]
        assert associations.page_of_consumer(tx, "default", "spiffe://example/identities/x", limit=9) == []


def test_pages_are_read_by_indexes(sqlite_store: Store) -> None:
    with sqlite_store.read("test") as tx:
        explaining = Explaining(tx)
        associations.page(explaining, "uid", after="", limit=9)
        associations.page_of_tenant(explaining, "default", limit=9)
        associations.page_of_consumer(explaining, "default", "spiffe://example/identities/x", limit=9)
        associations.page_everywhere(explaining, "spiffe://example/identities/x", limit=9)
        of_managed, of_tenant, of_consumer, everywhere = explaining.plans
        assert "associations_everywhere" in everywhere
    assert "associations_1 (managed_certificate_uid=? AND association_id>?)" in of_managed
    assert "managed_certificates_2 (tenant=? AND managed_certificate_id>?)" in of_tenant
    assert "TEMP B-TREE" not in of_managed + of_tenant
    # What one consumer has is sorted by name.
    assert "associations_of_consumer (tenant=? AND consumer_spiffe_id=?)" in of_consumer
    assert not any("SCAN" in plan for plan in explaining.plans)


def test_a_consumer_has_associations_in_every_tenant(store: Store) -> None:
    for tenant in ("default", "other"):
        add_tenant(store, tenant)
    certificates = [*add_managed(store, "b", "a"), *add_managed(store, "b", "c", tenant="other")]
    edge = "spiffe://example/identities/edge"
    mine = [replace(association(one, "edge"), consumer_spiffe_id=edge) for one in certificates]
    add(store, *mine, association(certificates[0], "another"))
    names = ["default/a", "default/b", "other/b", "other/c"]
    found: list[str] = []
    after = ("", "")
    with store.read("test") as tx:
        while rows := associations.page_everywhere(tx, edge, after=after, limit=3):
            last = rows[-1].name.managed_certificate
            after = (last.tenant, last.managed_certificate)
            found += ["/".join(str(row.name).split("/")[1:4:2]) for row in rows]
        assert found == names
        assert associations.page_everywhere(tx, "spiffe://example/identities/nobody", limit=3) == []


def test_a_key_is_sealed_for_a_consumer_once_and_goes_with_the_association(store: Store) -> None:
    add_tenant(store)
    (web,) = add_managed(store, "web")
    mine, other = association(web), association(web, "other")
    add(store, mine, other)
    store.write("test", lambda tx: wrapping_keys.claim(tx, wrapping_key()))

    def put(tx: Transaction, number: int, blob: bytes, of: str = "machine") -> bool:
        return association_keys.insert(tx, web.uid, of, number, wrapping_key_number=1, blob=blob)

    assert store.write("test", lambda tx: put(tx, 1, b"first"))
    assert not store.write("test", lambda tx: put(tx, 1, b"second"))
    assert store.write("test", lambda tx: put(tx, 2, b"of two"))
    assert store.write("test", lambda tx: put(tx, 1, b"of the other", "other"))
    with store.read("test") as tx:
        assert association_keys.get(tx, web.uid, "machine", 1) == b"first"
        assert association_keys.get(tx, web.uid, "machine", 2) == b"of two"
        assert association_keys.get(tx, web.uid, "machine", 3) is None
    assert store.write("test", lambda tx: association_keys.delete_of(tx, web.uid, "machine")) == 2
    with store.read("test") as tx:
        assert association_keys.get(tx, web.uid, "machine", 1) is None
        assert association_keys.get(tx, web.uid, "other", 1) == b"of the other"


@pytest.mark.parametrize("state", [WrappingKeyState.DECRYPT_ONLY, WrappingKeyState.RETIRED, None])
def test_nothing_is_sealed_under_a_wrapping_key_that_seals_no_more(
    store: Store, state: WrappingKeyState | None
) -> None:
    add_tenant(store)
    (web,) = add_managed(store, "web")
    add(store, association(web))
    if state is not None:
        columns = {"tenant": "default", "number": 1, "key_id": bytes(16), "state": state.value, "create_time": 0}
        store.write("test", lambda tx: tx.execute(insert(managed_schema.wrapping_keys), columns))
    with pytest.raises(CertdError) as refused:
        store.write(
            "test",
            lambda tx: association_keys.insert(tx, web.uid, "machine", 1, wrapping_key_number=1, blob=b"blob"),
        )
    assert refused.value.reason is Reason.STATE_FORBIDS
    with store.read("test") as tx:
        assert association_keys.get(tx, web.uid, "machine", 1) is None
    assert not store.write("test", lambda tx: sealed_keys.is_primary(tx, web.uid, 1))


def test_keys_of_consumers_end_with_the_version(store: Store) -> None:
    add_tenant(store)
    (web,) = add_managed(store, "web")
    add(store, association(web))

    def fill(tx: Transaction) -> None:
        wrapping_keys.claim(tx, wrapping_key())
        managed_versions.insert(tx, version(web))
        sealed_keys.insert(tx, web.uid, 1, 1, b"custody")
        association_keys.insert(tx, web.uid, "machine", 1, wrapping_key_number=1, blob=b"lease")
        sealed_keys.set_expiry(tx, web.uid, 1, NOW)

    store.write("test", fill)
    assert store.write("test", lambda tx: sealed_keys.delete_expired(tx, LATER, 10)) == 1
    with store.read("test") as tx:
        assert association_keys.get(tx, web.uid, "machine", 1) is None
