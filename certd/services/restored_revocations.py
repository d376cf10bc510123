"""What was revoked after the backup from which books were restored, as far as CRLs and journals tell.

A journal has no revocations, but it has every OCSP answer, with the serials and whether each was good. Those answers
were given to whoever asked; that the books take the certificate for good again would be news to them. A CRL that the
server had published says all of it, with times and reasons, and its signature says that it is one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from certd.errors import CertdError, field_invalid
from certd.model.certificate import RevocationReason
from certd.model.event import SYSTEM_PRINCIPAL
from certd.services.revocation_records import revoked, subject_of, write_revocation
from certd.store import authorities, certificates, signed_rows
from certd.store.store import Store, Transaction
from certd.token.journal import SIGNED
from certd.token.journal_records import JournalRecord
from certd.token.policy import SignatureKind

_BATCH: Final = 200
_ANSWER: Final = re.compile(r"([0-9a-f]{1,40}):revoked\b")
_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True)
class _Revocation:
    """What is known of a revocation."""

    time: datetime
    reason: RevocationReason = RevocationReason.UNSPECIFIED
    invalidity_time: datetime | None = None


class RestoredRevocations:
    """Revokes again what CRLs and answers called revoked and the books call good.

    Args:
        store: the books.
        backup_time: what was answered before is in them.
        now: when they are restored.
    """

    def __init__(self, store: Store, *, backup_time: datetime, now: datetime) -> None:
        self._store = store
        self._begin = backup_time.astimezone(UTC).strftime(_TIME)
        self._now = now
        self._waiting: dict[tuple[str, str], datetime] = {}
        """When it was first told, by the CKA_ID of the key that answered and the serial."""
        self._count = 0
        with store.read("restore.answering-keys") as tx:
            self._authorities = signed_rows.answering_keys(tx)

    def take(self, lists: Iterable[bytes]) -> None:
        """Takes CRLs into account, in DER or PEM. FIELD_INVALID for one that no key in the books has signed."""
        for encoded in lists:
            found = _parsed(encoded)
            uid = self._issuer(found)
            entries = iter(found)
            while part := list(islice(entries, _BATCH)):
                revocations = {_serial(one.serial_number): _revocation(one) for one in part}

                def work(tx: Transaction, uid: str = uid, revocations: dict[str, _Revocation] = revocations) -> int:
                    good = [serial for of, serial in signed_rows.good_among(tx, list(revocations)) if of == uid]
                    return sum(self._revoke_one(tx, uid, serial, revocations[serial]) for serial in good)

                self._count += self._store.write("restore.revoke", work)

    def _issuer(self, found: x509.CertificateRevocationList) -> str:
        """Returns the uid of the authority that signed a CRL. FIELD_INVALID when there is none."""
        with self._store.read("restore.issuers") as tx:
            for uid in {uid for uid, _ in signed_rows.key_ids(tx)}:
                for key in authorities.keys(tx, uid):
                    if key.public_key is not None and _is_signed(found, key.public_key):
                        return uid
        raise field_invalid(
            "--crl",
            f"of {found.issuer.rfc4514_string()} is signed by no key of an authority in the backup; leave it out",
        )

    def note(self, record: JournalRecord) -> None:
        """Takes a record of a journal into account."""
        time = record.text("time")
        if record.kind != SIGNED or record.text("signed") != SignatureKind.OCSP_RESPONSE.name or time < self._begin:
            return
        for serial in _ANSWER.findall(record.text("what")):
            even = _serial(int(serial, 16))
            told = datetime.fromisoformat(time.removesuffix("Z")).replace(tzinfo=UTC)
            self._waiting.setdefault((record.text("key"), even), told)
        if len(self._waiting) >= _BATCH:
            self._write()

    def finish(self) -> int:
        """Does what is left; returns how many certificates were revoked."""
        self._write()
        return self._count

    def _write(self) -> None:
        if self._waiting:
            self._count += self._store.write("restore.revoke", self._revoke)
            self._waiting.clear()

    def _revoke(self, tx: Transaction) -> int:
        issuers: dict[str, list[str]] = {}
        for uid, serial in signed_rows.good_among(tx, [serial for _, serial in self._waiting]):
            issuers.setdefault(serial, []).append(uid)
        done = set()
        for (key, serial), told in self._waiting.items():
            uids = issuers.get(serial, [])
            # A responder that was made after the backup is of nobody; a serial that one certificate alone has tells.
            uid = self._authorities.get(key, uids[0] if len(uids) == 1 else "")
            wanted = _Revocation(told)
            if uid in uids and (uid, serial) not in done and self._revoke_one(tx, uid, serial, wanted):
                done.add((uid, serial))
        return len(done)

    def _revoke_one(self, tx: Transaction, uid: str, serial: str, told: _Revocation) -> bool:
        issuer, row = authorities.get_by_uid(tx, uid), certificates.get(tx, uid, serial)
        if issuer is None or row is None:
            return False
        try:
            subject = subject_of(issuer, row)
            wanted = revoked(subject, reason=told.reason, invalidity_time=told.invalidity_time, now=self._now)
        except CertdError:
            # Of a purged authority nobody signs anything any more, and nobody takes a root's word against itself.
            return False
        write_revocation(tx, SYSTEM_PRINCIPAL, subject, replace(wanted, revoke_time=told.time), self._now)
        return True


def _serial(number: int) -> str:
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8)).hex()


def _parsed(encoded: bytes) -> x509.CertificateRevocationList:
    try:
        if encoded.startswith(b"-----BEGIN"):
            return x509.load_pem_x509_crl(encoded)
        return x509.load_der_x509_crl(encoded)
    except ValueError:
        raise field_invalid("--crl", "is no CRL in DER or PEM") from None


def _is_signed(found: x509.CertificateRevocationList, public_key: bytes) -> bool:
    try:
        return found.is_signature_valid(load_der_public_key(public_key))  # type: ignore[arg-type]  # TypeError tells.
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _revocation(one: x509.RevokedCertificate) -> _Revocation:
    reason, invalidity_time = RevocationReason.UNSPECIFIED, None
    for extension in one.extensions:
        if isinstance(extension.value, x509.CRLReason):
            named = extension.value.reason.value
            reason = RevocationReason(named) if named in {one.value for one in RevocationReason} else reason
        elif isinstance(extension.value, x509.InvalidityDate):
            invalidity_time = extension.value.invalidity_date_utc
    return _Revocation(one.revocation_date_utc, reason, invalidity_time)
