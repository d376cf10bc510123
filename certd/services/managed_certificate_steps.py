"""The journey of a managed certificate, one committed step at a time: issued, then renewed for as long as it is there.

Its one job is due when its next step is: the first version at once (`version_making.py`), every later one at a moment
that was planned when the one before was issued (`renewal_planning.py`). Who wants a renewal now says so in the row and
hastens the job; who changes the policy takes the plan out of the row and hastens the job.

What cannot be done is told in the resource and tried again: a first version until it can never be issued, a renewal for
ever, for what keeps it from being renewed may be mended at any time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.model.job import JobKind
from certd.model.managed_certificate import ISSUED, ManagedCertificate, ManagedCertificateState
from certd.model.managed_certificate_states import Change, after
from certd.model.renewal_steps import NextStep, awaited_maintenance, next_step
from certd.services.managed_certificate_records import event_of, observed
from certd.services.renewal_waits import RenewalWaits, changeable, is_news, note_blocked
from certd.services.tenants import existing_tenant
from certd.services.version_keys import Failures, Making
from certd.services.version_making import VersionMaking
from certd.store import jobs, managed_certificates, managed_versions, wrapping_keys
from certd.store.store import Store, Transaction

_KIND = JobKind.ADVANCE_MANAGED_CERTIFICATE
_FINAL = {
    Reason.NAME_NOT_ALLOWED,
    Reason.NAME_CONSTRAINT_VIOLATED,
    Reason.PROFILE_FORBIDS,
    Reason.PROFILE_NOT_FOUND,
    Reason.AUTHORITY_NOT_FOUND,
    Reason.LIFETIME_EXCEEDS_AUTHORITY,
    Reason.KEY_TOO_WEAK,
    Reason.LINT_FAILED,
    Reason.TOKEN_POLICY_FORBIDS,
}
"""What keeps a first version from ever being issued."""


class ManagedCertificateSteps:
    """Takes managed certificates further; called by the scheduler."""

    def __init__(self, *, store: Store, clock: Clock, making: VersionMaking, waits: RenewalWaits) -> None:
        self._store = store
        self._clock = clock
        self._making = making
        self._waits = waits

    def advance(self, uids: Sequence[str]) -> Mapping[str, CertdError]:
        """Takes managed certificates one or more committed steps on; idempotent.

        Returns what failed and may be tried again, by uid. A first version that can never be issued makes its managed
        certificate FAILED.
        """
        now = self._clock.now()
        with self._store.read("managed-certificates.advance") as tx:
            found = {managed.uid: managed for managed in managed_certificates.get_many(tx, uids)}
            makings = _makings(tx, [managed for managed in found.values() if _is_due(managed, now)])
        failures: Failures = {}
        due = {making.uid for making in makings}
        for uid in uids:
            if uid not in due:
                try:
                    self._waits.wait(uid, now)
                except CertdError as error:
                    failures[uid] = error
        if makings:
            failures.update(self._making.make(makings))
        return {uid: error for uid, error in failures.items() if not self._gave_up(found.get(uid), error)}

    def blocked(self, tx: Transaction, uid: str, error: CertdError, next_attempt_time: datetime) -> None:
        """Writes into the resource why its next step waits, and until when."""
        now, managed = self._clock.now(), changeable(tx, uid)
        if managed is None:
            return
        if managed.state is not ManagedCertificateState.PENDING:
            note_blocked(tx, managed, error, next_attempt_time, now)
            return
        known = {condition.reason for condition in managed.conditions}
        if error.reason not in known and is_news(tx, managed, error.reason, now):
            waits = event_of(EventType.MANAGED_CERTIFICATE_BLOCKED, managed, SYSTEM_PRINCIPAL, now)
            tx.event(replace(waits, details={**waits.details, "reason": error.reason}))
        waiting = observed(managed, ISSUED, now, status=False, reason=error.reason, message=error.message)
        managed_certificates.update(
            tx, replace(waiting, next_attempt_time=next_attempt_time), expected_revision=managed.revision
        )

    def _gave_up(self, managed: ManagedCertificate | None, error: CertdError) -> bool:
        """Makes FAILED what can never be issued; returns whether there is nothing more to try."""
        if managed is None or managed.state is not ManagedCertificateState.PENDING or error.reason not in _FINAL:
            return False
        now = self._clock.now()

        def fail(tx: Transaction) -> None:
            current = managed_certificates.get_by_uid(tx, managed.uid)
            if current is None or current.state is not ManagedCertificateState.PENDING:
                return
            managed_certificates.update(
                tx,
                replace(
                    observed(current, ISSUED, now, status=False, reason=error.reason, message=error.message),
                    state=after(current.state, Change.FAILED, current.name),
                    next_attempt_time=None,
                ),
                expected_revision=current.revision,
            )
            jobs.finish(tx, _KIND, managed.uid)
            failed = event_of(EventType.MANAGED_CERTIFICATE_FAILED, managed, SYSTEM_PRINCIPAL, now)
            tx.event(replace(failed, details={**failed.details, "reason": error.reason}))

        self._store.write("managed-certificates.fail", fail)
        return True


def _is_due(managed: ManagedCertificate, now: datetime) -> bool:
    return next_step(managed, now) is NextStep.MAKE_VERSION and awaited_maintenance(managed, now) is None


def _makings(tx: Transaction, due: Sequence[ManagedCertificate]) -> list[Making]:
    versions = managed_versions.in_making(tx, [managed.uid for managed in due])
    tenants = {tenant: existing_tenant(tx, tenant) for tenant in {managed.tenant for managed in due}}
    sealing = {tenant: wrapping_keys.primary(tx, tenant) for tenant in tenants}
    return [
        Making(
            managed=managed,
            tenant=tenants[managed.tenant],
            wrapping_key=sealing[managed.tenant],
            version=versions.get(managed.uid),
        )
        for managed in due
    ]
