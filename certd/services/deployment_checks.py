"""Whether consumers serve the current version: looked at a set time after it became that.

Whoever makes a version the current one of a managed certificate that has consumers puts a job in the same transaction;
so does who associates a consumer. The job tells of those that do not serve it by then, each once for a version, and
`DeploymentLate` of the managed certificate shows them until they do.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock, rfc3339
from certd.model.association import Association, Deployment, DeploymentState
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.job import Job, JobKind
from certd.model.managed_certificate import (
    DEPLOYMENT_LATE,
    ManagedCertificate,
    ManagedCertificateState,
    ManagedCertificateVersion,
)
from certd.services.forced_renewal import updated
from certd.services.managed_certificate_records import event_of, observed
from certd.services.renewal_waits import changeable
from certd.services.steps import StepHook
from certd.store import associations, jobs, late_deployments, managed_certificates, managed_versions
from certd.store.late_deployments import Lateness
from certd.store.store import Store, Transaction

_KIND: Final = JobKind.CHECK_DEPLOYMENT
_PART_OF_LIFETIME: Final = 10
_SHOWN: Final = 5


class DeploymentChecks:
    """Looks whether consumers serve what they should; called by the scheduler.

    Args:
        store: the books.
        clock: time of each look.
        longest: how long consumers may take, at most.
        step: is called with the name of each step when it is done.
    """

    def __init__(self, *, store: Store, clock: Clock, longest: timedelta, step: StepHook) -> None:
        self._store = store
        self._clock = clock
        self._longest = longest
        self._step = step

    def check(self, uid: str) -> None:
        """Tells of the consumers that do not serve the current version of a managed certificate though they should."""
        now = self._clock.now()
        self._store.write("deployments.check", lambda tx: self._check(tx, uid, now))
        self._step("deployment-check.1.committed")

    def _check(self, tx: Transaction, uid: str, now: datetime) -> None:
        # Locked first: who associates a consumer or makes a version current meanwhile finds the job, or it finds them.
        managed, due = changeable(tx, uid), jobs.due_time(tx, _KIND, uid)
        if due is None or due > now:
            # It was put again for another version, whose time has not come.
            return
        version = None if managed is None else managed_versions.get_bare(tx, uid, managed.current_version)
        if managed is None or version is None or not _is_to_be_served(managed, version, now):
            jobs.finish(tx, _KIND, uid)
            return
        wait = time_to_deploy(version, self._longest)
        known, late, later = late_deployments.of_all(tx, uid), False, list[datetime]()
        for association in associations.page(tx, uid, after="", limit=managed.association_count):
            if _serves(association.deployment, version.number):
                continue
            if association.create_time + wait > now:
                later.append(association.create_time + wait)
            elif known[association.name.association].version != version.number:
                late_deployments.put(tx, association, Lateness(is_late=True, version=version.number))
                tx.event(_event(managed, association, now))
                late = True
        if late:
            updated(tx, shown(tx, managed, now), managed)
        if later:
            jobs.put(tx, Job(kind=_KIND, subject=uid, due_time=min(later)))
        else:
            jobs.finish(tx, _KIND, uid)


def time_to_deploy(version: ManagedCertificateVersion, longest: timedelta) -> timedelta:
    """Returns how long consumers may take to serve a version: never more than a tenth of its lifetime."""
    if version.not_before is None or version.not_after is None:
        return longest
    return min(longest, (version.not_after - version.not_before) / _PART_OF_LIFETIME)


def check_of(
    managed: ManagedCertificate, version: ManagedCertificateVersion, longest: timedelta, now: datetime
) -> Iterator[Job]:
    """Yields the job to be put when a version becomes the current one: none while nobody is to serve it."""
    if managed.association_count:
        yield Job(kind=_KIND, subject=managed.uid, due_time=now + time_to_deploy(version, longest))


def expect(tx: Transaction, association: Association, longest: timedelta, now: datetime) -> None:
    """Has it looked at whether a consumer that is associated just now serves the current version in time."""
    uid = association.managed_certificate_uid
    version = managed_versions.get_bare(tx, uid, association.current_version)
    if version is not None and version.issued:
        # One that is to come sooner comes again for this one, see `DeploymentChecks`.
        jobs.hasten(tx, _KIND, uid, now + time_to_deploy(version, longest))


def reported(tx: Transaction, association: Association, deployment: Deployment, now: datetime) -> None:
    """Notes that a consumer which was late serves what it should, in the transaction of its report."""
    lateness = late_deployments.of(tx, association)
    awaited = {lateness.version, association.current_version}
    if not lateness.is_late or not any(_serves(deployment, version) for version in awaited):
        return
    late_deployments.put(tx, association, replace(lateness, is_late=False))
    managed = managed_certificates.get_by_uid(tx, association.managed_certificate_uid)
    if managed is not None:
        # It was read in this transaction: who changes it at the same moment has the work run again.
        updated(tx, shown(tx, managed, now), managed)


def shown(tx: Transaction, managed: ManagedCertificate, now: datetime) -> ManagedCertificate:
    """Returns a managed certificate that says which of its consumers are late; as it is, when none ever was."""
    late = late_deployments.late(tx, managed.uid)
    if late:
        told = ", ".join(late[:_SHOWN]) + (f" and {len(late) - _SHOWN} more" if len(late) > _SHOWN else "")
        message = f"Not served in time by {told}: look at used_by, and at the agents of these consumers."
        return observed(managed, DEPLOYMENT_LATE, now, status=True, reason="NotServed", message=message)
    if any(condition.type == DEPLOYMENT_LATE for condition in managed.conditions):
        message = "No consumer is late."
        return observed(managed, DEPLOYMENT_LATE, now, status=False, reason="Served", message=message)
    return managed


def _is_to_be_served(managed: ManagedCertificate, version: ManagedCertificateVersion, now: datetime) -> bool:
    if managed.association_count == 0 or version.revoke_time is not None:
        return False
    return managed.state_at(now) is ManagedCertificateState.ACTIVE


def _serves(deployment: Deployment | None, version: int) -> bool:
    if deployment is None:
        return False
    return deployment.state is DeploymentState.SERVING and deployment.version == version


def _event(managed: ManagedCertificate, association: Association, now: datetime) -> Event:
    event = event_of(EventType.DEPLOYMENT_LATE, managed, SYSTEM_PRINCIPAL, now, version=managed.current_version)
    told = {
        "association": association.name.association,
        "consumer": association.consumer_spiffe_id,
        "version": str(managed.current_version),
        "leased_version": str(association.leased_version),
    }
    said = association.deployment
    if said is not None:
        told |= {"state": said.state.value, "report_time": rfc3339(said.report_time), "message": said.message}
        told["served_version" if said.state is DeploymentState.SERVING else "failed_version"] = str(said.version)
    return replace(event, details={**event.details, **told})
