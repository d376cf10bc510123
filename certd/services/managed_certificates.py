"""Managed certificates: declared, shown, listed. `managed_certificate_steps` takes them further."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from certd.clock import Clock
from certd.errors import CertdError, Reason, Violation
from certd.model.access import Caller, Permission
from certd.model.authority import Authority
from certd.model.event import EventType
from certd.model.job import Job, JobKind
from certd.model.managed_certificate import (
    ISSUED,
    Condition,
    ManagedCertificate,
    ManagedCertificateState,
)
from certd.model.names import AuthorityName, ManagedCertificateName, ProfileName, TenantName
from certd.model.renewal import DEFAULT_RENEWAL_POLICY, RenewalPolicy
from certd.model.tenant import Quota
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared  # The API's word.
from certd.pki.profile import Profile
from certd.services.access import Access
from certd.services.idempotency import RequestKey, record_of, replay
from certd.services.issuance import rehearsal_key
from certd.services.issuing import Issuing
from certd.services.managed_certificate_records import event_of
from certd.services.managed_certificate_views import (
    ManagedCertificateView,
    existing_managed,
    listed_view_of,
    view_of,
    view_with,
)
from certd.services.paging import Page, PageRequest, page_of
from certd.services.profiles import DEFAULT_PROFILE
from certd.services.remembered import Remembered
from certd.services.renewal_planning import maintenance_warnings
from certd.services.signers import Signers
from certd.services.steps import StepHook
from certd.services.tenants import check_quota, existing_tenant
from certd.services.version_making import leaf_profile, order_of
from certd.store import (
    grants,
    jobs,
    managed_certificates,
    request_records,
)
from certd.store.request_records import RequestRecord
from certd.store.store import Store, Transaction

_METHOD = "RequestManagedCertificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewManagedCertificate:
    """What a caller declares."""

    name: ManagedCertificateName
    authority: AuthorityName
    profile: ProfileName | None = None
    key_spec: KeySpec | None = None
    subject: bytes
    """DER of the distinguished name; the empty sequence for none."""
    names: SubjectAlternativeNames
    lifetime: timedelta | None = None
    exportable: bool = True
    renewal: RenewalPolicy = DEFAULT_RENEWAL_POLICY
    labels: Mapping[str, str] = field(default_factory=dict)


class ManagedCertificates:
    """The use cases of managed certificates."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        signers: Signers,
        issuing: Issuing,
        wake_scheduler: Callable[[], None],
        step: StepHook,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._signers = signers
        self._issuing = issuing
        self._wake_scheduler = wake_scheduler
        self._profiles: Remembered[tuple[ProfileName, str], Profile] = Remembered(
            store, "managed-certificates.profile", _usable_profile
        )
        self._step = step

    def request(
        self, caller: Caller, new: NewManagedCertificate, *, key: RequestKey | None, validate_only: bool
    ) -> ManagedCertificateView:
        """Declares a managed certificate; the answer may still be PENDING.

        Every check of its first certificate runs now, with a throw-away key, so that what will fail fails here.
        The caller needs the permission on the name and on the authority that it has issue it.
        Raises what `pki.preparation.prepare` raises, AUTHORITY_NOT_FOUND, AUTHORITY_NOT_ENABLED, PROFILE_NOT_FOUND,
        PROFILE_FORBIDS, MANAGED_CERTIFICATE_EXISTS, QUOTA_EXCEEDED, REQUEST_ID_REUSED.
        """
        name = str(new.name)
        now = self._clock.now()
        profile_name = new.profile or ProfileName(new.name.tenant, DEFAULT_PROFILE)
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_REQUEST, name, profile=profile_name.profile)
        self._access.require(
            caller, Permission.MANAGED_CERTIFICATE_REQUEST, str(new.authority), profile=profile_name.profile
        )
        if new.authority.tenant != new.name.tenant:
            raise CertdError(
                Reason.AUTHORITY_NOT_FOUND,
                f"{new.authority} is not an authority of tenants/{new.name.tenant}",
                resource=str(new.authority),
            )
        try:
            declared, prepared = self._rehearse(caller, new, profile_name, now)
        except CertdError as error:
            # An earlier call may have made it, though now it would be refused.
            missing = error.reason is Reason.PERMISSION_MISSING
            earlier = None if validate_only or missing else self._earlier(caller, key)
            if earlier is None:
                raise error.another() from error
            return earlier
        unkept = maintenance_warnings(new.renewal, prepared.not_before, prepared.not_after)
        view = replace(view_with(declared, None, now), warnings=(*prepared.warnings, *unkept))
        if validate_only:
            with self._store.read("managed-certificates.validate") as tx:
                if managed_certificates.get(tx, new.name.tenant, new.name.managed_certificate) is not None:
                    raise _exists(name)
                check_quota(tx, new.name.tenant, Quota.MANAGED_CERTIFICATES)
            return view
        record = None if key is None else record_of(caller, _METHOD, key, resource=declared.uid, now=now)
        found = self._store.write(
            "managed-certificates.request", lambda tx: self._declare(tx, caller, declared, record, now)
        )
        if found is not None:
            with self._store.read("managed-certificates.replay") as tx:
                return self._replayed(tx, found)
        self._step("managed.1.requested")
        self._wake_scheduler()
        return view

    def _rehearse(
        self, caller: Caller, new: NewManagedCertificate, profile_name: ProfileName, now: datetime
    ) -> tuple[ManagedCertificate, Prepared]:
        """Returns what is to be declared, and its first certificate as it would be with a throw-away key."""
        profile = self._profiles.get((profile_name, new.name.tenant))
        if profile.restricted:
            self._access.require(caller, Permission.AUTHORITY_CREATE, str(new.authority))
        signer = self._signers.enabled(new.authority, now)
        declared = _declared(new, signer.authority, profile.profile_id, now)
        order = order_of(declared, profile, rehearsal_key(declared.key_spec))
        return declared, self._issuing.prepare(signer, order, now=now)

    def _earlier(self, caller: Caller, key: RequestKey | None) -> ManagedCertificateView | None:
        with self._store.read("managed-certificates.earlier") as tx:
            made = replay(tx, caller, _METHOD, key)
            return None if made is None else self._replayed(tx, made)

    def get(self, caller: Caller, name: ManagedCertificateName) -> ManagedCertificateView:
        """Returns a managed certificate; raises MANAGED_CERTIFICATE_NOT_FOUND."""
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_READ, str(name))
        with self._store.read("managed-certificates.get") as tx:
            return view_of(tx, existing_managed(tx, name), self._clock.now())

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[ManagedCertificateView]:
        """Returns a page of a tenant's managed certificates by name, without chains."""
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_READ, f"{parent}/managedCertificates")
        query = f"managedCertificates {parent}"
        after = request.after(query)
        with self._store.read("managed-certificates.page") as tx:
            existing_tenant(tx, parent.tenant)
            rows = managed_certificates.page(
                tx, parent.tenant, after=after[0] if after else None, limit=request.size + 1
            )
            now = self._clock.now()
            views = [listed_view_of(tx, row, now) for row in rows]
        return page_of(views, request, query, key=lambda view: [view.managed_certificate.managed_certificate_id])

    def _declare(
        self,
        tx: Transaction,
        caller: Caller,
        declared: ManagedCertificate,
        record: RequestRecord | None,
        now: datetime,
    ) -> str | None:
        """Step 1. Returns the uid that an earlier call with the same request id made, if there is one."""
        if record is not None and request_records.claim(tx, record) is not None:
            return replay(tx, caller, _METHOD, RequestKey(record.request_id, record.request_sha256))
        # It may have been deleted since it was read, or restricted; from here on its deletion is refused.
        profile = leaf_profile(tx, ProfileName(declared.tenant, declared.profile), declared.tenant)
        if profile.restricted and not any(
            grant.allows(Permission.AUTHORITY_CREATE, declared.authority_name)
            for grant in grants.of_caller(tx, caller.principal)
        ):
            name = declared.profile
            rule = f"the profile {name} was restricted while this was requested, and needs an authority operator"
            violation = Violation("managed_certificate.profile", rule)
            raise CertdError(Reason.PROFILE_FORBIDS, f"{rule}; have one request it", violations=(violation,))
        check_quota(tx, declared.tenant, Quota.MANAGED_CERTIFICATES)
        managed_certificates.insert(tx, declared)
        jobs.put(tx, Job(kind=JobKind.ADVANCE_MANAGED_CERTIFICATE, subject=declared.uid, due_time=now))
        tx.event(event_of(EventType.MANAGED_CERTIFICATE_REQUESTED, declared, caller.principal, now))
        return None

    def _replayed(self, tx: Transaction, uid: str) -> ManagedCertificateView:
        managed = managed_certificates.get_by_uid(tx, uid)
        if managed is None:
            raise CertdError(
                Reason.MANAGED_CERTIFICATE_NOT_FOUND, "what this request_id made is deleted; send a new one"
            )
        return view_of(tx, managed, self._clock.now())


