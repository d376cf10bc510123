"""What was revoked after the backup from which books were restored, as far as a journal tells.

A journal has no revocations, but it has every OCSP answer, with the serials and whether each was good. Those answers
were given to whoever asked; that the books take the certificate for good again would be news to them.
"""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from certd.errors import CertdError
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


class RestoredRevocations:
    """Revokes again what answers called revoked and the books call good.

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

    def note(self, record: JournalRecord) -> None:
        """Takes a record of a journal into account."""
        time = record.text("time")
        if record.kind != SIGNED or record.text("signed") != SignatureKind.OCSP_RESPONSE.name or time < self._begin:
            return
        for serial in _ANSWER.findall(record.text("what")):
            even = serial.rjust(len(serial) + len(serial) % 2, "0")
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
            if uid in uids and (uid, serial) not in done and self._revoke_one(tx, uid, serial, told):
                done.add((uid, serial))
        return len(done)

    def _revoke_one(self, tx: Transaction, uid: str, serial: str, told: datetime) -> bool:
        issuer, row = authorities.get_by_uid(tx, uid), certificates.get(tx, uid, serial)
        if issuer is None or row is None:
            return False
        try:
            subject = subject_of(issuer, row)
            wanted = revoked(subject, reason=RevocationReason.UNSPECIFIED, invalidity_time=None, now=self._now)
        except CertdError:
            # Of a purged authority nobody signs anything any more, and nobody takes a root's word against itself.
            return False
        write_revocation(tx, SYSTEM_PRINCIPAL, subject, replace(wanted, revoke_time=told), self._now)
        return True
