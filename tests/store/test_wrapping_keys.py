"""Rows of wrapping keys: rotation, and what is sealed under each, found page by page and replaced only where it is."""

import secrets
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text

from certd.errors import CertdError, Reason
from certd.model.managed_certificate import ManagedCertificate
from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.store import (
    association_keys,
    associations,
    import_keys,
    managed_certificates,
    managed_schema,
    managed_versions,
    sealed_keys,
    sealed_under,
    wrapping_keys,
)
from certd.store.sealed_under import Blob, ConsumerBlob, CustodyBlob, ImportBlob
from certd.store.store import Store, Transaction
from tests.store.explaining import Explaining
from tests.store.samples import LATER, add_tenant, association, import_key, managed, version, wrapping_key
from tests.store.waiting import run_together
from tests.waiting import eventually


def rotated(store: Store, old: WrappingKey) -> tuple[WrappingKey, WrappingKey]:
    """Returns the old key and the new one."""
    new = store.write("test", lambda tx: wrapping_keys.rotate(tx, old, key_id=secrets.token_bytes(16), now=LATER))
    assert new is not None
    with store.read("test") as tx:
        found = wrapping_keys.get(tx, old.tenant, old.number)
    assert found is not None
    return found, new


def claimed(store: Store, tenant: str = "default") -> WrappingKey:
    return store.write("test", lambda tx: wrapping_keys.claim(tx, wrapping_key(1, tenant)))


def test_a_rotation_makes_a_new_primary_key_and_the_old_one_opens_alone(store: Store) -> None:
    add_tenant(store)
    first = claimed(store)
    old, new = rotated(store, first)
    assert (new.number, new.state, new.create_time) == (2, WrappingKeyState.PRIMARY, LATER)
    assert new.key_id != old.key_id
    assert old == replace(first, state=WrappingKeyState.DECRYPT_ONLY, rotate_time=LATER, revision=2)
    with store.read("test") as tx:
        assert wrapping_keys.primary(tx, "default") == new
        assert wrapping_keys.decrypt_only(tx, "default") == old
        assert wrapping_keys.decrypt_only(tx, "other") is None
        assert not new.escrowed
    # As it was read before, it is no more.
    assert store.write("test", lambda tx: wrapping_keys.rotate(tx, first, key_id=bytes(16), now=LATER)) is None
    kept = store.write("test", lambda tx: wrapping_keys.set_escrow(tx, new, b"encrypted"))
    with store.read("test") as tx:
        assert kept == wrapping_keys.get(tx, "default", 2) == replace(new, escrowed=True)


def test_what_may_change_of_a_key_comes_out_as_it_went_in_and_counts_the_revision(store: Store) -> None:
    add_tenant(store)
    old, _ = rotated(store, claimed(store))
    changed = replace(
        old,
        state=WrappingKeyState.DESTROYED,
        reseal_count=7,
        resealed_count=6,
        retire_time=LATER + timedelta(hours=1),
        destroy_time=LATER + timedelta(hours=2),
    )
    assert store.write("test", lambda tx: wrapping_keys.update(tx, changed, old.revision)) == replace(
        changed, revision=3
    )
    with store.read("test") as tx:
        assert wrapping_keys.get(tx, "default", 1) == replace(changed, revision=3)
    assert store.write("test", lambda tx: wrapping_keys.update(tx, changed, old.revision)) is None


def test_pages_are_newest_first(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "other")
    claimed(store, "other")
    key = claimed(store)
    for _ in range(4):
        _, key = rotated(store, key)
    with store.read("test") as tx:
        first = wrapping_keys.page(tx, "default", below=None, limit=3)
        rest = wrapping_keys.page(tx, "default", below=first[-1].number, limit=3)
        assert wrapping_keys.page(tx, "absent", below=None, limit=3) == []
    assert [one.number for one in (*first, *rest)] == [5, 4, 3, 2, 1]
    assert {one.tenant for one in (*first, *rest)} == {"default"}


def test_rotations_at_once_make_one(store: Store) -> None:
    add_tenant(store)
    first = claimed(store)

    def rotate() -> WrappingKey | None:
        def work(tx: Transaction) -> WrappingKey | None:
            primary = wrapping_keys.primary(tx, "default")
            if primary is None or wrapping_keys.decrypt_only(tx, "default") is not None:
                return None
            return wrapping_keys.rotate(tx, primary, key_id=secrets.token_bytes(16), now=LATER)

        return store.write("rotate", work)

    made = [key for key in run_together([rotate] * 8) if key is not None]
    assert len(made) == 1
    with store.read("test") as tx:
        assert [one.number for one in wrapping_keys.page(tx, "default", below=None, limit=10)] == [2, first.number]


