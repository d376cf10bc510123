"""Books that come from a backup, against journals that know more; on both databases, without a token."""

import hashlib
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import text

from certd.errors import CertdError, Reason
from certd.model.authority import Authority
from certd.model.certificate import Certificate, CertificateState, Intent, RevocationReason
from certd.model.event import Event, EventType
from certd.model.revocation_list import RevocationListKey
from certd.model.revocation_settings import CrlSettings, RevocationSettings
from certd.pki.checkpoint import JournalHead
from certd.services.audit_restores import restores_among
from certd.services.checkpoints import new_checkpoint_key
from certd.services.restored_books import RestoredBooks, put_right
from certd.store import authorities, certificates, checkpoints, events, ocsp_responders, revocation_lists
from certd.store.ocsp_responders import Responder
from certd.store.store import Store
from certd.token import journal_records
from certd.token.journal import SIGNED
from certd.token.journal_records import CHAIN_START, JournalRecord
from certd.token.policy import SignatureKind
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.store import samples
from tests.store.conftest import database_url, open_store, sqlite_url, store
from tests.waiting import eventually

__all__ = ["database_url", "open_store", "postgres_server", "postgres_url", "sqlite_url", "store"]

BACKUP = samples.NOW
AFTER = BACKUP + timedelta(minutes=5)
NOW = BACKUP + timedelta(hours=1)
HEAD = JournalHead(journal="ab" * 16, number=41, chain_hash=bytes(32))


def make_certificate() -> bytes:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(BACKUP).not_valid_after(NOW)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


DER = make_certificate()
"""Of a leaf. Which one it is nobody looks at here."""


def signed(key_id: bytes, kind: SignatureKind, what: str, *, time: datetime = AFTER, **fields: Any) -> JournalRecord:
    """A record as the token process writes it."""
    told = {"key": key_id.hex(), "signed": kind.name, "what": what, "sha256": secrets.token_hex(32), **fields}
    record = journal_records.parse(journal_records.encode(1, time, SIGNED, told, CHAIN_START)[0])
    assert record is not None
    return record


def certificate_record(key_id: bytes, serial: str, *, partition: int | None = None, **fields: Any) -> JournalRecord:
    what = f"certificate serial={int(serial, 16):x} not_after=2027-01-31T12:00:00Z"
    if partition is not None:
        what += f" crl_partition={partition}"
    return signed(key_id, SignatureKind.CERTIFICATE, what, **fields)


def restored(store: Store, *records: JournalRecord) -> RestoredBooks:
    return put_right(store, records, heads=[HEAD], backup_time=BACKUP, clock=FakeClock(NOW))


def numbered(store: Store) -> None:
    """Waits until all events have their numbers, which they get by themselves on PostgreSQL."""

    def is_empty() -> bool:
        with store.read("test") as tx:
            return tx.execute(text("SELECT 1 FROM unnumbered_events LIMIT 1")).first() is None

    eventually(is_empty)


def told(store: Store, type_: EventType) -> list[Event]:
    numbered(store)
    with store.read("test") as tx:
        return [one.event for one in events.page(tx, after_seq=0, limit=1000) if one.event.type is type_]


def found(store: Store, of: Authority, serial: str) -> Certificate | None:
    with store.read("test") as tx:
        return certificates.get(tx, of.uid, serial)


@pytest.fixture
def ca(store: Store) -> Authority:
    """An authority with CRLs in partitions, in the books of the backup."""
    settings = RevocationSettings(crl=CrlSettings(partitioned=True, partition_count=4))
    made = samples.authority(revocation=settings)

    def work(tx: Any) -> None:
        authorities.insert(tx, made)
        urls = {number: [f"http://pki.example/{number}.crl"] for number in range(5)}
        revocation_lists.ensure_rows(tx, made.uid, 1, urls, now=BACKUP)

    samples.add_tenant(store)
    store.write("test", work)
    return made


def issued(store: Store, of: Authority, **changes: Any) -> Intent:
    intent = samples.intent(
        authority_uid=of.uid,
        issuer_name_sha256=hashlib.sha256(of.subject).digest(),
        not_after=NOW + timedelta(days=30),
        managed_certificate_uid=None,
        managed_certificate_version=None,
        **changes,
    )

    def work(tx: Any) -> None:
        certificates.insert_intents(tx, [intent])
        certificates.complete(tx, [samples.completion(intent, der=DER)])

    store.write("test", work)
    return intent


