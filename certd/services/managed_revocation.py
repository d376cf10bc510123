"""Revocation of versions of managed certificates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.certificate import Certificate, CertificateState, RevocationReason
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateType, ManagedCertificateVersion
from certd.model.managed_certificate_states import Change, after
from certd.model.names import ManagedCertificateName
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.services.access import Access
from certd.services.authority_views import authority_with_key
from certd.services.idempotency import RequestKey, is_repeated
from certd.services.managed_certificate_views import (
    ManagedCertificateView,
    existing_managed,
    existing_version,
    view_of,
)
from certd.services.revocation import check_invalidity
from certd.services.revocation_records import (
    Subject,
    mark_lists,
    renews,
    revoked,
    subject_of,
    write_one_of_many,
)
from certd.services.steps import StepHook
from certd.store import authorities, certificates, managed_versions
from certd.store.store import Store, Transaction

_METHOD = "RevokeManagedCertificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewManagedRevocation:
    """What a caller asks for."""

    name: ManagedCertificateName
    version: int | None
    """None: all that have not ended."""
    reason: RevocationReason
    invalidity_time: datetime | None = None
    """Since when the key is known or thought to be compromised."""


class ManagedRevocation:
    """The use case of revoking versions."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        wake_scheduler: Callable[[], None],
        step: StepHook,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._wake_scheduler = wake_scheduler
        self._step = step

    def revoke(self, caller: Caller, new: NewManagedRevocation, *, key: RequestKey | None) -> ManagedCertificateView:
        """Revokes one version, or all that have not ended, with what `revocation_records` says follows from it.

        Raises MANAGED_CERTIFICATE_NOT_FOUND, REQUEST_ID_REUSED, FIELD_INVALID for an invalidity in the future,
        STATE_FORBIDS for what was imported or is not issued, and ALREADY_REVOKED, unless the second revocation is an
        upgrade to KEY_COMPROMISE.
        """
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_REVOKE, str(new.name))
        now = self._clock.now()
        check_invalidity("invalidity_time", new.invalidity_time, now)

        def revoke(tx: Transaction) -> ManagedCertificateView:
            managed = existing_managed(tx, new.name)
            if is_repeated(tx, caller, _METHOD, key, resource=str(new.name), now=now):
                return view_of(tx, managed, now)
            chosen = _chosen(tx, managed, new, now)
            rows = []
            for subject in chosen:
                row = revoked(subject, reason=new.reason, invalidity_time=new.invalidity_time, now=now)
                write_one_of_many(tx, caller.principal, subject, row, now)
                rows.append(row)
            mark_lists(tx, rows, now)
            view = view_of(tx, existing_managed(tx, new.name), now)
            return replace(view, warnings=tuple(_warnings(managed, chosen, new)))

        view = self._store.write("managed-certificates.revoke", revoke)
        self._step("managed-revoke.1.committed")
        self._wake_scheduler()
        return view


def _chosen(tx: Transaction, managed: ManagedCertificate, new: NewManagedRevocation, now: datetime) -> list[Subject]:
    """Returns the certificates to revoke, at least one."""
    if managed.type is ManagedCertificateType.IMPORTED:
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{managed.name} was imported, and only the authority that issued its certificate can revoke it; have that"
            " done, then import a new version (ImportManagedCertificate) or delete it",
            metadata={"type": managed.type},
            resource=str(managed.name),
        )
    after(managed.state_at(now), Change.VERSION_REVOKED, managed.name)
    if new.version is not None:
        version = existing_version(tx, managed, new.version)
        if not version.issued:
            raise _nothing_to_revoke(managed.name.version(new.version), "has no certificate yet")
        return [_subject(tx, managed, version)]
    not_ended = [_subject(tx, managed, version) for version in managed_versions.not_ended(tx, managed.uid, now)]
    if not not_ended:
        raise _nothing_to_revoke(str(managed.name), "has no version that has not ended")
    chosen = [subject for subject in not_ended if _may_be_revoked(subject.row, new.reason)]
    # When there is none, the first of them says why.
    return chosen or not_ended[:1]


def _may_be_revoked(row: Certificate, reason: RevocationReason) -> bool:
    """Returns whether a certificate is not revoked, or the revocation would be an upgrade."""
    if row.state is CertificateState.ISSUED:
        return True
    compromise = RevocationReason.KEY_COMPROMISE
    return reason is compromise and row.revocation_reason is not compromise


def _nothing_to_revoke(name: str, why: str) -> CertdError:
    return CertdError(Reason.STATE_FORBIDS, f"{name} {why}; there is nothing to revoke", resource=name)


def _subject(tx: Transaction, managed: ManagedCertificate, version: ManagedCertificateVersion) -> Subject:
    issuer = authorities.get_by_uid(tx, version.authority_uid)
    row = None if version.serial is None else certificates.get(tx, version.authority_uid, version.serial)
    if issuer is None or row is None:
        name = managed.name.version(version.number)
        raise CertdError(Reason.CERTIFICATE_NOT_FOUND, f"the certificate of {name} is not in the books", resource=name)
    return subject_of(authority_with_key(tx, issuer, row.key_number), row)


def _warnings(managed: ManagedCertificate, chosen: list[Subject], new: NewManagedRevocation) -> Iterator[Warning]:
    """Yields what was made of the request, and what is left to do.

    No certificate is invalid since before it began.
    """
    for subject in chosen:
        begins = subject.row.not_before
        if new.invalidity_time is not None and new.invalidity_time < begins:
            version = managed.name.version(subject.row.managed_certificate_version or 0)
            yield Warning(
                "invalidity_time",
                f"{rfc3339(new.invalidity_time)} was cut to {rfc3339(begins)}, when {version} began; it was not valid"
                " earlier",
            )
    if new.version == managed.current_version and not renews(managed, new.version, new.reason):
        yield Warning(
            "version",
            f"{managed.name.version(new.version)} is the current one, and neither exported nor leased any more; renew"
            " the managed certificate",
        )
