"""Certificate authorities: created in one call, shown, listed.

An authority comes to be one committed step at a time, and whoever finds it unfinished goes on where it stands:

    1. write: the row, with the key's CKA_ID and policy, and a job that finishes it should this process die. Commit.
    2. token: generate the key under that CKA_ID; a second time finds the same key.
    3. write: its public key. Commit. With an outside parent that ends the job: the authority awaits its certificate.
    4. issue its certificate by the five steps of the issuing loop; the completion enables it and ends the job.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.authority import Authority, AuthorityState, AuthorityType
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.model.job import Job, JobKind
from certd.model.names import AuthorityName, TenantName
from certd.model.tenant import Quota
from certd.pki.preparation import Issuer, Warning  # noqa: A004  # The API's word.
from certd.services.access import Access
from certd.services.authority_plan import (
    NewAuthority,
    constraint_warnings,
    order_of,
    plan_of,
    rehearsal_parent,
)
from certd.services.authority_views import (
    AuthorityView,
    AuthorityViews,
    chain_above,
    event_of,
    issuer_in_books,
)
from certd.services.idempotency import RequestKey, in_progress, record_of, replay
from certd.services.issuance import issuance_of, issuer_of, prepare, rehearsal_key
from certd.services.issuing_loop import IssuingLoop
from certd.services.issuing_refusals import token_unavailable
from certd.services.paging import Page, PageRequest, page_of
from certd.services.status_locations import ensure_lists, location_warnings, locations_of
from certd.services.steps import StepHook
from certd.services.system import SYSTEM_AUTHORITY_ID
from certd.services.tenants import check_quota, existing_tenant
from certd.store import authorities, jobs, request_records
from certd.store.request_records import RequestRecord
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient

_METHOD = "CreateAuthority"
_PAGE_LENGTH = 200
_LEASE = timedelta(minutes=10)
"""How long the call that creates an authority has before another daemon takes over, should this one hang and live."""
_HAND_OVER_DELAY = timedelta(seconds=1)
"""After this the scheduler takes over from a call that failed for a while."""
_SYSTEM_LIFETIME = timedelta(days=20 * 365)
_REMEDIES = {
    AuthorityState.AWAITING_CERTIFICATE: "install the certificate of its parent first",
    AuthorityState.DISABLED: "enable it, or use another authority",
    AuthorityState.EXPIRED: "have it certified again, or use another authority",
    AuthorityState.DELETED: "undelete and enable it, or use another authority",
    AuthorityState.PURGED: "use another authority",
}
_TRANSIENT = {Reason.TOKEN_UNAVAILABLE, Reason.STORE_UNAVAILABLE, Reason.SIGNING_QUEUE_FULL, Reason.SHUTTING_DOWN,
              Reason.DEADLINE_EXCEEDED, Reason.OWNERSHIP_LOST, Reason.INTERNAL}  # fmt: skip


class Authorities:
    """The use cases of authorities."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        access: Access,
        loop: IssuingLoop,
        epoch: Callable[[], int],
        views: AuthorityViews,
        base_url: str | None,
        step: StepHook,
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._access = access
        self._loop = loop
        self._epoch = epoch
        self._views = views
        self._base_url = base_url
        self._step = step

    def create(
        self, caller: Caller, new: NewAuthority, *, key: RequestKey | None, validate_only: bool
    ) -> AuthorityView:
        """Makes a working authority: key in the token, certificate in the books.

        A SUBORDINATE without an issuer has its key when this returns, and awaits the certificate of an outside parent.
        Raises FIELD_INVALID, PROFILE_FORBIDS, LIFETIME_EXCEEDS_AUTHORITY, AUTHORITY_NOT_FOUND, AUTHORITY_NOT_ENABLED,
        AUTHORITY_EXISTS, QUOTA_EXCEEDED, LINT_FAILED, and what the issuing loop raises.
        """
        name = str(new.name)
        self._access.require(caller, Permission.AUTHORITY_CREATE, name)
        if new.issuer is not None:
            # Having an authority sign another is a use of it, not of its tenant's names.
            self._access.require(caller, Permission.AUTHORITY_CREATE, str(new.issuer))
        now = self._clock.now()
        with self._store.read("authorities.create") as tx:
            existing_tenant(tx, new.name.tenant)
            made = None if validate_only else replay(tx, caller, _METHOD, key)
            if made is None:
                issuer = self._issuer(tx, new)
                if authorities.get(tx, new.name.tenant, new.name.authority) is not None:
                    raise _exists(name)
                check_quota(tx, new.name.tenant, Quota.AUTHORITIES)
        if made is not None:
            return self._replayed(made)
        planned = plan_of(new, issuer, now)
        warnings = (
            *constraint_warnings(new, issuer),
            *location_warnings(planned, self._base_url),
            *self._rehearse(planned, issuer, now),
        )
        if validate_only:
            return self._views.of(planned, issuer, now, warnings=warnings)
        if not self._token.ready:
            # Nothing is begun that cannot go on; a token that goes away later leaves the rest to the scheduler.
            raise token_unavailable(self._token.problem)
        record = None if key is None else record_of(caller, _METHOD, key, resource=planned.uid, now=now)
        found = self._store.write(
            "authorities.create", lambda tx: self._begin(tx, planned, caller.principal, record, now)
        )
        if found is not None:
            return self._replayed(found)
        self._step("authority.1.requested")
        try:
            finished = self.finish(planned.uid, principal=caller.principal)
        except CertdError as error:
            if may_pass(error):
                self._hand_over(planned.uid)
            raise
        return self._views.of(finished, issuer, self._clock.now(), warnings=warnings)

    def get(self, caller: Caller, name: AuthorityName) -> AuthorityView:
        """Returns an authority; raises AUTHORITY_NOT_FOUND."""
        self._access.require(caller, Permission.AUTHORITY_READ, str(name))
        with self._store.read("authorities.get") as tx:
            authority = existing_authority(tx, name)
            return self._views.read(tx, authority, self._clock.now())

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[AuthorityView]:
        """Returns a page of a tenant's authorities by name; raises TENANT_NOT_FOUND."""
        self._access.require(caller, Permission.AUTHORITY_READ, f"{parent}/authorities")
        query = f"authorities {parent}"
        after = request.after(query)
        now = self._clock.now()
        with self._store.read("authorities.page") as tx:
            existing_tenant(tx, parent.tenant)
            rows = authorities.page(tx, parent.tenant, after=after[0] if after else None, limit=request.size + 1)
            views = [self._views.listed(tx, authority, now) for authority in rows]
        return page_of(views, request, query, key=lambda view: [view.authority.authority_id])

    def ensure_system(self, trust_domain: str, subject: bytes, *, authority_id: str = SYSTEM_AUTHORITY_ID) -> Authority:
        """Makes a system authority, or finishes one that a crash left unfinished, and returns it."""
        with self._store.read("authorities.system") as tx:
            found = authorities.get(tx, None, authority_id)
        if found is None:
            now = self._clock.now()
            new = NewAuthority(
                name=AuthorityName("system", authority_id),
                type=AuthorityType.ROOT,
                subject=subject,
                lifetime=_SYSTEM_LIFETIME,
                path_length=0,
                labels={"trust-domain": trust_domain},
            )
            found = replace(plan_of(new, None, now), tenant=None)
            planned = found
            self._store.write("authorities.system", lambda tx: self._begin(tx, planned, SYSTEM_PRINCIPAL, None, now))
        return found if found.certificate is not None else self.finish(found.uid, principal=SYSTEM_PRINCIPAL)

    def resume(self, uid: str) -> None:
        """Finishes an authority whose creation was interrupted; called by the scheduler."""
        try:
            self.finish(uid, principal=SYSTEM_PRINCIPAL)
        except CertdError as error:
            if may_pass(error):
                raise
        self._store.write("authorities.settled", lambda tx: jobs.finish(tx, JobKind.ADVANCE_AUTHORITY, uid))

    def finish(self, uid: str, *, principal: str) -> Authority:
        """Takes an authority from wherever it stands to the end of its creation; idempotent.

        An error that can never pass removes what was begun; after any other the scheduler tries again.
        """
        with self._store.read("authorities.finish") as tx:
            authority = authorities.get_by_uid(tx, uid)
            issuer = None if authority is None else issuer_in_books(tx, authority)
        if authority is None:
            raise CertdError(
                Reason.AUTHORITY_NOT_FOUND, f"the authority {uid} was never finished and is gone; create it again"
            )
        if authority.finished:
            return authority
        try:
            public_key = authority.key.public_key or self._make_key(authority, principal)
            if authority.issuer_uid is not None:
                self._issue_own_certificate(authority, public_key, issuer, principal)
        except CertdError as error:
            if not may_pass(error):
                self._abandon(authority, error, principal)
            raise
        with self._store.read("authorities.finished") as tx:
            finished = authorities.get_by_uid(tx, uid)
        if finished is None:
            raise CertdError(Reason.AUTHORITY_NOT_FOUND, f"{authority.name} was removed while it was made")
        return finished

    def _begin(
        self, tx: Transaction, authority: Authority, principal: str, record: RequestRecord | None, now: datetime
    ) -> str | None:
        """Step 1. Returns the uid that an earlier call with the same request id made, if there is one."""
        if record is not None and request_records.claim(tx, record) is not None:
            return replay(
                tx,
                Caller(principal=principal, serial=""),
                _METHOD,
                RequestKey(record.request_id, record.request_sha256),
            )
        if authorities.get(tx, authority.tenant, authority.authority_id) is not None:
            raise _exists(authority.name)
        check_quota(tx, authority.tenant, Quota.AUTHORITIES)
        authorities.insert(tx, authority)
        jobs.put_claimed(tx, _job(authority.uid, now), lease_until=now + _LEASE, owner_epoch=self._epoch())
        tx.event(event_of(EventType.AUTHORITY_REQUESTED, authority, principal, now))
        return None

    def _hand_over(self, uid: str) -> None:
        """Leaves the rest to the scheduler; when that cannot be written, to whoever comes when the lease has ended."""
        due = self._clock.now() + _HAND_OVER_DELAY
        with contextlib.suppress(CertdError):
            self._store.write("authorities.hand-over", lambda tx: jobs.put(tx, _job(uid, due)))

    def _make_key(self, authority: Authority, principal: str) -> bytes:
        """Steps 2 and 3."""
        public_key = self._token.create_authority_key(
            key_id=authority.key.key_id, key_spec=authority.key_spec, policy=authority.key.policy
        )
        self._step("authority.2.key-made")
        now = self._clock.now()

        def record(tx: Transaction) -> None:
            authorities.set_public_key(tx, authority.uid, authority.key.number, public_key, now)
            tx.event(event_of(EventType.AUTHORITY_KEY_GENERATED, authority, principal, now))
            if authority.issuer_uid is None:
                # The rest is for people to do: the CSR, the outside parent, the activation.
                jobs.finish(tx, JobKind.ADVANCE_AUTHORITY, authority.uid)
                tx.event(event_of(EventType.AUTHORITY_CREATED, authority, principal, now, state=authority.state))
                tx.configuration_changed()

        self._store.write("authorities.key", record)
        self._step("authority.3.key-recorded")
        return public_key

    def _issue_own_certificate(
        self, authority: Authority, public_key: bytes, issuer: Authority | None, principal: str
    ) -> None:
        """Step 4."""
        now = self._clock.now()
        signer = issuer or authority
        order = order_of(authority, public_key)
        prepared = prepare(order, self._issuer_view(signer, public_key), now=now)

        def enable(tx: Transaction, der: bytes) -> None:
            done = authorities.activate(
                tx,
                authority.uid,
                certificate=der,
                chain=chain_above(tx, authority, signer.key.number),
                not_after=prepared.not_after,
                path_length=authority.path_length,
                now=now,
            )
            if not done:
                raise CertdError(Reason.STATE_FORBIDS, f"{authority.name} has its certificate already")
            ensure_lists(tx, authority, self._base_url, now)
            jobs.finish(tx, JobKind.ADVANCE_AUTHORITY, authority.uid)
            tx.configuration_changed()
            tx.event(event_of(EventType.AUTHORITY_CREATED, authority, principal, now))

        self._loop.issue(
            issuance_of(
                prepared,
                order,
                signer,
                principal=principal,
                now=now,
                by_enabled_authority=issuer is not None,
                also=enable,
            )
        )

    def _abandon(self, authority: Authority, error: CertdError, principal: str) -> None:
        """Removes what was begun of an authority that can never be finished; its key stays in the token."""
        now = self._clock.now()

        def remove(tx: Transaction) -> None:
            if authorities.delete_unfinished(tx, authority.uid):
                jobs.finish(tx, JobKind.ADVANCE_AUTHORITY, authority.uid)
                request_records.delete_of_resource(tx, authority.uid)
                tx.event(event_of(EventType.AUTHORITY_FAILED, authority, principal, now, reason=error.reason))

        self._store.write("authorities.abandon", remove)

    def _rehearse(self, planned: Authority, issuer: Authority | None, now: datetime) -> tuple[Warning, ...]:
        """Runs every check of the certificate with a throw-away key, before anything is written."""
        public_key = rehearsal_key(planned.key_spec)
        if planned.issuer_uid is None:
            # Nobody knows what the outside parent will look at, but what nobody here would sign is not asked for.
            return prepare(order_of(planned, public_key), rehearsal_parent(planned), now=now).warnings
        signer = issuer or planned
        return prepare(order_of(planned, public_key), self._issuer_view(signer, public_key), now=now).warnings

    def _issuer_view(self, signer: Authority, public_key: bytes) -> Issuer:
        """A root in the making is its own issuer; every other issuer has its key already."""
        return issuer_of(
            signer, public_key=signer.key.public_key or public_key, locations=locations_of(signer, self._base_url)
        )

    def _issuer(self, tx: Transaction, new: NewAuthority) -> Authority | None:
        if new.type is AuthorityType.ROOT:
            if new.issuer is not None:
                raise field_invalid("authority.issuer", "must be empty for a ROOT, which signs its own certificate")
            return None
        if new.issuer is None:
            return None
        if new.issuer.tenant != new.name.tenant:
            raise CertdError(
                Reason.AUTHORITY_NOT_FOUND, f"{new.issuer} is not an authority of {TenantName(new.name.tenant)}",
                resource=str(new.issuer),
            )  # fmt: skip
        return enabled_authority(tx, new.issuer, self._clock.now())

    def _replayed(self, uid: str) -> AuthorityView:
        with self._store.read("authorities.replay") as tx:
            authority = authorities.get_by_uid(tx, uid)
            if authority is None or not authority.finished:
                raise in_progress("the authority")
            return self._views.read(tx, authority, self._clock.now())