def test_a_certificate_that_a_journal_alone_knows_is_lost_and_revoked(store: Store, ca: Authority) -> None:
    known = issued(store, ca)
    serial = "0c" * 16
    record = certificate_record(ca.key.key_id, serial, partition=2)
    books = restored(store, certificate_record(ca.key.key_id, known.serial), record, record)
    assert (books.records, books.lost, books.foreign, books.revoked) == (3, 1, 0, 0)
    row = found(store, ca, serial)
    assert row is not None
    assert (row.state, row.revoke_time, row.create_time) == (CertificateState.LOST, NOW, AFTER)
    assert row.not_after == datetime(2027, 1, 31, 12, tzinfo=UTC)
    assert row.crl_partition == 2
    still = found(store, ca, known.serial)
    assert still is not None
    assert still.state is CertificateState.ISSUED
    (event,) = told(store, EventType.CERTIFICATE_LOST)
    assert event.resource == f"{ca.name}/certificates/{serial}"
    # By this the verification of the record knows the signature again.
    assert event.details["tbs_sha256"] == record.text("sha256")
    with store.read("test") as tx:
        changed = {one.key.partition for one in revocation_lists.of_key(tx, ca.uid, 1) if one.changed_time is not None}
    assert {0, row.crl_partition} <= changed


@pytest.mark.parametrize(
    ("partition", "row", "lists"), [(None, None, {0}), (0, None, {0}), (4, 4, {0, 4}), (7, 7, {0, 7})]
)
def test_what_is_lost_stands_on_the_crl_that_it_names_whatever_the_settings_of_the_backup(
    store: Store, ca: Authority, partition: int | None, row: int | None, lists: set[int]
) -> None:
    """The settings may have been others since, and known more partitions than the backup."""
    serial = "0c" * 16
    assert restored(store, certificate_record(ca.key.key_id, serial, partition=partition)).lost == 1
    lost = found(store, ca, serial)
    assert lost is not None
    assert lost.crl_partition == row
    with store.read("test") as tx:
        signed_lists = {one.key.partition: one for one in revocation_lists.of_key(tx, ca.uid, 1)}
    assert {number for number, one in signed_lists.items() if one.changed_time is not None} == lists
    assert set(signed_lists) == {0, 1, 2, 3, 4} | lists
    # As readers of the certificate find it.
    if partition == 7:
        assert signed_lists[7].urls == ("http://pki.example/0/7.crl",)


def test_a_second_restore_of_the_same_journal_loses_nothing_more(store: Store, ca: Authority) -> None:
    record = certificate_record(ca.key.key_id, "0c" * 16)
    assert restored(store, record).lost == 1
    assert restored(store, record).lost == 0
    assert len(told(store, EventType.CERTIFICATE_LOST)) == 1


def test_many_are_lost_in_batches(store: Store, ca: Authority) -> None:
    serials = [f"{number:032x}" for number in range(1, 702)]
    assert restored(store, *(certificate_record(ca.key.key_id, one) for one in serials)).lost == 701
    assert len(told(store, EventType.CERTIFICATE_LOST)) == 701


@pytest.mark.parametrize(
    "what", ["certificate serial=xyz", "certificate", "nothing", "certificate serial=" + "f" * 41 + " not_after=x"]
)
def test_what_names_no_certificate_is_none(store: Store, ca: Authority, what: str) -> None:
    assert restored(store, signed(ca.key.key_id, SignatureKind.CERTIFICATE, what)).lost == 0


@pytest.mark.usefixtures("ca")
def test_signatures_of_keys_that_were_made_after_the_backup_are_counted(store: Store) -> None:
    other = secrets.token_bytes(16)
    books = restored(
        store,
        certificate_record(other, "0d"),
        signed(other, SignatureKind.REVOCATION_LIST, "revocation list number=5 next_update=x"),
    )
    assert (books.lost, books.foreign) == (0, 1)
    (event,) = told(store, EventType.BOOKS_RESTORED)
    assert event.details["unknown_key_count"] == "1"
    assert event.details["lost_count"] == "0"


