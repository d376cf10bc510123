"""Grants: who may do what, where. Nobody grants what they do not hold."""

from dataclasses import dataclass, replace
from datetime import datetime

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Caller, Grant, Permission, Role, lacking
from certd.model.event import Event, EventType
from certd.model.identity import IdentityState
from certd.model.names import GrantName, IdentityName, ProfileName, TenantName
from certd.model.tenant import Quota
from certd.pki.names import parse_spiffe_id
from certd.services.access import Access
from certd.services.grant_rules import check_principal, check_scope, tenant_of_scope
from certd.services.idempotency import RequestKey, record_of, replay, same_request
from certd.services.paging import Page, PageRequest, page_of
from certd.services.profiles import existing_profile
from certd.services.tenants import check_quota, existing_tenant
from certd.store import grants, identities, request_records
from certd.store.store import Store, Transaction

MOST_SHOWN = 1000
"""Grants in the answer of WhoAmI."""
MOST_OF_PRINCIPAL = 200
"""Grants of one tenant to the same principal, all of which are looked at with its every call, wherever it calls."""
_TOLD = 20
"""Grants that an explanation names."""
_CREATE, _DELETE = "CreateGrant", "DeleteGrant"
_USE_OF_PROFILES = frozenset({Permission.CERTIFICATE_ISSUE, Permission.MANAGED_CERTIFICATE_REQUEST})


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenGrant:
    """What a caller wants granted."""

    principal: str
    role: Role
    scope: str
    """Empty for the tenant of the grant."""
    profiles: frozenset[str] | None
    """None for every one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whether somebody has a permission."""

    asked: str
    """As the caller wrote it."""
    permission: Permission | None
    """None for what every caller may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether somebody has a permission, and why."""

    asked: str
    allowed: bool
    grants: tuple[str, ...]
    """Names of the grants that allow it, as far as the caller may know them."""
    explanation: str
    """Empty when it is allowed."""


