"""Grants on a real store, without the token that they do not need."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Caller, Grant, Permission, Role
from certd.model.event import Event
from certd.model.identity import IdentityState
from certd.model.names import GrantName, IdentityName
from certd.model.tenant import Tenant
from certd.pki.names import SubjectAlternativeNames
from certd.services.access import Access
from certd.services.grants import GivenGrant, Grants
from certd.services.idempotency import RequestKey
from certd.services.system import SystemAuthority
from certd.store import authorities, certificates, events, grants, identities, tenants
from certd.store.store import Store
from tests.fakes import FakeClock
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN
from tests.store.samples import authority, completion, intent

CA = "tenants/default/authorities/ca"
_SYSTEM = "system-authority"
_NUMBERS = iter(range(1, 1000))


def spiffe(path: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/{path}"


def caller(path: str) -> Caller:
    return Caller(principal=spiffe(path), serial="0a")


BUILD = caller("identities/build")
OWNER = caller("tenants/default/identities/owner")


@dataclass(frozen=True, kw_only=True)
class Books:
    """The use cases of grants on a real store, and short ways to use them."""

    store: Store
    access: Access
    grants: Grants

    def give(self, to: Caller | str, role: Role, scope: str = EVERYTHING, **changes: Any) -> Grant:
        """Writes a grant past all rules."""
        principal = to if isinstance(to, str) else to.principal
        values: dict[str, Any] = {"grant_id": f"g{next(_NUMBERS)}", "profiles": None} | changes
        held = Grant(principal=principal, role=role, scope=scope, **values)
        assert self.store.write("test.grant", lambda tx: grants.insert(tx, held))
        return held

    def create(
        self,
        by: Caller,
        principal: str,
        role: Role,
        scope: str = "",
        *,
        profiles: frozenset[str] | None = None,
        tenant: str | None = "default",
        grant_id: str = "",
        key: RequestKey | None = None,
        validate_only: bool = False,
    ) -> Grant:
        name = GrantName(tenant, grant_id or f"c{next(_NUMBERS)}")
        given = GivenGrant(principal=principal, role=role, scope=scope, profiles=profiles)
        return self.grants.create(by, name, given, key=key, validate_only=validate_only)

    def delete(self, by: Caller, name: str, *, key: RequestKey | None = None, validate_only: bool = False) -> None:
        self.grants.delete(by, GrantName.parse("name", name), key=key, validate_only=validate_only)

    def may(self, who: Caller, permission: Permission, resource: str, profile: str | None = None) -> bool:
        return any(grant.allows(permission, resource, profile) for grant in self.access.held(who))

    def identity(self, who: Caller, state: IdentityState) -> None:
        """Writes an identity in this state, with a certificate that it has not yet used up."""
        tenant, _, own = who.principal.removeprefix(spiffe("")).rpartition("identities/")
        name = IdentityName(tenant.removeprefix("tenants/").rstrip("/") or None, own)

        now = FakeClock().now()
        issued = intent(
            authority_uid=_SYSTEM,
            names=SubjectAlternativeNames(uris=(who.principal,)),
            not_after=now + timedelta(days=30),
            owner_epoch=0,
        )

        def work(tx: Any) -> None:
            certificates.insert_intents(tx, [issued])
            certificates.complete(tx, [completion(issued)])
            identities.ensure(tx, name, who.principal, state, now)
            identities.set_state(tx, name, state, now)

        self.store.write("test.identity", work)

    def events(self) -> list[Event]:
        with self.store.read("test.events") as tx:
            return [row.event for row in events.page(tx, after_seq=0, limit=10_000)]


@contextmanager
def open_books(url: str) -> Iterator[Books]:
    clock = FakeClock()
    store = Store.open(url, clock=clock)
    access = Access(store, clock, system_authority=SystemAuthority(store, clock), trust_domain=TRUST_DOMAIN)
    try:
        yield Books(
            store=store,
            access=access,
            grants=Grants(store=store, clock=clock, access=access, trust_domain=TRUST_DOMAIN),
        )
    finally:
        store.close()


def fill(books: Books) -> None:
    """Two tenants, the first administrator, and an administrator of one tenant."""
    for tenant_id in ("default", "other"):
        tenant = Tenant(tenant_id=tenant_id, uid=f"uid-of-{tenant_id}", create_time=FakeClock().now())
        books.store.write("test.tenant", lambda tx, tenant=tenant: tenants.insert(tx, tenant))  # type: ignore[misc]  # mypy infers no type for a default.
    system = authority("system", uid=_SYSTEM, tenant=None)
    books.store.write("test.authority", lambda tx: authorities.insert(tx, system))
    for role in Role:
        books.give(ADMINISTRATOR, role)
    books.give(OWNER, Role.ADMINISTRATOR, "tenants/default", tenant="default")
    books.identity(ADMINISTRATOR, IdentityState.ACTIVE)


def refused(call: Callable[[], object], reason: Reason, remedy: str = ".") -> CertdError:
    with pytest.raises(CertdError, match=remedy) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    return caught.value
