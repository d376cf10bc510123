"""Books that were restored from a backup, put right before a daemon serves them.

What was signed after the backup is in journals of the token process and in no row. Each certificate among it gets a
row that says that it is lost, and is revoked: nobody knows any more what it is for, and CRLs must not call it good by
silence. What was revoked after the backup is revoked again as far as journals tell of answers that said so.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final

from cryptography import x509

from certd.clock import Clock
from certd.model.authority import Authority
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.pki.checkpoint import JournalHead
from certd.pki.status_locations import crl_url
from certd.services.audit_restores import details_of_heads
from certd.services.checkpoints import new_checkpoint_key
from certd.services.restored_revocations import RestoredRevocations
from certd.store import (
    authorities,
    checkpoints,
    events,
    lost_certificates,
    ocsp_responses,
    owners,
    revocation_lists,
    signed_rows,
)
from certd.store.lost_certificates import LostCertificate
from certd.store.store import Store, Transaction
from certd.token.journal import SIGNED
from certd.token.journal_records import JournalRecord
from certd.token.policy import SignatureKind

_log = logging.getLogger("certd.restore")

_BATCH: Final = 500
_CERTIFICATE: Final = re.compile(
    r"(?:authority )?certificate serial=([0-9a-f]{1,40}) not_after=(\S{20})(?: crl_partition=([0-9]{1,4}))?"
)
_REVOCATION_LIST: Final = re.compile(r"revocation list number=([0-9]{1,40}) ")


@dataclass(frozen=True, slots=True)
class _Key:
    authority: Authority
    number: int


@dataclass(slots=True, kw_only=True)
class RestoredBooks:
    """What was found and put right."""

    records: int = 0
    """Of journals, that were read."""
    lost: int = 0
    """Certificates that journals tell of and the books did not."""
    revoked: int = 0
    """Certificates that the books took for good, and a CRL or an answer in a journal for revoked."""
    foreign: int = 0
    """Signatures by keys that the books do not name: made after the backup, or of an authority that was purged."""
    numbers: dict[tuple[str, int], int] = field(default_factory=dict)
    """The highest CRL number of each key of an authority that journals tell of."""
    checkpoint_key: bool = False
    """Whether checkpoints are signed by a new key, for the old one has signed farther ahead, or may have."""
    farthest_checkpoint: int = 0
    """The highest sequence number of which a checkpoint was signed."""

    def note(self, record: JournalRecord, keys: Mapping[str, _Key]) -> LostCertificate | None:
        """Takes a signature into account; returns the certificate that it is of, as it is if the books lack it."""
        signed = record.text("signed")
        if signed == SignatureKind.CHECKPOINT.name:
            self.farthest_checkpoint = max(self.farthest_checkpoint, record.count("sequence"))
            return None
        key = keys.get(record.text("key"))
        if key is None:
            self.foreign += signed == SignatureKind.CERTIFICATE.name
            return None
        number = _REVOCATION_LIST.match(record.text("what"))
        if number is not None:
            at = (key.authority.uid, key.number)
            self.numbers[at] = max(self.numbers.get(at, 0), int(number[1]))
        return _lost(record, key) if signed == SignatureKind.CERTIFICATE.name else None


def put_right(
    store: Store,
    records: Iterable[JournalRecord],
    *,
    heads: Iterable[JournalHead] = (),
    whole: bool = True,
    lists: Iterable[bytes] = (),
    backup_time: datetime,
    clock: Clock,
    progress: Callable[[int], None] = lambda _records: None,
) -> RestoredBooks:
    """Puts restored books right, and records that they were restored; before any daemon has served them.

    FIELD_INVALID for a CRL that is none of an authority in the books.

    Args:
        store: the books.
        records: of all journals that there are, in the order of each.
        heads: how far each of these journals goes.
        whole: whether they are those of the server that was lost, as it left them; or only those of the backup.
        lists: CRLs that were published after the backup.
        backup_time: when the backup was made.
        clock: says when.
        progress: hears how many records were read.
    """
    now = clock.now()
    store.write("restore.begin", owners.end_all)
    with store.read("restore.keys") as tx:
        keys = _keys(tx)
        elsewhere = {_tbs_sha256(der) for der in signed_rows.other_certificates(tx)}
        last = events.head(tx)
    for key in keys.values():
        store.write("restore.answers", partial(_forget_answers, key))
    found = RestoredBooks()
    revocations = RestoredRevocations(store, backup_time=backup_time, now=now)
    # First: what they say of a revocation no answer says.
    revocations.take(lists)
    waiting: list[LostCertificate] = []
    for record in records:
        found.records += 1
        if found.records % 10_000 == 0:
            progress(found.records)
        revocations.note(record)
        lost = found.note(record, keys) if record.kind == SIGNED else None
        if lost is not None and record.text("sha256") not in elsewhere:
            waiting.append(lost)
        if len(waiting) >= _BATCH:
            found.lost += _insert(store, waiting, keys, now)
            waiting = []
    found.lost += _insert(store, waiting, keys, now)
    found.revoked = revocations.finish()
    found.checkpoint_key = not whole or found.farthest_checkpoint > last.seq
    _finish(store, found, heads=heads, backup_time=backup_time, seq=last.seq, now=now)
    return found


def _keys(tx: Transaction) -> Mapping[str, _Key]:
    """Returns the keys of authorities by their CKA_IDs, in hexadecimal."""
    found: dict[str, _Key] = {}
    known: dict[str, Authority | None] = {}
    for (uid, number), key_id in signed_rows.key_ids(tx).items():
        if uid not in known:
            known[uid] = authorities.get_by_uid(tx, uid)
        authority = known[uid]
        if authority is not None:
            found[key_id] = _Key(authority, number)
    return found


def _forget_answers(key: _Key, tx: Transaction) -> None:
    ocsp_responses.forget_key(tx, key.authority.uid, key.number)


def _tbs_sha256(der: bytes) -> str:
    return hashlib.sha256(x509.load_der_x509_certificate(der).tbs_certificate_bytes).hexdigest()


def _lost(record: JournalRecord, key: _Key) -> LostCertificate | None:
    """Returns what a record tells of a certificate; None when it tells of something else."""
    told = _CERTIFICATE.match(record.text("what"))
    if told is None:
        return None
    serial = told[1].rjust(len(told[1]) + len(told[1]) % 2, "0")
    return LostCertificate(
        authority_uid=key.authority.uid,
        key_number=key.number,
        issuer_name_sha256=hashlib.sha256(key.authority.subject).digest(),
        serial=serial,
        tbs_sha256=record.text("sha256"),
        sign_time=_time(record.text("time")),
        not_after=_time(told[2]),
        # Of none, and of the complete CRL, nothing is written, as in `certificates`.
        crl_partition=int(told[3] or 0) or None,
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC)


def _insert(store: Store, several: list[LostCertificate], keys: Mapping[str, _Key], now: datetime) -> int:
    if not several:
        return 0
    names = {key.authority.uid: key.authority for key in keys.values()}

    def work(tx: Transaction) -> int:
        fresh = lost_certificates.insert_missing(tx, several, now)
        for one in fresh:
            _ensure_list(tx, one, now)
            revocation_lists.mark_changed(tx, one.authority_uid, one.key_number, one.crl_partition, now)
            authority = names[one.authority_uid]
            details = {
                "not_after": one.not_after.isoformat(),
                "sign_time": one.sign_time.isoformat(),
                "tbs_sha256": one.tbs_sha256,
                "cause": "a journal of the token process tells of it, and the backup that was restored does not",
            }
            tx.event(
                Event(
                    time=now,
                    type=EventType.CERTIFICATE_LOST,
                    tenant=authority.tenant,
                    principal=SYSTEM_PRINCIPAL,
                    resource=f"{authority.name}/certificates/{one.serial}",
                    details=details,
                )
            )
        return len(fresh)

    return store.write("restore.lost", work)


def _ensure_list(tx: Transaction, lost: LostCertificate, now: datetime) -> None:
    """Has the CRL signed that a certificate names, should the settings of the backup know fewer partitions."""
    uid, key_number, partition = lost.authority_uid, lost.key_number, lost.crl_partition
    if partition is None or revocation_lists.urls(tx, uid, key_number, partition):
        return
    complete = revocation_lists.urls(tx, uid, key_number, revocation_lists.COMPLETE)
    named = [crl_url(url.removesuffix(".crl"), partition) for url in complete]
    if named:
        revocation_lists.ensure_rows(tx, uid, key_number, {partition: named}, now=now)


def _finish(
    store: Store,
    found: RestoredBooks,
    *,
    heads: Iterable[JournalHead],
    backup_time: datetime,
    seq: int,
    now: datetime,
) -> None:
    def work(tx: Transaction) -> None:
        for (uid, key_number), number in found.numbers.items():
            for one in revocation_lists.of_key(tx, uid, key_number):
                revocation_lists.raise_number(tx, one, number)
                # Signed by the books as they are now.
                revocation_lists.mark_changed(tx, uid, key_number, one.key.partition, now)
        newest = checkpoints.newest_key(tx)
        if found.checkpoint_key and newest is not None:
            checkpoints.insert_key(tx, new_checkpoint_key(newest.number + 1, now))
        tx.configuration_changed()
        tx.event(
            Event(
                time=now,
                type=EventType.BOOKS_RESTORED,
                tenant=None,
                principal=SYSTEM_PRINCIPAL,
                resource="server",
                details={
                    "backup_time": backup_time.isoformat(),
                    "sequence": str(seq),
                    "lost_count": str(found.lost),
                    "revoked_count": str(found.revoked),
                    "unknown_key_count": str(found.foreign),
                    "journals": details_of_heads(heads),
                },
            )
        )

    store.write("restore.end", work)
    _log.warning("the books were restored as of event %d; %d certificates are lost", seq, found.lost)