def add_sealed(store: Store, *ids: str, tenant: str = "default", versions: int = 1) -> list[ManagedCertificate]:
    """Adds managed certificates whose versions have keys, in custody and for one consumer, under the primary key."""
    made = [managed(id_, tenant=tenant, exportable=id_ != "secret") for id_ in ids]

    def add(tx: Transaction) -> None:
        primary = wrapping_keys.primary(tx, tenant)
        assert primary is not None
        for one in made:
            managed_certificates.insert(tx, one)
            machine = association(one)
            assert associations.insert(tx, machine)
            for number in range(1, versions + 1):
                row = replace(version(one, number), wrapping_key_number=primary.number)
                managed_versions.insert(tx, row)
                sealed_keys.insert(
                    tx, one.uid, number, primary.number, f"{one.managed_certificate_id} {number}".encode()
                )
                association_keys.insert(
                    tx, one.uid, "machine", number, wrapping_key_number=primary.number, blob=b"for the machine"
                )

    store.write("test", add)
    return made


def add_import_key(store: Store, key: WrappingKey, import_key_id: str = "k1") -> None:
    made = import_key(import_key_id, tenant=key.tenant, wrapping_key_number=key.number)
    store.write("test", lambda tx: import_keys.insert(tx, made))


def everything(store: Store, key: WrappingKey, *, limit: int = 2) -> list[Blob]:
    """What all pages have, one after the other."""
    found: list[Blob] = []
    while True:
        with store.read("test") as tx:
            page = sealed_under.page(tx, key, found[-1] if found else None, limit)
        assert len(page) <= limit
        assert len({type(one) for one in page}) <= 1
        if not page:
            return found
        found += page


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_what_is_sealed_under_a_key_is_found_page_by_page(store: Store, limit: int) -> None:
    add_tenant(store)
    add_tenant(store, "other")
    key, foreign = claimed(store), claimed(store, "other")
    web, secret = add_sealed(store, "web", "secret", versions=2)
    add_sealed(store, "web", tenant="other")
    add_import_key(store, key, "k1")
    add_import_key(store, key, "k2")
    add_import_key(store, foreign, "k3")
    old, new = rotated(store, key)
    add_sealed(store, "new")
    add_import_key(store, new, "k4")
    found = everything(store, old, limit=limit)
    custody = [one for one in found if isinstance(one, CustodyBlob)]
    assert [(one.name, one.managed_certificate_uid, one.exportable, one.blob) for one in custody] == [
        ("tenants/default/managedCertificates/secret/versions/1", secret.uid, False, b"secret 1"),
        ("tenants/default/managedCertificates/secret/versions/2", secret.uid, False, b"secret 2"),
        ("tenants/default/managedCertificates/web/versions/1", web.uid, True, b"web 1"),
        ("tenants/default/managedCertificates/web/versions/2", web.uid, True, b"web 2"),
    ]
    consumers = [one for one in found if isinstance(one, ConsumerBlob)]
    assert [(one.managed_certificate_uid, one.version, one.association_id) for one in consumers] == [
        (secret.uid, 1, "machine"),
        (secret.uid, 2, "machine"),
        (web.uid, 1, "machine"),
        (web.uid, 2, "machine"),
    ]
    assert {one.consumer for one in consumers} == {association(web).consumer_spiffe_id}
    imports = [one for one in found if isinstance(one, ImportBlob)]
    assert [one.name for one in imports] == ["tenants/default/importKeys/k1", "tenants/default/importKeys/k2"]
    assert found == [*custody, *consumers, *imports]
    assert {one.public_key for one in custody} == {b"public key"}
    with store.read("test") as tx:
        assert sealed_under.count(tx, old) == len(found) == 10
        assert sealed_under.count(tx, new) == 3
        assert sealed_under.count(tx, foreign) == 3
        assert sealed_under.is_needed(tx, old)


