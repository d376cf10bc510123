"""Profiles: made, changed in versions, listed, deleted while nobody names them; and every refusal."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason, Violation
from certd.model.access import Caller, Permission, Role
from certd.model.event import EventType
from certd.model.names import ProfileName, TenantName
from certd.model.tenant import Quotas
from certd.pki.extensions import CLIENT_AUTHENTICATION, KEY_USAGE, OCSP_SIGNING, SERVER_AUTHENTICATION, KeyUsage
from certd.pki.key_spec import KeySpec
from certd.pki.profile import CommonNameRule, CustomExtension, DnsNameRules, NameRules, SubjectPresence
from certd.pki.profiles import BUILT_IN, SYSTEM
from certd.services.paging import PageRequest
from certd.services.profile_changes import GivenProfile, GivenSubject
from certd.services.profiles import existing_profile
from certd.services.tenants import existing_tenant
from certd.store import managed_certificates, profiles, tenants
from certd.store.store import Transaction
from tests.services.conftest import ADMINISTRATOR, STRANGER
from tests.services.profile_books import DAY, GIVEN, SERVER, WEB, Books, open_books, refused, told
from tests.store.samples import managed


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with open_books(f"sqlite:///{tmp_path}/certd.db") as opened:
        yield opened


def test_a_profile_is_made_and_read_again(books: Books) -> None:
    made = books.create()
    assert (made.name, made.built_in, made.profile.version) == (WEB, False, 1)
    assert made.create_time == made.update_time == books.clock.now()
    assert made.profile.profile_id == "web"
    assert made.profile.names == GIVEN.names
    assert books.get() == made
    assert books.get(version=1) == made
    assert told(books) == [(EventType.PROFILE_CREATED, str(WEB), {"version": "1"})]
    (event,) = [event for event in books.events() if event.type is EventType.PROFILE_CREATED]
    assert (event.principal, event.tenant) == (ADMINISTRATOR.principal, "default")


def test_what_is_not_said_has_its_default(books: Books) -> None:
    profile = books.create(given=GivenProfile(longest_lifetime=60 * DAY, extended_key_usages=(CLIENT_AUTHENTICATION,)))
    found = profile.profile
    assert (found.default_lifetime, found.shortest_lifetime) == (60 * DAY, timedelta(minutes=1))
    assert found.backdate == timedelta(minutes=5)
    assert found.key_specs == frozenset(KeySpec)
    assert found.key_usages == {KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_ENCIPHERMENT}
    assert found.names == NameRules()
    assert (found.subject.presence, found.subject.common_name) == (SubjectPresence.OPTIONAL, CommonNameRule.AMONG_NAMES)
    assert not found.restricted
    longer = books.create(ProfileName("default", "b"), replace(GIVEN, longest_lifetime=200 * DAY)).profile
    assert longer.default_lifetime == 90 * DAY
    authority = books.create(
        ProfileName("default", "c"), GivenProfile(longest_lifetime=60 * DAY, authority=True)
    ).profile
    assert authority.key_usages == {KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN}
    assert authority.subject.presence is SubjectPresence.REQUIRED
    assert authority.subject.common_name is CommonNameRule.ANY
    assert authority.restricted
    passing = books.create(ProfileName("default", "d"), replace(GIVEN, passed_extensions=(KEY_USAGE,))).profile
    assert passing.key_usages == frozenset()
    assert passing.restricted
    no_backdate = books.create(ProfileName("default", "e"), replace(GIVEN, backdate=timedelta(0))).profile
    assert no_backdate.backdate == timedelta(0)


def test_every_broken_rule_is_named_with_its_field(books: Books) -> None:
    broken = replace(
        GIVEN,
        default_lifetime=90 * DAY,
        names=NameRules(dns_names=DnsNameRules(names=("a b",), suffixes=(".example",))),
        custom_extensions=(CustomExtension(oid="2.5.29.19", value=b"\x30\x00"),),
        extended_key_usages=(SERVER_AUTHENTICATION, OCSP_SIGNING),
    )
    error = refused(lambda: books.create(given=broken), Reason.FIELD_INVALID, "must lie between")
    assert {violation.field for violation in error.violations} == {
        "profile.default_lifetime",
        "profile.names.dns_names.names[0]",
        "profile.names.dns_names.suffixes[0]",
        "profile.custom_extensions[0].oid",
        "profile.extended_key_usages[1]",
    }
    error = refused(lambda: books.create(given=GivenProfile()), Reason.FIELD_INVALID, "is required")
    assert error.violations == (Violation("profile.longest_lifetime", "is required"),)
    assert told(books) == []
    refused(books.get, Reason.PROFILE_NOT_FOUND, "ListProfiles")


def test_an_id_is_taken_once(books: Books) -> None:
    first = books.create()
    error = refused(books.create, Reason.PROFILE_EXISTS, "choose another profile_id")
    assert error.resource == str(WEB)
    for taken in (*BUILT_IN, *SYSTEM):
        for validate_only in (True, False):
            error = refused(
                lambda taken=taken, validate_only=validate_only: books.create(  # type: ignore[misc]  # mypy infers no type for a default.
                    ProfileName("default", taken), validate_only=validate_only
                ),
                Reason.PROFILE_EXISTS,
                "one of certd's own",
            )
    assert books.get() == first
    # Another tenant's is another one.
    assert books.create(ProfileName("other", "web")).profile == first.profile


def test_a_tenant_has_as_many_as_it_may_have(books: Books) -> None:
    def bound(tx: Transaction) -> None:
        tenants.update(tx, replace(existing_tenant(tx, "default"), quotas=Quotas(profiles=2)))

    books.store.write("test.quota", bound)
    books.create(ProfileName("default", "a"))
    books.create(ProfileName("default", "b"))
    for validate_only in (True, False):
        error = refused(
            lambda validate_only=validate_only: books.create(validate_only=validate_only),  # type: ignore[misc]  # mypy infers no type for a default.
            Reason.QUOTA_EXCEEDED,
            "delete one that is not used",
        )
        assert (error.resource, error.metadata) == ("tenants/default", {"limit": "2", "quota": "profiles"})
    books.create(ProfileName("other", "web"))
    books.delete(ProfileName("default", "a"))
    books.create()


def test_the_limit_is_a_thousand(books: Books) -> None:
    def fill(tx: Transaction) -> None:
        for number in range(1000):
            profiles.insert(tx, "default", f"p{number}", document="{}", now=books.clock.now())

    books.store.write("test.fill", fill)
    refused(books.create, Reason.QUOTA_EXCEEDED, "has 1000 profiles")
    assert len(told(books)) == 0


def test_an_update_changes_what_is_named_and_makes_a_version(books: Books) -> None:
    first = books.create(given=replace(GIVEN, description="first", key_specs=frozenset({KeySpec.EC_P256})))
    books.clock.advance(timedelta(hours=1))
    changed = books.update(GivenProfile(description="second", longest_lifetime=10 * DAY), "description")
    assert changed.profile == replace(first.profile, description="second", version=2)
    assert (changed.create_time, changed.update_time) == (first.create_time, books.clock.now())
    assert books.get() == changed
    # What is named and not given is set back to its default, which may follow from the others.
    third = books.update(
        GivenProfile(longest_lifetime=30 * DAY), "longest_lifetime", "default_lifetime", "key_specs"
    ).profile
    assert third.key_specs == frozenset(KeySpec)
    assert third.default_lifetime == 30 * DAY
    assert third.description == "second"
    assert third.version == 3
    # Earlier versions stay as they were.
    assert books.get(version=1).profile == first.profile
    assert books.get(version=2).profile == changed.profile
    assert told(books)[1:] == [
        (EventType.PROFILE_UPDATED, str(WEB), {"version": "2"}),
        (EventType.PROFILE_UPDATED, str(WEB), {"version": "3"}),
    ]


def test_an_update_of_everything_replaces_everything(books: Books) -> None:
    books.create(given=replace(GIVEN, description="first", policies=("1.2.3",)))
    replaced = books.update(replace(GIVEN, subject=GivenSubject(common_name=CommonNameRule.NONE))).profile
    assert (replaced.description, replaced.policies) == ("", ())
    assert replaced.subject.common_name is CommonNameRule.NONE
    refused(lambda: books.update(replace(GIVEN, longest_lifetime=None)), Reason.FIELD_INVALID, "longest_lifetime")


def test_an_update_that_changes_nothing_makes_no_version(books: Books) -> None:
    first = books.create()
    version = books.store.configuration_version
    books.clock.advance(timedelta(hours=1))
    for given, changes in ((GIVEN, ()), (GivenProfile(), ("description", "policies")), (GIVEN, ("names",))):
        assert books.update(given, *changes) == first
        assert books.update(given, *changes, validate_only=True) == first
    assert books.get() == first
    assert len(told(books)) == 1
    assert books.store.configuration_version == version


def test_an_update_that_breaks_a_rule_changes_nothing(books: Books) -> None:
    first = books.create()
    # Each is well-formed alone, and does not fit what stands there.
    for given, change, field in (
        (GivenProfile(authority=True), "authority", "profile.key_usages"),
        (GivenProfile(default_lifetime=61 * DAY), "default_lifetime", "profile.default_lifetime"),
        (GivenProfile(), "extended_key_usages", "profile.extended_key_usages"),
    ):
        error = refused(
            lambda given=given, change=change: books.update(given, change),  # type: ignore[misc]  # mypy infers no type for a default.
            Reason.FIELD_INVALID,
            field,
        )
        assert field in {violation.field for violation in error.violations}
    assert books.get() == first
    assert len(told(books)) == 1


def test_an_etag_guards_a_version(books: Books) -> None:
    first = books.create()
    second = books.update(GivenProfile(description="second"), "description", etag=first.etag)
    assert second.etag != first.etag
    for call in (
        lambda: books.update(GivenProfile(description="x"), "description", etag=first.etag),
        lambda: books.update(GivenProfile(description="x"), "description", etag=first.etag, validate_only=True),
        lambda: books.update(GivenProfile(description="second"), "description", etag="nonsense"),
        lambda: books.delete(etag=first.etag),
        lambda: books.delete(etag=first.etag, validate_only=True),
    ):
        error = refused(call, Reason.ETAG_MISMATCH, "read it again")
        assert error.metadata == {"etag": second.etag}
        assert error.resource == str(WEB)
    assert books.get() == second
    # Nor does the etag of a deleted profile fit the one that took its id.
    books.delete(etag=second.etag)
    again = books.create()
    assert again.etag not in {first.etag, second.etag}
    refused(lambda: books.delete(etag=second.etag), Reason.ETAG_MISMATCH, "read it again")


def test_a_deleted_profile_is_gone_and_its_versions_are_not(books: Books) -> None:
    first = books.create()
    second = books.update(GivenProfile(description="second"), "description")
    books.clock.advance(timedelta(hours=1))
    books.delete()
    for call in (books.get, books.delete, lambda: books.update(GIVEN)):
        error = refused(call, Reason.PROFILE_NOT_FOUND, "ListProfiles")
        assert error.resource == str(WEB)
    assert told(books)[-1] == (EventType.PROFILE_DELETED, str(WEB), {"version": "2"})
    # A certificate that names it can still be understood.
    assert books.get(version=1).profile == first.profile
    assert books.get(version=2) == replace(second, create_time=None)
    again = books.create(given=replace(GIVEN, description="again"))
    assert (again.profile.version, again.create_time) == (3, books.clock.now())
    assert books.get() == again
    assert books.get(version=1).profile == first.profile


def test_a_version_that_never_was_is_not_found(books: Books) -> None:
    books.create()
    for name, version in ((WEB, 2), (SERVER, 2), (ProfileName("default", "none"), 1)):
        error = refused(
            lambda name=name, version=version: books.get(name, version),  # type: ignore[misc]  # mypy infers no type for a default.
            Reason.PROFILE_NOT_FOUND,
            "to have the newest",
        )
        assert (error.resource, error.metadata) == (str(name), {"version": str(version)})
    assert books.get(SERVER, 1) == books.get(SERVER)


def test_built_in_profiles_are_everybodys_and_nobody_changes_them(books: Books) -> None:
    for tenant in ("default", "other"):
        for profile in BUILT_IN.values():
            view = books.get(ProfileName(tenant, profile.profile_id))
            assert (view.profile, view.built_in, view.create_time) == (profile, True, None)
    for call in (
        lambda: books.update(GIVEN, name=SERVER),
        lambda: books.update(GIVEN, name=SERVER, validate_only=True),
        lambda: books.delete(SERVER),
        lambda: books.delete(SERVER, validate_only=True),
    ):
        error = refused(call, Reason.STATE_FORBIDS, "create another one and use that")
        assert error.resource == str(SERVER)
    for hidden in SYSTEM:
        refused(
            lambda hidden=hidden: books.get(ProfileName("default", hidden)),  # type: ignore[misc]  # mypy infers no type for a default.
            Reason.PROFILE_NOT_FOUND,
            "ListProfiles",
        )


def test_lists_merge_built_in_profiles_in_the_order_of_names(books: Books) -> None:
    own = ["a", "client-2", "clients", "server-a", "z"]
    for each in own:
        books.create(ProfileName("default", each))
    books.create(ProfileName("other", "foreign"))
    expected = sorted([*own, *BUILT_IN])
    for size in (1, 2, 3, 7, len(expected), 1000):
        found: list[str] = []
        token = ""
        while True:
            page = books.profiles.page(ADMINISTRATOR, TenantName("default"), PageRequest(size, token))
            assert len(page.items) <= size
            assert all(view.built_in == (view.name.profile in BUILT_IN) for view in page.items)
            found += [view.name.profile for view in page.items]
            token = page.next_page_token
            if not token:
                break
        assert found == expected


def test_a_list_goes_on_where_it_was_while_others_write(books: Books) -> None:
    books.create(ProfileName("default", "m"))
    first = books.profiles.page(ADMINISTRATOR, TenantName("default"), PageRequest(3, ""))
    books.create(ProfileName("default", "a"))
    books.create(ProfileName("default", "zz"))
    rest = books.profiles.page(ADMINISTRATOR, TenantName("default"), PageRequest(100, first.next_page_token))
    names = [view.name.profile for view in (*first.items, *rest.items)]
    assert names == sorted([*BUILT_IN, "m", "zz"])
    error = refused(
        lambda: books.profiles.page(ADMINISTRATOR, TenantName("other"), PageRequest(3, first.next_page_token)),
        Reason.FIELD_INVALID,
        "another query",
    )
    assert [violation.field for violation in error.violations] == ["page_token"]


def test_what_is_named_is_not_deleted(books: Books) -> None:
    books.create()

    def name_it(tx: Transaction) -> None:
        for number in range(4):
            managed_certificates.insert(tx, managed(f"m{number}", profile="web"))

    books.grant("spiffe://x/y", Role.ISSUER, grant_id="of-web", profiles=frozenset({"web", "server"}))
    for validate_only in (True, False):
        error = refused(
            lambda validate_only=validate_only: books.delete(validate_only=validate_only),  # type: ignore[misc]  # mypy infers no type for a default.
            Reason.PROFILE_IN_USE,
            "named by the grants of-web; delete these",
        )
        assert (error.metadata, error.resource) == ({"grants": "of-web"}, str(WEB))
    books.store.write("test.managed", name_it)
    error = refused(
        books.delete, Reason.PROFILE_IN_USE, "managed certificates m0, m1, m2 and more and the grants of-web"
    )
    assert error.metadata == {"managed_certificates": "m0, m1, m2 and more", "grants": "of-web"}
    assert books.get().profile.version == 1
    assert len(told(books)) == 1


def test_what_only_is_called_alike_hinders_no_deletion(books: Books) -> None:
    books.create()
    books.grant("spiffe://x/y", Role.ISSUER, profiles=frozenset({"web-2"}))
    books.grant("spiffe://x/y", Role.ISSUER, profiles=frozenset({"web"}), scope="tenants/other")
    books.grant("spiffe://x/y", Role.ISSUER)
    books.store.write("test.managed", lambda tx: managed_certificates.insert(tx, managed("m", profile="web-2")))
    books.delete()


def test_every_change_says_so_to_those_who_keep_profiles_in_memory(books: Books) -> None:
    seen = [books.store.configuration_version]
    for change in (
        books.create,
        lambda: books.update(GivenProfile(description="x"), "description"),
        books.delete,
    ):
        change()
        seen.append(books.store.configuration_version)
    assert seen == sorted(set(seen))


def test_a_missing_tenant_is_named(books: Books) -> None:
    name = ProfileName("none", "web")
    for call in (
        lambda: books.create(name),
        lambda: books.get(name),
        lambda: books.get(ProfileName("none", "server")),
        lambda: books.update(GIVEN, name=name),
        lambda: books.delete(name),
        lambda: books.profiles.page(ADMINISTRATOR, TenantName("none"), PageRequest(1, "")),
    ):
        error = refused(call, Reason.TENANT_NOT_FOUND, "does not exist")
        assert error.resource == "tenants/none"


READS = {Permission.PROFILE_READ}


@pytest.mark.parametrize(
    ("role", "held"),
    [
        (None, set()),
        (Role.ISSUER, READS),
        (Role.REQUESTER, READS),
        (Role.AUDITOR, READS),
        (Role.AUTHORITY_OPERATOR, READS),
        (Role.EXPORTER, set()),
        (Role.ADMINISTRATOR, READS | {Permission.PROFILE_WRITE}),
    ],
)
def test_who_may_what(books: Books, role: Role | None, held: set[Permission]) -> None:
    books.create()
    if role is not None:
        books.grant(STRANGER.principal, role)
    reads: list[Callable[[], object]] = [
        lambda: books.profiles.get(STRANGER, WEB),
        lambda: books.profiles.page(STRANGER, TenantName("default"), PageRequest(1, "")),
    ]
    writes: list[Callable[[], object]] = [
        lambda: books.update(GivenProfile(description="x"), "description", caller=STRANGER),
        lambda: books.delete(caller=STRANGER),
        lambda: books.create(caller=STRANGER),
    ]
    for permission, calls in ((Permission.PROFILE_READ, reads), (Permission.PROFILE_WRITE, writes)):
        for call in calls:
            if permission in held:
                call()
            else:
                error = refused(call, Reason.PERMISSION_MISSING, "an administrator can grant it")
                assert error.metadata["permission"] == permission


@pytest.mark.parametrize("name", [WEB, ProfileName("default", "none"), ProfileName("none", "x"), SERVER])
def test_a_stranger_does_not_learn_what_exists(books: Books, name: ProfileName) -> None:
    books.create()
    for call in (
        lambda: books.create(name, caller=STRANGER),
        lambda: books.profiles.get(STRANGER, name),
        lambda: books.update(GIVEN, name=name, caller=STRANGER),
        lambda: books.delete(name, caller=STRANGER),
        lambda: books.profiles.page(STRANGER, TenantName(name.tenant), PageRequest(1, "")),
    ):
        refused(call, Reason.PERMISSION_MISSING, "an administrator can grant it")


def test_a_grant_elsewhere_is_none_here(books: Books) -> None:
    books.create()
    books.create(ProfileName("other", "web"))
    caller = Caller(principal="spiffe://test.internal/identities/elsewhere", serial="03")
    books.grant(caller.principal, Role.ADMINISTRATOR, scope="tenants/other")
    books.profiles.get(caller, ProfileName("other", "web"))
    refused(lambda: books.profiles.get(caller, WEB), Reason.PERMISSION_MISSING, "lacks profile.read")
    refused(lambda: books.delete(caller=caller), Reason.PERMISSION_MISSING, "lacks profile.write")


def test_a_profile_of_another_tenant_is_not_used(books: Books) -> None:
    books.create()
    with books.store.read("test.existing") as tx:
        assert existing_profile(tx, WEB, "default") == books.get().profile
        assert existing_profile(tx, WEB, "default", version=1) == books.get().profile
        assert existing_profile(tx, SERVER, "default") is BUILT_IN["server"]
        for name in (WEB, SERVER):
            with pytest.raises(CertdError, match="does not exist in tenants/other") as caught:
                existing_profile(tx, name, "other")
            assert caught.value.reason is Reason.PROFILE_NOT_FOUND