def test_crl_numbers_go_on_above_all_that_were_signed(store: Store, ca: Authority) -> None:
    highest = 1 << 45
    books = restored(
        store,
        signed(ca.key.key_id, SignatureKind.REVOCATION_LIST, f"revocation list number={highest} next_update=x"),
        signed(ca.key.key_id, SignatureKind.REVOCATION_LIST, "revocation list number=7 next_update=x"),
    )
    assert books.numbers == {(ca.uid, 1): highest}

    def claim(tx: Any) -> int:
        row = revocation_lists.get(tx, RevocationListKey(ca.uid, 1, 0))
        assert row is not None
        assert row.changed_time is not None, "it says again what is revoked"
        return revocation_lists.claim(tx, row, NOW)

    assert store.write("test", claim) == highest + 1


@pytest.mark.parametrize(("ahead", "keys"), [(0, 1), (1, 2)])
@pytest.mark.usefixtures("ca")
def test_checkpoints_get_a_new_key_when_the_old_one_signed_farther_ahead(store: Store, ahead: int, keys: int) -> None:
    key = new_checkpoint_key(1, BACKUP)
    store.write("test", lambda tx: checkpoints.insert_key(tx, key))
    store.write("test", lambda tx: tx.event(samples.event()))
    numbered(store)
    with store.read("test") as tx:
        last = events.head(tx).seq
    record = signed(key.key_id, SignatureKind.CHECKPOINT, "checkpoint", sequence=last + ahead, chain_hash="00" * 32)
    assert restored(store, record).checkpoint_key == (ahead > 0)
    with store.read("test") as tx:
        assert len(checkpoints.keys(tx)) == keys


def answer(key_id: bytes, *answers: str, time: datetime = AFTER) -> JournalRecord:
    what = f"OCSP response answers={','.join(answers)} next_update=2027-01-31T12:00:00Z"
    return signed(key_id, SignatureKind.OCSP_RESPONSE, what, time=time)


def test_what_an_answer_called_revoked_is_revoked_again(store: Store, ca: Authority) -> None:
    first, second, third = (issued(store, ca, serial=f"{number:02x}" * 16) for number in (0x0A, 0x7B, 0x7C))
    responder = Responder(
        authority_uid=ca.uid, key_number=1, number=1, key_id=secrets.token_bytes(16), policy=b"", create_time=BACKUP
    )
    store.write("test", lambda tx: ocsp_responders.insert_responder(tx, responder))
    books = restored(
        store,
        answer(responder.key_id, f"{int(first.serial, 16):x}:revoked", f"{second.serial}:good"),
        answer(responder.key_id, f"{int(first.serial, 16):x}:revoked", time=AFTER + timedelta(minutes=1)),
        # The backup knows better what was answered before it, and of nobody's serial nothing follows.
        answer(responder.key_id, f"{third.serial}:revoked", time=BACKUP - timedelta(seconds=1)),
        answer(responder.key_id, "ff:revoked"),
    )
    assert books.revoked == 1
    row = found(store, ca, first.serial)
    assert row is not None
    # When it was revoked nobody knows; this is when it was known.
    assert (row.state, row.revoke_time) == (CertificateState.REVOKED, AFTER)
    for one in (second, third):
        other = found(store, ca, one.serial)
        assert other is not None
        assert other.state is CertificateState.ISSUED
    (event,) = told(store, EventType.CERTIFICATE_REVOKED)
    assert event.resource.endswith(first.serial)
    (whole,) = told(store, EventType.BOOKS_RESTORED)
    assert whole.details["revoked_count"] == "1"


def test_an_answer_by_a_later_responder_counts_where_one_certificate_has_the_serial(
    store: Store, ca: Authority
) -> None:
    other = samples.authority("other-ca", subject=b"0\x01")
    store.write("test", lambda tx: authorities.insert(tx, other))
    own, shared = issued(store, ca), issued(store, ca)
    issued(store, other, serial=shared.serial)
    unknown = secrets.token_bytes(16)
    assert restored(store, answer(unknown, f"{own.serial}:revoked", f"{shared.serial}:revoked")).revoked == 1
    # Of one and the same serial the key tells which is meant.
    assert restored(store, answer(other.key.key_id, f"{shared.serial}:revoked")).revoked == 1
    rows = [found(store, one, shared.serial) for one in (ca, other)]
    assert [row.state for row in rows if row is not None] == [CertificateState.ISSUED, CertificateState.REVOKED]