def may_pass(error: CertdError) -> bool:
    """Returns whether a later attempt may succeed; a token that is there and says no will always say it."""
    return error.reason in _TRANSIENT and (error.retry_after is not None or error.reason != Reason.TOKEN_UNAVAILABLE)


def existing_authority(tx: Transaction, name: AuthorityName) -> Authority:
    """Returns an authority of a tenant; raises AUTHORITY_NOT_FOUND."""
    found = authorities.get(tx, name.tenant, name.authority)
    if found is None:
        raise CertdError(Reason.AUTHORITY_NOT_FOUND, f"{name} does not exist", resource=str(name))
    return found


def every_authority(tx: Transaction, tenant: str) -> list[Authority]:
    """Returns all authorities of a tenant, by id."""
    found: list[Authority] = []
    while True:
        part = authorities.page(tx, tenant, after=found[-1].authority_id if found else None, limit=_PAGE_LENGTH)
        found += part
        if len(part) < _PAGE_LENGTH:
            return found


def enabled_authority(tx: Transaction, name: AuthorityName, now: datetime) -> Authority:
    """Returns an authority that may issue; raises AUTHORITY_NOT_FOUND or AUTHORITY_NOT_ENABLED."""
    found = existing_authority(tx, name)
    check_enabled(found, now)
    return found


def check_enabled(authority: Authority, now: datetime) -> None:
    """Raises AUTHORITY_NOT_ENABLED unless the authority may issue."""
    state = authority.state_at(now)
    if state is not AuthorityState.ENABLED:
        raise CertdError(
            Reason.AUTHORITY_NOT_ENABLED,
            f"{authority.name} is {state} and issues nothing; {_REMEDIES[state]}",
            metadata={"state": state},
            resource=authority.name,
        )


def _job(uid: str, due_time: datetime) -> Job:
    return Job(kind=JobKind.ADVANCE_AUTHORITY, subject=uid, due_time=due_time)


def _exists(name: str) -> CertdError:
    return CertdError(Reason.AUTHORITY_EXISTS, f"{name} exists already; choose another authority_id", resource=name)
