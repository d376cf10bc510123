"""Who holds no grant gets nothing, by any method, generated from the protos; and each role gets what it should."""

import base64
import hashlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from certd.api.methods import METHODS, Admission
from certd.api.server import SERVICES
from certd.errors import Reason
from certd.model.access import ROLE_PERMISSIONS, Permission, Role
from certd.pki.credential_request import CredentialRequest
from certd.v1 import authority_service_pb2, certificate_service_pb2, server_service_pb2
from tests.api.every_method import (
    CSR,
    METHODS_OF_SERVICES,
    MISSING,
    TRUST_DOMAIN,
    csr_of,
    full_name,
    named,
    requests_to,
)
from tests.api.whole_daemon import Installed, call, failure_to, grant_of, whole_daemon

_GUARDED = [method for method in METHODS_OF_SERVICES if isinstance(METHODS[full_name(method)], Permission)]
_ABOUT_SOMETHING = [method for method in _GUARDED if method.name != "ListTenants"]
"""It answers everybody, with what they may read."""
_OF_THE_SERVER = {"GetServerInfo", "CreateTenant", "ListTenants", "GetCheckpoint"}
"""Methods that are about no tenant."""
_LET_IN_TOO = {"GetAssociation": Permission.KEY_LEASE}
"""Permissions beside that of the table: consumers may ask for what is their own, and are told of nothing else."""
_NEEDED_TOO = {"CreateSubscription": Permission.EVENT_READ, "ListFailedDeliveries": Permission.EVENT_READ}
"""Permissions beside that of the table: what shows events, or has them sent, is for those who may read them."""


def _permitted(method: MethodDescriptor, role: Role) -> bool:
    too = _NEEDED_TOO.get(method.name)
    if too is not None and too not in ROLE_PERMISSIONS[role]:
        return False
    return not ROLE_PERMISSIONS[role].isdisjoint({METHODS[full_name(method)], _LET_IN_TOO.get(method.name)})


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with whole_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


def test_there_is_a_request_for_every_method() -> None:
    assert set(requests_to(MISSING)) == {method.name for method in METHODS_OF_SERVICES}


@pytest.mark.parametrize("method", _ABOUT_SOMETHING, ids=lambda method: str(method.name))
def test_without_a_grant_every_method_is_denied_alike_whether_the_resource_exists_or_not(
    installed: Installed, method: MethodDescriptor
) -> None:
    stranger = installed.caller("stranger")
    shown = []
    for resources in (installed.there, MISSING):
        failure = failure_to(stranger, method, requests_to(resources)[method.name])
        assert failure is not None
        assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
        text = repr(failure)
        for word in sorted(resources.words, key=len, reverse=True):
            text = text.replace(f"/{word}", "/…")
        shown.append(text)
    assert shown[0] == shown[1]


@pytest.mark.parametrize("method", _GUARDED, ids=lambda method: str(method.name))
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("about", ["own", "other", "missing"])
def test_a_role_in_a_tenant_opens_exactly_the_methods_of_its_permissions_and_nothing_outside(
    installed: Installed, method: MethodDescriptor, role: Role, about: str
) -> None:
    name = f"only-{role}"
    caller = installed.caller(name, grant_of(name, role, "tenants/default"))
    resources = {
        "own": installed.there,
        "other": installed.elsewhere,
        "missing": replace(MISSING, tenant="default"),
    }[about]
    request = requests_to(resources)[method.name]
    if "validate_only" in request.DESCRIPTOR.fields_by_name:
        request.validate_only = True  # type: ignore[attr-defined]  # It has the field.
    failure = failure_to(caller, method, request)
    denied = failure is not None and failure.reason == Reason.PERMISSION_MISSING
    permitted = _permitted(method, role)
    if method.name == "ListTenants":
        # It shows what may be read, and that may be nothing.
        assert failure is None
    else:
        assert denied == (not permitted or about == "other" or method.name in _OF_THE_SERVER)
    assert failure is None or failure.code is not grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("method", _GUARDED, ids=lambda method: str(method.name))
@pytest.mark.parametrize("role", list(Role))
def test_a_role_on_everything_opens_exactly_the_methods_of_its_permissions(
    installed: Installed, method: MethodDescriptor, role: Role
) -> None:
    caller = installed.caller(f"all-{role}", grant_of(f"all-{role}", role))
    failure = failure_to(caller, method, requests_to(MISSING)[method.name])
    denied = failure is not None and failure.reason == Reason.PERMISSION_MISSING
    assert denied == (not _permitted(method, role) and method.name != "ListTenants")
    assert failure is None or failure.code is not grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("method", _GUARDED, ids=lambda method: str(method.name))
