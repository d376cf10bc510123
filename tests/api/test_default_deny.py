"""Who holds no grant gets nothing, by any method, generated from the protos; and each role gets what it should.

A whole daemon in this process: real token, real store, real mutual TLS.
"""

import base64
import hashlib
import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from certd import main
from certd.api.methods import METHODS, Admission
from certd.api.server import SERVICES
from certd.clock import SystemClock
from certd.config import Config, Database, Listen, Tls, Token
from certd.errors import Reason
from certd.model.access import EVERYTHING, ROLE_PERMISSIONS, Grant, Permission, Role
from certd.pki.credential_request import CredentialRequest, new_credential_request
from certd.pki.encoding import certificate_pem
from certd.services.identities import Identities
from certd.services.steps import no_step
from certd.store import grants
from certd.v1 import (
    authority_pb2,
    authority_service_pb2,
    certificate_service_pb2,
    managed_certificate_pb2,
    managed_certificate_service_pb2,
    profile_pb2,
    profile_service_pb2,
    server_service_pb2,
    x509_pb2,
)
from tests.api.edge_failure import Failure, failure_of
from tests.softhsm import make_token

_TRUST_DOMAIN = "certd.test"
_METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]
_REQUEST_ID = "1f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a11"


def _full_name(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


_GUARDED = [method for method in _METHODS if isinstance(METHODS[_full_name(method)], Permission)]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Names that go into requests."""

    tenant: str
    authority: str
    managed: str
    serial: str
    profile: str = "own"

    @property
    def words(self) -> tuple[str, ...]:
        return (self.tenant, self.authority, self.managed, self.serial, self.profile)


MISSING = Resources(tenant="nowhere", authority="no-ca", managed="no-web", serial="0abc", profile="no-own")


def _csr(*names: x509.GeneralName, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


_CSR = _csr(x509.DNSName("www.example.internal"))
_PROFILE = profile_pb2.Profile(
    longest_lifetime=Duration(seconds=86400),
    extended_key_usages=["1.3.6.1.5.5.7.3.1"],
    names=profile_pb2.NameRules(dns_names=profile_pb2.DnsNameRules(allow_any=True)),
)


def _requests(to: Resources) -> dict[str, Message]:
    """A request for every method, which fails for nothing but what it is about."""
    tenant = f"tenants/{to.tenant}"
    authority, managed = f"{tenant}/authorities/{to.authority}", f"{tenant}/managedCertificates/{to.managed}"
    subject = x509_pb2.DistinguishedName(
        relative_distinguished_names=[
            x509_pb2.RelativeDistinguishedName(attributes=[x509_pb2.AttributeTypeAndValue(type="CN", value="Denied")])
        ]
    )
    profile = f"{tenant}/profiles/{to.profile}"
    passphrase = managed_certificate_service_pb2.PassphraseProtection(passphrase=b"correct horse")
    return {
        "CreateAuthority": authority_service_pb2.CreateAuthorityRequest(
            parent=tenant,
            authority_id=to.authority,
            authority=authority_pb2.Authority(type=authority_pb2.Authority.ROOT, subject=subject),
            request_id=_REQUEST_ID,
        ),
        "GetAuthority": authority_service_pb2.GetAuthorityRequest(name=authority),
        "ListAuthorities": authority_service_pb2.ListAuthoritiesRequest(parent=tenant),
        "UpdateAuthority": authority_service_pb2.UpdateAuthorityRequest(
            authority=authority_pb2.Authority(name=authority, labels={"team": "web"})
        ),
        "GetAuthorityCsr": authority_service_pb2.GetAuthorityCsrRequest(name=authority),
        "ActivateAuthority": authority_service_pb2.ActivateAuthorityRequest(
            name=authority, certificate=b"certificate", chain=b"chain"
        ),
        "EnableAuthority": authority_service_pb2.EnableAuthorityRequest(name=authority),
        "DisableAuthority": authority_service_pb2.DisableAuthorityRequest(name=authority, validate_only=True),
        "IssueCertificate": certificate_service_pb2.IssueCertificateRequest(
            parent=authority, csr=_CSR, request_id=_REQUEST_ID
        ),
        "BatchIssueCertificates": certificate_service_pb2.BatchIssueCertificatesRequest(
            parent=authority, requests=[certificate_service_pb2.IssueCertificateRequest(csr=_CSR)], validate_only=True
        ),
        "GetCertificate": certificate_service_pb2.GetCertificateRequest(name=f"{authority}/certificates/{to.serial}"),
        "ListCertificates": certificate_service_pb2.ListCertificatesRequest(parent=authority),
        "SearchCertificates": certificate_service_pb2.SearchCertificatesRequest(parent=authority),
        "RevokeCertificate": certificate_service_pb2.RevokeCertificateRequest(
            name=f"{authority}/certificates/{to.serial}", validate_only=True
        ),
        "RequestManagedCertificate": managed_certificate_service_pb2.RequestManagedCertificateRequest(
            parent=tenant,
            managed_certificate_id=to.managed,
            managed_certificate=managed_certificate_pb2.ManagedCertificate(
                authority=authority,
                subject_alternative_names=x509_pb2.SubjectAlternativeNames(dns_names=["www.example.internal"]),
            ),
            request_id=_REQUEST_ID,
        ),
        "GetManagedCertificate": managed_certificate_service_pb2.GetManagedCertificateRequest(name=managed),
        "ListManagedCertificates": managed_certificate_service_pb2.ListManagedCertificatesRequest(parent=tenant),
        "ExportManagedCertificate": managed_certificate_service_pb2.ExportManagedCertificateRequest(
            name=managed, passphrase=passphrase
        ),
        "CreateProfile": profile_service_pb2.CreateProfileRequest(
            parent=tenant, profile_id=to.profile, profile=_PROFILE, request_id=_REQUEST_ID
        ),
        "GetProfile": profile_service_pb2.GetProfileRequest(name=profile),
        "ListProfiles": profile_service_pb2.ListProfilesRequest(parent=tenant),
        "UpdateProfile": profile_service_pb2.UpdateProfileRequest(
            profile=profile_pb2.Profile(name=profile, description="changed")
        ),
        "DeleteProfile": profile_service_pb2.DeleteProfileRequest(name=profile),
        "CheckProfile": profile_service_pb2.CheckProfileRequest(name=profile, profile=_PROFILE, csr=_CSR),
        "GetServerInfo": server_service_pb2.GetServerInfoRequest(),
        "GetTrustBundle": server_service_pb2.GetTrustBundleRequest(tenant=tenant),
    }


@dataclass(kw_only=True)
class Installed:
    """A daemon that serves, with an authority, a certificate and a managed certificate."""

    core: main.Core
    ready: main.Ready
    system_root: bytes
    administrator: grpc.Channel
    callers: dict[str, grpc.Channel]
    there: Resources

    def caller(self, name: str, *held: Grant) -> grpc.Channel:
        """A channel of an identity of this name, which holds these grants."""
        if name not in self.callers:
            core, made = self.core, new_credential_request()
            identities = Identities(
                store=core.store, clock=core.clock, loop=core.loop, system_authority=core.system_authority
            )
            principal = f"spiffe://{_TRUST_DOMAIN}/identities/{name}"
            certificate = identities.ensure_identity(principal, made.csr).certificate
            for grant in held:
                assert grant.principal == principal
                core.store.write("test.grant", lambda tx, grant=grant: grants.insert(tx, grant))  # type: ignore[misc]
            self.callers[name] = self.channel(made, certificate_pem(certificate).encode())
        return self.callers[name]

    def channel(self, made: CredentialRequest, certificate: bytes) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.system_root, made.private_key, certificate)
        return grpc.secure_channel(self.ready.grpc, credentials, [("grpc.use_local_subchannel_pool", 1)])


def _call(channel: grpc.Channel, method: MethodDescriptor, request: Message) -> Message:
    answer: type[Message] = GetMessageClass(method.output_type)
    call: Callable[..., Any] = channel.unary_unary(
        _full_name(method),
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    response: Message = call(request, timeout=60)
    return response


def _failure(channel: grpc.Channel, method: MethodDescriptor, request: Message) -> Failure | None:
    """How a call fails, None when it does not."""
    try:
        _call(channel, method, request)
    except grpc.RpcError as error:
        return failure_of(error)
    return None


def _named(name: str) -> MethodDescriptor:
    (found,) = [method for method in _METHODS if method.name == name]
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("daemon")
    config = _configuration(folder)
    administrator = new_credential_request()
    server = new_credential_request()
    made = main.initialise(
        config, server_csr=server.csr, administrator_csr=administrator.csr, server_names=("127.0.0.1",)
    )
    config.tls.private_key.write_bytes(server.private_key)
    config.tls.certificate.write_bytes(made.server_certificate)
    core = main.assemble(config, clock=SystemClock(), step=no_step)
    daemon = main.Daemon(core)
    channels: list[grpc.Channel] = []
    try:
        world = Installed(
            core=core,
            ready=daemon.start(),
            system_root=made.system_root,
            administrator=grpc.insecure_channel("unused:1"),
            callers={},
            there=Resources(tenant="default", authority="ca", managed="web", serial=""),
        )
        world.administrator.close()
        world.administrator = world.channel(administrator, made.administrator_certificate)
        channels.append(world.administrator)
        requests = _requests(world.there)
        for name in ("CreateAuthority", "RequestManagedCertificate", "CreateProfile"):
            _call(world.administrator, _named(name), requests[name])
        issued: Any = _call(world.administrator, _named("IssueCertificate"), requests["IssueCertificate"])
        world.there = Resources(
            tenant="default", authority="ca", managed="web", serial=issued.description.serial_number
        )
        yield world
    finally:
        for channel in (*channels, *world.callers.values()):
            channel.close()
        daemon.stop()


def _configuration(folder: Path) -> Config:
    token = make_token(folder)
    return Config(
        listen=Listen(**dict.fromkeys(("grpc", "http", "metrics"), "127.0.0.1:0")),  # type: ignore[arg-type]  # Parsed.
        database=Database(url=f"sqlite:///{folder}/certd.db"),
        token=Token(
            module=str(token.module),  # type: ignore[arg-type]  # Parsed.
            label=token.label,
            pin_file=str(token.pin_file),  # type: ignore[arg-type]  # Parsed.
            softhsm_conf=str(token.softhsm_conf),  # type: ignore[arg-type]  # Parsed.
        ),
        tls=Tls(
            certificate=str(folder / "server.pem"),  # type: ignore[arg-type]  # Parsed.
            private_key=str(folder / "server.key"),  # type: ignore[arg-type]  # Parsed.
            trust_domain=_TRUST_DOMAIN,
        ),
    )


def _grant(name: str, role: Role, scope: str = EVERYTHING, profiles: frozenset[str] | None = None) -> Grant:
    principal = f"spiffe://{_TRUST_DOMAIN}/identities/{name}"
    return Grant(grant_id=f"{name}-{role}", principal=principal, role=role, scope=scope, profiles=profiles)


def test_there_is_a_request_for_every_method() -> None:
    assert set(_requests(MISSING)) == {method.name for method in _METHODS}


@pytest.mark.parametrize("method", _GUARDED, ids=lambda method: str(method.name))
def test_without_a_grant_every_method_is_denied_alike_whether_the_resource_exists_or_not(
    installed: Installed, method: MethodDescriptor
) -> None:
    stranger = installed.caller("stranger")
    shown = []
    for resources in (installed.there, MISSING):
        failure = _failure(stranger, method, _requests(resources)[method.name])
        assert failure is not None
        assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
        text = repr(failure)
        for word in sorted(resources.words, key=len, reverse=True):
            text = text.replace(f"/{word}", "/…")
        shown.append(text)
    assert shown[0] == shown[1]


@pytest.mark.parametrize("method", _GUARDED, ids=lambda method: str(method.name))
@pytest.mark.parametrize("scope", ["tenants/other", "tenants/defaul", "tenants/default/authorities/other"])
def test_every_role_elsewhere_is_no_grant_here(installed: Installed, method: MethodDescriptor, scope: str) -> None:
    name = "elsewhere-" + scope.replace("/", "-")
    elsewhere = installed.caller(name, *(_grant(name, role, scope) for role in Role))
    failure = _failure(elsewhere, method, _requests(installed.there)[method.name])
    assert failure is not None
    assert failure.reason == "PERMISSION_MISSING"


@pytest.mark.parametrize("method", _GUARDED, ids=lambda method: str(method.name))
@pytest.mark.parametrize("role", list(Role))
def test_a_role_opens_exactly_the_methods_of_its_permissions(
    installed: Installed, method: MethodDescriptor, role: Role
) -> None:
    caller = installed.caller(f"only-{role}", _grant(f"only-{role}", role))
    failure = _failure(caller, method, _requests(MISSING)[method.name])
    denied = failure is not None and failure.reason == Reason.PERMISSION_MISSING
    assert denied == (METHODS[_full_name(method)] not in ROLE_PERMISSIONS[role])
    assert failure is None or failure.code is not grpc.StatusCode.INTERNAL


def test_the_first_administrator_may_do_everything(installed: Installed) -> None:
    for method in _METHODS:
        if method.name in {"ExportManagedCertificate", "ActivateAuthority"}:
            # It may still be pending, and the authority has its certificate, which is no matter of permission.
            continue
        assert _failure(installed.administrator, method, _requests(installed.there)[method.name]) is None, method.name


def test_a_stranger_may_know_the_system_root_but_no_tenants(installed: Installed) -> None:
    stranger, method = installed.caller("stranger"), _named("GetTrustBundle")
    assert METHODS[_full_name(method)] is Admission.AUTHENTICATED
    bundle: Any = _call(stranger, method, server_service_pb2.GetTrustBundleRequest())
    assert [each.pem.encode() for each in bundle.system_roots] == [installed.system_root]
    assert not bundle.tenant_roots
    for resources in (installed.there, MISSING):
        failure = _failure(stranger, method, _requests(resources)[method.name])
        assert failure is not None
        assert failure.reason == "PERMISSION_MISSING"


def test_a_request_id_of_another_caller_opens_nothing(installed: Installed) -> None:
    # The administrator used this request id for these very requests.
    for name in ("CreateAuthority", "IssueCertificate", "RequestManagedCertificate"):
        failure = _failure(installed.caller("stranger"), _named(name), _requests(installed.there)[name])
        assert failure is not None
        assert failure.reason == "PERMISSION_MISSING"


def test_a_grant_for_some_profiles_is_none_for_others(installed: Installed) -> None:
    caller = installed.caller("profiled", _grant("profiled", Role.ISSUER, profiles=frozenset({"end-entity"})))
    method, request = _named("IssueCertificate"), _requests(installed.there)["IssueCertificate"]
    assert isinstance(request, certificate_service_pb2.IssueCertificateRequest)
    request.request_id = ""
    assert _failure(caller, method, request) is None
    request.profile = "tenants/default/profiles/root-ca"
    failure = _failure(caller, method, request)
    assert failure is not None
    assert failure.reason == "PERMISSION_MISSING"


@pytest.mark.parametrize("name", ["tenants/system/authorities/system", "tenants/-/authorities/system", "-"])
def test_the_system_authority_has_no_name_that_even_an_administrator_could_say(installed: Installed, name: str) -> None:
    get = authority_service_pb2.GetAuthorityRequest(name=name)
    failure = _failure(installed.administrator, _named("GetAuthority"), get)
    assert failure is not None
    assert failure.reason in {"FIELD_INVALID", "AUTHORITY_NOT_FOUND", "TENANT_NOT_FOUND"}
    issue = certificate_service_pb2.IssueCertificateRequest(parent=name, csr=_CSR)
    failure = _failure(installed.administrator, _named("IssueCertificate"), issue)
    assert failure is not None
    assert failure.reason in {"FIELD_INVALID", "AUTHORITY_NOT_FOUND", "TENANT_NOT_FOUND"}


def test_no_tenant_issues_identities(installed: Installed) -> None:
    spiffe_id = x509.UniformResourceIdentifier(f"spiffe://{_TRUST_DOMAIN}/identities/admin")
    request = certificate_service_pb2.IssueCertificateRequest(
        parent="tenants/default/authorities/ca", csr=_csr(spiffe_id)
    )
    failure = _failure(installed.administrator, _named("IssueCertificate"), request)
    assert failure is not None
    assert failure.reason in {"NAME_NOT_ALLOWED", "PROFILE_FORBIDS"}


def test_a_certificate_of_a_tenant_does_not_pass_the_handshake(installed: Installed) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = _csr(x509.DNSName("client.example.internal"), key=key)
    request = certificate_service_pb2.IssueCertificateRequest(parent="tenants/default/authorities/ca", csr=csr)
    issued: Any = _call(installed.administrator, _named("IssueCertificate"), request)
    made = CredentialRequest(private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), csr=csr)
    chain = issued.certificate.pem + "".join(each.pem for each in issued.chain)
    with installed.channel(made, chain.encode()) as channel, pytest.raises(grpc.RpcError) as raised:
        _call(channel, _named("GetServerInfo"), server_service_pb2.GetServerInfoRequest())
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_certificates_of_authorities_are_public_also_the_system_authoritys(installed: Installed) -> None:
    authority: Any = _call(
        installed.administrator,
        _named("GetAuthority"),
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
    failure = _failure(installed.administrator, _named("ListCertificates"), request)
    assert failure is not None
    assert failure.reason == "FIELD_INVALID"
    assert [field for field, _ in failure.violations] == ["page_token"]


def test_pages_follow_one_another(installed: Installed) -> None:
    request = certificate_service_pb2.IssueCertificateRequest(parent="tenants/default/authorities/ca", csr=_CSR)
    for _ in range(3):
        _call(installed.administrator, _named("IssueCertificate"), request)
    listing = certificate_service_pb2.ListCertificatesRequest(parent="tenants/default/authorities/ca")
    whole: Any = _call(installed.administrator, _named("ListCertificates"), listing)
    listing.page_size = 2
    names: list[str] = []
    while True:
        page: Any = _call(installed.administrator, _named("ListCertificates"), listing)
        names += [each.name for each in page.certificates]
        if not page.next_page_token:
            break
        listing.page_token = page.next_page_token
    assert names == [each.name for each in whole.certificates]
    assert len(names) == len(set(names)) > 3
