"""What a revocation writes, whoever asks for it: the row, the blocked key, the events, and what follows from it.

The authority whose certificate is revoked is disabled. The managed certificate whose version is revoked is REVOKED when
no other version lives, and renewed when its key is compromised.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from certd.clock import rfc3339
from certd.errors import CertdError, Reason
from certd.model.authority import Authority, AuthorityState
from certd.model.certificate import Certificate, CertificateState, RevocationReason
from certd.model.event import Event, EventType
from certd.model.managed_certificate import ManagedCertificate
from certd.model.managed_certificate_states import Change, after
from certd.model.renewal import RenewalMode
from certd.model.renewal_campaign import DEFAULT_RENEWALS_PER_MINUTE
from certd.pki.description import describe
from certd.services.authorities import every_authority
from certd.services.forced_renewal import COMPROMISED, force_renewal, updated
from certd.services.managed_certificate_records import event_of
from certd.services.ocsp_jobs import RESPONDER_PROFILE, ensure_responder
from certd.store import (
    authorities,
    blocked_keys,
    managed_certificates,
    managed_versions,
    ocsp_responses,
    revocation_lists,
    revocations,
    sealed_keys,
)
from certd.store.store import Transaction

TOGETHER: Final = 32
"""Certificates that are revoked in one transaction: many for a commit, few for those who wait for it."""
RENEWAL_PAUSE: Final = timedelta(minutes=1) / DEFAULT_RENEWALS_PER_MINUTE
"""Between the beginnings of renewals that many revocations bring, so that they do not come at once."""
_COMPROMISED = frozenset({RevocationReason.KEY_COMPROMISE, RevocationReason.CA_COMPROMISE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The certificate that a revocation is about."""

    issuer: Authority
    row: Certificate
    authority: bool
    """Whether it is the certificate of an authority."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"{self.issuer.name}/certificates/{self.row.serial}"


def subject_of(issuer: Authority, row: Certificate) -> Subject:
    """Returns what a revocation of this certificate is about."""
    return Subject(issuer=issuer, row=row, authority=row.der is not None and describe(row.der).authority)


def revoked(
    subject: Subject, *, reason: RevocationReason, invalidity_time: datetime | None, now: datetime
) -> Certificate:
    """Returns the row as it is to be; raises STATE_FORBIDS, also when its authority is purged, or ALREADY_REVOKED."""
    row, name = subject.row, subject.name
    if subject.issuer.state is AuthorityState.PURGED:
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{subject.issuer.name} is PURGED: its keys are destroyed, and nobody signs a CRL that would say so; take"
            " its certificate, or that of its root, out of what relying parties trust",
            metadata={"state": subject.issuer.state},
            resource=name,
        )
    own_key = subject.issuer.key.public_key
    if own_key is not None and row.public_key_sha256 == hashlib.sha256(own_key).digest():
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{name} is signed by its own key, and nobody would believe a revocation by that; disable"
            f" {subject.issuer.name}, and take the root out of every trust store that has it",
            metadata={"authority": subject.issuer.name},
            resource=name,
        )
    if row.state is CertificateState.LOST:
        since = "" if row.revoke_time is None else f" since {rfc3339(row.revoke_time)}"
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{name} is LOST: its signing was interrupted, or a restore lost it; it counts as revoked{since}, and"
            " nothing is left to do. A key that is compromised is blocked by a revocation campaign for that key",
            metadata={"state": row.state},
            resource=name,
        )
    invalidity_time = None if invalidity_time is None else max(invalidity_time, row.not_before)
    if row.state is CertificateState.ISSUED:
        revoke_time = now
    else:
        revoke_time = _upgraded(row, reason, name)
        # The key was unfit since the earliest moment that anybody named; what relied on it since then is in doubt.
        named = [time for time in (row.invalidity_time, invalidity_time) if time is not None]
        invalidity_time = min(named, default=None)
        revoke_time = min([revoke_time, *named])
    return replace(
        row,
        state=CertificateState.REVOKED,
        revoke_time=revoke_time,
        revocation_reason=reason,
        invalidity_time=invalidity_time,
    )


def _upgraded(row: Certificate, reason: RevocationReason, name: str) -> datetime:
    """Returns the time of the first revocation; raises ALREADY_REVOKED unless the second one is an upgrade."""
    before = row.revocation_reason or RevocationReason.UNSPECIFIED
    if row.revoke_time is None or (
        reason is not RevocationReason.KEY_COMPROMISE or before is RevocationReason.KEY_COMPROMISE
    ):
        since = "" if row.revoke_time is None else rfc3339(row.revoke_time)
        remedy = (
            "nothing is left to do"
            if before is RevocationReason.KEY_COMPROMISE
            else f"only {RevocationReason.KEY_COMPROMISE.name} may take the place of another reason"
        )
        raise CertdError(
            Reason.ALREADY_REVOKED,
            f"{name} is revoked since {since} ({before.name}); {remedy}",
            metadata={"revoke_time": since, "reason": before.name},
            resource=name,
        )
    return row.revoke_time


def write_revocation(tx: Transaction, principal: str, subject: Subject, row: Certificate, now: datetime) -> bool:
    """Writes the row that `revoked` made, with all that follows from it; returns whether a renewal is due now."""
    forced = write_one_of_many(tx, principal, subject, row, now)
    mark_lists(tx, [row], now)
    return forced


def write_one_of_many(
    tx: Transaction,
    principal: str,
    subject: Subject,
    row: Certificate,
    now: datetime,
    *,
    renewal_time: datetime | None = None,
    **details: str,
) -> bool:
    """As `write_revocation`, but for the CRLs: who writes many rows calls `mark_lists` once, at the end.

    `renewal_time` is when the managed certificate that has it is renewed, should it be; None: now. The event of the
    revocation has the `details` too.
    """
    reason = _reason_of(row)
    revocations.revoke(
        tx,
        row.authority_uid,
        row.serial,
        revoke_time=row.revoke_time or now,
        reason=reason,
        invalidity_time=row.invalidity_time,
    )
    ocsp_responses.forget(tx, row.authority_uid, row.key_number, row.serial)
    if reason is RevocationReason.KEY_COMPROMISE or (subject.authority and reason in _COMPROMISED):
        blocked_keys.block(
            tx,
            subject.issuer.tenant,
            row.public_key_sha256,
            authority_uid=row.authority_uid,
            serial=row.serial,
            now=now,
        )
    tx.event(
        Event(
            time=now,
            type=EventType.CERTIFICATE_REVOKED,
            tenant=subject.issuer.tenant,
            principal=principal,
            resource=subject.name,
            details={**_details(subject.row, row), **details},
        )
    )
    if subject.authority:
        _disable(tx, principal, subject, now, compromised=reason in _COMPROMISED)
    if row.profile == RESPONDER_PROFILE:
        # If it is one of ours, it answers no more, and another takes its place.
        ensure_responder(tx, subject.issuer, now)
        tx.configuration_changed()
    managed = managed_of(tx, row)
    return False if managed is None else _revoke_version(tx, principal, managed, row, now, renewal_time or now)


def mark_lists(tx: Transaction, rows: Iterable[Certificate], now: datetime) -> None:
    """Has the CRLs signed again on which revoked certificates stand, each marked once, all in one order."""
    revocation_lists.mark_all_changed(tx, {(row.authority_uid, row.key_number, row.crl_partition) for row in rows}, now)


def managed_of(tx: Transaction, row: Certificate) -> ManagedCertificate | None:
    """Returns the managed certificate of whose versions one has this certificate; None for none, or a deleted one."""
    if row.managed_certificate_uid is None or row.managed_certificate_version is None:
        return None
    return managed_certificates.get_by_uid(tx, row.managed_certificate_uid)


def renews(managed: ManagedCertificate, number: int, reason: RevocationReason) -> bool:
    """Returns whether a managed certificate is renewed at once because this version is revoked for this reason."""
    compromised = reason is RevocationReason.KEY_COMPROMISE and number == managed.current_version
    return compromised and managed.renewal.mode is not RenewalMode.NEVER


def _revoke_version(
    tx: Transaction,
    principal: str,
    managed: ManagedCertificate,
    row: Certificate,
    now: datetime,
    renewal_time: datetime,
) -> bool:
    reason, number = _reason_of(row), row.managed_certificate_version or 0
    revoke_time = row.revoke_time or now
    managed_versions.set_revoked(tx, managed.uid, number, revoke_time=revoke_time, reason=reason)
    # Who investigates may need its key, until it is at its end; nobody else gets it.
    sealed_keys.set_expiry(tx, managed.uid, number, row.not_after)
    tx.event(
        event_of(
            EventType.MANAGED_CERTIFICATE_REVOKED,
            managed,
            principal,
            now,
            version=number,
            reason=reason.name,
            serial=row.serial,
            revoke_time=revoke_time.isoformat(),
        )
    )
    # That one is revoked which had ended anyway leaves the state as it was.
    harmless = now > row.not_after or managed_versions.any_lives(tx, managed.uid, now)
    change = Change.VERSION_REVOKED if harmless else Change.REVOKED_ALL
    changed = replace(managed, state=after(managed.state_at(now), change, managed.name), update_time=now)
    forced = renews(managed, number, reason)
    if change is Change.REVOKED_ALL and not forced:
        if number == managed.current_version and reason not in COMPROMISED:
            # Nobody shall have it any more, whoever wanted it renewed before.
            changed = replace(changed, forced_version=0)
        if not changed.forced:
            changed = replace(changed, renewal_window=None, next_attempt_time=None)
    changed = updated(tx, changed, managed)
    if forced:
        force_renewal(tx, changed, principal=principal, now=now, due_time=renewal_time, reason=reason.name)
    return forced


def _disable(tx: Transaction, principal: str, subject: Subject, now: datetime, *, compromised: bool) -> None:
    """Stops the authority whose certificate this is: nobody who looks would accept what it issues.

    Of a key that is compromised it may be one of before, see `authority_reissue`: no certificate makes that key good.
    """
    for authority in every_authority(tx, subject.issuer.tenant or ""):
        own_key = authority.key.public_key or b""
        same_key = compromised and hashlib.sha256(own_key).digest() == subject.row.public_key_sha256
        if authority.state is not AuthorityState.ENABLED or not (same_key or authority.certificate == subject.row.der):
            continue
        authorities.set_state(tx, authority.uid, AuthorityState.DISABLED, now)
        tx.configuration_changed()
        tx.event(
            Event(
                time=now,
                type=EventType.AUTHORITY_DISABLED,
                tenant=authority.tenant,
                principal=principal,
                resource=authority.name,
                details={"revoked_certificate": subject.name},
            )
        )


def _reason_of(row: Certificate) -> RevocationReason:
    return row.revocation_reason or RevocationReason.UNSPECIFIED


def _details(before: Certificate, row: Certificate) -> dict[str, str]:
    details = {
        "reason": _reason_of(row).name,
        "profile": row.profile,
        "subject": row.subject_text,
        "not_after": row.not_after.isoformat(),
        "public_key_sha256": row.public_key_sha256.hex(),
    }
    if row.revoke_time is not None:
        details["revoke_time"] = row.revoke_time.isoformat()
    if row.invalidity_time is not None:
        details["invalidity_time"] = row.invalidity_time.isoformat()
    if before.revocation_reason is not None:
        details["reason_before"] = before.revocation_reason.name
    return details
