"""Profiles on a real store, without the token that they do not need."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Caller, Grant, Role
from certd.model.event import Event, EventType
from certd.model.names import ProfileName
from certd.model.request_limits import RequestLimits
from certd.model.tenant import Tenant
from certd.pki.extensions import SERVER_AUTHENTICATION
from certd.pki.profile import DnsNameRules, NameRules
from certd.services.access import Access
from certd.services.idempotency import RequestKey
from certd.services.profile_changes import FIELDS, GivenProfile
from certd.services.profile_check import ProfileChecks
from certd.services.profiles import ProfileChange, Profiles, ProfileView
from certd.services.signers import Signers
from certd.services.system import SystemAuthority
from certd.store import events, grants, tenants
from certd.store.store import Store, Transaction
from tests.databases import migrated
from tests.fakes import FakeClock
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN

WEB = ProfileName("default", "web")
SERVER = ProfileName("default", "server")
DAY = timedelta(days=1)
_EVENTS = {EventType.PROFILE_CREATED, EventType.PROFILE_UPDATED, EventType.PROFILE_DELETED}
GIVEN = GivenProfile(
    longest_lifetime=60 * DAY,
    extended_key_usages=(SERVER_AUTHENTICATION,),
    names=NameRules(dns_names=DnsNameRules(suffixes=("example.internal",)), fewest=1),
)


def key(content: bytes = b"a", request_id: str = "") -> RequestKey:
    return RequestKey(request_id or str(uuid.uuid4()), content)


@dataclass(frozen=True, kw_only=True)
class Books:
    """The use cases of profiles, and short ways to use them."""

    store: Store
    clock: FakeClock
    profiles: Profiles
    checks: ProfileChecks

    def create(
        self,
        name: ProfileName = WEB,
        given: GivenProfile = GIVEN,
        *,
        caller: Caller = ADMINISTRATOR,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> ProfileView:
        return self.profiles.create(caller, name, given, key=request, validate_only=validate_only)

    def update(
        self,
        given: GivenProfile,
        *changes: str,
        name: ProfileName = WEB,
        caller: Caller = ADMINISTRATOR,
        etag: str = "",
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> ProfileView:
        change = ProfileChange(name=name, given=given, fields=frozenset(changes) or FIELDS, etag=etag)
        return self.profiles.update(caller, change, key=request, validate_only=validate_only)

    def delete(
        self,
        name: ProfileName = WEB,
        *,
        caller: Caller = ADMINISTRATOR,
        etag: str = "",
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> None:
        self.profiles.delete(caller, name, etag=etag, key=request, validate_only=validate_only)

    def get(self, name: ProfileName = WEB, version: int | None = None) -> ProfileView:
        return self.profiles.get(ADMINISTRATOR, name, version=version)

    def grant(self, principal: str, role: Role, **changes: Any) -> None:
        values: dict[str, Any] = {"grant_id": uuid.uuid4().hex, "scope": EVERYTHING, "profiles": None} | changes
        grant = Grant(principal=principal, role=role, **values)

        def work(tx: Transaction) -> None:
            grants.insert(tx, grant)
            tx.configuration_changed()

        self.store.write("test.grant", work)

    def events(self) -> list[Event]:
        with self.store.read("test.events") as tx:
            return [row.event for row in events.page(tx, after_seq=0, limit=10_000)]


def told(books: Books) -> list[tuple[EventType, str, dict[str, str]]]:
    """What the events say of profiles."""
    return [(event.type, event.resource, dict(event.details)) for event in books.events() if event.type in _EVENTS]


def refused(call: Callable[[], object], reason: Reason, remedy: str) -> CertdError:
    with pytest.raises(CertdError, match=remedy) as caught:
        call()
    assert caught.value.reason is reason
    return caught.value


@contextmanager
def open_books(url: str) -> Iterator[Books]:
    migrated(url)
    clock = FakeClock()
    store = Store.open(url, clock=clock)
    access = Access(store, clock, system_authority=SystemAuthority(store, clock), trust_domain=TRUST_DOMAIN)
    books = Books(
        store=store,
        clock=clock,
        profiles=Profiles(store=store, clock=clock, access=access),
        checks=ProfileChecks(
            store=store,
            clock=clock,
            access=access,
            signers=Signers(store, base_url=None, trust_domain=TRUST_DOMAIN),
            limits=RequestLimits(),
        ),
    )
    try:
        for tenant_id in ("default", "other"):
            tenant = Tenant(tenant_id=tenant_id, uid=f"uid-of-{tenant_id}", create_time=clock.now())
            store.write("test.tenant", lambda tx, tenant=tenant: tenants.insert(tx, tenant))  # type: ignore[misc]  # mypy infers no type for a default.
        books.grant(ADMINISTRATOR.principal, Role.ADMINISTRATOR)
        yield books
    finally:
        store.close()
