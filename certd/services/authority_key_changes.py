"""The second to the last step of a key rotation: a prepared key signs, the one before is tainted or retired.

Each is one transaction: request record, permission to change it now (etag, state), the rows, the event.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.authority import Authority, AuthorityKey, AuthorityKeyState
from certd.model.event import EventType
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import RenewalCampaignName
from certd.model.renewal_campaign import DEFAULT_RENEWALS_PER_MINUTE, RenewalCampaign, new_campaign_id
from certd.pki.preparation import Warning  # noqa: A004  # The API's word.
from certd.services.access import Access
from certd.services.authorities import existing_authority
from certd.services.authority_changes import Change, is_revoked, made_before
from certd.services.authority_keys import is_in_the_making
from certd.services.authority_views import (
    AuthorityView,
    AuthorityViews,
    authority_with_key,
    check_etag,
    event_of,
)
from certd.services.renewal_campaigns import begin_campaign
from certd.services.status_locations import resume_lists
from certd.store import authority_keys, certificates, live_certificates, revocation_lists
from certd.store.store import Store, Transaction

_LIVE_TOLD: Final = 3
_LONGEST_WAIT: Final = 5.0
"""Seconds for which whoever has another key sign waits for what the one before was to sign."""
_PAUSE: Final = 0.02
_KEY_AWAITED: Final = 1.0
"""Seconds after which a key that is being prepared should be."""

_Apply = Callable[[Transaction], tuple[Warning, ...]]
_Plan = Callable[[Transaction, Authority, Authority], tuple[AuthorityKeyState, _Apply]]
"""Given the authority, and the same where the key signs; returns the state of the key, and what makes it so."""


class AuthorityKeyChanges:
    """The use cases of keys that are prepared."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        views: AuthorityViews,
        wake_scheduler: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._views = views
        self._wake_scheduler = wake_scheduler

    def activate(self, caller: Caller, change: Change, number: int) -> AuthorityView:
        """Has a PREPARED or SUPERSEDED key sign from now on; the one that did is SUPERSEDED. ACTIVE stays so.

        Of what was prepared for the key before, nothing is signed whose intent was not in the books by then: the
        issuing loop looks in the transaction of the intent, and who asked tries again. What was in the books is waited
        for, so that the key before has signed its last certificate when this returns; a warning says if not.

        Raises AUTHORITY_NOT_FOUND, AUTHORITY_KEY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, REQUEST_IN_PROGRESS, and
        STATE_FORBIDS for any other key, and for one whose certificate is missing, has ended or is revoked.
        """
        now = self._clock.now()

        def plan(tx: Transaction, authority: Authority, found: Authority) -> tuple[AuthorityKeyState, _Apply]:
            _check_state(
                found,
                {AuthorityKeyState.PREPARED, AuthorityKeyState.SUPERSEDED},
                "only one that is PREPARED or SUPERSEDED is made to sign; prepare another (PrepareAuthorityKey)",
            )
            _check_usable(tx, authority, found, now)

            def apply(tx: Transaction) -> tuple[Warning, ...]:
                key = authority_keys.get(tx, found.uid, number) or found.key
                authority_keys.switch(tx, authority, key, now)
                # The last CRLs of one that was SUPERSEDED may be out, if nothing that it had signed was left.
                resume_lists(tx, found, now)
                before = str(authority.key.number)
                tx.event(event_of(EventType.AUTHORITY_KEY_ACTIVATED, found, caller.principal, now, before=before))
                return ()

            return AuthorityKeyState.ACTIVE, apply

        view = self._change(caller, "ActivateAuthorityKey", change, number, plan)
        return view if change.validate_only else self._with_the_last_signed(view, number)

    def _with_the_last_signed(self, view: AuthorityView, number: int) -> AuthorityView:
        """Waits until other keys have signed what they were to sign."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while time.monotonic() < deadline:
            with self._store.read("authority-keys.pending") as tx:
                if not certificates.any_pending_by_others(tx, view.authority.uid, number):
                    return view
            time.sleep(_PAUSE)
        problem = "the key before signs what it was to sign when this key took its place, and has not come to its end"
        return replace(view, warnings=(*view.warnings, Warning("key_number", f"{problem}; look at the token")))

    def taint(self, caller: Caller, change: Change, number: int) -> AuthorityView:
        """Marks a SUPERSEDED key as not to be relied on, and has managed certificates that it signed renewed now.

        A renewal campaign does so, so many in a minute; a warning names it. Raises what `activate` does.
        """
        now = self._clock.now()

        def plan(_tx: Transaction, authority: Authority, found: Authority) -> tuple[AuthorityKeyState, _Apply]:
            _check_state(
                found,
                {AuthorityKeyState.SUPERSEDED},
                "only one that is SUPERSEDED is tainted; have another key sign first (ActivateAuthorityKey)",
            )

            def apply(tx: Transaction) -> tuple[Warning, ...]:
                campaign = _campaign(authority, number, caller.principal, now)
                begin_campaign(tx, campaign, caller.principal, now)
                authority_keys.set_state(tx, found.uid, number, AuthorityKeyState.TAINTED, now)
                name = str(campaign.name)
                tx.event(event_of(EventType.AUTHORITY_KEY_TAINTED, found, caller.principal, now, campaign=name))
                return (Warning("key_number", f"managed certificates that the key signed are renewed by {name}"),)

            return AuthorityKeyState.TAINTED, apply

        view = self._change(caller, "TaintAuthorityKey", change, number, plan)
        self._wake_scheduler()
        return view

    def retire(self, caller: Caller, change: Change, number: int, *, allow_live: bool) -> AuthorityView:
        """Ends the use of a key that is not the one that signs. CRLs and answers go on while they can matter.

        Raises CERTIFICATE_IN_USE while certificates that it signed are alive, unless `allow_live`, and what `activate`
        does.
        """
        now = self._clock.now()

        def plan(tx: Transaction, _authority: Authority, found: Authority) -> tuple[AuthorityKeyState, _Apply]:
            _check_state(
                found,
                {AuthorityKeyState.PREPARED, AuthorityKeyState.SUPERSEDED, AuthorityKeyState.TAINTED},
                "have another key sign first (ActivateAuthorityKey)",
            )
            if not allow_live:
                _check_no_live(tx, found, now)

            def apply(tx: Transaction) -> tuple[Warning, ...]:
                authority_keys.set_state(tx, found.uid, number, AuthorityKeyState.RETIRED, now)
                revocation_lists.mark_changed(tx, found.uid, number, None, now)
                tx.event(event_of(EventType.AUTHORITY_KEY_RETIRED, found, caller.principal, now))
                return ()

            return AuthorityKeyState.RETIRED, apply

        return self._change(caller, "RetireAuthorityKey", change, number, plan)

    def _change(self, caller: Caller, method: str, change: Change, number: int, plan: _Plan) -> AuthorityView:
        """Does what is planned, unless the key is there already."""
        self._access.require(caller, Permission.AUTHORITY_ROTATE, str(change.name))
        now = self._clock.now()
        wanted = _REACHED[method]
        if change.validate_only:
            with self._store.read("authority-keys.validate") as tx:
                authority = existing_authority(tx, change.name)
                check_etag(authority, change.etag)
                found = _existing_key(tx, authority, number)
                if found.key.state is not wanted:
                    state, _ = plan(tx, authority, found)
                    found = replace(found, key=replace(found.key, state=state))
                return _as_planned(self._views.read(tx, authority, now), found.key)

        def work(tx: Transaction) -> AuthorityView:
            authority = existing_authority(tx, change.name)
            warnings: tuple[Warning, ...] = ()
            if not made_before(tx, caller, method, change.key, authority, now):
                check_etag(authority, change.etag)
                # Who changes its keys at the same time waits here.
                authority_keys.lock(tx, authority.uid)
                authority = existing_authority(tx, change.name)
                found = _existing_key(tx, authority, number)
                if found.key.state is not wanted:
                    _, apply = plan(tx, authority, found)
                    warnings = apply(tx)
                    tx.configuration_changed()
                    authority = existing_authority(tx, change.name)
            return self._views.read(tx, authority, now, warnings=warnings)

        return self._store.write("authority-keys.change", work)


_REACHED: Final = {
    "ActivateAuthorityKey": AuthorityKeyState.ACTIVE,
    "TaintAuthorityKey": AuthorityKeyState.TAINTED,
    "RetireAuthorityKey": AuthorityKeyState.RETIRED,
}


def _existing_key(tx: Transaction, authority: Authority, number: int) -> Authority:
    if authority.delete_time is not None:
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{authority.name} is DELETED; undelete it first (UndeleteAuthority)",
            metadata={"state": "DELETED"},
            resource=authority.name,
        )
    return authority_with_key(tx, authority, number)


def _check_state(found: Authority, allowed: set[AuthorityKeyState], remedy: str) -> None:
    if found.key.state not in allowed:
        raise _state_forbids(found, f"is {found.key.state}; {remedy}")


def _check_usable(tx: Transaction, authority: Authority, found: Authority, now: datetime) -> None:
    """Raises unless relying parties would accept what the key signs."""
    if is_in_the_making(authority, found.key):
        raise CertdError(
            Reason.REQUEST_IN_PROGRESS,
            f"key {found.key.number} of {found.name} is still being prepared; try again",
            retry_after=_KEY_AWAITED,
            resource=found.name,
        )
    if found.certificate is None:
        raise _state_forbids(
            found,
            "awaits its certificate; have its CSR certified (GetAuthorityCsr) and install that (ActivateAuthority)",
        )
    if found.not_after is not None and now > found.not_after:
        raise _state_forbids(found, "has a certificate that has ended; prepare another key (PrepareAuthorityKey)")
    if is_revoked(tx, found):
        raise _state_forbids(found, "has a certificate that is revoked; prepare another key (PrepareAuthorityKey)")


def _check_no_live(tx: Transaction, found: Authority, now: datetime) -> None:
    own = live_certificates.own_keys(tx, found.uid)
    live = live_certificates.of_key(tx, found.uid, found.key.number, now, own=own, limit=_LIVE_TOLD + 1)
    if not live:
        return
    told = ", ".join(live[:_LIVE_TOLD]) + (" and more" if len(live) > _LIVE_TOLD else "")
    raise CertdError(
        Reason.CERTIFICATE_IN_USE,
        f"key {found.key.number} of {found.name} signed certificates that are alive: {told}; replace or revoke them,"
        " wait until they end, or set allow_live_certificates",
        metadata={"certificates": told, "key_number": str(found.key.number)},
        resource=found.name,
    )


def _campaign(authority: Authority, number: int, principal: str, now: datetime) -> RenewalCampaign:
    return RenewalCampaign(
        uid=uuid.uuid4().hex,
        name=RenewalCampaignName(authority.tenant or "", new_campaign_id()),
        filter=ManagedCertificateFilter(authority=authority.name, authority_key_number=number),
        renewals_per_minute=DEFAULT_RENEWALS_PER_MINUTE,
        reason=f"key {number} of the authority is tainted",
        next_renewal_time=now,
        creator=principal,
        create_time=now,
    )


def _as_planned(view: AuthorityView, planned: AuthorityKey) -> AuthorityView:
    """Returns a view in which a key has the state that it would have."""
    states = {planned.number: planned.state}
    if planned.state is AuthorityKeyState.ACTIVE and planned.number != view.authority.key.number:
        states[view.authority.key.number] = AuthorityKeyState.SUPERSEDED
    keys = tuple(replace(key, state=states.get(key.number, key.state)) for key in view.keys)
    return replace(view, keys=keys)


def _state_forbids(found: Authority, why: str) -> CertdError:
    return CertdError(
        Reason.STATE_FORBIDS,
        f"key {found.key.number} of {found.name} {why}",
        metadata={"state": found.key.state, "key_number": str(found.key.number)},
        resource=found.name,
    )
