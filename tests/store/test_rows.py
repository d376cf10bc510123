"""What is put into rows comes out as it was, and what may be there once is there once."""

import secrets
from dataclasses import replace
from datetime import timedelta

import pytest

from certd.errors import CertdError, Reason
from certd.model.authority import Authority, AuthorityState
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.pki.names import SubjectAlternativeNames
from certd.store import (
    authorities,
    certificates,
    grants,
    managed_certificates,
    managed_versions,
    owners,
    request_records,
    sealed_keys,
    tenants,
    wrapping_keys,
)
from certd.store.store import Store, Transaction
from tests.store.samples import (
    LATER,
    NOW,
    add_tenant,
    authority,
    grant,
    intent,
    managed,
    record,
    tenant,
    version,
    wrapping_key,
)
from tests.store.waiting import run_together


def insert_authority(store: Store, one: Authority) -> None:
    store.write("test", lambda tx: authorities.insert(tx, one))


def test_tenants(store: Store) -> None:
    assert store.write("test", lambda tx: tenants.insert(tx, tenant()))
    assert not store.write("test", lambda tx: tenants.insert(tx, tenant()))
    with store.read("test") as tx:
        assert tenants.get(tx, "default") == tenant()
        assert tenants.get(tx, "other") is None


def test_an_authority_comes_out_as_it_went_in(store: Store) -> None:
    add_tenant(store)
    one, system = authority(chain=(b"issuer", b"", b"root")), authority("system", tenant=None, issuer_uid=None)
    insert_authority(store, one)
    insert_authority(store, system)
    with store.read("test") as tx:
        assert authorities.get(tx, "default", "web-ca") == one
        assert authorities.get_by_uid(tx, one.uid) == one
        assert authorities.get(tx, None, "system") == system
        assert authorities.get_by_uid(tx, system.uid) == system
        assert authorities.get(tx, "default", "system") is None
        assert authorities.get(tx, None, "web-ca") is None
        assert authorities.get_by_uid(tx, "none") is None


def test_an_id_is_taken_once_per_tenant(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "other")
    for tenant_id in ("default", "other", None):
        insert_authority(store, authority(tenant=tenant_id))
        again = authority(tenant=tenant_id)
        with pytest.raises(CertdError, match="another id") as caught:
            insert_authority(store, again)
        assert caught.value.reason is Reason.AUTHORITY_EXISTS
        assert caught.value.resource == again.name


def test_an_authority_gets_its_key_then_its_certificate(store: Store) -> None:
    add_tenant(store)
    one = authority()
    insert_authority(store, one)

    def activate(tx: Transaction) -> bool:
        return authorities.activate(
            tx,
            one.uid,
            certificate=b"certificate",
            chain=(b"root",),
            not_after=LATER + timedelta(days=1),
            path_length=0,
            now=LATER,
        )

    store.write("test", lambda tx: authorities.set_public_key(tx, one.uid, 1, b"public", LATER))
    keyed = replace(one, key=replace(one.key, public_key=b"public"), update_time=LATER, revision=2)
    with store.read("test") as tx:
        assert authorities.get_by_uid(tx, one.uid) == keyed
    assert store.write("test", activate)
    with store.read("test") as tx:
        assert authorities.get_by_uid(tx, one.uid) == replace(
            keyed,
            state=AuthorityState.ENABLED,
            certificate=b"certificate",
            chain=(b"root",),
            not_after=LATER + timedelta(days=1),
            revision=3,
        )
    # Whoever comes second changes nothing.
    assert not store.write("test", activate)
    assert not store.write("test", lambda tx: authorities.delete_unfinished(tx, one.uid))
    with store.read("test") as tx:
        found = authorities.get_by_uid(tx, one.uid)
    assert found is not None
    assert found.revision == 3


def test_an_authority_that_awaits_an_outside_parent_is_not_unfinished_once_it_has_its_key(store: Store) -> None:
    add_tenant(store)
    keyless, keyed = authority("keyless", issuer_uid=None), authority("keyed", issuer_uid=None)
    insert_authority(store, keyless)
    insert_authority(store, keyed)
    store.write("test", lambda tx: authorities.set_public_key(tx, keyed.uid, 1, b"public", LATER))
    assert not store.write("test", lambda tx: authorities.delete_unfinished(tx, keyed.uid))
    assert store.write("test", lambda tx: authorities.delete_unfinished(tx, keyless.uid))
    with store.read("test") as tx:
        found = authorities.get_by_uid(tx, keyed.uid)
    assert found is not None
    assert found.awaits_parent


