"""The transaction in which versions of managed certificates become the current ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certd.errors import CertdError, Reason
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.job import Job, JobKind
from certd.model.managed_certificate import (
    ISSUED,
    RENEWAL_BLOCKED,
    ManagedCertificate,
    ManagedCertificateState,
    ManagedCertificateVersion,
)
from certd.model.managed_certificate_states import Change, after
from certd.services.deployment_checks import check_of
from certd.services.issuance import Issuance
from certd.services.managed_certificate_records import event_of, observed
from certd.services.renewal_planning import RenewalPlan
from certd.services.version_keys import Making
from certd.store import jobs, managed_certificates, managed_versions, sealed_keys
from certd.store.store import Transaction

_KIND = JobKind.ADVANCE_MANAGED_CERTIFICATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A version that is being issued, and when it will be replaced in turn."""

    making: Making
    plan: RenewalPlan | None
    """None: only when somebody asks for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """Completes issuances together, see `Issuance.together`.

    Raises STATE_FORBIDS for what was revoked or issued by another meanwhile, MANAGED_CERTIFICATE_NOT_FOUND for what was
    deleted: the certificate then counts as lost, and is revoked.
    """

    planned: Mapping[str, Planned]
    """By uid of the managed certificate."""
    now: datetime
    time_to_deploy: timedelta
    """How long consumers may take, at most."""

    def __call__(self, tx: Transaction, issuances: Sequence[Issuance]) -> None:
        """Writes all that changes with the current versions."""
        ours = [(self.planned[issuance.intent.managed_certificate_uid or ""], issuance) for issuance in issuances]
        current = _current(tx, [one.making.managed for one, _ in ours])
        changed: list[ManagedCertificate] = []
        versions: list[ManagedCertificateVersion] = []
        ended: list[tuple[str, int, datetime]] = []
        for one, issuance in ours:
            before = current.get(one.making.uid)
            _check(one.making, before, self.now)
            # It was there.
            assert before is not None  # noqa: S101
            version = _issued(one.making, issuance)
            changed.append(_renewed(before, one, version, self.now))
            versions.append(version)
            if before.current_version and before.not_after is not None:
                ended.append((before.uid, before.current_version, before.not_after))
            tx.event(_event(before, version, self.now))
        if managed_versions.set_issued_all(tx, versions) != len(versions):
            # No certificate becomes current but with its own key.
            raise CertdError(Reason.OWNERSHIP_LOST, "a version was given another key meanwhile; try again")
        if managed_certificates.set_versions(tx, changed) != len(changed):
            raise CertdError(Reason.OWNERSHIP_LOST, "a managed certificate was changed meanwhile; try again")
        sealed_keys.set_expiries(tx, ended)
        _put_jobs(tx, changed)
        checked = zip(changed, versions, strict=True)
        jobs.put_all(tx, [job for one in checked for job in check_of(*one, self.time_to_deploy, self.now)])


def _current(tx: Transaction, known: Sequence[ManagedCertificate]) -> dict[str, ManagedCertificate]:
    """Returns managed certificates as they stand; most have not changed since they were read."""
    revisions = managed_certificates.revisions(tx, [managed.uid for managed in known])
    current = {managed.uid: managed for managed in known if revisions.get(managed.uid) == managed.revision}
    changed = revisions.keys() - current.keys()
    if changed:
        current |= {managed.uid: managed for managed in managed_certificates.get_many(tx, sorted(changed))}
    return current


def _check(making: Making, before: ManagedCertificate | None, now: datetime) -> None:
    name = making.managed.name
    if before is None:
        raise CertdError(Reason.MANAGED_CERTIFICATE_NOT_FOUND, f"{name} was deleted meanwhile", resource=str(name))
    if before.current_version >= making.number:
        raise CertdError(
            Reason.STATE_FORBIDS, f"{name.version(making.number)} is issued already: nothing is to be done"
        )
    change = Change.RENEWED if before.current_version else Change.ISSUED
    after(before.state_at(now), change, name)
    if before.state is ManagedCertificateState.REVOKED and not before.forced:
        raise CertdError(
            Reason.STATE_FORBIDS, f"{name} was revoked while it was renewed: renew it, if it shall have a new version"
        )


def _issued(making: Making, issuance: Issuance) -> ManagedCertificateVersion:
    version, intent = making.version, issuance.intent
    # Nothing is issued without its key.
    assert version is not None  # noqa: S101
    return replace(version, serial=intent.serial, not_before=intent.not_before, not_after=intent.not_after)


def _renewed(
    before: ManagedCertificate, one: Planned, version: ManagedCertificateVersion, now: datetime
) -> ManagedCertificate:
    """Returns the managed certificate with its new version; with another policy than was planned by, without a plan."""
    change = Change.RENEWED if before.current_version else Change.ISSUED
    plan = one.plan if before.renewal == one.making.managed.renewal else None
    changed = replace(
        before,
        state=after(before.state_at(now), change, before.name),
        current_version=version.number,
        not_after=version.not_after,
        issue_time=now,
        renewal_window=None if plan is None else plan.window,
        next_attempt_time=None if plan is None else plan.time,
        update_time=now,
    )
    if change is Change.ISSUED:
        return observed(changed, ISSUED, now, status=True, reason="Issued", message="The first version is issued.")
    if any(condition.type == RENEWAL_BLOCKED for condition in before.conditions):
        message = f"Version {version.number} is issued."
        return observed(changed, RENEWAL_BLOCKED, now, status=False, reason="Renewed", message=message)
    return changed


def _event(before: ManagedCertificate, version: ManagedCertificateVersion, now: datetime) -> Event:
    if before.current_version == 0:
        return event_of(EventType.MANAGED_CERTIFICATE_ISSUED, before, SYSTEM_PRINCIPAL, now, version=version.number)
    renewed = event_of(EventType.MANAGED_CERTIFICATE_RENEWED, before, SYSTEM_PRINCIPAL, now, version=version.number)
    told = {
        "version": str(version.number),
        "previous_version": str(before.current_version),
        "serial": version.serial or "",
    }
    return Event(
        time=now,
        type=renewed.type,
        tenant=renewed.tenant,
        principal=renewed.principal,
        resource=renewed.resource,
        details={**renewed.details, **told},
    )


def _put_jobs(tx: Transaction, changed: Sequence[ManagedCertificate]) -> None:
    """Has each looked at again when its next renewal is planned: now, when it is not."""
    jobs.put_all(
        tx,
        [
            Job(kind=_KIND, subject=managed.uid, due_time=managed.next_attempt_time or managed.update_time)
            for managed in changed
        ],
    )
