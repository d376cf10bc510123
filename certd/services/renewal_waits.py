"""What a managed certificate does between its renewals: it waits, for its time, for use, or until nothing blocks it."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from certd.clock import rfc3339
from certd.errors import CertdError, Reason
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.model.job import Job, JobKind
from certd.model.managed_certificate import RENEWAL_BLOCKED, ManagedCertificate
from certd.model.renewal import RenewalMode, RenewalPolicy
from certd.model.renewal_steps import NextStep, awaited_maintenance, next_look, next_step
from certd.services.managed_certificate_records import event_of, observed
from certd.services.renewal_planning import RenewalPlan, moment_in, plan_renewal
from certd.store import certificates, jobs, managed_certificates, managed_versions, notices
from certd.store.store import Store, Transaction

_KIND: Final = JobKind.ADVANCE_MANAGED_CERTIFICATE
_PASSING: Final = frozenset(
    {Reason.SIGNING_QUEUE_FULL, Reason.OWNERSHIP_LOST, Reason.SHUTTING_DOWN, Reason.STATE_FORBIDS}
)
"""Reasons of failures that are over by the next attempt, so that nobody need hear of them."""
_TOLD_AGAIN: Final = timedelta(days=1)
_NOT_USED: Final = "NotUsed"
"""Reason of the condition of what waits for nothing but to be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """When a version is replaced, and what that was found out by."""

    version: int
    policy: RenewalPolicy
    issue_time: datetime
    plan: RenewalPlan


