"""Associations: who may lease the keys of a managed certificate."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.association import Association
from certd.model.event import Event, EventType
from certd.model.identity import Identity, IdentityState
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateState
from certd.model.names import WILDCARD, AssociationName, IdentityName, ManagedCertificateName
from certd.pki.names import parse_spiffe_id
from certd.services.access import Access
from certd.services.association_keys import (
    TRIES,
    AssociationKeys,
    ConsumerKey,
    Custody,
    custody_of,
    keep,
    may_be_kept,
    rotated_meanwhile,
)
from certd.services.association_views import (
    AssociationView,
    existing_association,
    own_association,
    view_of,
    views_of,
)
from certd.services.deployment_checks import expect, shown
from certd.services.forced_renewal import updated
from certd.services.idempotency import RequestKey, is_repeated, replay
from certd.services.managed_certificate_views import existing_managed
from certd.services.paging import Page, PageRequest, page_of
from certd.services.renewal_waits import used_at_last
from certd.services.steps import StepHook
from certd.services.tenants import existing_tenant
from certd.services.wrapping_keys import WrappingKeys
from certd.store import (
    association_keys,
    associations,
    identities,
    managed_certificates,
    managed_versions,
    sealed_keys,
)
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient

MOST_ASSOCIATIONS = 1_000
"""Of one managed certificate."""
_KEY_PARTS = 2
"""Of the place where a page ends: a managed certificate and an association."""
_CREATE, _DELETE = "CreateAssociation", "DeleteAssociation"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAssociation:
    """What a caller wants to make."""

    managed_certificate: ManagedCertificateName
    association_id: str = ""
    """Empty: the id of the identity."""
    consumer: IdentityName

    @property
    def name(self) -> AssociationName:
        """The name that it will have."""
        return AssociationName(self.managed_certificate, self.association_id or self.consumer.identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be made, and of what."""

    managed: ManagedCertificate
    association: Association
    custody: Custody | None
    """The key of the current version; None while there is none that could be leased."""


