"""Revocation: a certificate is revoked for ever, by one transaction that has all of its consequences."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.authority import Authority, AuthorityState
from certd.model.certificate import Certificate, CertificateState, RevocationReason
from certd.model.event import Event, EventType
from certd.model.names import AuthorityName, CertificateName
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.description import describe
from certd.services.access import Access
from certd.services.authorities import every_authority, existing_authority
from certd.services.certificates import CertificateView, managed_version, view_of
from certd.services.idempotency import RequestKey, record_of, same_request
from certd.services.issuance import row_key
from certd.services.steps import StepHook
from certd.store import authorities, blocked_keys, certificates, request_records, revocations
from certd.store.store import Store, Transaction

_METHOD = "RevokeCertificate"
_COMPROMISED = frozenset({RevocationReason.KEY_COMPROMISE, RevocationReason.CA_COMPROMISE})


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRevocation:
    """What a caller asks for."""

    name: CertificateName
    reason: RevocationReason = RevocationReason.UNSPECIFIED
    invalidity_time: datetime | None = None
    """Since when the key is known or thought to be compromised (RFC 5280, section 5.3.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """The certificate that a call is about."""

    issuer: Authority
    row: Certificate
    authority: bool
    """Whether it is the certificate of an authority."""


class Revocation:
    """The use case of revoking a certificate."""

    def __init__(self, *, store: Store, clock: Clock, access: Access, step: StepHook) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._step = step

    def revoke(
        self, caller: Caller, new: NewRevocation, *, key: RequestKey | None, validate_only: bool
    ) -> CertificateView:
        """Revokes a certificate and returns it. An expired one may be revoked too.

        A key that was compromised is blocked for the tenant: it is never certified again. The authority of a revoked
        authority's certificate is disabled if it is one of the tenant, which needs the permission to disable.

        Raises AUTHORITY_NOT_FOUND, CERTIFICATE_NOT_FOUND, PERMISSION_MISSING, REQUEST_ID_REUSED, FIELD_INVALID for an
        invalidity in the future, STATE_FORBIDS for what was lost and for the certificate of a root, and
        ALREADY_REVOKED, unless the second revocation is an upgrade to KEY_COMPROMISE.
        """
        self._access.require(caller, Permission.CERTIFICATE_REVOKE, str(new.name))
        now = self._clock.now()
        with self._store.read("certificates.revoke") as tx:
            subject = _subject(tx, new.name)
        if subject.authority:
            # What stops an authority from issuing is for those who may stop it.
            self._access.require(caller, Permission.AUTHORITY_ENABLE, subject.issuer.name)
        if new.invalidity_time is not None and new.invalidity_time > now:
            raise field_invalid(
                "invalidity_time",
                f"{rfc3339(new.invalidity_time)} is in the future; give the time since when the key is known or"
                " thought to be compromised, or leave it out",
            )
        if validate_only:
            with self._store.read("certificates.revoke") as tx:
                return _view(tx, replace(subject, row=_revoked(_subject(tx, new.name), new, now)), new)

        def work(tx: Transaction) -> CertificateView:
            subject = _subject(tx, new.name)
            if not _made_before(tx, caller, key, subject, now):
                row = _revoked(subject, new, now)
                self._write(tx, caller, subject, row, now)
                subject = replace(subject, row=row)
            return _view(tx, subject, new)

        view = self._store.write("certificates.revoke", work)
        self._step("revoke.1.committed")
        return view

    def _write(self, tx: Transaction, caller: Caller, subject: _Subject, row: Certificate, now: datetime) -> None:
        """Writes the row with all that follows from it."""
        reason = row.revocation_reason or RevocationReason.UNSPECIFIED
        revocations.revoke(
            tx,
            row.authority_uid,
            row.serial,
            revoke_time=row.revoke_time or now,
            reason=reason,
            invalidity_time=row.invalidity_time,
        )
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
                principal=caller.principal,
                resource=_name(subject),
                details=_details(subject.row, row),
            )
        )
        if subject.authority:
            self._disable(tx, caller, subject, now)

    def _disable(self, tx: Transaction, caller: Caller, subject: _Subject, now: datetime) -> None:
        """Stops the authority whose certificate this is: nobody who looks would accept what it issues."""
        for authority in every_authority(tx, subject.issuer.tenant or ""):
            if authority.certificate != subject.row.der or authority.state is not AuthorityState.ENABLED:
                continue
            authorities.set_state(tx, authority.uid, AuthorityState.DISABLED, now)
            tx.configuration_changed()
            tx.event(
                Event(
                    time=now,
                    type=EventType.AUTHORITY_DISABLED,
                    tenant=authority.tenant,
                    principal=caller.principal,
                    resource=authority.name,
                    details={"revoked_certificate": _name(subject)},
                )
            )


