"""Recovery: what a daemon left half done when it died, and the epochs by which daemons know whose work is whose."""

import logging
import threading
from datetime import timedelta

from certd.clock import Clock
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.services.issuance import row_key
from certd.services.steps import StepHook
from certd.store import authorities, certificates, jobs, owners, request_records, revocation_lists
from certd.store.store import Store, Transaction

_log = logging.getLogger("certd.recovery")

LEASE = timedelta(seconds=30)
"""How long a daemon's pending rows are its own after it was last heard of."""
_BATCH = 200


class Ownership:
    """The epoch of this daemon: a fence around its pending rows."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._epoch = 0

    def epoch(self) -> int:
        """Returns the epoch under which this daemon writes intents."""
        with self._lock:
            return self._epoch

    def begin(self) -> None:
        """Takes a new epoch. On SQLite, where no other daemon can live, it ends all earlier ones."""
        now = self._clock.now()
        epoch = self._store.write("owners.begin", lambda tx: owners.begin(tx, now, now + LEASE))
        with self._lock:
            self._epoch = epoch

    def renew(self) -> None:
        """Says that this daemon lives; takes a new epoch when the old one was given up for dead."""
        now = self._clock.now()
        epoch = self.epoch()
        if not self._store.write("owners.renew", lambda tx: owners.renew(tx, epoch, now + LEASE)):
            _log.warning("the lease of epoch %d ended; what it had pending counts as lost", epoch)
            self.begin()

    def end(self) -> None:
        """Gives the epoch back, so that nobody waits for the lease to end."""
        epoch = self.epoch()
        self._store.write("owners.end", lambda tx: owners.end(tx, epoch))


class Recovery:
    """Marks what died half done as lost and revoked, and forgets its request records, so that a retry issues afresh.

    Jobs of the dead are due again at once.
    """

    def __init__(self, *, store: Store, clock: Clock, step: StepHook) -> None:
        self._store = store
        self._clock = clock
        self._step = step

    def run(self) -> int:
        """Recovers every pending row whose owner's lease has ended; returns how many there were."""
        now = self._clock.now()
        self._store.write("recovery.jobs", lambda tx: jobs.release_of_ended_owners(tx, now))
        recovered = 0
        while True:
            batch = self._store.write("recovery.batch", self._batch)
            recovered += batch
            if batch:
                self._step("recovery.batch")
            if batch < _BATCH:
                break
        if recovered:
            _log.warning(
                "%d certificates were pending when their daemon died; they count as lost and revoked", recovered
            )
        return recovered

    def _batch(self, tx: Transaction) -> int:
        now = self._clock.now()
        pending = certificates.pending_of_ended_owners(tx, now, _BATCH)
        lost = certificates.mark_lost(tx, [(row.authority_uid, row.serial) for row in pending], now)
        for row in pending:
            if (row.authority_uid, row.serial) not in lost:
                continue
            authority = authorities.get_by_uid(tx, row.authority_uid)
            name = authority.name if authority is not None else row.authority_uid
            revocation_lists.mark_changed(tx, row.authority_uid, row.key_number, row.crl_partition, now)
            request_records.delete_of_resource(tx, row_key(row.authority_uid, row.serial))
            tx.event(
                Event(
                    time=now,
                    type=EventType.CERTIFICATE_LOST,
                    tenant=authority.tenant if authority is not None else None,
                    principal=SYSTEM_PRINCIPAL,
                    resource=f"{name}/certificates/{row.serial}",
                    details={
                        "profile": row.profile,
                        "subject": row.subject_text,
                        "not_after": row.not_after.isoformat(),
                        "public_key_sha256": row.public_key_sha256.hex(),
                    },
                )
            )
        return len(pending)
