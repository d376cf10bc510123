"""Revocation: a certificate is revoked for ever, by one transaction that has all of its consequences."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.managed_certificate import ManagedCertificate
from certd.model.names import AuthorityName, CertificateName
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.services.access import Access
from certd.services.authorities import existing_authority
from certd.services.authority_views import authority_with_key
from certd.services.certificates import CertificateView, view_of
from certd.services.idempotency import RequestKey, is_repeated
from certd.services.issuance import row_key
from certd.services.revocation_records import (
    Subject,
    managed_of,
    renews,
    revoked,
    subject_of,
    write_revocation,
)
from certd.services.steps import StepHook
from certd.store import certificates
from certd.store.store import Store, Transaction

METHOD: Final = "RevokeCertificate"
"""By which the requests of single revocations and of items of batches are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRevocation:
    """What a caller asks for."""

    name: CertificateName
    reason: RevocationReason = RevocationReason.UNSPECIFIED
    invalidity_time: datetime | None = None
    """Since when the key is known or thought to be compromised (RFC 5280, section 5.3.2)."""


class Revocation:
    """The use case of revoking a certificate."""

    def __init__(
        self, *, store: Store, clock: Clock, access: Access, wake_scheduler: Callable[[], None], step: StepHook
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._wake_scheduler = wake_scheduler
        self._step = step

    def revoke(
        self, caller: Caller, new: NewRevocation, *, key: RequestKey | None, validate_only: bool
    ) -> CertificateView:
        """Revokes a certificate and returns it. An expired one may be revoked too.

        A key that was compromised is blocked for the tenant: it is never certified again. The authority of a revoked
        authority's certificate is disabled if it is one of the tenant, which needs the permission to disable. What
        becomes of a managed certificate that has it, `revocation_records` says.

        Raises AUTHORITY_NOT_FOUND, CERTIFICATE_NOT_FOUND, PERMISSION_MISSING, REQUEST_ID_REUSED, FIELD_INVALID for an
        invalidity in the future, STATE_FORBIDS for what was lost and for the certificate of a root, and
        ALREADY_REVOKED, unless the second revocation is an upgrade to KEY_COMPROMISE.
        """
        self._access.require(caller, Permission.CERTIFICATE_REVOKE, str(new.name))
        now = self._clock.now()
        with self._store.read("certificates.revoke") as tx:
            subject = existing_subject(tx, new.name)
        if subject.authority:
            # What stops an authority from issuing is for those who may stop it.
            self._access.require(caller, Permission.AUTHORITY_ENABLE, subject.issuer.name)
        check_invalidity("invalidity_time", new.invalidity_time, now)
        if validate_only:
            with self._store.read("certificates.revoke") as tx:
                return revocation_view(tx, planned_revocation(existing_subject(tx, new.name), new, now), new)

        def work(tx: Transaction) -> CertificateView:
            subject = existing_subject(tx, new.name)
            resource = row_key(subject.row.authority_uid, subject.row.serial)
            if not is_repeated(tx, caller, METHOD, key, resource=resource, now=now):
                planned = planned_revocation(subject, new, now)
                write_revocation(tx, caller.principal, subject, planned.row, now)
                subject = planned
            return revocation_view(tx, subject, new)

        view = self._store.write("certificates.revoke", work)
        self._step("revoke.1.committed")
        # There is a CRL to sign in seconds, and perhaps a renewal now.
        self._wake_scheduler()
        return view


def check_invalidity(field: str, invalidity_time: datetime | None, now: datetime) -> None:
    """Raises FIELD_INVALID for an invalidity that is in the future (RFC 5280, section 5.3.2)."""
    if invalidity_time is not None and invalidity_time > now:
        raise field_invalid(
            field,
            f"{rfc3339(invalidity_time)} is in the future; give the time since when the key is known or"
            " thought to be compromised, or leave it out",
        )


def existing_subject(tx: Transaction, name: CertificateName) -> Subject:
    """Returns the certificate to revoke; raises AUTHORITY_NOT_FOUND or CERTIFICATE_NOT_FOUND."""
    issuer = existing_authority(tx, AuthorityName(name.tenant, name.authority))
    row = certificates.get(tx, issuer.uid, name.serial)
    if row is None or row.state is CertificateState.PENDING:
        raise CertdError(Reason.CERTIFICATE_NOT_FOUND, f"{name} does not exist", resource=str(name))
    return subject_of(authority_with_key(tx, issuer, row.key_number), row)


def planned_revocation(subject: Subject, new: NewRevocation, now: datetime) -> Subject:
    """Returns the certificate as it is to be; raises STATE_FORBIDS or ALREADY_REVOKED."""
    row = revoked(subject, reason=new.reason, invalidity_time=new.invalidity_time, now=now)
    return replace(subject, row=row)


def revocation_view(tx: Transaction, subject: Subject, new: NewRevocation) -> CertificateView:
    """Returns what a caller sees of a certificate that is, or would be, revoked."""
    row = subject.row
    managed = managed_of(tx, row)
    number = row.managed_certificate_version or 0
    warnings = []
    if new.invalidity_time is not None and new.invalidity_time < row.not_before:
        warnings.append(
            Warning(
                "invalidity_time",
                f"{rfc3339(new.invalidity_time)} was cut to {rfc3339(row.not_before)}, when the certificate"
                " began; it was not valid earlier",
            )
        )
    if managed is not None:
        warnings.append(Warning("name", _told_of(managed, number, new.reason)))
    version = "" if managed is None else managed.name.version(number)
    return view_of(row, subject.issuer, managed=version, warnings=tuple(warnings))


def _told_of(managed: ManagedCertificate, number: int, reason: RevocationReason) -> str:
    """Returns what becomes of the managed certificate that has the certificate, and what is left to do."""
    version = f"{managed.name.version(number)} has this certificate, and is neither exported nor leased any more"
    if number != managed.current_version:
        return f"{version}; version {managed.current_version} is the current one"
    if renews(managed, number, reason):
        return f"{version}; a new version is being made, replace it wherever it is in use"
    return f"{version}; renew the managed certificate, or request another, and replace it wherever it is in use"
