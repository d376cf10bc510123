"""What changes of an authority after its creation: its labels and settings, and whether it issues.

A change is one transaction: request record, permission to change it now (etag, state), the row, the event.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.authority import Authority, AuthorityState, UsageMode
from certd.model.certificate import CertificateState
from certd.model.event import EventType
from certd.model.names import AuthorityName, normalise_serial
from certd.model.revocation_settings import RevocationSettings, SettingsChange, changed_settings
from certd.pki.description import describe
from certd.services.access import Access
from certd.services.authorities import existing_authority
from certd.services.authority_views import AuthorityView, AuthorityViews, check_etag, event_of
from certd.services.idempotency import RequestKey, record_of, same_request
from certd.services.status_locations import ensure_lists_of_keys, location_warnings
from certd.store import authorities, blocked_keys, certificates, request_records
from certd.store.store import Store, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How a change is asked for."""

    name: AuthorityName
    etag: str = ""
    """Empty for none."""
    key: RequestKey | None = None
    validate_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSettings:
    """What may be changed of an authority; None stays as it is."""

    labels: Mapping[str, str] | None = None
    revocation: SettingsChange | None = None
    deletion_protection: bool | None = None


_SETTINGS = ("labels", "revocation", "deletion_protection")
Apply = Callable[[Transaction, Authority, datetime], None]
Plan = Callable[[Transaction, Authority, datetime], tuple[Authority, Apply]]
"""Returns the authority as it would be, and what makes it so; the two run in one transaction."""


