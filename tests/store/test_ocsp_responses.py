"""Rows of OCSP answers: stored where they tell the truth, dropped with it, found when they are due."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from certd.model.certificate import CertificateState, RevocationReason
from certd.store import certificates, ocsp_responses, revocations
from certd.store.ocsp_responses import Standing, StoredAnswer
from certd.store.store import Store, Transaction
from certd.store.transaction import AnswerKey
from tests.store.samples import NOW, completion, intent

HOUR = timedelta(hours=1)
_SERIALS = ("10", "20", "30", "40")


@pytest.fixture
def issued(store: Store) -> Store:
    """Four certificates of one key, the last one not signed yet."""

    def issue(tx: Transaction) -> None:
        intents = [intent(serial=serial) for serial in _SERIALS]
        certificates.insert_intents(tx, intents)
        certificates.complete(tx, [completion(one) for one in intents[:3]])

    store.write("test", issue)
    return store


def key(serial: str) -> AnswerKey:
    one = intent()
    return one.authority_uid, one.key_number, serial


def answer(begin_hours: int = 0, der: bytes = b"answer") -> StoredAnswer:
    return StoredAnswer(1, der, NOW + begin_hours * HOUR, NOW + (begin_hours + 48) * HOUR)


def standing(store: Store, serial: str) -> Standing:
    with store.read("test") as tx:
        found = ocsp_responses.standing(tx, key(serial))
    assert found is not None
    return found


def put(store: Store, serials: Sequence[str], given: StoredAnswer | None = None) -> None:
    answers = [(key(serial), standing(store, serial), given or answer()) for serial in serials]
    store.write("test", lambda tx: ocsp_responses.put(tx, answers))


def stored(store: Store, serial: str) -> StoredAnswer | None:
    with store.read("test") as tx:
        return ocsp_responses.get(tx, key(serial))


def revoke(tx: Transaction, serial: str) -> None:
    one = key(serial)
    assert revocations.revoke(
        tx, one[0], serial, revoke_time=NOW, reason=RevocationReason.SUPERSEDED, invalidity_time=None
    )
    ocsp_responses.forget(tx, *one)


def due(store: Store, *, after: str = "", fresh_hours: int = 24, limit: int = 10) -> list[str]:
    with store.read("test") as tx:
        found = ocsp_responses.due(
            tx,
            *key("")[:2],
            after=after,
            now=NOW,
            fresh_until=NOW + fresh_hours * HOUR,
            ahead=NOW + HOUR,
            limit=limit,
        )
    return [one.serial for one in found]


def test_an_answer_is_stored_and_replaced(issued: Store) -> None:
    put(issued, ["10", "20"])
    assert stored(issued, "10") == answer()
    put(issued, ["10"], answer(1, b"another"))
    assert (stored(issued, "10"), stored(issued, "20")) == (answer(1, b"another"), answer())
    assert stored(issued, "30") is None


def test_what_the_books_say_decides(issued: Store) -> None:
    assert standing(issued, "10") == Standing("10", CertificateState.ISSUED, None, None)
    issued.write("test", lambda tx: revoke(tx, "10"))
    assert standing(issued, "10") == Standing("10", CertificateState.REVOKED, NOW, "superseded")
    with issued.read("test") as tx:
        assert ocsp_responses.standing(tx, key("99")) is None
        # Another key of the authority has not issued it.
        assert ocsp_responses.standing(tx, (key("10")[0], 2, "10")) is None


def test_an_answer_that_was_signed_before_a_revocation_is_not_stored_after_it(issued: Store) -> None:
    put(issued, ["10"])
    before = standing(issued, "10")
    issued.write("test", lambda tx: revoke(tx, "10"))
    assert stored(issued, "10") is None
    issued.write("test", lambda tx: ocsp_responses.put(tx, [(key("10"), before, answer())]))
    assert stored(issued, "10") is None
    put(issued, ["10"], answer(1))
    assert stored(issued, "10") == answer(1)


def test_no_answer_outlives_a_revocation_beside_it(postgres_store: Store) -> None:
    """Both are in a transaction at once, which only one engine has."""
    one = intent(serial="10")

    def issue(tx: Transaction) -> None:
        certificates.insert_intents(tx, [one])
        certificates.complete(tx, [completion(one)])

    postgres_store.write("test", issue)
    before = standing(postgres_store, "10")
    read, revoked, attempts = threading.Event(), threading.Event(), []

    def store_late(tx: Transaction) -> None:
        attempts.append(1)
        ocsp_responses.put(tx, [(key("10"), before, answer())])
        read.set()
        assert revoked.wait(30)

    storing = threading.Thread(target=lambda: postgres_store.write("test", store_late))
    storing.start()
    assert read.wait(30)
    postgres_store.write("test", lambda tx: revoke(tx, "10"))
    revoked.set()
    storing.join()
    # One of the two ran again, or the answer was dropped: none is left that says good.
    assert stored(postgres_store, "10") is None


def test_what_is_due_is_found_in_pages(issued: Store) -> None:
    assert due(issued) == ["10", "20", "30"]
    put(issued, ["20"])
    assert due(issued) == ["10", "30"]
    assert due(issued, fresh_hours=49) == ["10", "20", "30"]
    assert due(issued, limit=1) == ["10"]
    assert due(issued, after="10") == ["30"]
    end = intent().not_after
    with issued.read("test") as tx:
        later = end + 2 * HOUR
        assert not ocsp_responses.due(
            tx, *key("")[:2], after="", now=end + HOUR, fresh_until=later, ahead=later, limit=9
        )
        after = end + HOUR
        for now, but_of, unended in ((end, "other", True), (end, intent().profile, False), (after, "other", False)):
            assert ocsp_responses.any_unended(tx, *key("")[:2], now=now, but_of_profile=but_of) is unended


def test_what_has_ended_is_deleted(issued: Store) -> None:
    put(issued, ["10"])
    put(issued, ["20"], answer(5))
    assert issued.write("test", lambda tx: ocsp_responses.delete_ended(tx, NOW + 49 * HOUR)) == 1
    assert (stored(issued, "10"), stored(issued, "20")) == (None, answer(5))
    issued.write("test", lambda tx: ocsp_responses.forget_key(tx, *key("")[:2]))
    assert stored(issued, "20") is None


def test_those_who_keep_answers_hear_of_a_commit_before_its_caller(issued: Store) -> None:
    heard: list[AnswerKey] = []
    issued.when_answers_forgotten(heard.append)

    def fail(tx: Transaction) -> None:
        ocsp_responses.forget(tx, *key("10"))
        raise LookupError

    with pytest.raises(LookupError):
        issued.write("test", fail)
    assert heard == []
    issued.write("test", lambda tx: ocsp_responses.forget(tx, *key("20")))
    assert heard == [key("20")]


def test_who_fails_to_hear_keeps_nobody_from_committing(issued: Store) -> None:
    def fail(_key: AnswerKey) -> None:
        raise ValueError

    issued.when_answers_forgotten(fail)
    issued.write("test", lambda tx: revoke(tx, "10"))
    assert standing(issued, "10").state is CertificateState.REVOKED
    assert replace(standing(issued, "20")).state is CertificateState.ISSUED
