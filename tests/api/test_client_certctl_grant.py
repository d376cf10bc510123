"""certctl grant and whoami against a server of our own: what they ask, what they print, how they end."""

from google.protobuf.empty_pb2 import Empty

from certd.client.messages import timestamp
from certd.v1 import access_service_pb2
from certd.v1.access_service_pb2 import ListGrantsResponse, WhoAmIResponse
from certd.v1.grant_pb2 import Grant, Role
from tests.certctl import CA, Certctl
from tests.fakes_server import FakeServer
from tests.store.samples import NOW

TD = "spiffe://example.internal"
ME = WhoAmIResponse(principal=f"{TD}/identities/admin", serial_number="0a1b", not_after_time=timestamp(NOW))
GRANT = Grant(
    name="tenants/default/grants/web",
    principal=f"{TD}/identities/build",
    role=Role.AUTHORITY_OPERATOR,
    scope=CA,
    creator=f"{TD}/identities/admin",
    create_time=timestamp(NOW),
)


def test_create_sends_what_is_said_and_completes_the_principal(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("WhoAmI", ME)
    fake.answer("CreateGrant", GRANT)
    ended = certctl(
        *("grant", "create", "identities/build", "authority-operator", "--scope", CA, "--id", "web"),
        *("--profile", "a", "--profile", "b"),
    )
    assert (ended.code, ended.err) == (0, "")
    (request,) = fake.requests("CreateGrant")
    assert (request.parent, request.grant_id, request.validate_only) == ("tenants/default", "web", False)
    assert request.grant == Grant(
        principal=f"{TD}/identities/build", role=Role.AUTHORITY_OPERATOR, scope=CA, profiles=["a", "b"]
    )
    assert "authority-operator" in ended.out


def test_a_full_principal_is_sent_as_it_is_and_the_server_has_no_parent(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateGrant", GRANT)
    ended = certctl("grant", "create", f"{TD}/tenants/a/*", "AUDITOR", "--server", "--scope", "*", "--validate-only")
    assert ended.code == 0
    assert "nothing was changed" in ended.err
    (request,) = fake.requests("CreateGrant")
    assert (request.parent, request.validate_only) == ("", True)
    assert request.grant == Grant(principal=f"{TD}/tenants/a/*", role=Role.AUDITOR, scope="*")


def test_a_bare_id_is_an_identity_of_the_tenant_as_everywhere(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("WhoAmI", ME, ME)
    fake.answer("CreateGrant", GRANT, GRANT)
    for tenant, options in (("default", ()), ("acme", ("--tenant", "acme"))):
        assert certctl("grant", "create", "web-1", "consumer", *options).code == 0
        request = fake.requests("CreateGrant")[-1]
        assert request.grant.principal == f"{TD}/tenants/{tenant}/identities/web-1"


def test_a_short_scope_is_of_the_tenant_and_a_grant_of_the_server_has_it_in_full(
    fake: FakeServer, certctl: Certctl
) -> None:
    fake.answer("WhoAmI", ME, ME)
    fake.answer("CreateGrant", GRANT, GRANT)
    for options, scope in (
        (("--tenant", "acme"), "tenants/acme/managedCertificates/web"),
        (("--server",), "managedCertificates/web"),
    ):
        made = certctl("grant", "create", "web-1", "consumer", "--scope", "managedCertificates/web", *options)
        assert made.code == 0
        assert fake.requests("CreateGrant")[-1].grant.scope == scope


def test_grants_are_shown_listed_and_deleted(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("GetGrant", GRANT, GRANT)
    assert certctl("grant", "get", "web").code == 0
    assert certctl("grant", "get", "grants/g1", "-o", "json").code == 0
    assert [request.name for request in fake.requests("GetGrant")] == ["tenants/default/grants/web", "grants/g1"]
    fake.answer("ListGrants", ListGrantsResponse(grants=[GRANT], next_page_token="n"), ListGrantsResponse())
    listed = certctl("grant", "list", "--principal", f"{TD}/identities/build")
    assert (listed.code, [line.split()[0] for line in listed.out.splitlines()]) == (0, ["GRANT", "web"])
    assert {request.principal for request in fake.requests("ListGrants")} == {f"{TD}/identities/build"}
    fake.answer("DeleteGrant", Empty())
    assert certctl("grant", "delete", "web").err == "certctl: tenants/default/grants/web is deleted\n"


def test_explain_says_why_and_ends_with_one_when_it_is_refused(fake: FakeServer, certctl: Certctl) -> None:
    refused = access_service_pb2.TestPermissionsResponse.Result(
        permission="m", explanation="bob lacks it; grant them a role"
    )
    allowed = access_service_pb2.TestPermissionsResponse.Result(permission="m", allowed=True, grants=["grants/g1"])
    fake.answer(
        "TestPermissions",
        access_service_pb2.TestPermissionsResponse(results=[refused]),
        access_service_pb2.TestPermissionsResponse(results=[allowed]),
    )
    who = f"{TD}/identities/bob"
    no = certctl("grant", "explain", who, "CertificateService/IssueCertificate", CA, "--profile", "server")
    assert no.code == 1
    assert "bob lacks it\n" in no.out
    yes = certctl("grant", "explain", who, "certificate.issue", CA)
    assert yes.code == 0
    assert "grants/g1" in yes.out
    first, second = fake.requests("TestPermissions")
    assert list(first.permissions) == ["certd.v1.CertificateService/IssueCertificate"]
    assert (first.principal, first.resource, first.profile) == (who, CA, "server")
    assert list(second.permissions) == ["certificate.issue"]


def test_whoami_shows_who_and_what_holds(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("WhoAmI", ME, WhoAmIResponse(principal=ME.principal, grants=[GRANT]))
    assert "none: an administrator can make one" in certctl("whoami").out
    ended = certctl("whoami")
    assert ME.principal in ended.out
    assert "tenants/default/grants/web" in ended.out