class Associations:
    """The use cases of associations."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        access: Access,
        wrapping_keys: WrappingKeys,
        time_to_deploy: timedelta,
        step: StepHook,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._keys = AssociationKeys(token=token, wrapping_keys=wrapping_keys)
        self._time_to_deploy = time_to_deploy
        self._step = step

    def create(
        self, caller: Caller, new: NewAssociation, *, key: RequestKey | None, validate_only: bool
    ) -> AssociationView:
        """Lets an identity of the tenant, or of the server, lease the keys of a managed certificate.

        The key of the current version is sealed for it before anything is written; while none is issued there is
        nothing to seal. Raises MANAGED_CERTIFICATE_NOT_FOUND, IDENTITY_NOT_FOUND, ASSOCIATION_EXISTS, QUOTA_EXCEEDED,
        STATE_FORBIDS for a managed certificate that never will be issued, REQUEST_ID_REUSED, TOKEN_UNAVAILABLE.
        """
        self._access.require(caller, Permission.ASSOCIATION_CREATE, str(new.managed_certificate))
        now = self._clock.now()
        for _ in range(TRIES):
            with self._store.read("associations.plan") as tx:
                earlier = None if validate_only else replay(tx, caller, _CREATE, key)
                if earlier is not None:
                    return _made_before(tx, earlier, now)
                plan = _planned(tx, caller, new, now)
                if validate_only:
                    return view_of(tx, plan.association, now)
            sealed = None
            if plan.custody is not None:
                sealed = self._keys.seal(plan.custody, plan.association.consumer_spiffe_id)
                self._step("association.1.sealed")

            def create(tx: Transaction, sealed: ConsumerKey | None = sealed) -> AssociationView | None:
                made = _create(tx, caller, new, sealed, key, now)
                if made is not None:
                    expect(tx, made.association, self._time_to_deploy, now)
                return made

            made = self._store.write("associations.create", create)
            if made is not None:
                self._step("association.2.committed")
                return made
        raise rotated_meanwhile()

    def get(self, caller: Caller, name: AssociationName) -> AssociationView:
        """Returns an association; raises ASSOCIATION_NOT_FOUND.

        A consumer may ask for its own; of others' it is told what it is told of those that do not exist.
        """
        own_alone = not self._access.may(caller, Permission.ASSOCIATION_READ, str(name))
        if own_alone and not self._access.may(caller, Permission.KEY_LEASE, str(name)):
            self._access.require(caller, Permission.ASSOCIATION_READ, str(name))
        with self._store.read("associations.get") as tx:
            found = own_association(tx, caller, name) if own_alone else existing_association(tx, name)
            return view_of(tx, found, self._clock.now())

    def page(
        self,
        caller: Caller,
        parent: ManagedCertificateName,
        request: PageRequest,
        *,
        consumer: IdentityName | None = None,
    ) -> Page[AssociationView]:
        """Returns a page, by name, of the associations of a managed certificate, or of all of a tenant.

        Who may lease there may list what is its own, when it asks for nothing else.
        Raises TENANT_NOT_FOUND, MANAGED_CERTIFICATE_NOT_FOUND.
        """
        everywhere = parent.managed_certificate == WILDCARD
        scope = f"tenants/{parent.tenant}/managedCertificates" if everywhere else str(parent)
        own_alone = not self._access.may(caller, Permission.ASSOCIATION_READ, scope)
        if own_alone and not (_is_own(caller, consumer) and self._access.may(caller, Permission.KEY_LEASE, scope)):
            self._access.require(caller, Permission.ASSOCIATION_READ, scope)
        query = f"associations {parent} {consumer or ''}"
        after = request.after(query) or ["", ""]
        if len(after) != _KEY_PARTS:
            raise field_invalid("page_token", "is not a token that this server gave")
        with self._store.read("associations.page") as tx:
            tenant = existing_tenant(tx, parent.tenant)
            spiffe_id = None if consumer is None else _spiffe_id(tx, caller, consumer)
            if everywhere:
                rows = _of_tenant(tx, parent.tenant, spiffe_id, after=(after[0], after[1]), limit=request.size + 1)
            else:
                rows = _of_one(tx, parent, spiffe_id, after=after[1], limit=request.size + 1, own_alone=own_alone)
            views = views_of(tx, rows, self._clock.now(), tenant_uids={parent.tenant: tenant.uid})
        return page_of(views, request, query, key=_place)

    def delete(self, caller: Caller, name: AssociationName, *, key: RequestKey | None) -> None:
        """Ends an association, with the keys that are sealed for its consumer: the next lease is refused.

        Raises ASSOCIATION_NOT_FOUND, REQUEST_ID_REUSED.
        """
        self._access.require(caller, Permission.ASSOCIATION_DELETE, str(name))
        now = self._clock.now()

        def delete(tx: Transaction) -> None:
            if is_repeated(tx, caller, _DELETE, key, resource=str(name), now=now):
                return
            found = existing_association(tx, name)
            managed = existing_managed(tx, name.managed_certificate)
            association_keys.delete_of(tx, managed.uid, name.association)
            associations.delete(tx, found)
            _count(tx, shown(tx, managed, now), -1, now)
            _record(tx, EventType.ASSOCIATION_DELETED, found, caller, now, version=str(found.leased_version))

        self._store.write("associations.delete", delete)


def _planned(tx: Transaction, caller: Caller, new: NewAssociation, now: datetime) -> _Plan:
    name, managed = new.name, existing_managed(tx, new.managed_certificate)
    if managed.state is ManagedCertificateState.FAILED:
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{managed.name} can never be issued as it was requested, so it will have no key to lease; request another",
            metadata={"state": managed.state},
            resource=str(managed.name),
        )
    identity = _consumer(tx, new)
    taken = associations.get(tx, name) or associations.of_consumer(tx, managed.uid, identity.spiffe_id)
    if taken is not None:
        raise _exists(name, taken)
    if managed.association_count >= MOST_ASSOCIATIONS:
        raise CertdError(
            Reason.QUOTA_EXCEEDED,
            f"{managed.name} has {managed.association_count} associations, as many as it may have; delete one that is"
            " not used, or request another managed certificate for more consumers",
            metadata={"limit": str(MOST_ASSOCIATIONS)},
            resource=str(managed.name),
        )
    tenant = existing_tenant(tx, managed.tenant)
    current = managed_versions.get(tx, managed.uid, managed.current_version)
    leasable = current is not None and current.revoke_time is None
    return _Plan(
        managed=managed,
        association=Association(
            managed_certificate_uid=managed.uid,
            name=name,
            consumer=str(identity.name),
            consumer_spiffe_id=identity.spiffe_id,
            creator=caller.principal,
            create_time=now,
            current_version=managed.current_version,
        ),
        custody=custody_of(tx, tenant, managed, current) if current is not None and leasable else None,
    )


def _create(
    tx: Transaction,
    caller: Caller,
    new: NewAssociation,
    sealed: ConsumerKey | None,
    key: RequestKey | None,
    now: datetime,
) -> AssociationView | None:
    """Returns the association; None, with nothing written, when its key has to be sealed once more."""
    found = managed_certificates.get(tx, new.managed_certificate.tenant, new.managed_certificate.managed_certificate)
    if sealed is not None and found is not None and not may_be_kept(tx, found.uid, sealed):
        return None
    if is_repeated(tx, caller, _CREATE, key, resource=str(new.name), now=now):
        return _made_before(tx, str(new.name), now)
    plan = _planned(tx, caller, new, now)
    if not associations.insert(tx, plan.association):
        raise _exists(new.name, plan.association)
    # Its version may be over by now, and its key gone; nothing would ever delete what is sealed of it after that.
    if sealed is not None and sealed_keys.get(tx, plan.managed.uid, sealed.version) is not None:
        keep(tx, plan.managed.uid, new.name.association, sealed)
    _count(tx, plan.managed, 1, now)
    version = "0" if sealed is None else str(sealed.version)
    _record(tx, EventType.ASSOCIATION_CREATED, plan.association, caller, now, version=version)
    return view_of(tx, plan.association, now)


def _consumer(tx: Transaction, new: NewAssociation) -> Identity:
    """Returns the identity that is to be the consumer; what another tenant has is not told from what nobody has."""
    name = new.consumer
    found = identities.get(tx, name) if name.tenant in {None, new.managed_certificate.tenant} else None
    if found is None or found.state is IdentityState.REVOKED:
        raise CertdError(
            Reason.IDENTITY_NOT_FOUND,
            f"{name} is no identity of tenants/{new.managed_certificate.tenant} or of the server that could be a"
            " consumer; an enrollment code makes one",
            resource=str(name),
        )
    return found


def _made_before(tx: Transaction, name: str, now: datetime) -> AssociationView:
    """Returns what an earlier call with the same request id made; raises ASSOCIATION_NOT_FOUND when it is deleted."""
    return view_of(tx, existing_association(tx, AssociationName.parse("name", name)), now)


def _count(tx: Transaction, managed: ManagedCertificate, more: int, now: datetime) -> None:
    changed = replace(managed, association_count=max(0, managed.association_count + more), update_time=now)
    changed = used_at_last(tx, managed, changed, now)
    # It was read in this transaction: who changes it at the same moment has the work run again, and nobody is refused.
    updated(tx, changed, managed)


def _is_own(caller: Caller, consumer: IdentityName | None) -> bool:
    """Returns whether a caller is an identity; all are of one trust domain."""
    return consumer is not None and parse_spiffe_id(caller.principal).path == consumer.path


def _spiffe_id(tx: Transaction, caller: Caller, consumer: IdentityName) -> str:
    """Returns the SPIFFE id of a consumer; empty, which nobody has, for an identity that does not exist."""
    if _is_own(caller, consumer):
        return caller.principal
    found = identities.get(tx, consumer)
    return "" if found is None else found.spiffe_id


def _of_tenant(
    tx: Transaction, tenant: str, spiffe_id: str | None, *, after: tuple[str, str], limit: int
) -> list[Association]:
    if spiffe_id is None:
        return associations.page_of_tenant(tx, tenant, after=after, limit=limit)
    return associations.page_of_consumer(tx, tenant, spiffe_id, after=after, limit=limit)


def _of_one(
    tx: Transaction, parent: ManagedCertificateName, spiffe_id: str | None, *, after: str, limit: int, own_alone: bool
) -> list[Association]:
    managed = managed_certificates.get(tx, parent.tenant, parent.managed_certificate)
    if managed is None and own_alone:
        # As where there is one, and no association of the caller.
        return []
    managed = existing_managed(tx, parent)
    if spiffe_id is None:
        return associations.page(tx, managed.uid, after=after, limit=limit)
    found = associations.of_consumer(tx, managed.uid, spiffe_id)
    return [] if found is None or found.name.association <= after else [found]


def _place(view: AssociationView) -> list[str]:
    name = view.association.name
    return [name.managed_certificate.managed_certificate, name.association]


def _exists(name: AssociationName, taken: Association) -> CertdError:
    what = "exists already" if taken.name == name else f"cannot be made: {taken.consumer} has {taken.name} already"
    return CertdError(
        Reason.ASSOCIATION_EXISTS,
        f"{name} {what}; use that one, or choose another association_id for another consumer",
        resource=str(taken.name),
    )


def _record(
    tx: Transaction, type_: EventType, association: Association, caller: Caller, now: datetime, **details: str
) -> None:
    tx.event(
        Event(
            time=now,
            type=type_,
            tenant=association.name.managed_certificate.tenant,
            principal=caller.principal,
            resource=str(association.name),
            details={
                "uid": association.managed_certificate_uid,
                "consumer": association.consumer_spiffe_id,
                **details,
            },
        )
    )
