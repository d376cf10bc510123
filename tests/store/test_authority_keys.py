"""Keys of an authority: the row of the one that signs says what the authority says, whatever happens."""

import secrets
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from certd.model.authority import Authority, AuthorityKey, AuthorityKeyState
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.store import authorities, authority_keys, schema
from certd.store.store import Store, Transaction
from tests.store.samples import LATER, NOW, add_tenant, authority

_END = LATER + timedelta(days=365)


def prepared(number: int = 2) -> AuthorityKey:
    return AuthorityKey(
        number=number,
        key_id=secrets.token_bytes(16),
        policy=b"policy",
        public_key=None,
        state=AuthorityKeyState.PREPARED,
        state_time=LATER,
        key_spec=KeySpec.EC_P384,
        signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA384,
        path_length=1,
        lifetime=timedelta(days=30),
        cross_certify=True,
    )


@pytest.fixture(name="one")
def made(store: Store) -> Authority:
    add_tenant(store)
    one = authority()
    store.write("test", lambda tx: authorities.insert(tx, one))
    return one


def add(store: Store, one: Authority, key: AuthorityKey) -> None:
    store.write("test", lambda tx: authority_keys.insert(tx, one, key))


def certify(store: Store, one: Authority, number: int, certificate: bytes) -> None:
    store.write(
        "test",
        lambda tx: authority_keys.set_certificate(
            tx, one.uid, number, certificate=certificate, chain=(b"root",), not_after=_END, path_length=1, now=LATER
        ),
    )


def check_mirror(store: Store, one: Authority) -> None:
    """Checks that the row of the authority says what that of its current key says."""
    columns = ("key_spec", "signature_algorithm", "certificate", "chain", "not_after", "path_length", "csr")
    with store.read("test") as tx:
        row = tx.execute(select(schema.authorities).where(schema.authorities.c.uid == one.uid)).one()._mapping
        key = (
            tx.execute(
                select(schema.authority_keys).where(
                    schema.authority_keys.c.authority_uid == one.uid,
                    schema.authority_keys.c.number == row["key_number"],
                )
            )
            .one()
            ._mapping
        )
    assert {name: row[name] for name in columns} == {name: key[name] for name in columns}
    assert key["state"] == "ACTIVE"


def test_a_new_authority_has_one_key_that_says_what_it_says(store: Store, one: Authority) -> None:
    with store.read("test") as tx:
        (key,) = authorities.keys(tx, one.uid)
    assert key == replace(
        one.key, key_spec=one.key_spec, signature_algorithm=one.signature_algorithm, path_length=one.path_length
    )
    check_mirror(store, one)
    assert one.with_key(key) == replace(one, key=key)


def test_the_key_follows_its_authority_when_that_is_activated(store: Store, one: Authority) -> None:
    def activate(tx: Transaction) -> bool:
        return authorities.activate(
            tx, one.uid, certificate=b"certificate", chain=(b"root",), not_after=_END, path_length=3, now=LATER
        )

    assert store.write("test", activate)
    check_mirror(store, one)
    with store.read("test") as tx:
        (key,) = authorities.keys(tx, one.uid)
    assert (key.certificate, key.chain, key.not_after, key.path_length) == (b"certificate", (b"root",), _END, 3)
    assert key.full_chain == (b"certificate", b"root")


def test_a_prepared_key_comes_out_as_it_went_in_and_its_authority_stays_as_it_is(store: Store, one: Authority) -> None:
    key = prepared()
    add(store, one, key)
    with store.read("test") as tx:
        assert authorities.keys(tx, one.uid)[0] == key
        assert authority_keys.get(tx, one.uid, 2) == key
        assert authority_keys.get(tx, one.uid, 3) is None
        assert authority_keys.owner(tx, key.key_id) == one.uid
        assert authority_keys.owner(tx, bytes(16)) is None
        assert authorities.get_by_uid(tx, one.uid) == one
    certify(store, one, 2, b"second")
    check_mirror(store, one)
    with store.read("test") as tx:
        found = authorities.get_by_uid(tx, one.uid)
    assert found is not None
    assert found.certificate is None


def test_another_certificate_of_the_key_that_signs_shows_in_the_authority(store: Store, one: Authority) -> None:
    certify(store, one, 1, b"another")
    check_mirror(store, one)
    with store.read("test") as tx:
        found = authorities.get_by_uid(tx, one.uid)
    assert found is not None
    assert (found.certificate, found.not_after) == (b"another", _END)


def test_a_switch_makes_the_authority_say_what_the_new_key_says_and_back(store: Store, one: Authority) -> None:
    certify(store, one, 1, b"first")
    add(store, one, prepared())
    certify(store, one, 2, b"second")
    store.write("test", lambda tx: authorities.set_csr(tx, one.uid, b"csr of the second", 2))
    for number in (2, 1):
        with store.read("test") as tx:
            before, to = authorities.get_by_uid(tx, one.uid), authority_keys.get(tx, one.uid, number)
        assert before is not None
        assert to is not None
        store.write("test", lambda tx, before=before, to=to: authority_keys.switch(tx, before, to, LATER))  # type: ignore[misc]  # Of lambdas.
        check_mirror(store, one)
        with store.read("test") as tx:
            after = authorities.get_by_uid(tx, one.uid)
            states = {key.number: key.state for key in authorities.keys(tx, one.uid)}
        assert after is not None
        assert after.key.number == number
        assert after.certificate == to.certificate
        assert after.key_spec is to.key_spec
        assert after.revision > before.revision
        assert states == {number: AuthorityKeyState.ACTIVE, 3 - number: AuthorityKeyState.SUPERSEDED}


def test_each_key_has_a_csr_of_its_own(store: Store, one: Authority) -> None:
    add(store, one, prepared())
    assert store.write("test", lambda tx: authorities.set_csr(tx, one.uid, b"second", 2))
    assert store.write("test", lambda tx: authorities.set_csr(tx, one.uid, b"first"))
    assert not store.write("test", lambda tx: authorities.set_csr(tx, one.uid, b"other", 2))
    assert not store.write("test", lambda tx: authorities.set_csr(tx, one.uid, b"other", 3))
    with store.read("test") as tx:
        assert authorities.csr(tx, one.uid) == b"first"
        assert authorities.csr(tx, one.uid, 2) == b"second"
        assert authorities.csr(tx, one.uid, 3) is None
    check_mirror(store, one)


def test_only_a_key_without_a_certificate_is_deleted(store: Store, one: Authority) -> None:
    add(store, one, prepared(2))
    add(store, one, prepared(3))
    certify(store, one, 2, b"second")
    assert not store.write("test", lambda tx: authority_keys.delete_unfinished(tx, one.uid, 2, NOW))
    assert store.write("test", lambda tx: authority_keys.delete_unfinished(tx, one.uid, 3, NOW))
    assert not store.write("test", lambda tx: authority_keys.delete_unfinished(tx, one.uid, 3, NOW))
    with store.read("test") as tx:
        assert [key.number for key in authorities.keys(tx, one.uid)] == [2, 1]