def test_the_event_tells_what_the_restore_accounts_for(store: Store, ca: Authority) -> None:
    store.write("test", lambda tx: tx.event(samples.event()))
    numbered(store)
    with store.read("test") as tx:
        last = events.head(tx).seq
    restored(store)
    numbered(store)
    with store.read("test") as tx:
        (gap,) = restores_among(events.page(tx, after_seq=0, limit=1000))
        assert events.verify_all(tx) == []
    assert (gap.backup_time, gap.time, gap.backup_seq) == (BACKUP, NOW, last)
    assert gap.numbers == {HEAD.journal: HEAD.number}
    record = certificate_record(ca.key.key_id, "0c")
    before = certificate_record(ca.key.key_id, "0c", time=BACKUP - timedelta(seconds=1))
    assert gap.lost_record(HEAD.journal, record)
    assert not gap.lost_record(HEAD.journal, before)
    assert not gap.lost_record(HEAD.journal, replace(record, number=HEAD.number + 1))
    assert not gap.lost_record("cd" * 16, record)


@pytest.mark.parametrize("details", [{}, {"backup_time": "x", "sequence": "1"}, {"sequence": "1", "journals": "a:b:c"}])
def test_an_event_that_says_nothing_accounts_for_nothing(store: Store, details: dict[str, str]) -> None:
    store.write("test", lambda tx: tx.event(samples.event(type=EventType.BOOKS_RESTORED, details=details)))
    numbered(store)
    with store.read("test") as tx:
        assert restores_among(events.page(tx, after_seq=0, limit=10)) == []


def test_what_a_crl_names_is_revoked_again_as_it_says(store: Store, ca: Authority) -> None:
    first, second = issued(store, ca), issued(store, ca)
    invalid = (BACKUP + timedelta(minutes=1)).replace(microsecond=0)
    key = ec.generate_private_key(ec.SECP256R1())
    public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    store.write("test", lambda tx: authorities.set_public_key(tx, ca.uid, 1, public_key, BACKUP))
    entry = x509.RevokedCertificateBuilder().serial_number(int(first.serial, 16)).revocation_date(AFTER)
    entry = entry.add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
    entry = entry.add_extension(x509.InvalidityDate(invalid.replace(tzinfo=None)), critical=False)
    unknown = x509.RevokedCertificateBuilder().serial_number(5).revocation_date(AFTER).build()
    builder = x509.CertificateRevocationListBuilder().issuer_name(x509.Name([])).last_update(AFTER).next_update(NOW)
    builder = builder.add_revoked_certificate(entry.build()).add_revoked_certificate(unknown)
    told_list, forged = (builder.sign(one, hashes.SHA256()) for one in (key, ec.generate_private_key(ec.SECP256R1())))
    for wrong in (forged.public_bytes(Encoding.DER), b"nothing", b"-----BEGIN"):
        with pytest.raises(CertdError) as caught:
            put_right(store, [], lists=[wrong], backup_time=BACKUP, clock=FakeClock(NOW))
        assert caught.value.reason is Reason.FIELD_INVALID
    lists = [told_list.public_bytes(Encoding.DER), told_list.public_bytes(Encoding.PEM)]
    answered = answer(ca.key.key_id, f"{first.serial}:revoked")
    books = put_right(store, [answered], lists=lists, backup_time=BACKUP, clock=FakeClock(NOW))
    assert books.revoked == 1
    row, other = found(store, ca, first.serial), found(store, ca, second.serial)
    assert row is not None
    assert other is not None
    assert (row.state, row.revocation_reason) == (CertificateState.REVOKED, RevocationReason.KEY_COMPROMISE)
    assert (row.revoke_time, row.invalidity_time) == (AFTER.replace(microsecond=0), invalid)
    assert other.state is CertificateState.ISSUED


def test_checkpoints_get_a_new_key_when_nobody_knows_how_far_the_old_one_signed(store: Store) -> None:
    store.write("test", lambda tx: checkpoints.insert_key(tx, new_checkpoint_key(1, BACKUP)))
    assert put_right(store, [], whole=False, backup_time=BACKUP, clock=FakeClock(NOW)).checkpoint_key
    with store.read("test") as tx:
        assert [one.number for one in checkpoints.keys(tx)] == [2, 1]