@pytest.mark.parametrize("scope", ["tenants/defaul", "tenants/default/authorities/another"])
def test_every_role_near_by_is_no_grant_here(installed: Installed, method: MethodDescriptor, scope: str) -> None:
    name = "nearby-" + scope.replace("/", "-")
    nearby = installed.caller(name, *(grant_of(name, role, scope) for role in Role))
    failure = failure_to(nearby, method, requests_to(installed.there)[method.name])
    if method.name == "ListTenants":
        assert failure is None
        return
    assert failure is not None
    assert failure.reason == "PERMISSION_MISSING"


def test_the_first_administrator_may_do_everything(installed: Installed) -> None:
    for method in METHODS_OF_SERVICES:
        failure = failure_to(installed.administrator, method, requests_to(installed.there)[method.name])
        # What is there already, may still be pending, or is asked for with no code at all is no matter of permission.
        assert (failure.reason if failure else None) == _STATES.get(method.name), (method.name, failure)


_STATES = {
    "ActivateAuthority": "STATE_FORBIDS",
    # It is no authority's, and the only key of an authority signs.
    "AdoptAuthority": "IMPORT_NOT_COMPATIBLE",
    "CreateCrossCertificate": "IMPORT_CHAIN_INVALID",
    "DeleteAuthority": "AUTHORITY_ENABLED",
    "RetireAuthorityKey": "STATE_FORBIDS",
    "TaintAuthorityKey": "STATE_FORBIDS",
    "UndeleteAuthority": "STATE_FORBIDS",
    "CreateSubscription": "SUBSCRIPTION_EXISTS",
    "CreateTenant": "TENANT_EXISTS",
    "DeleteAssociation": "ASSOCIATION_NOT_FOUND",
    "DeleteDownloadCode": "DOWNLOAD_CODE_NOT_FOUND",
    "DeleteSubscription": "SUBSCRIPTION_NOT_FOUND",
    # It has a consumer, and only that one may lease and report.
    "DeleteManagedCertificate": "CERTIFICATE_IN_USE",
    "LeaseKey": "ASSOCIATION_NOT_FOUND",
    "ReportDeployment": "ASSOCIATION_NOT_FOUND",
    "Enroll": "STATE_FORBIDS",
    "RevokeManagedCertificate": "MANAGED_CERTIFICATE_NOT_FOUND",
    "RollBackManagedCertificate": "STATE_FORBIDS",
}


def test_a_stranger_may_know_the_system_root_but_no_tenants(installed: Installed) -> None:
    stranger, method = installed.caller("stranger"), named("GetTrustBundle")
    assert METHODS[full_name(method)] is Admission.AUTHENTICATED
    bundle: Any = call(stranger, method, server_service_pb2.GetTrustBundleRequest())
    assert [each.pem.encode() for each in bundle.system_roots] == [installed.system_root]
    assert not bundle.tenant_roots
    for resources in (installed.there, MISSING):
        failure = failure_to(stranger, method, requests_to(resources)[method.name])
        assert failure is not None
        assert failure.reason == "PERMISSION_MISSING"


def test_a_request_id_of_another_caller_opens_nothing(installed: Installed) -> None:
    # The administrator used this request id for these very requests.
    for name in ("CreateAuthority", "IssueCertificate", "RequestManagedCertificate"):
        failure = failure_to(installed.caller("stranger"), named(name), requests_to(installed.there)[name])
        assert failure is not None
        assert failure.reason == "PERMISSION_MISSING"


def test_a_grant_for_some_profiles_is_none_for_others(installed: Installed) -> None:
    caller = installed.caller("profiled", grant_of("profiled", Role.ISSUER, profiles=frozenset({"end-entity"})))
    method, request = named("IssueCertificate"), requests_to(installed.there)["IssueCertificate"]
    assert isinstance(request, certificate_service_pb2.IssueCertificateRequest)
    request.request_id = ""
    assert failure_to(caller, method, request) is None
    request.profile = "tenants/default/profiles/root-ca"
    failure = failure_to(caller, method, request)
    assert failure is not None
    assert failure.reason == "PERMISSION_MISSING"


@pytest.mark.parametrize("name", ["tenants/system/authorities/system", "tenants/-/authorities/system", "-"])
def test_the_system_authority_has_no_name_that_even_an_administrator_could_say(installed: Installed, name: str) -> None:
    get = authority_service_pb2.GetAuthorityRequest(name=name)
    failure = failure_to(installed.administrator, named("GetAuthority"), get)
    assert failure is not None
    assert failure.reason in {"FIELD_INVALID", "AUTHORITY_NOT_FOUND", "TENANT_NOT_FOUND"}
    issue = certificate_service_pb2.IssueCertificateRequest(parent=name, csr=CSR)
    failure = failure_to(installed.administrator, named("IssueCertificate"), issue)
    assert failure is not None
    assert failure.reason in {"FIELD_INVALID", "AUTHORITY_NOT_FOUND", "TENANT_NOT_FOUND"}