class RenewalWaits:
    """Has managed certificates wait."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def wait(self, uid: str, now: datetime) -> None:
        """Puts the job of a managed certificate to its next step, as that stands in the transaction that does so."""
        plan = self._plan(uid, now)

        def settle(tx: Transaction) -> None:
            managed = changeable(tx, uid)
            step = NextStep.NOTHING if managed is None else next_step(managed, now)
            if managed is None or step is NextStep.NOTHING:
                jobs.finish(tx, _KIND, uid)
            if managed is not None:
                _settle(tx, managed, step, plan, now)

        self._store.write("managed-certificates.wait", settle)

    def _plan(self, uid: str, now: datetime) -> _Plan | None:
        """Returns when the current version is replaced, if that is not planned: for reading alone, so not in a work."""
        with self._store.read("managed-certificates.plan") as tx:
            managed = managed_certificates.get_by_uid(tx, uid)
            if managed is None or next_step(managed, now) is not NextStep.PLAN:
                return None
            version = managed_versions.get(tx, uid, managed.current_version)
            certificate = (
                None
                if version is None or version.serial is None
                else certificates.get(tx, version.authority_uid, version.serial)
            )
            if certificate is None:
                return None
            plan = plan_renewal(
                tx,
                uid=uid,
                version=managed.current_version,
                policy=managed.renewal,
                # As when it was issued, see `VersionMaking`.
                not_before=max(certificate.not_before, certificate.create_time),
                not_after=certificate.not_after,
                now=now,
            )
        if plan is None:
            return None
        return _Plan(
            version=managed.current_version, policy=managed.renewal, issue_time=certificate.create_time, plan=plan
        )


def note_blocked(
    tx: Transaction,
    managed: ManagedCertificate,
    error: CertdError,
    next_attempt_time: datetime,
    now: datetime,
) -> None:
    """Writes into a managed certificate what keeps it from being renewed, and when that is tried again."""
    due = next_step(managed, now) in {NextStep.MAKE_VERSION, NextStep.PLAN}
    if error.reason in _PASSING or not due:
        # Nobody waits: it will be looked at again, and was renewed by another, or is about to be.
        return
    known = {condition.reason for condition in managed.conditions if condition.type == RENEWAL_BLOCKED}
    if (not managed.renewal_blocked or error.reason not in known) and is_news(tx, managed, error.reason, now):
        waits = event_of(EventType.MANAGED_CERTIFICATE_RENEWAL_BLOCKED, managed, SYSTEM_PRINCIPAL, now)
        told = {"version": str(managed.current_version), "reason": error.reason, "message": error.message}
        if managed.not_after is not None:
            told["not_after"] = rfc3339(managed.not_after)
        tx.event(replace(waits, details={**waits.details, **told}))
    blocked = observed(managed, RENEWAL_BLOCKED, now, status=True, reason=error.reason, message=error.message)
    _update(tx, managed, replace(blocked, next_attempt_time=next_attempt_time))


def is_news(tx: Transaction, managed: ManagedCertificate, reason: Reason, now: datetime) -> bool:
    """Returns whether a reason was not told of a version for a day, and records that it is.

    One event for a reason, not one for each attempt, also when reasons take turns.
    """
    told = notices.told_of(tx, managed)
    last = told.blocked.get(reason)
    # What was told in the future was told by a clock that was ahead.
    if last is not None and last <= now < last + _TOLD_AGAIN:
        return False
    recent = {each: time for each, time in told.blocked.items() if time <= now < time + _TOLD_AGAIN}
    notices.set_told(tx, managed, replace(told, blocked={**recent, reason: now}))
    return True


def used_at_last(
    tx: Transaction, before: ManagedCertificate, changed: ManagedCertificate, now: datetime
) -> ManagedCertificate:
    """Returns `changed`, which whoever calls this writes over `before`: due now, if it waited for nothing but its use.

    It may be near its end, or past it, and is looked at only now and then.
    """
    if before.used or not changed.used or not _waits_for_use(before):
        return changed
    jobs.hasten(tx, _KIND, changed.uid, now)
    return replace(changed, next_attempt_time=now)


def _waits_for_use(managed: ManagedCertificate) -> bool:
    return managed.renewal.mode is RenewalMode.WHEN_USED and any(
        condition.type == RENEWAL_BLOCKED and condition.reason == _NOT_USED for condition in managed.conditions
    )


def changeable(tx: Transaction, uid: str) -> ManagedCertificate | None:
    """Returns a managed certificate that nobody else changes until the transaction ends; None when there is none."""
    return next(iter(managed_certificates.get_many(tx, [uid], to_change=True)), None)


def _settle(tx: Transaction, managed: ManagedCertificate, step: NextStep, plan: _Plan | None, now: datetime) -> None:
    """Writes when the next step is."""
    match step:
        case NextStep.NOTHING:
            _rest(tx, managed, now)
        case NextStep.WAIT:
            _put(tx, managed, managed.next_attempt_time or now)
        case NextStep.WAIT_FOR_USE:
            message = "It would be renewed now if it were used: associated with a consumer, or exported."
            waits = observed(managed, RENEWAL_BLOCKED, now, status=False, reason=_NOT_USED, message=message)
            _wait_until(tx, managed, waits, next_look(managed, now))
        case NextStep.PLAN if plan is not None and _fits(plan, managed):
            planned = replace(
                managed,
                renewal_window=plan.plan.window,
                issue_time=managed.issue_time or plan.issue_time,
                update_time=now,
            )
            if plan.plan.time > now and (managed.renewal_blocked or _waits_for_use(managed)):
                # Another policy, say: until then nothing can keep it from being renewed.
                message = f"It is renewed at {rfc3339(plan.plan.time)}."
                planned = observed(planned, RENEWAL_BLOCKED, now, status=False, reason="Planned", message=message)
            _wait_until(tx, managed, planned, plan.plan.time)
        case NextStep.PLAN | NextStep.MAKE_VERSION:
            span = awaited_maintenance(managed, now) if step is NextStep.MAKE_VERSION else None
            if span is None:
                # It has changed since it was looked at.
                _put(tx, managed, now)
            else:
                _wait_until(tx, managed, replace(managed, update_time=now), moment_in(span, managed))


def _fits(plan: _Plan, managed: ManagedCertificate) -> bool:
    return plan.version == managed.current_version and plan.policy == managed.renewal


def _rest(tx: Transaction, managed: ManagedCertificate, now: datetime) -> None:
    """Takes out of a managed certificate what was said of renewals that will not be."""
    resting = replace(managed, renewal_window=None, next_attempt_time=None)
    if managed.renewal_blocked:
        message = "It is renewed when somebody asks for it."
        resting = observed(resting, RENEWAL_BLOCKED, now, status=False, reason="NotPlanned", message=message)
    if resting != managed:
        _update(tx, managed, replace(resting, update_time=now))


def _wait_until(tx: Transaction, before: ManagedCertificate, changed: ManagedCertificate, time: datetime) -> None:
    _update(tx, before, replace(changed, next_attempt_time=time))
    _put(tx, before, time)


def _put(tx: Transaction, managed: ManagedCertificate, time: datetime) -> None:
    jobs.put(tx, Job(kind=_KIND, subject=managed.uid, due_time=time))


def _update(tx: Transaction, before: ManagedCertificate, changed: ManagedCertificate) -> None:
    if managed_certificates.update(tx, changed, expected_revision=before.revision) is None:
        raise CertdError(Reason.OWNERSHIP_LOST, f"{before.name} was changed meanwhile; try again", retry_after=0.5)
