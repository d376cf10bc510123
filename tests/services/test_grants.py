"""Grants: what may be granted by whom, what holds for whom, and the last administrator."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from certd.errors import Reason
from certd.model.access import Caller, Grant, Permission, Role, lacking
from certd.model.event import EventType
from certd.model.identity import IdentityState
from certd.model.names import GrantName, TenantName
from certd.services import grants as services_grants
from certd.services.grants import Question
from certd.services.idempotency import RequestKey
from certd.services.paging import PageRequest
from certd.store import grants, profiles
from tests.databases import migrated
from tests.services.conftest import ADMINISTRATOR
from tests.services.grant_books import BUILD, CA, OWNER, Books, caller, fill, open_books, refused, spiffe


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    url = f"sqlite:///{tmp_path}/certd.db"
    migrated(url)
    with open_books(url) as opened:
        fill(opened)
        yield opened


def test_a_grant_opens_what_it_says_at_once_and_no_more_after_it_is_withdrawn(books: Books) -> None:
    assert not books.may(BUILD, Permission.CERTIFICATE_ISSUE, CA, "server")
    made = books.create(ADMINISTRATOR, BUILD.principal, Role.ISSUER, CA, profiles=frozenset({"server"}), grant_id="b")
    assert (made.name, made.creator) == ("tenants/default/grants/b", ADMINISTRATOR.principal)
    assert books.may(BUILD, Permission.CERTIFICATE_ISSUE, CA, "server")
    assert not books.may(BUILD, Permission.CERTIFICATE_ISSUE, CA, "end-entity")
    assert not books.may(BUILD, Permission.CERTIFICATE_ISSUE, f"{CA}2", "server")
    assert not books.may(BUILD, Permission.CERTIFICATE_REVOKE, CA)
    books.delete(ADMINISTRATOR, made.name)
    assert not books.may(BUILD, Permission.CERTIFICATE_ISSUE, CA, "server")
    told = [event for event in books.events() if event.resource == made.name]
    assert [(event.type, event.tenant, event.principal) for event in told] == [
        (EventType.GRANT_CREATED, "default", ADMINISTRATOR.principal),
        (EventType.GRANT_DELETED, "default", ADMINISTRATOR.principal),
    ]
    assert told[0].details == {"to": BUILD.principal, "role": "issuer", "scope": CA, "profiles": "server"}
    refused(lambda: books.delete(ADMINISTRATOR, made.name), Reason.GRANT_NOT_FOUND, "ListGrants")


@pytest.mark.parametrize(
    ("prefix", "holds", "not_for"),
    [
        ("*", ["identities/a", "tenants/t/identities/a", "oidc/p/s"], []),
        ("identities/*", ["identities/a"], ["tenants/t/identities/a", "oidc/p/s"]),
        ("tenants/t/*", ["tenants/t/identities/a"], ["tenants/t2/identities/a", "identities/t", "tenants/tt/x/t"]),
        ("oidc/p/*", ["oidc/p/s", "oidc/p/repo/main"], ["oidc/p2/s", "oidc/pp", "identities/p"]),
    ],
)
def test_a_prefix_stands_for_all_below_it_and_nobody_else(
    books: Books, prefix: str, holds: list[str], not_for: list[str]
) -> None:
    books.give(spiffe(prefix), Role.AUDITOR)
    assert [path for path in holds if not books.may(caller(path), Permission.SERVER_READ, "server")] == []
    assert [path for path in not_for if books.may(caller(path), Permission.SERVER_READ, "server")] == []
    stranger = Caller(principal="spiffe://other.internal/identities/a", serial="01")
    assert not books.may(stranger, Permission.SERVER_READ, "server")


def test_nobody_grants_what_they_do_not_hold(books: Books) -> None:
    books.give(OWNER, Role.ISSUER, CA, tenant="default", profiles=frozenset({"server", "client"}))
    for role, scope, listed in (
        (Role.EXPORTER, "tenants/default", None),
        (Role.CONSUMER, "tenants/default", None),
        (Role.AUTHORITY_OPERATOR, CA, None),
        (Role.ISSUER, "tenants/default", frozenset({"server"})),
        (Role.ISSUER, CA, frozenset({"server", "end-entity"})),
        (Role.ISSUER, CA, None),
        (Role.ISSUER, f"{CA}2", frozenset({"server"})),
    ):
        error = refused(
            lambda role=role, scope=scope, listed=listed: books.create(  # type: ignore[misc]  # mypy infers no type for a default.
                OWNER, BUILD.principal, role, scope, profiles=listed
            ),
            Reason.PERMISSION_MISSING,
            "nobody grants what they do not hold",
        )
        assert error.metadata["principal"] == OWNER.principal
    books.create(OWNER, BUILD.principal, Role.ISSUER, CA, profiles=frozenset({"server"}))
    books.create(OWNER, BUILD.principal, Role.ISSUER, f"{CA}/certificates", profiles=frozenset({"client", "server"}))
    books.create(OWNER, BUILD.principal, Role.ADMINISTRATOR)
    assert books.may(BUILD, Permission.GRANT_CREATE, "tenants/default/grants")


def test_who_holds_all_but_may_not_grant_grants_nothing(books: Books) -> None:
    books.give(BUILD, Role.AUDITOR)
    for tenant in ("default", "nowhere", None):
        refused(
            lambda tenant=tenant: books.create(BUILD, BUILD.principal, Role.AUDITOR, "*", tenant=tenant),  # type: ignore[misc]  # As above.
            Reason.PERMISSION_MISSING,
            "grant.create",
        )
    refused(lambda: books.delete(BUILD, "grants/g1"), Reason.PERMISSION_MISSING, "grant.delete")


def test_a_withdrawn_permission_counts_in_the_transaction_that_grants(books: Books) -> None:
    held = books.give(OWNER, Role.EXPORTER, "tenants/default", tenant="default")
    assert books.may(OWNER, Permission.MANAGED_CERTIFICATE_EXPORT, "tenants/default/managedCertificates/a")
    books.delete(ADMINISTRATOR, held.name)
    refused(lambda: books.create(OWNER, BUILD.principal, Role.EXPORTER), Reason.PERMISSION_MISSING, "nobody grants")


@pytest.mark.parametrize(
    ("principal", "rule"),
    [
        ("spiffe://other.internal/identities/a", "trust domain"),
        ("identities/a", "SPIFFE id"),
        (spiffe("identities/a/"), "SPIFFE id"),
        (spiffe("identities/a*"), "SPIFFE id"),
        (spiffe("identities/%61"), "SPIFFE id"),
        (spiffe("workloads/a"), "names nobody"),
        (spiffe("identities"), "names nobody"),
        (spiffe("identities/a/*"), "names nobody"),
        (spiffe("tenants/other/identities/a"), "of the tenant default"),
        (spiffe("tenants/other/*"), "of the tenant default"),
        (spiffe("tenants/default2/*"), "of the tenant default"),
        (spiffe("tenants/*"), "of the tenant default"),
        (spiffe("*"), "of the tenant default"),
    ],
)
def test_the_principal_of_a_tenants_grant(books: Books, principal: str, rule: str) -> None:
    error = refused(lambda: books.create(ADMINISTRATOR, principal, Role.AUDITOR), Reason.FIELD_INVALID, rule)
    assert [violation.field for violation in error.violations] == ["grant.principal"]


@pytest.mark.parametrize(
    "path", ["identities/a", "identities/*", "tenants/default/identities/a", "tenants/default/*", "oidc/p/s", "oidc/*"]
)
def test_a_tenants_grant_may_name_its_own_the_servers_and_oidc(books: Books, path: str) -> None:
    made = books.create(OWNER, spiffe(path), Role.ADMINISTRATOR, tenant="default")
    assert made.scope == "tenants/default"


@pytest.mark.parametrize(
    ("scope", "tenant"),
    [
        ("*", "default"),
        ("tenants/other", "default"),
        ("tenants/default2", "default"),
        ("tenants", "default"),
        ("tenants/default/", "default"),
        ("tenants/default//x", "default"),
        ("", None),
        ("server", None),
        ("tenants/../default", None),
        ("tenants/default/*", None),
    ],
)
def test_a_scope_lies_within_the_tenant_and_is_a_name(books: Books, scope: str, tenant: str | None) -> None:
    error = refused(
        lambda: books.create(ADMINISTRATOR, BUILD.principal, Role.AUDITOR, scope, tenant=tenant), Reason.FIELD_INVALID
    )
    assert [violation.field for violation in error.violations] == ["grant.scope"]


def test_what_a_grant_names_is_there(books: Books) -> None:
    refused(
        lambda: books.create(ADMINISTRATOR, BUILD.principal, Role.AUDITOR, tenant="nowhere"), Reason.TENANT_NOT_FOUND
    )
    refused(
        lambda: books.create(
            ADMINISTRATOR, BUILD.principal, Role.AUDITOR, "tenants/nowhere/authorities/a", tenant=None
        ),
        Reason.TENANT_NOT_FOUND,
    )
    refused(
        lambda: books.create(ADMINISTRATOR, BUILD.principal, Role.ISSUER, CA, profiles=frozenset({"web"})),
        Reason.PROFILE_NOT_FOUND,
    )
    books.create(ADMINISTRATOR, BUILD.principal, Role.AUDITOR, grant_id="a")
    refused(
        lambda: books.create(ADMINISTRATOR, BUILD.principal, Role.AUDITOR, grant_id="a"),
        Reason.GRANT_EXISTS,
        "grant_id",
    )
    other = books.create(ADMINISTRATOR, BUILD.principal, Role.AUDITOR, grant_id="a", tenant="other")
    assert other.name == "tenants/other/grants/a"


def test_a_repeated_request_makes_one_grant(books: Books) -> None:
    key = RequestKey(str(uuid.uuid4()), b"a")
    rehearsed = books.create(ADMINISTRATOR, BUILD.principal, Role.AUDITOR, key=key, validate_only=True)
    refused(lambda: books.grants.get(ADMINISTRATOR, GrantName.parse("", rehearsed.name)), Reason.GRANT_NOT_FOUND)
    first = books.create(ADMINISTRATOR, BUILD.principal, Role.AUDITOR, key=key)
    assert books.create(ADMINISTRATOR, BUILD.principal, Role.AUDITOR, key=key) == first
    assert books.grants.get(ADMINISTRATOR, GrantName.parse("", first.name)) == first
    refused(
        lambda: books.create(ADMINISTRATOR, BUILD.principal, Role.AUDITOR, key=RequestKey(key.request_id, b"b")),
        Reason.REQUEST_ID_REUSED,
    )
    again = RequestKey(str(uuid.uuid4()), b"a")
    books.delete(ADMINISTRATOR, first.name, validate_only=True)
    books.delete(ADMINISTRATOR, first.name, key=again)
    books.delete(ADMINISTRATOR, first.name, key=again)


def test_pages_are_of_one_owner_and_of_one_principal(books: Books) -> None:
    for number in range(5):
        books.give(
            BUILD if number % 2 else caller("oidc/p/s"),
            Role.AUDITOR,
            "tenants/other",
            tenant="other",
            grant_id=f"o{number}",
        )
    found: list[str] = []
    token = ""
    while True:
        page = books.grants.page(ADMINISTRATOR, TenantName("other"), PageRequest(2, token))
        found += [grant.name for grant in page.items]
        token = page.next_page_token
        if not token:
            break
    assert found == [f"tenants/other/grants/o{number}" for number in range(5)]
    mine = books.grants.page(ADMINISTRATOR, TenantName("other"), PageRequest(9, ""), principal=BUILD.principal)
    assert [grant.grant_id for grant in mine.items] == ["o1", "o3"]
    of_server = books.grants.page(ADMINISTRATOR, None, PageRequest(100, ""))
    assert {grant.tenant for grant in of_server.items} == {None}
    refused(
        lambda: books.grants.page(ADMINISTRATOR, TenantName("nowhere"), PageRequest(9, "")), Reason.TENANT_NOT_FOUND
    )
    refused(lambda: books.grants.page(OWNER, TenantName("other"), PageRequest(9, "")), Reason.PERMISSION_MISSING)
    refused(lambda: books.grants.page(OWNER, None, PageRequest(9, "")), Reason.PERMISSION_MISSING)


def _administration(books: Books, who: Caller) -> Grant:
    with books.store.read("test.grants") as tx:
        (found,) = [held for held in grants.of_principal(tx, who.principal) if held.role is Role.ADMINISTRATOR]
    return found


def test_the_last_administrator_stays(books: Books) -> None:
    last = _administration(books, ADMINISTRATOR).name
    books.give(spiffe("identities/*"), Role.ADMINISTRATOR)
    books.give(BUILD, Role.ADMINISTRATOR, "tenants/default")
    for state in (None, IdentityState.INVITED, IdentityState.REVOKED):
        if state is not None:
            books.identity(BUILD, state)
        refused(lambda: books.delete(ADMINISTRATOR, last), Reason.LAST_ADMINISTRATOR, "another administrator first")
    refused(lambda: books.delete(ADMINISTRATOR, last, validate_only=True), Reason.LAST_ADMINISTRATOR)
    second = books.create(ADMINISTRATOR, BUILD.principal, Role.ADMINISTRATOR, "*", tenant=None)
    refused(lambda: books.delete(ADMINISTRATOR, last), Reason.LAST_ADMINISTRATOR)
    books.identity(BUILD, IdentityState.ACTIVE)
    books.delete(ADMINISTRATOR, last)
    refused(lambda: books.delete(BUILD, second.name), Reason.LAST_ADMINISTRATOR)


def test_why_a_call_would_pass_or_not(books: Books) -> None:
    held = books.give(BUILD, Role.ISSUER, CA, tenant="default", profiles=frozenset({"server"}), grant_id="web")
    issue = Question(asked="certd.v1.CertificateService/IssueCertificate", permission=Permission.CERTIFICATE_ISSUE)

    def ask(
        resource: str = CA, profile: str | None = "server", *, by: Caller = ADMINISTRATOR, of: Caller = BUILD
    ) -> Any:
        (verdict,) = books.grants.test_permissions(by, resource, [issue], principal=of.principal, profile=profile)
        return verdict

    assert (ask().allowed, ask().grants, ask().explanation) == (True, (held.name,), "")
    assert not ask("tenants/default/authorities/other").allowed
    for verdict, cause in (
        (ask("tenants/default/authorities/other"), f"holds {CA}, which tenants/default/authorities/other is not below"),
        (ask(profile="client"), "lists the profiles server, not client"),
        (ask(of=OWNER), "is of the role administrator, which has no certificate.issue"),
        (ask(of=caller("identities/nobody")), "no grant"),
    ):
        assert not verdict.allowed
        assert cause in verdict.explanation
    free = Question(asked="certd.v1.AccessService/WhoAmI", permission=None)
    (public,) = books.grants.test_permissions(BUILD, CA, [free], principal="", profile=None)
    assert public.allowed
    assert ask(by=BUILD).allowed
    refused(lambda: ask(by=BUILD, of=OWNER), Reason.PERMISSION_MISSING, "grant.read")
    refused(lambda: ask("tenants/other/authorities/ca", by=OWNER), Reason.PERMISSION_MISSING, "grant.read")


def test_who_asks_of_another_is_told_no_grant_that_they_may_not_read(books: Books) -> None:
    books.give(BUILD, Role.ISSUER, "tenants/other", tenant="other", grant_id="secret", profiles=None)
    server_wide = books.give(BUILD, Role.AUDITOR, grant_id="wide")
    issue, read = (
        Question(asked=str(each), permission=each)
        for each in (Permission.CERTIFICATE_ISSUE, Permission.CERTIFICATE_READ)
    )
    denied, allowed = books.grants.test_permissions(OWNER, CA, [issue, read], principal=BUILD.principal, profile=None)
    assert "secret" not in denied.explanation
    assert "wide" not in denied.explanation
    assert (allowed.allowed, allowed.grants) == (True, ())
    _, known = books.grants.test_permissions(ADMINISTRATOR, CA, [issue, read], principal=BUILD.principal, profile=None)
    assert known.grants == (server_wide.name,)


def test_a_revoked_identity_passes_nowhere_and_only_who_may_know_is_told(books: Books) -> None:
    books.give(BUILD, Role.AUDITOR)
    books.identity(BUILD, IdentityState.REVOKED)
    read = Question(asked="certificate.read", permission=Permission.CERTIFICATE_READ)
    (known,) = books.grants.test_permissions(ADMINISTRATOR, CA, [read], principal=BUILD.principal, profile=None)
    assert not known.allowed
    assert "revoked" in known.explanation
    (unknown,) = books.grants.test_permissions(OWNER, CA, [read], principal=BUILD.principal, profile=None)
    assert unknown.allowed


def test_a_profile_that_a_grant_names_is_not_deleted(books: Books) -> None:
    books.give(BUILD, Role.ISSUER, CA, tenant="default", grant_id="web", profiles=frozenset({"own"}))
    with books.store.read("test.profiles") as tx:
        assert profiles.grants_of(tx, "default", "own", most=2) == [GrantName("default", "web")]
        assert profiles.grants_of(tx, "other", "own", most=2) == []


def test_a_restricted_profile_needs_who_operates_authorities(books: Books) -> None:
    books.give(BUILD, Role.ISSUER, CA, tenant="default", grant_id="all")
    issue = Question(asked="certificate.issue", permission=Permission.CERTIFICATE_ISSUE)

    def ask() -> Any:
        (verdict,) = books.grants.test_permissions(
            ADMINISTRATOR, CA, [issue], principal=BUILD.principal, profile="subordinate-ca"
        )
        return verdict

    assert not ask().allowed
    assert "restricted" in ask().explanation
    books.give(BUILD, Role.AUTHORITY_OPERATOR, CA, tenant="default", grant_id="operate")
    assert ask().grants == ("tenants/default/grants/all", "tenants/default/grants/operate")


def test_what_lists_no_profile_is_not_held_by_everybody(books: Books) -> None:
    (nothing,) = [held for held in books.access.held(OWNER) if held.role is Role.ADMINISTRATOR]
    listed = books.give(BUILD, Role.ISSUER, CA, profiles=frozenset())
    assert lacking((nothing,), listed) is Permission.AUTHORITY_READ
    assert lacking(books.access.held(ADMINISTRATOR), listed) is None


def test_what_is_explained_stays_short_however_many_grants_there_are(books: Books) -> None:
    for _ in range(60):
        books.give(BUILD, Role.AUDITOR, "tenants/default", tenant="default")
    read = Question(asked="r", permission=Permission.CERTIFICATE_READ)
    issue = Question(asked="i", permission=Permission.CERTIFICATE_ISSUE)
    allowed, refused_ = books.grants.test_permissions(BUILD, CA, [read, issue], principal="", profile=None)
    assert allowed.allowed
    assert len(allowed.grants) == 20
    assert not refused_.allowed
    assert "and 40 more grants do not either" in refused_.explanation
    assert len(refused_.explanation) < 5000


def test_a_tenant_gives_one_principal_so_many_grants_and_no_more(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    # They are looked at with every call of the principal, which may be one of the server.
    monkeypatch.setattr(services_grants, "MOST_OF_PRINCIPAL", 2)
    for number in range(2):
        books.create(OWNER, ADMINISTRATOR.principal, Role.ADMINISTRATOR, f"tenants/default/profiles/p{number}")
    last = "tenants/default/profiles/p2"
    for validate_only in (True, False):
        refused(
            lambda only=validate_only: books.create(  # type: ignore[misc]  # mypy infers no type for a default.
                OWNER, ADMINISTRATOR.principal, Role.ADMINISTRATOR, last, validate_only=only
            ),
            Reason.QUOTA_EXCEEDED,
            "one with a wider scope",
        )
    books.create(OWNER, BUILD.principal, Role.ADMINISTRATOR, last)
    # The server bounds itself.
    books.create(ADMINISTRATOR, ADMINISTRATOR.principal, Role.AUDITOR, last, tenant=None)