def test_a_csr_is_kept_once_and_does_not_show(store: Store) -> None:
    add_tenant(store)
    one = authority(name_constraints=b"constraints")
    insert_authority(store, one)
    with store.read("test") as tx:
        assert authorities.csr(tx, one.uid) is None
        assert authorities.csr(tx, "absent") is None
    assert store.write("test", lambda tx: authorities.set_csr(tx, one.uid, b"first"))
    assert not store.write("test", lambda tx: authorities.set_csr(tx, one.uid, b"second"))
    assert not store.write("test", lambda tx: authorities.set_csr(tx, "absent", b"any"))
    with store.read("test") as tx:
        assert authorities.csr(tx, one.uid) == b"first"
        assert authorities.get_by_uid(tx, one.uid) == one


def test_state_and_labels_of_an_authority_change(store: Store) -> None:
    add_tenant(store)
    one, other = authority(), authority("other")
    insert_authority(store, one)
    insert_authority(store, other)
    store.write("test", lambda tx: authorities.set_state(tx, one.uid, AuthorityState.DISABLED, LATER))
    store.write("test", lambda tx: authorities.set_settings(tx, replace(one, labels={"ü": "x"}), LATER))
    with store.read("test") as tx:
        assert authorities.get_by_uid(tx, one.uid) == replace(
            one, state=AuthorityState.DISABLED, labels={"ü": "x"}, update_time=LATER, revision=3
        )
        assert authorities.get_by_uid(tx, other.uid) == other


def test_an_authority_that_never_came_to_be_is_deleted_and_what_was_intended_stays(store: Store) -> None:
    add_tenant(store)
    one, other = authority(), authority("other")
    lost = intent(authority_uid=one.uid)
    insert_authority(store, one)
    insert_authority(store, other)
    store.write("test", lambda tx: certificates.insert_intents(tx, [lost]))
    assert store.write("test", lambda tx: authorities.delete_unfinished(tx, one.uid))
    assert not store.write("test", lambda tx: authorities.delete_unfinished(tx, one.uid))
    with store.read("test") as tx:
        assert authorities.get_by_uid(tx, one.uid) is None
        assert authorities.get_by_uid(tx, other.uid) == other
        assert certificates.get(tx, one.uid, lost.serial) is not None
    # Its id and its key may be used again.
    insert_authority(store, authority(key=one.key))


def test_authorities_by_page_while_others_are_inserted(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "other")
    for number in range(5):
        # With a hyphen, which some collations do not see.
        insert_authority(store, authority(f"ca-{number}"))
        insert_authority(store, authority(f"c{number}"))
    insert_authority(store, authority("foreign", tenant="other"))
    insert_authority(store, authority("system", tenant=None))
    with store.read("test") as tx:
        first = authorities.page(tx, "default", after=None, limit=4)
    insert_authority(store, authority("a"))
    insert_authority(store, authority("zz"))
    with store.read("test") as tx:
        rest = authorities.page(tx, "default", after=first[-1].authority_id, limit=100)
    expected = [*sorted(f"{prefix}{number}" for prefix in ("c", "ca-") for number in range(5)), "zz"]
    assert [one.authority_id for one in first + rest] == expected


def test_a_managed_certificate_comes_out_as_it_went_in(store: Store) -> None:
    add_tenant(store)
    full = managed(not_after=LATER, current_version=2)
    bare = managed(
        "bare",
        lifetime=None,
        names=SubjectAlternativeNames(uris=("https://x.example/",), email_addresses=("a@x.example",)),
        exportable=False,
        conditions=(),
        next_attempt_time=None,
        labels={},
    )
    for one in (full, bare):
        store.write("test", lambda tx, one=one: managed_certificates.insert(tx, one))  # type: ignore[misc]  # mypy infers no type for a default.
        with store.read("test") as tx:
            assert managed_certificates.get(tx, "default", one.managed_certificate_id) == one
            assert managed_certificates.get_by_uid(tx, one.uid) == one
    with store.read("test") as tx:
        assert managed_certificates.get(tx, "other", "web") is None
        assert managed_certificates.get_by_uid(tx, "none") is None
    with pytest.raises(CertdError, match="another id") as caught:
        store.write("test", lambda tx: managed_certificates.insert(tx, managed()))
    assert caught.value.reason is Reason.MANAGED_CERTIFICATE_EXISTS