def _subject(tx: Transaction, name: CertificateName) -> _Subject:
    issuer = existing_authority(tx, AuthorityName(name.tenant, name.authority))
    row = certificates.get(tx, issuer.uid, name.serial)
    if row is None or row.state is CertificateState.PENDING:
        raise CertdError(Reason.CERTIFICATE_NOT_FOUND, f"{name} does not exist", resource=str(name))
    return _Subject(issuer=issuer, row=row, authority=row.der is not None and describe(row.der).authority)


def _name(subject: _Subject) -> str:
    return f"{subject.issuer.name}/certificates/{subject.row.serial}"


def _made_before(tx: Transaction, caller: Caller, key: RequestKey | None, subject: _Subject, now: datetime) -> bool:
    """Records the request; returns whether it was made before. Raises REQUEST_ID_REUSED."""
    if key is None:
        return False
    resource = row_key(subject.row.authority_uid, subject.row.serial)
    found = request_records.claim(tx, record_of(caller, _METHOD, key, resource=resource, now=now))
    if found is None:
        return False
    same_request(found, key.request_sha256)
    return True


def _revoked(subject: _Subject, new: NewRevocation, now: datetime) -> Certificate:
    """Returns the row as it is to be; raises STATE_FORBIDS or ALREADY_REVOKED."""
    row, name = subject.row, _name(subject)
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
            f"{name} is LOST: nobody received it, and it counts as revoked{since}; nothing is left to do",
            metadata={"state": row.state},
            resource=name,
        )
    invalidity_time = None if new.invalidity_time is None else max(new.invalidity_time, row.not_before)
    if row.state is CertificateState.ISSUED:
        revoke_time = now
    else:
        revoke_time = _upgraded(row, new, name)
        # The key was unfit since the earliest moment that anybody named; what relied on it since then is in doubt.
        named = [time for time in (row.invalidity_time, invalidity_time) if time is not None]
        invalidity_time = min(named, default=None)
        revoke_time = min([revoke_time, *named])
    return replace(
        row,
        state=CertificateState.REVOKED,
        revoke_time=revoke_time,
        revocation_reason=new.reason,
        invalidity_time=invalidity_time,
    )


def _upgraded(row: Certificate, new: NewRevocation, name: str) -> datetime:
    """Returns the time of the first revocation; raises ALREADY_REVOKED unless the second one is an upgrade."""
    before = row.revocation_reason or RevocationReason.UNSPECIFIED
    if row.revoke_time is None or (
        new.reason is not RevocationReason.KEY_COMPROMISE or before is RevocationReason.KEY_COMPROMISE
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


def _details(before: Certificate, row: Certificate) -> dict[str, str]:
    details = {
        "reason": (row.revocation_reason or RevocationReason.UNSPECIFIED).name,
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


def _view(tx: Transaction, subject: _Subject, new: NewRevocation) -> CertificateView:
    row = subject.row
    managed = managed_version(tx, row)
    warnings = []
    if new.invalidity_time is not None and new.invalidity_time < row.not_before:
        warnings.append(
            Warning(
                "invalidity_time",
                f"{rfc3339(new.invalidity_time)} was cut to {rfc3339(row.not_before)}, when the certificate"
                " began; it was not valid earlier",
            )
        )
    if managed:
        warnings.append(
            Warning(
                "name",
                f"{managed} has this certificate, and can still be exported; request another managed certificate and"
                " replace it wherever it is in use",
            )
        )
    return view_of(row, subject.issuer, managed=managed, warnings=tuple(warnings))
