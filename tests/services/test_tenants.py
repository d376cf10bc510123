"""Tenants: made, listed as far as a caller may read them, changed; and every refusal."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission, Role
from certd.model.event import EventType
from certd.model.names import TenantName
from certd.model.tenant import DEFAULT_EXPIRY_NOTICE_DAYS, DEFAULT_QUOTAS, Quota, Quotas, Tenant
from certd.services.access import Access
from certd.services.idempotency import RequestKey
from certd.services.paging import PageRequest
from certd.services.system import SystemAuthority
from certd.services.tenants import GivenTenant, TenantChange, Tenants, check_quota
from certd.store import profiles, tenant_counts
from certd.store.store import Store, Transaction
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN
from tests.services.profile_books import Books, key, open_books, refused

__all__ = ["postgres_server", "postgres_url"]

GIVEN = GivenTenant(display_name="Acme", expiry_notice_days=(30, 7), quotas=Quotas(authorities=7))
MANAGER = Caller(principal=f"spiffe://{TRUST_DOMAIN}/tenants/other/identities/manager", serial="03")
"""Administrator of one tenant."""


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """The use cases of tenants, and short ways to use them."""

    books: Books
    tenants: Tenants

    def create(
        self,
        tenant_id: str = "acme",
        *,
        caller: Caller = ADMINISTRATOR,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> Tenant:
        return self.tenants.create(caller, tenant_id, GIVEN, key=request, validate_only=validate_only)

    def update(
        self,
        *changes: str,
        tenant: str = "other",
        caller: Caller = ADMINISTRATOR,
        etag: str = "",
        request: RequestKey | None = None,
        validate_only: bool = False,
        **given: Any,
    ) -> Tenant:
        fields = frozenset(changes) or frozenset(given)
        change = TenantChange(name=TenantName(tenant), given=GivenTenant(**given), fields=fields, etag=etag)
        return self.tenants.update(caller, change, key=request, validate_only=validate_only)

    def get(self, tenant: str = "other", caller: Caller = ADMINISTRATOR) -> Tenant:
        return self.tenants.get(caller, TenantName(tenant))

    def ids(self, caller: Caller, *, size: int = 100) -> list[str]:
        """Every id that a list shows, page after page."""
        found: list[str] = []
        token = ""
        while True:
            page = self.tenants.page(caller, PageRequest(size, token))
            found += [one.tenant_id for one in page.items]
            token = page.next_page_token
            if not token:
                return found

    def told(self) -> list[tuple[EventType, str | None, dict[str, str]]]:
        kinds = {EventType.TENANT_CREATED, EventType.TENANT_UPDATED}
        return [(one.type, one.tenant, dict(one.details)) for one in self.books.events() if one.type in kinds]


def tenants_of(books: Books) -> Tenants:
    authority = SystemAuthority(books.store, books.clock)
    access = Access(books.store, books.clock, system_authority=authority, trust_domain=TRUST_DOMAIN)
    return Tenants(store=books.store, clock=books.clock, access=access)


@contextmanager
def reopened(url: str) -> Iterator[Store]:
    store = Store.open(url, clock=FakeClock())
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    with open_books(f"sqlite:///{tmp_path}/certd.db") as books:
        books.grant(MANAGER.principal, Role.ADMINISTRATOR, scope="tenants/other")
        books.grant(MANAGER.principal, Role.AUDITOR, scope="tenants/other")
        yield Accounts(books=books, tenants=tenants_of(books))


def test_a_tenant_is_made_and_read_again(accounts: Accounts) -> None:
    assert accounts.create(validate_only=True).tenant_id == "acme"
    refused(lambda: accounts.get("acme"), Reason.TENANT_NOT_FOUND, "does not exist")
    made = accounts.create()
    assert (made.name, made.display_name, made.etag) == ("tenants/acme", "Acme", "acme-1")
    assert made.expiry_notice_days == (30, 7)
    assert made.quotas == Quotas(authorities=7)
    assert made.create_time == accounts.books.clock.now()
    assert accounts.get("acme") == made
    assert accounts.told() == [(EventType.TENANT_CREATED, "acme", {"uid": made.uid})]


@pytest.mark.parametrize("validate_only", [False, True])
def test_an_id_is_used_once(accounts: Accounts, validate_only: bool) -> None:  # noqa: FBT001  # pytest's own way.
    accounts.create()
    error = refused(lambda: accounts.create(validate_only=validate_only), Reason.TENANT_EXISTS, "choose another")
    assert error.resource == "tenants/acme"


def test_a_repeated_request_makes_one_tenant(accounts: Accounts) -> None:
    request = key(b"a")
    made = accounts.create(request=request)
    assert accounts.create(request=request) == made
    other = RequestKey(request.request_id, b"b")
    refused(lambda: accounts.create("beta", request=other), Reason.REQUEST_ID_REUSED, "send a new one")
    assert len(accounts.told()) == 1
    change = key(b"c")
    changed = accounts.update(tenant="acme", display_name="New", request=change)
    assert accounts.update(tenant="acme", display_name="New", request=change) == changed
    assert changed.revision == 2


def test_the_administrator_of_a_tenant_makes_none(accounts: Accounts) -> None:
    for tenant_id in ("acme", "other", "default"):
        for caller in (MANAGER, STRANGER):
            error = refused(
                lambda tenant_id=tenant_id, caller=caller: accounts.create(tenant_id, caller=caller),  # type: ignore[misc]  # mypy infers no type for a default.
                Reason.PERMISSION_MISSING,
                "lacks tenant.create on tenants;",
            )
            assert error.resource == "tenants"


def test_a_caller_sees_what_they_may_read(accounts: Accounts) -> None:
    accounts.books.grant(ADMINISTRATOR.principal, Role.AUDITOR)
    accounts.create()
    assert accounts.ids(ADMINISTRATOR) == accounts.ids(ADMINISTRATOR, size=1) == ["acme", "default", "other"]
    assert accounts.ids(MANAGER) == accounts.ids(MANAGER, size=1) == ["other"]
    assert accounts.ids(STRANGER) == []
    # A grant below a tenant is none of the tenant, and one for an absent tenant shows nothing.
    accounts.books.grant(STRANGER.principal, Role.AUDITOR, scope="tenants/default/authorities/ca")
    accounts.books.grant(STRANGER.principal, Role.ISSUER, scope="tenants/default")
    accounts.books.grant(STRANGER.principal, Role.AUDITOR, scope="tenants/absent")
    assert accounts.ids(STRANGER) == []
    for tenant_id in ("default", "none-such"):
        refused(lambda of=tenant_id: accounts.get(of, STRANGER), Reason.PERMISSION_MISSING, "lacks tenant.read")  # type: ignore[misc]  # As above.
    accounts.books.grant(STRANGER.principal, Role.AUDITOR, scope="tenants/acme")
    accounts.books.grant(STRANGER.principal, Role.AUDITOR, scope="tenants/default")
    assert accounts.ids(STRANGER, size=1) == ["acme", "default"]


def test_a_page_token_is_of_its_caller(accounts: Accounts) -> None:
    token = accounts.tenants.page(ADMINISTRATOR, PageRequest(1, "")).next_page_token
    refused(lambda: accounts.tenants.page(MANAGER, PageRequest(1, token)), Reason.FIELD_INVALID, "another query")


def test_an_update_changes_what_is_named(accounts: Accounts) -> None:
    accounts.books.clock.advance(timedelta(minutes=1))
    changed = accounts.update(display_name="Other", quotas=Quotas(profiles=3))
    assert (changed.display_name, changed.quotas, changed.revision) == ("Other", Quotas(profiles=3), 2)
    assert changed.update_time == accounts.books.clock.now()
    assert accounts.get() == changed
    planned = accounts.update("display_name", validate_only=True)
    assert (planned.display_name, planned.quotas, planned.revision) == ("", Quotas(profiles=3), 3)
    assert accounts.get() == changed
    again = accounts.update(expiry_notice_days=(10,))
    assert (again.expiry_notice_days, again.quotas) == ((10,), Quotas(profiles=3))
    reset = accounts.update("quotas", "expiry_notice_days")
    assert (reset.expiry_notice_days, reset.quotas) == (DEFAULT_EXPIRY_NOTICE_DAYS, DEFAULT_QUOTAS)
    assert accounts.update("quotas") == reset
    assert accounts.told() == [
        (EventType.TENANT_UPDATED, "other", {"display_name": "Other", "quotas.profiles": "3"}),
        (EventType.TENANT_UPDATED, "other", {"expiry_notice_days": "10"}),
        (EventType.TENANT_UPDATED, "other", {"expiry_notice_days": "45,30,15,7,3,1", "quotas.profiles": "1000"}),
    ]


@pytest.mark.parametrize("validate_only", [False, True])
def test_an_update_of_what_has_changed_is_refused(accounts: Accounts, validate_only: bool) -> None:  # noqa: FBT001  # pytest's own way.
    read = accounts.get()
    changed = accounts.update(display_name="One", etag=read.etag)
    error = refused(
        lambda: accounts.update(display_name="Two", etag=read.etag, validate_only=validate_only),
        Reason.ETAG_MISMATCH,
        "read it again",
    )
    assert error.metadata == {"etag": changed.etag}
    assert accounts.update(display_name="Two", etag=changed.etag).display_name == "Two"


def test_the_administrator_of_a_tenant_changes_all_but_its_quotas(accounts: Accounts) -> None:
    changed = accounts.update(caller=MANAGER, display_name="Ours", expiry_notice_days=(5,))
    assert (changed.display_name, changed.expiry_notice_days) == ("Ours", (5,))
    for quotas in (Quotas(authorities=1), Quotas(calls_per_second=5000)):
        error = refused(
            lambda quotas=quotas: accounts.update(caller=MANAGER, display_name="More", quotas=quotas),  # type: ignore[misc]  # As above.
            Reason.PERMISSION_MISSING,
            "lacks tenant.update on tenants;",
        )
        assert error.metadata["permission"] == Permission.TENANT_UPDATE
    # Who sends back what they have read changes nothing by it.
    assert accounts.update(caller=MANAGER, display_name="Again", quotas=changed.quotas).display_name == "Again"
    for tenant_id in ("default", "none-such"):
        refused(
            lambda of=tenant_id: accounts.update(tenant=of, caller=MANAGER, display_name="x"),  # type: ignore[misc]  # As above.
            Reason.PERMISSION_MISSING,
            "lacks tenant.update",
        )


def test_an_absent_tenant_is_not_changed(accounts: Accounts) -> None:
    for validate_only in (False, True):
        refused(
            lambda only=validate_only: accounts.update(tenant="none", display_name="x", validate_only=only),  # type: ignore[misc]  # As above.
            Reason.TENANT_NOT_FOUND,
            "does not exist",
        )


def test_a_quota_holds_in_the_transaction_that_makes_one_more(accounts: Accounts) -> None:
    accounts.update(quotas=Quotas(profiles=2))

    def insert(tx: Transaction) -> None:
        check_quota(tx, "other", Quota.PROFILES)
        profiles.insert(tx, "other", f"p{uuid.uuid4().hex}", document="{}", now=accounts.books.clock.now())

    accounts.books.store.write("test.insert", insert)
    accounts.books.store.write("test.insert", insert)
    error = refused(lambda: accounts.books.store.write("test.insert", insert), Reason.QUOTA_EXCEEDED, "has 2 profiles")
    assert (error.resource, error.metadata) == ("tenants/other", {"limit": "2", "quota": "profiles"})
    accounts.update(quotas=Quotas(profiles=3))
    accounts.books.store.write("test.insert", insert)
    # Lowered below what is there, it takes nothing away.
    accounts.update(quotas=Quotas(profiles=1))
    with accounts.books.store.read("test") as tx:
        assert tenant_counts.get(tx, "other", Quota.PROFILES) == 3
        check_quota(tx, None, Quota.GRANTS)
        check_quota(tx, "default", Quota.PROFILES)
        refused(lambda: check_quota(tx, "none", Quota.GRANTS), Reason.TENANT_NOT_FOUND, "does not exist")


def test_a_rate_holds_from_the_next_call_on(accounts: Accounts) -> None:
    assert accounts.tenants.calls_per_second("other") == accounts.tenants.calls_per_second("absent") == 1000
    accounts.update(quotas=Quotas(calls_per_second=7))
    assert accounts.tenants.calls_per_second("other") == 7
    assert accounts.tenants.calls_per_second("default") == 1000


def test_two_daemons_do_not_both_make_the_last(postgres_url: str) -> None:
    """On PostgreSQL works of two daemons run at once: whoever counted too early counts again."""
    with open_books(postgres_url) as first, reopened(postgres_url) as second:
        change = TenantChange(name=TenantName("other"), given=GivenTenant(quotas=Quotas(profiles=3)))
        tenants_of(first).update(ADMINISTRATOR, change, key=None, validate_only=False)

        def insert(number: int) -> Reason | None:
            store = (first.store, second)[number % 2]
            now = first.clock.now()

            def work(tx: Transaction) -> None:
                check_quota(tx, "other", Quota.PROFILES)
                profiles.insert(tx, "other", f"p{number}", document="{}", now=now)

            try:
                store.write("test.insert", work)
            except CertdError as error:
                return error.reason
            return None

        with ThreadPoolExecutor(8) as threads:
            ended = list(threads.map(insert, range(16)))
        assert ended.count(None) == 3
        assert set(ended) == {None, Reason.QUOTA_EXCEEDED}