def test_a_managed_certificate_changes_only_from_the_revision_that_was_read(store: Store) -> None:
    add_tenant(store)
    one = managed()
    store.write("test", lambda tx: managed_certificates.insert(tx, one))
    changed = replace(
        one,
        state=ManagedCertificateState.ACTIVE,
        current_version=1,
        not_after=LATER,
        conditions=(),
        next_attempt_time=None,
        labels={"new": "label"},
        update_time=LATER,
    )
    updated = store.write("test", lambda tx: managed_certificates.update(tx, changed, 1))
    assert updated == replace(changed, revision=2)
    assert store.write("test", lambda tx: managed_certificates.update(tx, one, 1)) is None
    with store.read("test") as tx:
        assert managed_certificates.get_by_uid(tx, one.uid) == updated


def test_managed_certificates_by_page(store: Store) -> None:
    add_tenant(store)
    for number in range(5):
        store.write("test", lambda tx, number=number: managed_certificates.insert(tx, managed(f"m{number}")))  # type: ignore[misc]  # mypy infers no type for a default.
    with store.read("test") as tx:
        first = managed_certificates.page(tx, "default", after=None, limit=2)
        rest = managed_certificates.page(tx, "default", after="m1", limit=9)
        assert managed_certificates.page(tx, "other", after=None, limit=9) == []
    assert [one.managed_certificate_id for one in first + rest] == [f"m{number}" for number in range(5)]


def test_versions_and_sealed_keys(store: Store) -> None:
    add_tenant(store)
    one = managed()
    blob = secrets.token_bytes(1200)

    def work(tx: Transaction) -> None:
        managed_certificates.insert(tx, one)
        wrapping_keys.claim(tx, wrapping_key())
        managed_versions.insert(tx, version(one))
        sealed_keys.insert(tx, one.uid, 1, 1, blob)

    store.write("test", work)
    bounded = replace(version(one), not_before=NOW, not_after=LATER)
    issued = store.write("test", lambda tx: managed_versions.set_issued(tx, bounded, serial="0a"))
    assert issued == replace(bounded, serial="0a")
    with store.read("test") as tx:
        assert managed_versions.get(tx, one.uid, 1) == issued
        assert managed_versions.get(tx, one.uid, 2) is None
        assert sealed_keys.get(tx, one.uid, 1) == blob
        assert sealed_keys.get(tx, one.uid, 2) is None


def test_a_key_is_sealed_only_under_the_primary_wrapping_key_of_its_tenant(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "other")
    one = managed()

    def prepare(tx: Transaction) -> None:
        managed_certificates.insert(tx, one)
        managed_versions.insert(tx, version(one))
        wrapping_keys.claim(tx, wrapping_key(1, "other"))

    store.write("test", prepare)
    with pytest.raises(CertdError) as caught:
        store.write("test", lambda tx: sealed_keys.insert(tx, one.uid, 1, 1, b"blob"))
    assert caught.value.reason is Reason.STATE_FORBIDS
    store.write("test", lambda tx: wrapping_keys.claim(tx, wrapping_key()))
    with pytest.raises(CertdError, match="wrapping key 2") as caught:
        store.write("test", lambda tx: sealed_keys.insert(tx, one.uid, 1, 2, b"blob"))
    store.write("test", lambda tx: sealed_keys.insert(tx, one.uid, 1, 1, b"blob"))


def test_one_of_many_claims_the_primary_wrapping_key(store: Store) -> None:
    add_tenant(store)
    with store.read("test") as tx:
        assert wrapping_keys.primary(tx, "default") is None

    def claim() -> WrappingKey:
        key = wrapping_key()
        return store.write("claim", lambda tx: wrapping_keys.claim(tx, key))

    winners = run_together([claim] * 8)
    assert len({key.key_id for key in winners}) == 1
    with store.read("test") as tx:
        assert wrapping_keys.primary(tx, "default") == winners[0]
        assert wrapping_keys.get(tx, "default", 1) == winners[0]
        assert wrapping_keys.get(tx, "default", 2) is None
        assert wrapping_keys.primary(tx, "other") is None
    # Another number does not make a second primary one.
    assert store.write("test", lambda tx: wrapping_keys.claim(tx, wrapping_key(2))) == winners[0]


