"""Renewals that somebody wants now: who asks, a campaign or a compromised key, they are asked for in one way."""

from dataclasses import replace
from datetime import datetime

from certd.errors import CertdError, Reason
from certd.model.certificate import RevocationReason
from certd.model.event import EventType
from certd.model.job import JobKind
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateState, ManagedCertificateType
from certd.services.managed_certificate_records import event_of
from certd.store import jobs, managed_certificates, managed_versions
from certd.store.store import Transaction

COMPROMISED = frozenset(
    {RevocationReason.KEY_COMPROMISE, RevocationReason.CA_COMPROMISE, RevocationReason.AA_COMPROMISE}
)
"""Reasons of a revocation which say that the certificate is bad, not that nobody shall have one any more."""


def not_renewable(tx: Transaction, managed: ManagedCertificate) -> CertdError | None:
    """Returns why a managed certificate cannot be renewed, with what to do instead; None when it can be."""
    if managed.type is ManagedCertificateType.IMPORTED:
        why = "was imported, so that nobody here can make another; import a new version (ImportManagedCertificate)"
    elif managed.state is ManagedCertificateState.PENDING:
        why = "has no version yet: its first one is on its way"
    elif managed.state is ManagedCertificateState.FAILED:
        why = "can never be issued as it was asked for, see its conditions; delete it and request another"
    elif managed.state is ManagedCertificateState.REVOKED and (given_up := _given_up(tx, managed)):
        why = (
            f"is revoked ({given_up}), so that nobody shall have it; request another managed certificate, or if the"
            " key of this one is compromised, revoke it for KEY_COMPROMISE"
        )
    else:
        return None
    return CertdError(
        Reason.NOT_RENEWABLE,
        f"{managed.name} {why}",
        metadata={"state": managed.state, "type": managed.type},
        resource=str(managed.name),
    )


def _given_up(tx: Transaction, managed: ManagedCertificate) -> str:
    """Returns the reason for which the current version was revoked, unless it says that it wants replacing."""
    current = managed_versions.get(tx, managed.uid, managed.current_version)
    reason = None if current is None else current.revocation_reason
    return "" if reason is None or reason in COMPROMISED else reason.name


def force_renewal(
    tx: Transaction, managed: ManagedCertificate, *, principal: str, now: datetime, due_time: datetime, **details: str
) -> ManagedCertificate:
    """Has the current version replaced at `due_time`, or earlier if that is planned; returns how it stands now.

    Any number of calls for one version make one renewal, and one event. Whoever calls this wakes the scheduler after
    the commit. Raises OWNERSHIP_LOST when another changed it meanwhile.
    """
    sooner = managed.next_attempt_time is None or due_time < managed.next_attempt_time
    forced = replace(
        managed,
        forced_version=managed.current_version,
        next_attempt_time=due_time if sooner else managed.next_attempt_time,
    )
    if forced != managed:
        forced = updated(tx, replace(forced, update_time=now), managed)
    if not managed.forced:
        tx.event(
            event_of(
                EventType.MANAGED_CERTIFICATE_RENEWAL_REQUESTED,
                managed,
                principal,
                now,
                version=0,
                **{"current_version": str(managed.current_version), **details},
            )
        )
    jobs.hasten(tx, JobKind.ADVANCE_MANAGED_CERTIFICATE, managed.uid, due_time)
    return forced


def updated(tx: Transaction, changed: ManagedCertificate, found: ManagedCertificate) -> ManagedCertificate:
    """Writes a managed certificate over the one that was found; raises OWNERSHIP_LOST when another was faster."""
    written = managed_certificates.update(tx, changed, expected_revision=found.revision)
    if written is None:
        raise CertdError(Reason.OWNERSHIP_LOST, f"{found.name} was changed meanwhile; try again", retry_after=0.5)
    return written