def _usable_profile(tx: Transaction, key: tuple[ProfileName, str]) -> Profile:
    name, tenant = key
    existing_tenant(tx, tenant)
    return leaf_profile(tx, name, tenant)


def _declared(new: NewManagedCertificate, authority: Authority, profile: str, now: datetime) -> ManagedCertificate:
    waiting = Condition(
        type=ISSUED, status=False, reason="Requested", message="Waits for the scheduler.", last_transition_time=now
    )
    return ManagedCertificate(
        uid=uuid.uuid4().hex,
        tenant=new.name.tenant,
        managed_certificate_id=new.name.managed_certificate,
        authority_uid=authority.uid,
        authority_name=str(new.authority),
        profile=profile,
        key_spec=new.key_spec or KeySpec.EC_P256,
        subject=new.subject,
        names=new.names,
        lifetime=new.lifetime,
        exportable=new.exportable,
        state=ManagedCertificateState.PENDING,
        conditions=(waiting,),
        next_attempt_time=now,
        renewal=new.renewal,
        labels=new.labels,
        create_time=now,
        update_time=now,
    )


def _exists(name: str) -> CertdError:
    return CertdError(
        Reason.MANAGED_CERTIFICATE_EXISTS,
        f"{name} exists already; choose another managed_certificate_id",
        resource=name,
    )