class Grants:
    """The use cases of grants."""

    def __init__(self, *, store: Store, clock: Clock, access: Access, trust_domain: str) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._trust_domain = trust_domain

    def create(
        self, caller: Caller, name: GrantName, given: GivenGrant, *, key: RequestKey | None, validate_only: bool
    ) -> Grant:
        """Makes a grant.

        Raises FIELD_INVALID, PERMISSION_MISSING for what the caller does not hold, GRANT_EXISTS, TENANT_NOT_FOUND,
        PROFILE_NOT_FOUND, QUOTA_EXCEEDED, REQUEST_ID_REUSED.
        """
        self._access.require(caller, Permission.GRANT_CREATE, _collection(name.tenant))
        now = self._clock.now()
        wanted = self._wanted(caller, name, given, now)
        _require_held(caller, self._access.held(caller), wanted)
        with self._store.read("grants.create") as tx:
            if not validate_only and (earlier := replay(tx, caller, _CREATE, key)) is not None:
                return _existing(tx, GrantName.parse("name", earlier))
            _check_room(tx, name, wanted)
        if validate_only:
            return wanted

        def create(tx: Transaction) -> Grant:
            earlier = _claimed(tx, caller, _CREATE, key, name=name, now=now)
            if earlier is not None:
                return _existing(tx, GrantName.parse("name", earlier))
            # What the caller holds may have been withdrawn meanwhile.
            _require_held(caller, tuple(grants.of_caller(tx, caller.principal)), wanted)
            _check_room(tx, name, wanted)
            grants.insert(tx, wanted)
            _record(tx, EventType.GRANT_CREATED, wanted, caller, now)
            return wanted

        return self._store.write("grants.create", create)

    def _wanted(self, caller: Caller, name: GrantName, given: GivenGrant, now: datetime) -> Grant:
        return Grant(
            grant_id=name.grant,
            tenant=name.tenant,
            principal=check_principal(
                "grant.principal", given.principal, trust_domain=self._trust_domain, tenant=name.tenant
            ),
            role=given.role,
            scope=check_scope("grant.scope", given.scope, tenant=name.tenant),
            profiles=given.profiles,
            creator=caller.principal,
            create_time=now,
        )

    def get(self, caller: Caller, name: GrantName) -> Grant:
        """Returns a grant; raises GRANT_NOT_FOUND."""
        self._access.require(caller, Permission.GRANT_READ, str(name))
        with self._store.read("grants.get") as tx:
            return _existing(tx, name)

    def page(
        self, caller: Caller, parent: TenantName | None, request: PageRequest, *, principal: str | None = None
    ) -> Page[Grant]:
        """Returns a page of the grants of a tenant, or of the server, by name; raises TENANT_NOT_FOUND."""
        tenant = None if parent is None else parent.tenant
        collection = _collection(tenant)
        self._access.require(caller, Permission.GRANT_READ, collection)
        query = f"{collection} {principal or ''}"
        key = request.after(query)
        with self._store.read("grants.page") as tx:
            if tenant is not None:
                existing_tenant(tx, tenant)
            found = grants.page(tx, tenant, principal=principal, after=key[0] if key else "", limit=request.size + 1)
        return page_of(found, request, query, key=lambda grant: [grant.grant_id])

    def delete(self, caller: Caller, name: GrantName, *, key: RequestKey | None, validate_only: bool) -> None:
        """Deletes a grant, which no longer holds for the next call.

        Raises GRANT_NOT_FOUND, LAST_ADMINISTRATOR, REQUEST_ID_REUSED.
        """
        self._access.require(caller, Permission.GRANT_DELETE, str(name))
        now = self._clock.now()

        def plan(tx: Transaction) -> Grant:
            found = _existing(tx, name)
            _check_administrated_without(tx, found, now)
            return found

        def delete(tx: Transaction) -> None:
            if _claimed(tx, caller, _DELETE, key, name=name, now=now) is not None:
                return
            found = plan(tx)
            grants.delete(tx, name)
            _record(tx, EventType.GRANT_DELETED, found, caller, now)

        if validate_only:
            with self._store.read("grants.delete") as tx:
                plan(tx)
            return
        self._store.write("grants.delete", delete)

    def held(self, caller: Caller) -> tuple[Grant, ...]:
        """Returns the first grants that hold for the caller, by their ids."""
        return self._access.held(caller)[:MOST_SHOWN]

    def test_permissions(
        self, caller: Caller, resource: str, questions: list[Question], *, principal: str, profile: str | None
    ) -> list[Verdict]:
        """Says which permissions a principal has on a resource, and by which grants; empty is the caller.

        Of another principal only those who may read the grants on the resource are told, and no grant is named to them
        that they may not read. Raises FIELD_INVALID, PERMISSION_MISSING.
        """
        own = principal in {"", caller.principal}
        if own:
            held, shown = self._access.held(caller), frozenset(self._access.held(caller))
        else:
            self._access.require(caller, Permission.GRANT_READ, resource)
            if parse_spiffe_id(principal).trust_domain != self._trust_domain:
                return [_foreign(each, principal, self._trust_domain) for each in questions]
            with self._store.read("grants.test") as tx:
                held = tuple(grants.of_caller(tx, principal))
                revoked = self._known_as_revoked(tx, caller, principal)
            if revoked:
                return [_revoked(each, principal) for each in questions]
            shown = frozenset(grant for grant in held if self._access.may(caller, Permission.GRANT_READ, grant.name))
        holder = _Holder(principal=caller.principal if own else principal, held=held, shown=shown)
        return [self._verdict(each, holder, resource, profile) for each in questions]

    def _known_as_revoked(self, tx: Transaction, caller: Caller, principal: str) -> bool:
        """Returns whether a principal is a revoked identity that the caller may read."""
        try:
            name = IdentityName.parse("principal", parse_spiffe_id(principal).path.removeprefix("/"))
        except CertdError:
            return False
        if not self._access.may(caller, Permission.IDENTITY_READ, str(name)):
            return False
        identity = identities.get(tx, name)
        return identity is not None and identity.state is IdentityState.REVOKED

    def _verdict(self, question: Question, holder: "_Holder", resource: str, profile: str | None) -> Verdict:
        permission = question.permission
        if permission is None:
            return Verdict(asked=question.asked, allowed=True, grants=(), explanation="")
        verdict = holder.verdict(question.asked, permission, resource, profile)
        if not verdict.allowed or profile is None or permission not in _USE_OF_PROFILES:
            return verdict
        # Whoever may use the profile may know that it is restricted.
        with self._store.read("grants.restricted") as tx:
            restricted = _is_restricted(tx, resource, profile)
        if not restricted:
            return verdict
        operating = holder.verdict(question.asked, Permission.AUTHORITY_CREATE, resource, None)
        if operating.allowed:
            return replace(verdict, grants=tuple(dict.fromkeys([*verdict.grants, *operating.grants])))
        explanation = f"the profile {profile} is restricted to those who operate authorities: {operating.explanation}"
        return replace(operating, explanation=explanation)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """Whose permissions are asked for."""

    principal: str
    held: tuple[Grant, ...]
    shown: frozenset[Grant]
    """Those that may be named."""

    def verdict(self, asked: str, permission: Permission, resource: str, profile: str | None) -> Verdict:
        """Returns whether they have a permission."""
        allowing = [grant for grant in self.held if grant.allows(permission, resource, profile)]
        if allowing:
            named = tuple(grant.name for grant in allowing if grant in self.shown)[:_TOLD]
            return Verdict(asked=asked, allowed=True, grants=named, explanation="")
        with_profile = f" with profile {profile}" if profile else ""
        shown = [grant for grant in self.held if grant in self.shown]
        causes = [
            f"{grant.name} {', and '.join(grant.misses(permission, resource, profile))}" for grant in shown[:_TOLD]
        ]
        if len(shown) > _TOLD:
            causes.append(f"and {len(shown) - _TOLD} more grants do not either")
        sentences = [
            f"{self.principal} lacks {permission} on {resource}{with_profile}",
            *(causes or ["no grant that you may read names them or a beginning of their SPIFFE id"]),
            f"grant them a role that has {permission}",
        ]
        return Verdict(asked=asked, allowed=False, grants=(), explanation="; ".join(sentences))