def test_a_wrapping_key_that_is_not_primary_is_not_claimed(store: Store) -> None:
    add_tenant(store)
    retired = replace(wrapping_key(), state=WrappingKeyState.RETIRED)
    with pytest.raises(ValueError, match="not primary"):
        store.write("test", lambda tx: wrapping_keys.claim(tx, retired))
    with store.read("test") as tx:
        assert wrapping_keys.get(tx, "default", 1) is None


def test_grants(store: Store) -> None:
    first, every_profile, foreign = grant(), grant(profiles=None), grant(principal="spiffe://example/identities/other")
    for one in (every_profile, first, foreign):
        assert store.write("test", lambda tx, one=one: grants.insert(tx, one))  # type: ignore[misc]  # mypy infers no type for a default.
    assert not store.write("test", lambda tx: grants.insert(tx, first))
    with store.read("test") as tx:
        assert grants.of_principal(tx, first.principal) == sorted([first, every_profile], key=lambda one: one.grant_id)
        assert grants.of_principal(tx, "nobody") == []


def test_a_request_is_claimed_once(store: Store) -> None:
    first = record()
    assert store.write("test", lambda tx: request_records.claim(tx, first)) is None
    again = record(request_sha256=b"x" * 32, create_time=LATER)
    assert store.write("test", lambda tx: request_records.claim(tx, again)) == first
    assert store.write("test", lambda tx: request_records.set_resource(tx, first, "tenants/default/authorities/a"))
    done = replace(first, resource="tenants/default/authorities/a")
    assert store.write("test", lambda tx: request_records.claim(tx, again)) == done
    for other in (record(principal="p"), record(method="m"), record(request_id="r")):
        assert store.write("test", lambda tx, other=other: request_records.claim(tx, other)) is None  # type: ignore[misc]  # mypy infers no type for a default.
    assert store.write("test", lambda tx: request_records.delete(tx, first))
    assert not store.write("test", lambda tx: request_records.delete(tx, first))
    assert not store.write("test", lambda tx: request_records.set_resource(tx, first, "x"))
    assert store.write("test", lambda tx: request_records.claim(tx, again)) is None


def test_one_of_many_gets_a_request(store: Store) -> None:
    def claim(number: int) -> bool:
        mine = record(request_sha256=number.to_bytes(32))
        return store.write("claim", lambda tx: request_records.claim(tx, mine)) is None

    assert sorted(run_together([lambda: claim(1), lambda: claim(2), lambda: claim(3), lambda: claim(4)])) == [
        False,
        False,
        False,
        True,
    ]


def test_request_records_go_by_resource_and_by_age(store: Store) -> None:
    def work(tx: Transaction) -> None:
        for number in range(6):
            request_records.claim(
                tx, record(request_id=f"r{number}", resource=f"x{number}", create_time=NOW + timedelta(hours=number))
            )

    store.write("test", work)
    assert store.write("test", lambda tx: request_records.delete_of_resource(tx, "x5")) == 1
    assert store.write("test", lambda tx: request_records.delete_of_resource(tx, "x5")) == 0
    before = NOW + timedelta(hours=3)
    assert store.write("test", lambda tx: request_records.delete_older(tx, before, 2)) == 2
    assert store.write("test", lambda tx: request_records.delete_older(tx, before, 2)) == 1
    with store.read("test") as tx:
        left = [request_records.get(tx, record().principal, record().method, f"r{number}") for number in range(6)]
    assert [one is not None for one in left] == [False, False, False, True, True, False]


def test_epochs_are_never_used_again(store: Store) -> None:
    epochs = [store.write("test", lambda tx: owners.begin(tx, NOW, LATER)) for _ in range(3)]
    assert epochs == sorted(set(epochs))
    # A SQLite file serves one daemon: whoever begins ends the others.
    alone = store.engine_name == "sqlite"
    assert store.write("test", lambda tx: owners.renew(tx, epochs[0], LATER)) is not alone
    assert store.write("test", lambda tx: owners.renew(tx, epochs[2], LATER))
    store.write("test", lambda tx: owners.end(tx, epochs[2]))
    assert not store.write("test", lambda tx: owners.renew(tx, epochs[2], LATER))
    assert not store.write("test", lambda tx: owners.renew(tx, 10_000, LATER))
