"""What changes of an authority after its creation: its labels, and whether it issues.

A change is one transaction: request record, permission to change it now (etag, state), the row, the event.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.authority import Authority, AuthorityState
from certd.model.certificate import CertificateState
from certd.model.event import EventType
from certd.model.names import AuthorityName, normalise_serial
from certd.pki.description import describe
from certd.services.access import Access
from certd.services.authorities import existing_authority
from certd.services.authority_views import AuthorityView, AuthorityViews, check_etag, event_of
from certd.services.idempotency import RequestKey, record_of, same_request
from certd.store import authorities, certificates, request_records
from certd.store.store import Store, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How a change is asked for."""

    name: AuthorityName
    etag: str = ""
    """Empty for none."""
    key: RequestKey | None = None
    validate_only: bool = False


_Apply = Callable[[Transaction, Authority, datetime], None]
_Plan = Callable[[Transaction, Authority, datetime], tuple[Authority, _Apply]]


class AuthorityChanges:
    """The use cases of authorities that exist."""

    def __init__(self, *, store: Store, clock: Clock, access: Access, views: AuthorityViews) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._views = views

    def update(self, caller: Caller, change: Change, *, labels: Mapping[str, str] | None) -> AuthorityView:
        """Replaces the labels, unless they are None.

        Raises AUTHORITY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED.
        """

        def plan(_tx: Transaction, authority: Authority, _now: datetime) -> tuple[Authority, _Apply]:
            wanted = authority.labels if labels is None else labels

            def apply(tx: Transaction, authority: Authority, now: datetime) -> None:
                authorities.set_labels(tx, authority.uid, wanted, now)
                tx.event(event_of(EventType.AUTHORITY_UPDATED, authority, caller.principal, now, fields="labels"))

            return replace(authority, labels=dict(wanted)), apply

        return self._change(caller, Permission.AUTHORITY_UPDATE, "UpdateAuthority", change, plan, etag="authority.etag")

    def enable(self, caller: Caller, change: Change) -> AuthorityView:
        """Lets a DISABLED authority issue again; one that is ENABLED stays as it is.

        Raises AUTHORITY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, and STATE_FORBIDS while it awaits its certificate
        or when that has ended or was revoked.
        """

        def plan(tx: Transaction, authority: Authority, now: datetime) -> tuple[Authority, _Apply]:
            if authority.state_at(now) is AuthorityState.EXPIRED:
                raise _state_forbids(
                    authority,
                    AuthorityState.EXPIRED,
                    "its certificate has ended, so that nothing it issued would be valid; create another authority",
                )
            if _is_revoked(tx, authority):
                raise _state_forbids(
                    authority,
                    authority.state,
                    "its certificate is revoked, so that nobody who looks would accept what it issues; create another"
                    " authority",
                )
            return _with_state(authority, AuthorityState.ENABLED, EventType.AUTHORITY_ENABLED, caller.principal)

        return self._change(caller, Permission.AUTHORITY_ENABLE, "EnableAuthority", change, plan)

    def disable(self, caller: Caller, change: Change) -> AuthorityView:
        """Stops an authority from issuing; one that is DISABLED stays as it is. An expired one may be disabled.

        Raises AUTHORITY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, and STATE_FORBIDS while it awaits its certificate.
        """

        def plan(_tx: Transaction, authority: Authority, _now: datetime) -> tuple[Authority, _Apply]:
            return _with_state(authority, AuthorityState.DISABLED, EventType.AUTHORITY_DISABLED, caller.principal)

        return self._change(caller, Permission.AUTHORITY_ENABLE, "DisableAuthority", change, plan)

    def _change(
        self,
        caller: Caller,
        permission: Permission,
        method: str,
        change: Change,
        plan: _Plan,
        *,
        etag: str = "etag",
    ) -> AuthorityView:
        """`plan` returns the authority as it would be, and what makes it so; the two run in one transaction."""
        self._access.require(caller, permission, str(change.name))
        now = self._clock.now()
        if change.validate_only:
            with self._store.read("authorities.validate") as tx:
                authority = existing_authority(tx, change.name)
                check_etag(authority, change.etag, field=etag)
                planned, _ = plan(tx, authority, now)
                return self._views.read(tx, planned, now)

        def work(tx: Transaction) -> AuthorityView:
            authority = existing_authority(tx, change.name)
            if not made_before(tx, caller, method, change.key, authority, now):
                check_etag(authority, change.etag, field=etag)
                planned, apply = plan(tx, authority, now)
                if planned != authority:
                    apply(tx, authority, now)
                    tx.configuration_changed()
                    authority = existing_authority(tx, change.name)
            return self._views.read(tx, authority, now)

        return self._store.write("authorities.change", work)


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


def _with_state(
    authority: Authority, state: AuthorityState, type_: EventType, principal: str
) -> tuple[Authority, _Apply]:
    if authority.state is AuthorityState.AWAITING_CERTIFICATE:
        raise _state_forbids(
            authority, authority.state, "it has no certificate yet; install the one of its parent (ActivateAuthority)"
        )

    def apply(tx: Transaction, authority: Authority, now: datetime) -> None:
        authorities.set_state(tx, authority.uid, state, now)
        tx.event(event_of(type_, authority, principal, now))

    return replace(authority, state=state), apply


def _is_revoked(tx: Transaction, authority: Authority) -> bool:
    """Returns whether an authority of this server has revoked its certificate; of outside parents nobody here knows."""
    if authority.certificate is None or authority.issuer_uid is None:
        return False
    serial = normalise_serial("serial_number", describe(authority.certificate).serial_number)
    row = certificates.get(tx, authority.issuer_uid, serial)
    return row is not None and row.state is CertificateState.REVOKED


def _state_forbids(authority: Authority, state: AuthorityState, why: str) -> CertdError:
    return CertdError(
        Reason.STATE_FORBIDS,
        f"{authority.name} is {state}: {why}",
        metadata={"state": state},
        resource=authority.name,
    )