def test_what_was_sealed_anew_takes_the_place_of_what_is_still_under_the_old_key(store: Store) -> None:
    add_tenant(store)
    key = claimed(store)
    web, gone, renewed = add_sealed(store, "web", "gone", "renewed")
    add_import_key(store, key)
    old, new = rotated(store, key)
    found = everything(store, old)
    by_kind = {(type(one), getattr(one, "managed_certificate_uid", "")): one for one in found}

    def meanwhile(tx: Transaction) -> None:
        """One key is deleted, and another was sealed anew by somebody else."""
        association_keys.delete_of(tx, gone.uid, "machine")
        tx.execute(
            managed_schema.sealed_keys.delete().where(managed_schema.sealed_keys.c.managed_certificate_uid == gone.uid)
        )
        one = by_kind[CustodyBlob, renewed.uid]
        assert sealed_under.replace_blobs(tx, [(one, b"by another")], old=old, new=new) == 1

    store.write("test", meanwhile)
    resealed = [(one, b"anew") for one in found]
    assert store.write("test", lambda tx: sealed_under.replace_blobs(tx, resealed, old=old, new=new)) == 4
    assert store.write("test", lambda tx: sealed_under.replace_blobs(tx, resealed, old=old, new=new)) == 0
    assert everything(store, old) == []
    assert {(one.name, one.blob) for one in everything(store, new)} == {
        ("tenants/default/managedCertificates/web/versions/1", b"anew"),
        ("tenants/default/managedCertificates/web/versions/1 for the association machine", b"anew"),
        ("tenants/default/managedCertificates/renewed/versions/1", b"by another"),
        ("tenants/default/managedCertificates/renewed/versions/1 for the association machine", b"anew"),
        ("tenants/default/importKeys/k1", b"anew"),
    }
    with store.read("test") as tx:
        numbers = {
            one.uid: found_version.wrapping_key_number
            for one in (web, gone, renewed)
            if (found_version := managed_versions.get(tx, one.uid, 1)) is not None
        }
        assert not sealed_under.is_needed(tx, old)
        assert sealed_under.count(tx, old) == 0
    # What tells of versions alone follows their keys, and stays what it was where there is none any more.
    assert numbers == {web.uid: 2, gone.uid: 1, renewed.uid: 2}


def test_import_keys_go_with_their_wrapping_key(store: Store) -> None:
    add_tenant(store)
    key = claimed(store)
    add_import_key(store, key, "k1")
    old, new = rotated(store, key)
    add_import_key(store, new, "k2")
    assert store.write("test", lambda tx: sealed_under.delete_import_keys(tx, old)) == 1
    with store.read("test") as tx:
        assert import_keys.get(tx, "default", "k1") is None
        assert import_keys.get(tx, "default", "k2") is not None


def test_whoever_rotates_waits_for_those_who_keep_something_under_the_key(postgres_store: Store) -> None:
    """Else a key would be found empty, and be retired, while something comes to it."""
    store = postgres_store
    add_tenant(store)
    key = claimed(store)
    one = managed()
    store.write("test", lambda tx: managed_certificates.insert(tx, one))
    holds, may_end = threading.Event(), threading.Event()

    def keep() -> None:
        def work(tx: Transaction) -> None:
            managed_versions.insert(tx, version(one))
            sealed_keys.insert(tx, one.uid, 1, key.number, b"blob")
            holds.set()
            assert may_end.wait(20)

        store.write("keep", work)

    done: list[WrappingKey] = []
    keeping = threading.Thread(target=keep)
    rotating = threading.Thread(target=lambda: done.append(rotated(store, key)[1]))
    keeping.start()
    assert holds.wait(20)
    rotating.start()

    def is_waiting() -> bool:
        with store.read("test") as tx:
            return bool(tx.execute(text("SELECT 1 FROM pg_locks WHERE NOT granted")).all())

    eventually(is_waiting)
    assert not done
    may_end.set()
    keeping.join(20)
    rotating.join(20)
    assert len(done) == 1
    with store.read("test") as tx:
        assert sealed_under.count(tx, key) == 1
    with pytest.raises(CertdError) as refused:
        store.write("test", lambda tx: sealed_keys.insert(tx, one.uid, 2, key.number, b"blob"))
    assert refused.value.reason is Reason.STATE_FORBIDS


def test_pages_go_along_the_ids_of_managed_certificates(sqlite_store: Store) -> None:
    add_tenant(sqlite_store)
    key = claimed(sqlite_store)
    add_sealed(sqlite_store, *(f"web-{number}" for number in range(20)))
    with sqlite_store.read("test") as tx:
        explaining = Explaining(tx)
        first = sealed_under.page(explaining, key, None, 5)
        sealed_under.page(explaining, key, first[-1], 5)
    for plan in explaining.plans:
        assert "SEARCH managed_certificates USING INDEX sqlite_autoindex_managed_certificates_2 (tenant=? AND" in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan
