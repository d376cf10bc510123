"""Holds the record of events, the journals of token processes and the books against each other.

Nothing is kept in memory that grows with what there is: signatures that are yet to be found lie in a temporary file.
It runs beside the daemon as well as without it: what is journalled was intended in the books before, so the journals
are read first, and what the books have that no journal had by then is looked for in their ends once more.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from certd.errors import CertdError, Reason
from certd.model.certificate import CertificateState
from certd.model.event import EventType, NumberedEvent
from certd.pki import der
from certd.pki.checkpoint import Checkpoint, JournalHead
from certd.services import checkpoint_verification
from certd.services.audit_restores import Restore, restores_among
from certd.services.checkpoint_verification import GivenCheckpoint
from certd.services.journal_verification import JournalWalk, heads_by_journal
from certd.services.system import successor_id
from certd.store import authorities, checkpoints, events, signed_rows
from certd.store.event_chain import CHAIN_START
from certd.store.reader import Reader
from certd.store.signature_index import EndedCertificate, IndexedSignature, SignatureIndex
from certd.store.signed_rows import SignedRow
from certd.store.values import microseconds
from certd.token.journal import SIGNED
from certd.token.journal_records import JournalRecord
from certd.token.policy import SignatureKind

_PAGE: Final = 500
_AT_ONCE: Final = 1000
_CREATE_AUTHORITY_KEY: Final = "create-authority-key"
_GENERATE_IMPORT_KEY: Final = "generate-import-key"
_CRL_NUMBER: Final = re.compile(r"\bnumber=(\d{1,49})\b")
_HIGHEST_NUMBER: Final = 1 << 62
_MOST_DIGITS: Final = 49
"""Of a CRL number, RFC 5280, section 5.2.3: 20 octets."""
_MOST_MISSING: Final = 10_000
_ENDS: Final = {
    EventType.CERTIFICATE_REVOKED: CertificateState.REVOKED.value,
    EventType.CERTIFICATE_LOST: CertificateState.LOST.value,
}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a part of the work is."""

    doing: str
    done: int
    total: int
    """0: nobody knows."""


@dataclass(slots=True)
class Verification:
    """One run of it.

    Args:
        reader: the books.
        journals: folders of journals, those of every machine.
        given: checkpoints that were kept elsewhere.
        tell: is called with each thing that is wrong.
        account: is called with each gap that is known, and is no damage: what a restore lost.
        progress: is called now and then.
        now: when it began.
    """

    reader: Reader
    journals: Sequence[Path]
    given: Sequence[GivenCheckpoint]
    tell: Callable[[str], None]
    account: Callable[[str], None]
    progress: Callable[[Progress], None]
    now: datetime
    event_count: int = field(default=0, init=False)
    record_count: int = field(default=0, init=False)
    certificate_count: int = field(default=0, init=False)
    checkpoint_count: int = field(default=0, init=False)
    _made_keys: dict[str, bytes] = field(default_factory=dict, init=False)
    """SHA-256 of the public keys of keys that journals tell were made, by CKA_ID."""
    _answering_keys: dict[str, str] = field(default_factory=dict, init=False)
    """Where journals tell first of OCSP responses, of which the books keep few, by the CKA_ID of the key."""
    _restores: list[Restore] = field(default_factory=list, init=False)
    _lost: Counter[int] = field(default_factory=Counter, init=False)
    """How much that was signed each restore has lost, by the number of its event; 0: certificates that it revoked."""
    _lost_checkpoints: dict[int, list[Checkpoint]] = field(default_factory=dict, init=False)
    """Checkpoints of elsewhere that tell of events which a restore has lost, by the number of its event."""
    _unpublished: list[str] = field(default_factory=list, init=False)

    def run(self) -> None:
        """Does all of it. Raises STORE_UNAVAILABLE, and FIELD_INVALID for a folder that cannot be read."""
        with SignatureIndex() as index:
            try:
                self._run(index)
            except OSError as error:
                raise CertdError(
                    Reason.FIELD_INVALID,
                    f"{error.filename}: the journal cannot be read ({error.strerror}); run this as root or as the"
                    " token process's user, and name its folder with --journal",
                ) from error

    def _run(self, index: SignatureIndex) -> None:
        self._verify_events(index)
        heads = self._verify_checkpoints()
        walk = JournalWalk(self.journals, heads_by_journal(heads), self.tell)
        self._index(walk, index)
        missing = self._compare_certificates(walk, index)
        self._compare_others(index)
        self._tell_missing(walk, missing)
        self._tell_unknown(index)
        self._account()

    def _verify_events(self, index: SignatureIndex) -> None:
        with self.reader.read("audit.head") as tx:
            total = events.head(tx).seq
        previous = CHAIN_START
        while True:
            with self.reader.read("audit.events") as tx:
                breaks, reached = events.verify_page(tx, previous, limit=_AT_ONCE)
                page = events.page(tx, after_seq=previous.seq, limit=_AT_ONCE)
            for broken in breaks:
                self.tell(f"event {broken.seq}: {broken.description}")
            index.add_ended(_ended(one) for one in page if one.event.type in _ENDS)
            index.add_crls(_crl(one) for one in page if one.event.type is EventType.REVOCATION_LIST_GENERATED)
            self._restores += restores_among(page)
            if reached == previous:
                return
            previous = reached
            self.event_count += len(page)
            self.progress(Progress("events", self.event_count, total))

    def _verify_checkpoints(self) -> list[JournalHead]:
        with self.reader.read("audit.installation") as tx:
            system = authorities.get(tx, None, successor_id(1))
            known = {key.public_key for key in checkpoints.keys(tx)}
            positions = checkpoints.positions(tx)
        installation = system.uid if system is not None else ""
        stored = checkpoint_verification.verify_stored(
            self.reader,
            installation=installation,
            tell=self.tell,
            progress=lambda count: self.progress(Progress("checkpoints", count, 0)),
        )
        heads: list[JournalHead] = []
        for said in stored:
            self.checkpoint_count += 1
            if said.journal is not None:
                heads.append(said.journal)
        for one in self.given:
            lost_by = next((restore for restore in self._restores if restore.lost_checkpoint(one.said)), None)
            if lost_by is not None and one.said.installation == installation:
                self._lost_checkpoints.setdefault(lost_by.seq, []).append(one.said)
                # What the restore read of the journal must be there still.
                if one.said.journal is not None and not lost_by.unread(one.said.journal):
                    heads.append(one.said.journal)
                continue
            with self.reader.read("audit.given") as tx:
                checkpoint_verification.compare(tx, one.place, one.said, installation=installation, tell=self.tell)
            if one.public_key not in known:
                self.tell(f"{one.place}: it was signed by a key that is none of this server's")
            if one.said.journal is not None:
                heads.append(one.said.journal)
        heads += [
            JournalHead(journal=position.journal, number=position.number, chain_hash=position.chain_hash)
            for position in positions
        ]
        return heads

    def _index(self, walk: JournalWalk, index: SignatureIndex) -> None:
        """Reads the journals and indexes what they tell was signed."""
        waiting: list[IndexedSignature] = []
        done, total = 0, walk.size()
        for journal, record in walk.records():
            done += len(record.line)
            self.record_count += 1
            lost_by = next((one.seq for one in self._restores if one.lost_record(journal.id, record)), 0)
            signature = _signature_of(record, journal.id, lost_by)
            if signature is not None and signature.signed == SignatureKind.OCSP_RESPONSE.name:
                if not lost_by:
                    self._answering_keys.setdefault(signature.key_id, signature.place)
            elif signature is not None:
                waiting.append(signature)
            elif record.kind == _CREATE_AUTHORITY_KEY:
                self._made_keys[record.text("key")] = _digest(record.text("public_key_sha256"))
            if len(waiting) >= _AT_ONCE:
                index.add(waiting)
                waiting.clear()
                self.progress(Progress("journal, in bytes", done, total))
        index.add(waiting)

    def _compare_certificates(self, walk: JournalWalk, index: SignatureIndex) -> dict[bytes, str]:
        """Looks every certificate up; returns the hashes of those that no journal has, for people."""
        begin = _begin_of(walk, microseconds(self.now))
        with self.reader.read("audit.keys") as tx:
            key_ids = signed_rows.key_ids(tx)
            names = signed_rows.authority_names(tx)
        missing: dict[bytes, str] = {}
        after = ("", "")
        while True:
            with self.reader.read("audit.certificates") as tx:
                page = signed_rows.page(tx, after=after, limit=_PAGE)
            if not page:
                for gone in index.rest_ended():
                    self.tell(
                        f"{gone.name}: the books do not have it, and event {gone.seq} tells that it is {gone.state}"
                    )
                return missing
            hashes = [self._hash_of(row, names) for row in page]
            found = index.take([one for one in hashes if one is not None])
            ended = index.take_ended([_place(row, names) for row in page])
            for row, digest in zip(page, hashes, strict=True):
                place = _place(row, names)
                self._compare_end(index, row, place, ended.get(place))
                if digest is None:
                    continue
                if digest not in found:
                    if row.der is not None and row.profile and row.create_time >= begin:
                        missing[digest] = place
                elif found[digest] != key_ids.get((row.authority_uid, row.key_number), found[digest]):
                    self.tell(f"{place}: another key signed it than the one that the books name")
            self._tell_missing_early(missing)
            after = (page[-1].authority_uid, page[-1].serial)
            self.certificate_count += len(page)
            self.progress(Progress("certificates", self.certificate_count, 0))

    def _compare_end(self, index: SignatureIndex, row: SignedRow, place: str, ended: EndedCertificate | None) -> None:
        """Compares what became of a certificate with what an event tells of it."""
        if ended is None:
            return
        if row.state != ended.state:
            said = "not revoked" if ended.state == CertificateState.REVOKED.value else "not lost"
            self.tell(f"{place}: it is {said}, and event {ended.seq} tells that it was")
        elif ended.sha256:
            # All that is left of it is what the event and the journal tell.
            self._lost[0] += len(index.take([ended.sha256]))

    def _hash_of(self, row: SignedRow, names: dict[str, str]) -> bytes | None:
        """Returns the hash of what was signed, or was to be; tells of a certificate that is none."""
        if row.der is None:
            return None if row.tbs is None else hashlib.sha256(row.tbs).digest()
        try:
            tbs = _signed_part(row.der)
            serial = _serial_of(tbs)
        except der.MalformedError as error:
            self.tell(f"{_place(row, names)}: its certificate was changed: it {error}")
            return None
        if serial != int(row.serial, 16):
            self.tell(f"{_place(row, names)}: its certificate has another serial number, {serial:x}")
        return hashlib.sha256(tbs).digest()

    def _compare_others(self, index: SignatureIndex) -> None:
        """Takes out of the index what stands elsewhere in the books."""
        with self.reader.read("audit.others") as tx:
            for certificate in (*signed_rows.other_certificates(tx), *signed_rows.requests(tx)):
                _take_signed(index, certificate)
            for statement in signed_rows.import_key_statements(tx):
                index.take([hashlib.sha256(statement).digest()])
        for certificate in signed_rows.revocation_lists(self.reader):
            _take_signed(index, certificate)

    def _tell_missing_early(self, missing: dict[bytes, str]) -> None:
        """Tells of the first of very many, so that they take no memory; few are looked for once more."""
        while len(missing) > _MOST_MISSING:
            digest = next(iter(missing))
            self.tell(f"{missing.pop(digest)}: no journal tells that it was signed")

    def _tell_missing(self, walk: JournalWalk, missing: dict[bytes, str]) -> None:
        if missing:
            ends = {journal.id: journal.last_number for journal in walk.journals}
            again = JournalWalk(self.journals, {}, lambda _finding: None, skip=ends)
            for journal, record in again.records():
                signature = _signature_of(record, journal.id)
                if signature is not None:
                    missing.pop(signature.sha256, None)
        for place in missing.values():
            self.tell(f"{place}: no journal tells that it was signed")

    def _tell_unknown(self, index: SignatureIndex) -> None:
        """Tells of what was signed and stands nowhere in the books."""
        with self.reader.read("audit.keys") as tx:
            key_ids = signed_rows.key_ids(tx)
            responders = signed_rows.responder_key_ids(tx)
            highest = signed_rows.highest_crl_numbers(tx)
            names = signed_rows.authority_names(tx)
            owners = {key_id: owner for owner, key_id in key_ids.items()}
            for key_id, place in self._answering_keys.items():
                # A responder of before is no more than its certificate.
                made = self._made_keys.get(key_id, b"")
                if key_id not in owners and key_id not in responders and not signed_rows.certifies(tx, made):
                    self.tell(f"{place}: the key {key_id} signed OCSP responses, and is no responder's")
        for one in index.rest():
            owner = owners.get(one.key_id)
            if one.restore and (owner is None or one.signed != SignatureKind.CERTIFICATE.name):
                self._lost[one.restore] += 1
            elif self._is_known(one, owner, highest):
                self._look_for_publication(index, one, owner, names)
            else:
                self.tell(f"{one.place}: the books know nothing of what the key {one.key_id} signed: {one.what}")

    def _look_for_publication(
        self, index: SignatureIndex, one: IndexedSignature, owner: tuple[str, int] | None, names: dict[str, str]
    ) -> None:
        """Notes a CRL that no event tells to be published: a daemon died with it, or somebody has it to themselves."""
        if one.signed != SignatureKind.REVOCATION_LIST.name or owner is None or one.restore:
            return
        uid, key_number = owner
        if not index.is_published(names.get(uid, uid), key_number, one.number):
            self._unpublished.append(one.place)

    def _account(self) -> None:
        """Tells of what is not there and is known not to be."""
        for restore in self._restores:
            given = self._lost_checkpoints.get(restore.seq, [])
            heads = [said.journal for said in given if said.journal is not None]
            unread = max((restore.unread(head) for head in heads), default=0)
            told = [
                f"it lost {self._lost[restore.seq]} signatures that are no certificates of known keys",
                f"{len(given)} checkpoints from elsewhere are of events that it lost" if given else "",
                f"{unread} records of a journal at least are gone that it did not read: what they tell of was signed, "
                "and is not revoked"
                if unread
                else "",
            ]
            self.account(f"{restore}; {'; '.join(one for one in told if one)}")
        if self._lost[0]:
            self.account(f"{self._lost[0]} certificates are lost by restores, and are revoked")
        if self._unpublished:
            self.account(
                f"{len(self._unpublished)} CRLs were signed that no event tells to be published, as when a daemon is "
                f"killed in between, such as that of {self._unpublished[0]}"
            )

    def _is_known(
        self, one: IndexedSignature, owner: tuple[str, int] | None, highest: dict[tuple[str, int], int]
    ) -> bool:
        """Returns whether the books account for a signature whose bytes they do not have, or have no more."""
        match one.signed:
            case SignatureKind.REVOCATION_LIST.name:
                # Those of before are not kept.
                return owner is not None and one.number <= highest.get(owner, 0)
            case SignatureKind.CERTIFICATION_REQUEST.name:
                return owner is not None
            case SignatureKind.CHECKPOINT.name:
                with self.reader.read("audit.checkpoint") as tx:
                    at = events.head_at(tx, one.number)
                return at is not None and at.chain_hash.hex() == one.chain_hash
            case _ if one.signed == _GENERATE_IMPORT_KEY:
                # Those that have ended are deleted.
                return owner is not None
        return False


def _ended(one: NumberedEvent) -> EndedCertificate:
    event = one.event
    return EndedCertificate(event.resource, one.seq, _ENDS[event.type], _digest(event.details.get("tbs_sha256", "")))


def _crl(one: NumberedEvent) -> tuple[str, int, int]:
    key, number = (_count(one.event.details.get(name, "")) for name in ("key_number", "number"))
    return one.event.resource, key, number


def _signature_of(record: JournalRecord, journal: str, lost_by: int = 0) -> IndexedSignature | None:
    """Returns what a record tells of a signature; None when it tells of something else."""
    if record.kind not in {SIGNED, _GENERATE_IMPORT_KEY}:
        return None
    digest = _digest(record.text("sha256"))
    place = f"journal {journal}, record {record.number}"
    if record.kind == _GENERATE_IMPORT_KEY:
        return IndexedSignature(
            digest, record.text("signer"), _GENERATE_IMPORT_KEY, "statement of an import key", place, -1, "", lost_by
        )
    number = record.count("sequence")
    found = _CRL_NUMBER.search(record.text("what")) if number < 0 else None
    if found is not None:
        number = _count(found[1])
    return IndexedSignature(
        digest,
        record.text("key"),
        record.text("signed"),
        record.text("what"),
        place,
        number,
        record.text("chain_hash"),
        lost_by,
    )


def _count(text: str) -> int:
    """Returns a number that may have been written by anybody, as far as a row can have it."""
    return min(int(text), _HIGHEST_NUMBER) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else 0


def _begin_of(walk: JournalWalk, now: int) -> int:
    """Returns the time from which on the journals are whole, in microseconds: what is older need not be in them."""
    begins = [_time_of(journal.begin_time) for journal in walk.journals]
    late = [_time_of(journal.begin_time) for journal in walk.journals if journal.begins_late]
    return max(late, default=min(begins, default=now))


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _signed_part(signed: bytes) -> bytes:
    """Returns the first element of what is signed as RFC 5280 has certificates and CRLs, and RFC 2986 requests."""
    return der.Reader(signed).enter(der.SEQUENCE).read_whole(der.SEQUENCE)


def _take_signed(index: SignatureIndex, signed: bytes) -> None:
    try:
        part = _signed_part(signed)
    except der.MalformedError:
        # What was signed is then found nowhere, and told of.
        return
    index.take([hashlib.sha256(part).digest()])


def _serial_of(tbs: bytes) -> int:
    reader = der.Reader(tbs).enter(der.SEQUENCE)
    if reader.peek() == der.context(0):
        reader.read(der.context(0))
    return reader.read_integer()


def _place(row: SignedRow, names: dict[str, str]) -> str:
    return f"{names.get(row.authority_uid, row.authority_uid)}/certificates/{row.serial}"


def _time_of(text: str) -> int:
    try:
        return microseconds(datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC))
    except ValueError:
        return 0