def _is_restricted(tx: Transaction, resource: str, profile: str) -> bool:
    """Returns whether a profile is for those who operate authorities, where the resource is one or in one."""
    match resource.split("/"):
        case ["tenants", tenant, "authorities", _, *_]:
            try:
                return existing_profile(tx, ProfileName(tenant, profile), tenant).restricted
            except CertdError:
                return False
        case _:
            return False


def _revoked(question: Question, principal: str) -> Verdict:
    return Verdict(
        asked=question.asked,
        allowed=False,
        grants=(),
        explanation=f"{principal} is revoked, so it cannot call at all; a new enrollment code lets it in again",
    )


def _foreign(question: Question, principal: str, trust_domain: str) -> Verdict:
    return Verdict(
        asked=question.asked,
        allowed=False,
        grants=(),
        explanation=f"{principal} cannot call: it is not of the trust domain {trust_domain}; ask for one that is",
    )


def _collection(tenant: str | None) -> str:
    return "grants" if tenant is None else f"tenants/{tenant}/grants"


def _require_held(caller: Caller, held: tuple[Grant, ...], wanted: Grant) -> None:
    missing = lacking(held, wanted)
    if missing is None:
        return
    profiles = "" if wanted.profiles is None else f" with the profiles {', '.join(sorted(wanted.profiles))}"
    what = f"the role {missing}" if isinstance(missing, Role) else str(missing)
    raise CertdError(
        Reason.PERMISSION_MISSING,
        f"{caller.principal} cannot grant {wanted.role} on {wanted.scope}{profiles}: nobody grants what they do not "
        f"hold, and they lack {what} there; ask an administrator who holds it",
        metadata={"permission": str(missing), "principal": caller.principal},
        resource=wanted.name,
    )


def _check_room(tx: Transaction, name: GrantName, wanted: Grant) -> None:
    """Raises GRANT_EXISTS when the id is taken, and what is raised for a tenant or profile that is not there."""
    tenant = tenant_of_scope(wanted.scope)
    if tenant is not None:
        existing_tenant(tx, tenant)
        for profile in sorted(wanted.profiles or ()):
            existing_profile(tx, ProfileName(tenant, profile), tenant)
    if grants.get(tx, name) is not None:
        raise CertdError(
            Reason.GRANT_EXISTS,
            f"{name} exists already; choose another grant_id, or none",
            resource=str(name),
        )
    check_quota(tx, name.tenant, Quota.GRANTS)
    if name.tenant is not None and grants.count(tx, name.tenant, wanted.principal, most=MOST_OF_PRINCIPAL) >= (
        MOST_OF_PRINCIPAL
    ):
        raise CertdError(
            Reason.QUOTA_EXCEEDED,
            f"tenants/{name.tenant} has {MOST_OF_PRINCIPAL} grants to {wanted.principal}, as many as it may have; make "
            "one with a wider scope or more profiles in place of some",
            metadata={"limit": str(MOST_OF_PRINCIPAL), "quota": Quota.GRANTS.value},
            resource=f"tenants/{name.tenant}",
        )


def _check_administrated_without(tx: Transaction, grant: Grant, now: datetime) -> None:
    """Raises LAST_ADMINISTRATOR when without this grant nobody would administer the server."""
    if grant.role is not Role.ADMINISTRATOR or grant.scope != EVERYTHING:
        return
    if not any(other.name != grant.name for other in grants.administrators(tx, now)):
        raise CertdError(
            Reason.LAST_ADMINISTRATOR,
            f"without {grant.name} no active identity with a certificate would administer the server; make another "
            "administrator first",
            resource=grant.name,
        )


def _existing(tx: Transaction, name: GrantName) -> Grant:
    found = grants.get(tx, name)
    if found is None:
        raise CertdError(
            Reason.GRANT_NOT_FOUND, f"{name} does not exist; ListGrants shows those that do", resource=str(name)
        )
    return found


def _claimed(
    tx: Transaction, caller: Caller, method: str, key: RequestKey | None, *, name: GrantName, now: datetime
) -> str | None:
    """Claims a request; returns what an earlier one made. Raises REQUEST_ID_REUSED when that was another one."""
    if key is None:
        return None
    found = request_records.claim(tx, record_of(caller, method, key, resource=str(name), now=now))
    return None if found is None else same_request(found, key.request_sha256)


def _record(tx: Transaction, type_: EventType, grant: Grant, caller: Caller, now: datetime) -> None:
    profiles = {} if grant.profiles is None else {"profiles": ",".join(sorted(grant.profiles))}
    tx.event(
        Event(
            time=now,
            type=type_,
            tenant=grant.tenant,
            principal=caller.principal,
            resource=grant.name,
            details={"to": grant.principal, "role": grant.role, "scope": grant.scope, **profiles},
        )
    )
