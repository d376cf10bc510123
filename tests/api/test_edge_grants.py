"""Grants at the edge: what comes in is converted whole, refused with every field, and goes out whole."""

from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from certd.api.methods import METHODS
from certd.model.access import Permission, Role
from certd.model.names import GrantName, TenantName
from certd.services.grants import GivenGrant, Question
from certd.services.paging import PageRequest
from certd.v1 import access_service_pb2, grant_pb2
from tests.api.edge_grants import GRANT
from tests.api.edge_messages import AUTHORITY_NAME, REQUEST_ID, call, refused
from tests.api.edge_server import ALICE, Edge

BOB = "spiffe://certd.test/identities/bob"
MESSAGE = grant_pb2.Grant(
    name="tenants/default/grants/web",
    principal=BOB,
    role=grant_pb2.ISSUER,
    scope=AUTHORITY_NAME,
    profiles=["end-entity", "server"],
    creator=ALICE,
)


def create(**changes: Any) -> access_service_pb2.CreateGrantRequest:
    wanted: dict[str, Any] = {
        "principal": BOB,
        "role": grant_pb2.ISSUER,
        "scope": AUTHORITY_NAME,
        "profiles": ["server"],
    }
    wanted.update({name: value for name, value in changes.items() if name in wanted})
    request: dict[str, Any] = {"parent": "tenants/default", "grant_id": "web", "request_id": REQUEST_ID}
    request.update({name: value for name, value in changes.items() if name not in wanted})
    return access_service_pb2.CreateGrantRequest(grant=grant_pb2.Grant(**wanted), **request)


def ask(**changes: Any) -> access_service_pb2.TestPermissionsRequest:
    values: dict[str, Any] = {"resource": AUTHORITY_NAME, "permissions": ["certificate.issue"]}
    return access_service_pb2.TestPermissionsRequest(**(values | changes))


def test_a_grant_comes_in_whole_and_goes_out_whole(edge: Edge) -> None:
    assert call(edge, create(validate_only=True)) == MESSAGE
    caller, name, given, key, validate_only = edge.told.last
    assert (caller.principal, name, validate_only) == (ALICE, GrantName("default", "web"), True)
    assert key.request_id == REQUEST_ID.lower()
    assert given == GivenGrant(principal=BOB, role=Role.ISSUER, scope=AUTHORITY_NAME, profiles=frozenset({"server"}))


def test_the_server_has_grants_of_its_own_and_chooses_ids(edge: Edge) -> None:
    call(edge, create(parent="", grant_id="", role=grant_pb2.AUDITOR, scope="*", profiles=[]))
    _, name, given, _, _ = edge.told.last
    assert name.tenant is None
    assert GrantName.parse("name", str(name)) == name
    assert given.profiles is None
    call(edge, create(profiles=["*"]))
    assert edge.told.last[2].profiles is None


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"parent": "default"}, ["parent"]),
        ({"grant_id": "Web"}, ["grant_id"]),
        ({"request_id": "1"}, ["request_id"]),
        ({"principal": ""}, ["grant.principal"]),
        ({"role": 0}, ["grant.role"]),
        ({"role": 99, "principal": ""}, ["grant.principal", "grant.role"]),
        ({"profiles": []}, ["grant.profiles"]),
        ({"profiles": ["*", "server"]}, ["grant.profiles[0]"]),
        ({"profiles": ["server", "a/b"]}, ["grant.profiles[1]"]),
        ({"profiles": ["server"] * 101}, ["grant.profiles"]),
        ({"role": grant_pb2.AUDITOR}, ["grant.profiles"]),
    ],
)
def test_a_malformed_grant_is_refused_with_its_fields(edge: Edge, changes: dict[str, Any], fields: list[str]) -> None:
    failure = refused(edge, create(**changes))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert sorted(path for path, _ in failure.violations) == fields


def test_grants_are_read_listed_and_deleted(edge: Edge) -> None:
    assert call(edge, access_service_pb2.GetGrantRequest(name="grants/web")) == MESSAGE
    assert edge.told.last[1] == GrantName(None, "web")
    call(edge, access_service_pb2.GetGrantRequest(name=f"grants/{'0' * 32}"))
    page = call(edge, access_service_pb2.ListGrantsRequest(parent="tenants/default", page_size=2, principal=BOB))
    assert (list(page.grants), page.next_page_token) == ([MESSAGE], "next")
    assert edge.told.last[1:] == (TenantName("default"), PageRequest(2, ""), BOB)
    call(edge, access_service_pb2.ListGrantsRequest())
    assert edge.told.last[1:] == (None, PageRequest(100, ""), None)
    gone = call(edge, access_service_pb2.DeleteGrantRequest(name=GRANT.name, request_id=REQUEST_ID))
    assert gone == Empty()


@pytest.mark.parametrize("name", ["", "grants/", "grants/A", "tenants/a/b/grants/c", "tenants/a/grants/" + "0" * 32])
def test_what_is_no_name_of_a_grant_is_refused(edge: Edge, name: str) -> None:
    for request in (
        access_service_pb2.GetGrantRequest(name=name),
        access_service_pb2.DeleteGrantRequest(name=name),
    ):
        assert [path for path, _ in refused(edge, request).violations] == ["name"]


def test_who_calls_is_told_who_they_are(edge: Edge) -> None:
    answer = call(edge, access_service_pb2.WhoAmIRequest())
    assert (answer.principal, list(answer.grants)) == (ALICE, [MESSAGE])
    assert answer.serial_number


def test_a_method_may_be_said_without_its_service() -> None:
    names = [method.rpartition("/")[2] for method in METHODS if method.startswith("/certd.")]
    assert len(names) == len(set(names))


def test_permissions_may_be_asked_for_by_method(edge: Edge) -> None:
    asked = [
        "certificate.issue",
        "certd.v1.CertificateService/IssueCertificate",
        "/certd.v1.AccessService/WhoAmI",
        "GetProfile",
    ]
    answer = call(edge, ask(permissions=asked, principal=BOB, profile="server"))
    assert [result.permission for result in answer.results] == asked
    assert edge.told.last[1:] == (
        AUTHORITY_NAME,
        [
            Question(asked=asked[0], permission=Permission.CERTIFICATE_ISSUE),
            Question(asked=asked[1], permission=Permission.CERTIFICATE_ISSUE),
            Question(asked=asked[2], permission=None),
            Question(asked=asked[3], permission=Permission.PROFILE_READ),
        ],
        BOB,
        "server",
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"resource": ""}, "resource"),
        ({"resource": "tenants//a"}, "resource"),
        ({"resource": "tenants/a\n"}, "resource"),
        ({"permissions": []}, "permissions"),
        ({"permissions": ["certificate.read"] * 101}, "permissions"),
        ({"permissions": ["certificate.read", "certificate.write"]}, "permissions[1]"),
        ({"permissions": ["certd.v1.CertificateService/Issue"]}, "permissions[0]"),
        ({"principal": "identities/bob"}, "principal"),
        ({"principal": "spiffe://certd.test/*"}, "principal"),
        ({"profile": "*"}, "profile"),
    ],
)
def test_a_malformed_question_is_refused(edge: Edge, changes: dict[str, Any], field: str) -> None:
    assert [path for path, _ in refused(edge, ask(**changes)).violations] == [field]