class AuthorityChanges:
    """The use cases of authorities that exist.

    Args:
        store: the books.
        clock: the time.
        access: who may.
        views: makes answers.
        base_url: under which others reach this server; None: they do not.
    """

    def __init__(
        self, *, store: Store, clock: Clock, access: Access, views: AuthorityViews, base_url: str | None
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._views = views
        self._base_url = base_url

    def update(self, caller: Caller, change: Change, new: NewSettings) -> AuthorityView:
        """Replaces labels, revocation settings and deletion protection, those that are wanted.

        Raises AUTHORITY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, FIELD_INVALID for settings that contradict each
        other or what the authority is for, and STATE_FORBIDS for one that is purged, or to be protected and deleted.
        """

        def plan(_tx: Transaction, authority: Authority, _now: datetime) -> tuple[Authority, Apply]:
            if new.deletion_protection:
                check_not_deleted(authority)
            planned = replace(
                authority,
                labels=authority.labels if new.labels is None else dict(new.labels),
                revocation=_settings(authority, new.revocation),
                deletion_protection=(
                    authority.deletion_protection if new.deletion_protection is None else new.deletion_protection
                ),
            )

            def apply(tx: Transaction, authority: Authority, now: datetime) -> None:
                authorities.set_settings(tx, planned, now)
                if planned.certificate is not None and planned.revocation != authority.revocation:
                    ensure_lists_of_keys(tx, planned, self._base_url, now)
                changed = [field for field in _SETTINGS if getattr(planned, field) != getattr(authority, field)]
                fields = ",".join(changed)
                tx.event(event_of(EventType.AUTHORITY_UPDATED, authority, caller.principal, now, fields=fields))

            return planned, apply

        view = self.change(caller, Permission.AUTHORITY_UPDATE, "UpdateAuthority", change, plan, etag="authority.etag")
        if new.revocation is None:
            return view
        return replace(view, warnings=(*view.warnings, *location_warnings(view.authority, self._base_url)))

    def enable(self, caller: Caller, change: Change) -> AuthorityView:
        """Lets a DISABLED authority issue again; one that is ENABLED stays as it is.

        Raises AUTHORITY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, and STATE_FORBIDS while it awaits its certificate,
        when that has ended or was revoked, and when it is deleted.
        """

        def plan(tx: Transaction, authority: Authority, now: datetime) -> tuple[Authority, Apply]:
            if authority.state_at(now) is AuthorityState.EXPIRED:
                raise state_forbids(
                    authority,
                    AuthorityState.EXPIRED,
                    "its certificate has ended, so that nothing it issued would be valid; have it certified again"
                    " (ReissueAuthorityCertificate, or ActivateAuthority below an outside parent)",
                )
            if is_revoked(tx, authority):
                raise state_forbids(
                    authority,
                    authority.state,
                    "its certificate is revoked, so that nobody who looks would accept what it issues; create another"
                    " authority",
                )
            return _with_state(authority, AuthorityState.ENABLED, EventType.AUTHORITY_ENABLED, caller.principal)

        return self.change(caller, Permission.AUTHORITY_ENABLE, "EnableAuthority", change, plan)

    def disable(self, caller: Caller, change: Change) -> AuthorityView:
        """Stops an authority from issuing; one that is DISABLED stays as it is. An expired one may be disabled.

        Raises AUTHORITY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, and STATE_FORBIDS while it awaits its certificate
        and when it is deleted.
        """

        def plan(_tx: Transaction, authority: Authority, _now: datetime) -> tuple[Authority, Apply]:
            return _with_state(authority, AuthorityState.DISABLED, EventType.AUTHORITY_DISABLED, caller.principal)

        return self.change(caller, Permission.AUTHORITY_ENABLE, "DisableAuthority", change, plan)

    def change(
        self,
        caller: Caller,
        permission: Permission,
        method: str,
        change: Change,
        plan: Plan,
        *,
        etag: str = "etag",
    ) -> AuthorityView:
        """Does what is planned in one transaction, unless nothing changes by it or the same request did it before.

        Raises PERMISSION_MISSING, AUTHORITY_NOT_FOUND, REQUEST_ID_REUSED, ETAG_MISMATCH, STATE_FORBIDS of one that is
        purged, and what `plan` does.
        """
        self._access.require(caller, permission, str(change.name))
        now = self._clock.now()
        if change.validate_only:
            with self._store.read("authorities.validate") as tx:
                authority = existing_authority(tx, change.name)
                check_etag(authority, change.etag, field=etag)
                check_not_purged(authority)
                planned, _ = plan(tx, authority, now)
                return self._views.read(tx, planned, now)

        def work(tx: Transaction) -> AuthorityView:
            authority = existing_authority(tx, change.name)
            if not made_before(tx, caller, method, change.key, authority, now):
                check_etag(authority, change.etag, field=etag)
                check_not_purged(authority)
                planned, apply = plan(tx, authority, now)
                if planned != authority:
                    apply(tx, authority, now)
                    tx.configuration_changed()
                    authority = existing_authority(tx, change.name)
            return self._views.read(tx, authority, now)

        return self._store.write("authorities.change", work)


def _settings(authority: Authority, change: SettingsChange | None) -> RevocationSettings:
    if change is None:
        return authority.revocation
    short_lived = authority.usage_mode is UsageMode.SHORT_LIVED
    return changed_settings(authority.revocation, change, short_lived=short_lived, field="authority.revocation")


def made_before(
    tx: Transaction, caller: Caller, method: str, key: RequestKey | None, authority: Authority, now: datetime
) -> bool:
    """Records a request for a change of an authority; returns whether it was made before. Raises REQUEST_ID_REUSED."""
    if key is None:
        return False
    found = request_records.claim(tx, record_of(caller, method, key, resource=authority.uid, now=now))
    if found is None:
        return False
    same_request(found, key.request_sha256)
    return True


def check_not_purged(authority: Authority) -> None:
    """Raises STATE_FORBIDS for an authority that is purged."""
    if authority.state is AuthorityState.PURGED:
        raise state_forbids(authority, authority.state, "its keys are destroyed, and nothing of it changes any more")


def check_not_deleted(authority: Authority) -> None:
    """Raises STATE_FORBIDS for an authority that is deleted or purged."""
    check_not_purged(authority)
    if authority.delete_time is not None:
        raise state_forbids(authority, AuthorityState.DELETED, "undelete it first (UndeleteAuthority)")


def _with_state(
    authority: Authority, state: AuthorityState, type_: EventType, principal: str
) -> tuple[Authority, Apply]:
    check_not_deleted(authority)
    if authority.state is AuthorityState.AWAITING_CERTIFICATE:
        raise state_forbids(
            authority, authority.state, "it has no certificate yet; install the one of its parent (ActivateAuthority)"
        )

    def apply(tx: Transaction, authority: Authority, now: datetime) -> None:
        authorities.set_state(tx, authority.uid, state, now)
        tx.event(event_of(type_, authority, principal, now))

    return replace(authority, state=state), apply


def is_revoked(tx: Transaction, authority: Authority) -> bool:
    """Returns whether an authority of this server has revoked its certificate, or any of its key that is compromised.

    What outside parents revoke nobody here knows.
    """
    key = authority.tenant, hashlib.sha256(authority.key.public_key or b"").digest()
    if blocked_keys.blocked(tx, {key}):
        return True
    if authority.certificate is None or authority.issuer_uid is None:
        return False
    serial = normalise_serial("serial_number", describe(authority.certificate).serial_number)
    row = certificates.get(tx, authority.issuer_uid, serial)
    return row is not None and row.state is CertificateState.REVOKED


def state_forbids(authority: Authority, state: AuthorityState, why: str) -> CertdError:
    """Returns STATE_FORBIDS; `why` tells the remedy too."""
    return CertdError(
        Reason.STATE_FORBIDS,
        f"{authority.name} is {state}: {why}",
        metadata={"state": state},
        resource=authority.name,
    )