def test_no_tenant_issues_identities(installed: Installed) -> None:
    spiffe_id = x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/identities/admin")
    request = certificate_service_pb2.IssueCertificateRequest(
        parent="tenants/default/authorities/ca", csr=csr_of(spiffe_id)
    )
    failure = failure_to(installed.administrator, named("IssueCertificate"), request)
    assert failure is not None
    assert failure.reason in {"NAME_NOT_ALLOWED", "PROFILE_FORBIDS"}


def test_a_certificate_of_a_tenant_does_not_pass_the_handshake(installed: Installed) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = csr_of(x509.DNSName("client.example.internal"), key=key)
    request = certificate_service_pb2.IssueCertificateRequest(parent="tenants/default/authorities/ca", csr=csr)
    issued: Any = call(installed.administrator, named("IssueCertificate"), request)
    made = CredentialRequest(private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), csr=csr)
    chain = issued.certificate.pem + "".join(each.pem for each in issued.chain)
    with installed.channel(made, chain.encode()) as channel, pytest.raises(grpc.RpcError) as raised:
        call(channel, named("GetServerInfo"), server_service_pb2.GetServerInfoRequest())
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_certificates_of_authorities_are_public_also_the_system_authoritys(installed: Installed) -> None:
    authority: Any = call(
        installed.administrator,
        named("GetAuthority"),
        authority_service_pb2.GetAuthorityRequest(name="tenants/default/authorities/ca"),
    )
    system = installed.core.system_authority.get()
    host, _, port = installed.ready.http.rpartition(":")
    for uid, expected in ((authority.uid, authority.certificate.der), (system.uid, system.certificate)):
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", f"/ca/{uid}/1.cer")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, expected)
        connection.close()


def _token(*key: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


_QUERY = hashlib.sha256(b"certificates tenants/default/authorities/ca").hexdigest()[:16]


@pytest.mark.parametrize(
    "token",
    [
        "?",
        "NQ==",
        "bnVsbA==",
        base64.urlsafe_b64encode(b"[" * 700).decode(),
        _token(),
        _token("0" * 16, "x"),
        _token(_QUERY),
        _token(_QUERY, 5),
        _token(_QUERY, "x"),
        _token(_QUERY, "x", "y"),
        _token(_QUERY, "2030-01-01T00:00:00", "y", "z"),
        _token(_QUERY, "0001-01-01T00:00:00+14:00", "0a"),
        _token(_QUERY, "2030-01-01T00:00:00", "\ud800"),
        _token(_QUERY, "2030-01-01T00:00:00", "\0"),
    ],
)
def test_a_page_token_of_the_callers_own_making_is_refused(installed: Installed, token: str) -> None:
    request = certificate_service_pb2.ListCertificatesRequest(parent="tenants/default/authorities/ca", page_token=token)
    failure = failure_to(installed.administrator, named("ListCertificates"), request)
    assert failure is not None
    assert failure.reason == "FIELD_INVALID"
    assert [field for field, _ in failure.violations] == ["page_token"]


def test_pages_follow_one_another(installed: Installed) -> None:
    request = certificate_service_pb2.IssueCertificateRequest(parent="tenants/default/authorities/ca", csr=CSR)
    for _ in range(3):
        call(installed.administrator, named("IssueCertificate"), request)
    listing = certificate_service_pb2.ListCertificatesRequest(parent="tenants/default/authorities/ca")
    whole: Any = call(installed.administrator, named("ListCertificates"), listing)
    listing.page_size = 2
    names: list[str] = []
    while True:
        page: Any = call(installed.administrator, named("ListCertificates"), listing)
        names += [each.name for each in page.certificates]
        if not page.next_page_token:
            break
        listing.page_token = page.next_page_token
    assert names == [each.name for each in whole.certificates]
    assert len(names) == len(set(names)) > 3


@pytest.mark.parametrize("role", [None, *Role])
def test_reflection_and_the_stream_of_health_answer_every_known_caller_and_show_no_resource(
    installed: Installed, role: Role | None
) -> None:
    name = f"only-{role}" if role else "stranger"
    caller = installed.caller(name, *([grant_of(name, role, "tenants/default")] if role else []))
    reflected = reflection_pb2_grpc.ServerReflectionStub(caller).ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=20
    )
    shown = {service.name for service in next(reflected).list_services_response.service}
    assert {service.full_name for service in SERVICES} <= shown
    reflected.cancel()
    watched = health_pb2_grpc.HealthStub(caller).Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
    watched.cancel()
