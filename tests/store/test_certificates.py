"""Intents, completions, losses and pages of certificates."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text

from certd.model.certificate import Certificate, CertificateState, Intent
from certd.pki.key_spec import KeySpec
from certd.store import certificates, owners
from certd.store.certificates import CertificateKey, Completion, SerialTakenError
from certd.store.store import Store
from tests.store.samples import LATER, NOW, completion, intent
from tests.store.waiting import run_together


def insert(store: Store, intents: Sequence[Intent]) -> None:
    store.write("test", lambda tx: certificates.insert_intents(tx, intents))


def complete(store: Store, completions: Sequence[Completion]) -> set[CertificateKey]:
    return store.write("test", lambda tx: certificates.complete(tx, completions))


def get(store: Store, one: Intent) -> Certificate | None:
    with store.read("test") as tx:
        return certificates.get(tx, one.authority_uid, one.serial)


def key(one: Intent) -> CertificateKey:
    return (one.authority_uid, one.serial)


def test_an_intent_is_pending_until_it_is_completed(store: Store) -> None:
    one = intent()
    insert(store, [one])
    pending = Certificate(
        authority_uid=one.authority_uid,
        key_number=1,
        serial=one.serial,
        state=CertificateState.PENDING,
        der=None,
        profile="end-entity",
        profile_version=1,
        subject_text=one.subject_text,
        not_before=NOW,
        not_after=LATER,
        public_key_sha256=bytes(32),
        key_spec=KeySpec.EC_P256,
        managed_certificate_uid="managed",
        managed_certificate_version=3,
        labels={"team": "web"},
        create_time=NOW,
        revoke_time=None,
        revocation_reason=None,
        invalidity_time=None,
    )
    assert get(store, one) == pending
    assert complete(store, [completion(one)]) == {key(one)}
    assert get(store, one) == replace(pending, state=CertificateState.ISSUED, der=b"signed " + one.tbs)


def test_nothing_is_found_under_another_authority_or_serial(store: Store) -> None:
    one = intent()
    insert(store, [one])
    assert get(store, intent(serial=one.serial, authority_uid="another")) is None
    assert get(store, intent()) is None


def test_nothing_to_do_does_nothing(store: Store) -> None:
    insert(store, [])
    assert complete(store, []) == set()


def test_only_what_is_pending_under_the_epoch_is_completed(store: Store) -> None:
    fine, foreign, lost, unknown = intent(), intent(owner_epoch=2), intent(), intent()
    insert(store, [fine, foreign, lost])
    store.write("test", lambda tx: certificates.mark_lost(tx, [key(lost)], NOW))
    completions = [completion(fine), completion(foreign, owner_epoch=1), completion(lost), completion(unknown)]
    assert complete(store, completions) == {key(fine)}
    states = [found.state if (found := get(store, one)) else None for one in (fine, foreign, lost, unknown)]
    assert states == [CertificateState.ISSUED, CertificateState.PENDING, CertificateState.LOST, None]


def test_what_was_completed_is_not_completed_with_other_bytes(store: Store) -> None:
    one = intent()
    insert(store, [one])
    complete(store, [completion(one)])
    assert complete(store, [completion(one, der=b"other")]) == set()
    assert complete(store, [completion(one)]) == {key(one)}
    found = get(store, one)
    assert found is not None
    assert found.der == b"signed " + one.tbs


def test_mark_lost_changes_what_is_pending_and_says_what(store: Store) -> None:
    pending, issued = intent(), intent()
    insert(store, [pending, issued])
    complete(store, [completion(issued)])
    keys = [key(pending), key(issued), ("none", "00")]
    assert store.write("test", lambda tx: certificates.mark_lost(tx, keys, LATER)) == {key(pending)}
    assert store.write("test", lambda tx: certificates.mark_lost(tx, keys, LATER)) == set()
    found = get(store, pending)
    assert found is not None
    assert (found.state, found.revoke_time, found.der) == (CertificateState.LOST, LATER, None)
    still = get(store, issued)
    assert still is not None
    assert (still.state, still.revoke_time) == (CertificateState.ISSUED, None)


def test_a_serial_is_unique_across_authorities_with_one_issuer_name(store: Store) -> None:
    first = intent(authority_uid="first")
    insert(store, [first])
    fresh = intent()
    with pytest.raises(SerialTakenError) as caught:
        insert(store, [fresh, intent(authority_uid="second", serial=first.serial)])
    assert caught.value.positions == (1,)
    assert get(store, fresh) is None, "all or nothing"
    insert(store, [intent(authority_uid="second", serial=first.serial, issuer_name_sha256=b"other name".ljust(32))])


def test_a_serial_is_unique_within_one_insertion_and_within_one_authority(store: Store) -> None:
    one = intent()
    with pytest.raises(SerialTakenError) as caught:
        insert(
            store, [intent(), one, intent(), intent(serial=one.serial), intent(authority_uid="b", serial=one.serial)]
        )
    assert caught.value.positions == (3, 4)
    insert(store, [one])
    with pytest.raises(SerialTakenError) as caught:
        insert(store, [intent(serial=one.serial, issuer_name_sha256=b"renamed".ljust(32))])
    assert caught.value.positions == (0,)


def test_concurrent_writers_never_get_one_serial_twice(store: Store) -> None:
    serials = [f"{number:032x}" for number in range(20)]

    def writer(name: str) -> Callable[[], list[str]]:
        def run() -> list[str]:
            won = []
            for serial in serials:
                try:
                    insert(store, [intent(authority_uid=name, serial=serial)])
                except SerialTakenError:
                    continue
                won.append(serial)
            return won

        return run

    won = run_together([writer(f"authority-{number}") for number in range(4)])
    assert sorted(serial for mine in won for serial in mine) == serials


def test_pending_rows_of_ended_owners(store: Store) -> None:
    first = store.write("test", lambda tx: owners.begin(tx, NOW, LATER))
    mine, done = intent(owner_epoch=first), intent(owner_epoch=first)
    never_owned = intent(owner_epoch=first + 1000)
    insert(store, [mine, done, never_owned])
    complete(store, [completion(done)])

    def pending(now_offset: timedelta = timedelta(), limit: int = 10) -> list[Intent]:
        with store.read("test") as tx:
            return certificates.pending_of_ended_owners(tx, NOW + now_offset, limit)

    # The owner lives.
    assert pending() == [never_owned]
    # Its lease has passed.
    assert pending(timedelta(hours=2)) == [mine, never_owned]
    assert pending(timedelta(hours=2), limit=1) == [mine]
    # It was prolonged.
    later = LATER + timedelta(hours=3)
    assert store.write("test", lambda tx: owners.renew(tx, first, later))
    assert pending(timedelta(hours=2)) == [never_owned]
    # It ended.
    store.write("test", lambda tx: owners.end(tx, first))
    assert pending() == [mine, never_owned]
    store.write("test", lambda tx: certificates.mark_lost(tx, [key(mine), key(never_owned)], NOW))
    assert pending() == []


def listing(store: Store, uids: Sequence[str], *, limit: int) -> list[str]:
    """Serials of all pages, one after the other."""
    serials: list[str] = []
    after = None
    while True:
        with store.read("test") as tx:
            found = certificates.page(tx, uids, after=after, limit=limit)
        serials += [one.serial for one in found]
        if len(found) < limit:
            return serials
        after = (found[-1].create_time, found[-1].serial)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_show_the_newest_first_and_each_once(store: Store, limit: int) -> None:
    # Many of one moment, over two authorities, and one of a third that is not asked for.
    intents = [
        intent(authority_uid=f"a{number % 2}", serial=f"{number:04x}", create_time=NOW + timedelta(seconds=number // 4))
        for number in range(13)
    ]
    insert(store, [*intents, intent(authority_uid="a2")])
    expected = sorted(intents, key=lambda one: (-one.create_time.timestamp(), one.serial))
    assert listing(store, ["a0", "a1"], limit=limit) == [one.serial for one in expected]
    assert listing(store, ["a0"], limit=limit) == [one.serial for one in expected if one.authority_uid == "a0"]
    assert listing(store, [], limit=limit) == []


def test_pages_stay_put_while_others_insert(store: Store) -> None:
    intents = [intent(create_time=NOW + timedelta(seconds=number)) for number in range(6)]
    insert(store, intents)
    with store.read("test") as tx:
        first = certificates.page(tx, ["authority"], after=None, limit=3)
    insert(store, [intent(create_time=NOW + timedelta(seconds=100)) for _ in range(5)])
    with store.read("test") as tx:
        second = certificates.page(tx, ["authority"], after=(first[-1].create_time, first[-1].serial), limit=3)
    assert [one.serial for one in first + second] == [one.serial for one in reversed(intents)]


def plan(store: Store, statement: str) -> str:
    with store.read("test") as tx:
        return "\n".join(str(row[-1]) for row in tx.execute(text("EXPLAIN QUERY PLAN " + statement)))


def test_no_query_of_the_request_path_reads_a_whole_table(sqlite_store: Store) -> None:
    from sqlalchemy.dialects import sqlite

    plans = {
        name: plan(
            sqlite_store,
            str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": False})).replace("?", "1"),
        )
        for name, statement in {
            "get": certificates._GET,
            "page": certificates._PAGE,
            "page after": certificates._PAGE_AFTER,
            "latest of key": certificates._LATEST_OF_KEY,
            "pending": certificates._PENDING_OF_ENDED,
        }.items()
    }
    assert "sqlite_autoindex_certificates_1 (authority_uid=? AND serial=?)" in plans["get"]
    assert "certificates_page (authority_uid=?)" in plans["page"]
    assert "certificates_page (authority_uid=? AND create_time<?)" in plans["page after"]
    assert "certificates_pending" in plans["pending"]
    # Few certificates have one key, and these are sorted.
    assert "certificates_public_key (public_key_sha256=? AND authority_uid=?)" in plans.pop("latest of key")
    assert "TEMP B-TREE" not in "".join(plans.values())
