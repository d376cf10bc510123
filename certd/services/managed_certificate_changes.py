"""Managed certificates: updated, renewed now, deleted; their versions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.event import EventType
from certd.model.job import JobKind
from certd.model.managed_certificate import (
    ManagedCertificate,
    ManagedCertificateState,
    ManagedCertificateType,
    ManagedCertificateVersion,
    VersionState,
)
from certd.model.managed_certificate_states import Change, after
from certd.model.names import ManagedCertificateName
from certd.model.renewal import DEFAULT_RENEWAL_POLICY, RenewalPolicy
from certd.services.access import Access
from certd.services.forced_renewal import force_renewal, not_renewable, updated
from certd.services.idempotency import RequestKey, is_repeated
from certd.services.managed_certificate_records import event_of
from certd.services.managed_certificate_views import (
    ManagedCertificateView,
    certificate_of,
    existing_managed,
    view_of,
)
from certd.services.paging import Page, PageRequest, page_of
from certd.services.renewal_planning import maintenance_warnings
from certd.services.steps import StepHook
from certd.store import jobs, managed_deletion, managed_versions, sealed_keys
from certd.store.store import Store, Transaction

_UPDATE, _RENEW, _DELETE = "UpdateManagedCertificate", "RenewManagedCertificate", "DeleteManagedCertificate"
_CONSUMERS_TOLD: Final = 20

LABELS: Final = "labels"
_RENEWAL: Final = "renewal."
RENEWAL_FIELDS: Final = frozenset(f"{_RENEWAL}{part.name}" for part in fields(RenewalPolicy))
"""Paths of the parts of the renewal policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedCertificateChange:
    """What a caller wants changed."""

    name: ManagedCertificateName
    fields: frozenset[str]
    """LABELS and some of RENEWAL_FIELDS: what to take from the others."""
    labels: Mapping[str, str] = field(default_factory=dict)
    renewal: RenewalPolicy | None = None
    """None: it is not said, which stands for the default one."""
    etag: str = ""
    """That of the revision that the caller has read; empty when that does not matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    """A version as a caller sees it."""

    name: str
    version: ManagedCertificateVersion
    state: VersionState
    certificate: bytes | None
    """DER; None while it is not issued."""
    key_available: bool
    """Whether its sealed key is still there."""


class ManagedCertificateChanges:
    """The use cases that change a managed certificate."""

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

    def update(
        self, caller: Caller, change: ManagedCertificateChange, *, key: RequestKey | None, validate_only: bool
    ) -> ManagedCertificateView:
        """Changes labels or the renewal policy; when nothing is changed, it stays at its revision.

        Its next renewal is planned anew after another policy. Raises MANAGED_CERTIFICATE_NOT_FOUND, ETAG_MISMATCH,
        REQUEST_ID_REUSED, FIELD_INVALID for the renewal policy of an imported one.
        """
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_UPDATE, str(change.name))
        now = self._clock.now()

        def plan(tx: Transaction) -> tuple[ManagedCertificate, ManagedCertificate]:
            found = existing_managed(tx, change.name)
            _check_etag(found, change.etag)
            return found, _planned(found, change, now)

        def update(tx: Transaction) -> ManagedCertificateView:
            if is_repeated(tx, caller, _UPDATE, key, resource=str(change.name), now=now):
                return view_of(tx, existing_managed(tx, change.name), now)
            found, planned = plan(tx)
            if planned == found:
                return view_of(tx, found, now)
            changed = updated(tx, replace(planned, update_time=now), found)
            told = _differences(found, changed)
            tx.event(event_of(EventType.MANAGED_CERTIFICATE_UPDATED, changed, caller.principal, now, version=0, **told))
            if changed.renewal != found.renewal and _is_planned(found):
                jobs.hasten(tx, JobKind.ADVANCE_MANAGED_CERTIFICATE, found.uid, now)
            return _warned(view_of(tx, changed, now))

        if validate_only:
            with self._store.read("managed-certificates.update") as tx:
                found, planned = plan(tx)
                if planned != found:
                    planned = replace(planned, update_time=now, revision=found.revision + 1)
                return _warned(view_of(tx, planned, now))
        view = self._store.write("managed-certificates.update", update)
        self._step("update.1.committed")
        self._wake_scheduler()
        return view

    def renew(
        self, caller: Caller, name: ManagedCertificateName, *, reason: str, key: RequestKey | None
    ) -> ManagedCertificateView:
        """Has a new version made now; any number of calls while one is on its way make one.

        One that is PENDING is on its way anyway. Raises MANAGED_CERTIFICATE_NOT_FOUND, REQUEST_ID_REUSED, and
        NOT_RENEWABLE for what was imported, has failed, or was revoked for good.
        """
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_RENEW, str(name))
        now = self._clock.now()

        def renew(tx: Transaction) -> ManagedCertificateView:
            managed = existing_managed(tx, name)
            if not is_repeated(tx, caller, _RENEW, key, resource=str(name), now=now):
                managed = _renewed(tx, managed, caller, now, reason)
            return view_of(tx, managed, now)

        view = self._store.write("managed-certificates.renew", renew)
        self._step("renew.1.committed")
        self._wake_scheduler()
        return view

    def delete(
        self,
        caller: Caller,
        name: ManagedCertificateName,
        *,
        etag: str,
        key: RequestKey | None,
        validate_only: bool,
    ) -> None:
        """Deletes a managed certificate and its keys; its certificates stay in the books, and valid.

        What is on its way for it ends without it: a certificate that is being signed counts as lost and revoked.
        Raises MANAGED_CERTIFICATE_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, CERTIFICATE_IN_USE while consumers are
        associated.
        """
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_DELETE, str(name))
        now = self._clock.now()

        def plan(tx: Transaction) -> ManagedCertificate:
            found = existing_managed(tx, name)
            _check_etag(found, etag)
            after(found.state_at(now), Change.DELETED, name)
            _check_unused(tx, found)
            return found

        def delete(tx: Transaction) -> None:
            if is_repeated(tx, caller, _DELETE, key, resource=str(name), now=now):
                return
            found = plan(tx)
            managed_deletion.delete_all(tx, found)
            for kind in (JobKind.ADVANCE_MANAGED_CERTIFICATE, JobKind.CHECK_DEPLOYMENT):
                jobs.finish(tx, kind, found.uid)
            versions = str(found.current_version)
            tx.event(
                event_of(EventType.MANAGED_CERTIFICATE_DELETED, found, caller.principal, now, current_version=versions)
            )

        if validate_only:
            with self._store.read("managed-certificates.delete") as tx:
                plan(tx)
            return
        self._store.write("managed-certificates.delete", delete)
        self._step("delete.1.committed")

    def versions(self, caller: Caller, parent: ManagedCertificateName, request: PageRequest) -> Page[VersionView]:
        """Returns a page of the versions, newest first; raises MANAGED_CERTIFICATE_NOT_FOUND."""
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_READ, str(parent))
        query = f"versions {parent}"
        below = _number(request.after(query))
        now = self._clock.now()
        with self._store.read("managed-certificates.versions") as tx:
            managed = existing_managed(tx, parent)
            rows = managed_versions.page(tx, managed.uid, below=below, limit=request.size + 1)
            there: frozenset[int] = frozenset()
            if rows:
                there = sealed_keys.there(tx, managed.uid, lowest=rows[-1].number, highest=rows[0].number)
            views = [
                VersionView(
                    name=parent.version(row.number),
                    version=row,
                    state=row.state_at(now, current_version=managed.current_version),
                    certificate=certificate_of(tx, row),
                    key_available=row.number in there,
                )
                for row in rows
            ]
        return page_of(views, request, query, key=lambda view: [str(view.version.number)])


def _planned(found: ManagedCertificate, change: ManagedCertificateChange, now: datetime) -> ManagedCertificate:
    """Returns the managed certificate as it is to be; without a plan when it has another policy."""
    after(found.state_at(now), Change.UPDATED, change.name)
    parts = change.fields & RENEWAL_FIELDS
    if parts and change.renewal is not None and found.type is ManagedCertificateType.IMPORTED:
        raise field_invalid(
            "managed_certificate.renewal",
            f"{found.name} was imported, and what was made elsewhere is never renewed here; import a new version in"
            " time (ImportManagedCertificate)",
        )
    given = change.renewal or DEFAULT_RENEWAL_POLICY
    names = {path.removeprefix(_RENEWAL) for path in parts}
    renewal = replace(found.renewal, **{name: getattr(given, name) for name in names})
    planned = replace(found, renewal=renewal)
    if LABELS in change.fields:
        planned = replace(planned, labels=dict(change.labels))
    if renewal != found.renewal and _is_planned(found):
        planned = replace(planned, renewal_window=None, next_attempt_time=None)
    return planned


def _warned(view: ManagedCertificateView) -> ManagedCertificateView:
    """Returns a view that says when maintenance windows cannot be kept to."""
    managed = view.managed_certificate
    if managed.issue_time is None or managed.not_after is None:
        return view
    return replace(view, warnings=maintenance_warnings(managed.renewal, managed.issue_time, managed.not_after))


def _is_planned(managed: ManagedCertificate) -> bool:
    """Returns whether its next renewal is what its job waits for; a first version does not wait for a window."""
    return managed.state not in {ManagedCertificateState.PENDING, ManagedCertificateState.FAILED}


def _differences(before: ManagedCertificate, now: ManagedCertificate) -> dict[str, str]:
    """Returns the names of the fields that differ, and of those of the renewal policy what they are now."""
    policy = now.renewal
    parts = {
        "renewal.mode": policy.mode.value,
        "renewal.remaining_percent": str(policy.remaining_percent),
        "renewal.maintenance_windows": ", ".join(
            f"{each.cron};{each.time_zone};{each.duration}" for each in policy.maintenance_windows
        ),
    }
    changed = {
        path: text
        for path, text in parts.items()
        if getattr(before.renewal, path.removeprefix(_RENEWAL)) != getattr(policy, path.removeprefix(_RENEWAL))
    }
    labels = [LABELS] if before.labels != now.labels else []
    return {"fields": ",".join([*labels, *sorted(changed)]), **changed}


def _renewed(
    tx: Transaction, managed: ManagedCertificate, caller: Caller, now: datetime, reason: str
) -> ManagedCertificate:
    if managed.state is ManagedCertificateState.PENDING:
        return managed
    refusal = not_renewable(tx, managed)
    if refusal is not None:
        raise refusal
    why = {"reason": reason} if reason else {}
    return force_renewal(tx, managed, principal=caller.principal, now=now, due_time=now, **why)


def _check_etag(found: ManagedCertificate, etag: str) -> None:
    if etag not in {"", found.etag}:
        raise CertdError(
            Reason.ETAG_MISMATCH,
            f"{found.name} has changed since it was read; read it again and repeat the call with its etag",
            metadata={"etag": found.etag},
            resource=str(found.name),
        )


def _check_unused(tx: Transaction, managed: ManagedCertificate) -> None:
    """Raises CERTIFICATE_IN_USE, naming the first few consumers."""
    using = managed_deletion.consumers(tx, managed.uid, most=_CONSUMERS_TOLD + 1)
    if not using:
        return
    told = ", ".join(using[:_CONSUMERS_TOLD]) + (" and more" if len(using) > _CONSUMERS_TOLD else "")
    raise CertdError(
        Reason.CERTIFICATE_IN_USE,
        f"{managed.name} is associated with {told}; end the associations (DeleteAssociation), then delete it",
        metadata={"consumers": told},
        resource=str(managed.name),
    )


def _number(key: list[str] | None) -> int | None:
    """Returns the number of a version in a page token; raises FIELD_INVALID."""
    if key is None:
        return None
    if len(key) != 1 or not key[0].isdigit() or len(key[0]) > 18:
        raise field_invalid("page_token", "is not a token that this server gave")
    return int(key[0])
