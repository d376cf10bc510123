"""Who gets in: the handshake, the books, the table of methods."""

import ipaddress
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from certd.api import peer
from certd.api.call import Call, current_call
from certd.api.credentials import Credentials, ReloadingCredentials
from certd.api.interceptors import Gate
from certd.api.methods import METHODS, Admission
from certd.api.server import SERVICES, add_service
from certd.api.streams import StreamSlots
from certd.api.waiting_calls import WaitingCalls
from certd.errors import CertdError, Reason
from certd.model.access import Permission
from certd.services.rates import Rates
from certd.v1 import server_service_pb2, server_service_pb2_grpc
from tests.api.edge_credentials import Identity, issue
from tests.api.edge_failure import failure_of
from tests.api.edge_server import (
    ALICE,
    CLIENT,
    CREDENTIALS,
    FOREIGN_CLIENT,
    FOREIGN_ROOT,
    REVOKED_CLIENT,
    SERVER,
    SYSTEM_ROOT,
    UNKNOWN_CLIENT,
    Edge,
    FakeAccess,
)
from tests.api.edge_server_info import FakeRefusals

_HEALTH: ServiceDescriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]
_REFLECTION: ServiceDescriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
_CERTD_METHODS = [method for descriptor in SERVICES for method in descriptor.methods]


def _stub(channel: grpc.Channel, kind: Callable[..., Any] = server_service_pb2_grpc.ServerServiceStub) -> Any:
    """A stub, which protoc leaves untyped."""
    return kind(channel)


def _info(channel: grpc.Channel, *, timeout: float = 20) -> server_service_pb2.ServerInfo:
    stub = _stub(channel)
    info: server_service_pb2.ServerInfo = stub.GetServerInfo(
        server_service_pb2.GetServerInfoRequest(), timeout=timeout, wait_for_ready=False
    )
    return info


def test_the_table_has_exactly_the_methods_that_exist() -> None:
    descriptors = (*SERVICES, _HEALTH, _REFLECTION)
    assert set(METHODS) == {
        f"/{descriptor.full_name}/{method.name}" for descriptor in descriptors for method in descriptor.methods
    }


def test_the_services_are_all_of_the_package() -> None:
    protos = Path(__file__).parents[2].glob("proto/certd/v1/*_service.proto")
    assert {descriptor.file.name for descriptor in SERVICES} == {f"certd/v1/{proto.name}" for proto in protos}


def test_only_these_methods_need_no_permission() -> None:
    public = {method for method, rule in METHODS.items() if rule is Admission.PUBLIC}
    assert public == {f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")}
    authenticated = {method for method, rule in METHODS.items() if rule is Admission.AUTHENTICATED}
    assert authenticated == {
        *(f"/certd.v1.AccessService/{name}" for name in ("WhoAmI", "Enroll", "RenewIdentity", "TestPermissions")),
        "/certd.v1.ServerService/GetTrustBundle",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
    assert {rule for rule in METHODS.values() if isinstance(rule, Permission)} == set(Permission)


def test_a_known_caller_gets_in_and_the_service_learns_who(edge: Edge) -> None:
    assert _info(edge.channel()).version == "1.2.3"
    (caller,) = edge.told.last
    assert caller.principal == ALICE


@pytest.mark.parametrize("client", [None, FOREIGN_CLIENT, issue("self-signed")], ids=["none", "foreign", "self-signed"])
def test_the_handshake_refuses_who_is_not_of_the_system_root(edge: Edge, client: Identity | None) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        _info(edge.channel(client))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert failure_of(raised.value).reason == ""
    assert edge.told.calls == []


def test_a_client_refuses_a_server_of_another_root(edge: Edge) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        _info(edge.channel(roots=FOREIGN_ROOT))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert edge.told.calls == []


@pytest.mark.parametrize("method", _CERTD_METHODS, ids=lambda method: str(method.name))
@pytest.mark.parametrize(
    ("client", "reason"),
    [(UNKNOWN_CLIENT, Reason.CREDENTIAL_INVALID), (REVOKED_CLIENT, Reason.CREDENTIAL_REVOKED)],
    ids=["unknown", "revoked"],
)
def test_no_method_answers_a_caller_who_is_not_known(edge: Edge, method: Any, client: Identity, reason: Reason) -> None:
    call = edge.method(f"/{method.containing_service.full_name}/{method.name}", client)
    with pytest.raises(grpc.RpcError) as raised:
        # Bytes that are no message: an unknown caller's request is not even parsed.
        call(b"\xff\xff", timeout=20)
    failure = failure_of(raised.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
    assert edge.told.calls == []


def test_health_answers_everybody_who_can_connect(edge: Edge) -> None:
    stub = health_pb2_grpc.HealthStub(edge.channel(UNKNOWN_CLIENT))
    request = health_pb2.HealthCheckRequest()
    assert stub.Check(request, timeout=20).status == health_pb2.HealthCheckResponse.NOT_SERVING
    edge.server.set_serving(serving=True)
    for name in ("", *(descriptor.full_name for descriptor in SERVICES)):
        request = health_pb2.HealthCheckRequest(service=name)
        assert stub.Check(request, timeout=20).status == health_pb2.HealthCheckResponse.SERVING
    edge.server.set_serving(serving=False)
    assert stub.Check(request, timeout=20).status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=20)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_watch_tells_changes(edge: Edge) -> None:
    stream = health_pb2_grpc.HealthStub(edge.channel()).Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert next(stream).status == health_pb2.HealthCheckResponse.NOT_SERVING
    edge.server.set_serving(serving=True)
    assert next(stream).status == health_pb2.HealthCheckResponse.SERVING
    stream.cancel()


def _reflect(edge: Edge, client: Identity) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(edge.channel(client))
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    response: reflection_pb2.ServerReflectionResponse = next(stub.ServerReflectionInfo(requests, timeout=20))
    return response


def test_reflection_answers_known_callers_only(edge: Edge) -> None:
    listed = {service.name for service in _reflect(edge, CLIENT).list_services_response.service}
    assert listed == {descriptor.full_name for descriptor in (*SERVICES, _HEALTH, _REFLECTION)}
    with pytest.raises(grpc.RpcError) as raised:
        _reflect(edge, UNKNOWN_CLIENT)
    assert failure_of(raised.value).reason == "CREDENTIAL_INVALID"


@pytest.mark.parametrize("method", ["/certd.v1.AuthorityService/DeleteEverything", "/nobody/Knows", "/"])
def test_a_method_that_nobody_has_is_unimplemented(edge: Edge, method: str) -> None:
    call = edge.method(method)
    with pytest.raises(grpc.RpcError) as raised:
        call(b"", timeout=20)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_method_without_a_rule_is_refused_to_everybody() -> None:
    rules = {name: rule for name, rule in METHODS.items() if not name.endswith("/GetTrustBundle")}
    slots, pool = StreamSlots(1), WaitingCalls(1, most_waiting=1)
    gate = Gate(access=FakeAccess(), slots=slots, calls=pool, rates=Rates(), refusals=FakeRefusals(), rules=rules)
    server = grpc.server(pool, interceptors=[gate])
    called: list[object] = []
    descriptor = SERVICES[-1]

    def answer(output: type[Message], request: object, call: Call) -> Message:
        called.append((request, call))
        return output()

    answers = {
        name: partial(answer, GetMessageClass(method.output_type))
        for name, method in descriptor.methods_by_name.items()
    }
    add_service(server, descriptor, answers)
    port = server.add_secure_port("127.0.0.1:0", ReloadingCredentials(CREDENTIALS).server_credentials)
    server.start()
    try:
        credentials = grpc.ssl_channel_credentials(SYSTEM_ROOT.pem, CLIENT.key_pem, CLIENT.pem)
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            stub = _stub(channel)
            stub.GetServerInfo(server_service_pb2.GetServerInfoRequest(), timeout=20)
            with pytest.raises(grpc.RpcError) as raised:
                stub.GetTrustBundle(server_service_pb2.GetTrustBundleRequest(), timeout=20)
        failure = failure_of(raised.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
        assert len(called) == 1
    finally:
        server.stop(0).wait()
        pool.shutdown()
        slots.close()


def test_a_service_with_a_method_too_few_does_not_start() -> None:
    slots = StreamSlots(1)
    server = grpc.server(slots.pool)
    slots.close()
    with pytest.raises(TypeError, match=r"certd\.v1\.ServerService"):
        add_service(server, SERVICES[-1], {})


def test_a_method_outside_of_a_call_answers_nobody() -> None:
    with pytest.raises(CertdError) as raised:
        current_call()
    assert raised.value.reason is Reason.PERMISSION_MISSING


@pytest.mark.parametrize("version", [b"TLSv1.2", b"TLSv1.3"])
def test_these_tls_versions_are_good(version: bytes) -> None:
    peer.check_tls_version({"ssl_tls_version": [version]})


@pytest.mark.parametrize(
    "said", [{}, {"ssl_tls_version": []}, {"ssl_tls_version": [b"TLSv1.1"]}, {"ssl_tls_version": [b"TLSv1"]}]
)
def test_old_tls_or_none_is_refused(said: dict[str, list[bytes]]) -> None:
    with pytest.raises(CertdError, match=r"TLS 1\.2"):
        peer.check_tls_version(said)


def test_a_connection_without_a_certificate_is_told_so() -> None:
    with pytest.raises(CertdError) as raised:
        peer.certificate_of({})
    assert raised.value.reason is Reason.CREDENTIAL_MISSING


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_wire_speaks_this_tls(edge: Edge, version: ssl.TLSVersion, tmp_path: Path) -> None:
    assert _handshake(edge, tmp_path, version)[0].issuer == SYSTEM_ROOT.certificate.subject


def test_the_wire_does_not_speak_tls_1_1(edge: Edge, tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(ssl.SSLError):
        _handshake(edge, tmp_path, ssl.TLSVersion.TLSv1_1)


def _handshake(edge: Edge, tmp_path: Path, version: ssl.TLSVersion) -> list[x509.Certificate]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=SYSTEM_ROOT.pem.decode())
    (tmp_path / "client.pem").write_bytes(CLIENT.pem + CLIENT.key_pem)
    context.load_cert_chain(tmp_path / "client.pem")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", edge.server.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        return [x509.load_der_x509_certificate(encrypted.getpeercert(binary_form=True) or b"")]


def test_reloaded_credentials_serve_the_next_connection_and_the_open_one_stays(edge: Edge, tmp_path: Path) -> None:
    before = edge.channel()
    _info(before)
    renewed = issue(
        "renewed",
        names=(x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))),
        issuer=SYSTEM_ROOT,
    )
    other_root = issue("Other System")
    edge.server.reload(
        Credentials(
            certificate_chain=renewed.pem,
            private_key=renewed.key_pem,
            client_roots=SYSTEM_ROOT.pem + other_root.pem,
        )
    )
    assert _handshake(edge, tmp_path, ssl.TLSVersion.TLSv1_3)[0] == renewed.certificate
    # And it stays so for the handshake after the first one.
    assert _handshake(edge, tmp_path, ssl.TLSVersion.TLSv1_3)[0] == renewed.certificate
    _info(before)
    # The new client root holds, too: the handshake succeeds, the books refuse.
    with pytest.raises(grpc.RpcError) as raised:
        _info(edge.channel(issue("x", issuer=other_root)))
    assert failure_of(raised.value).reason == "CREDENTIAL_INVALID"


def _ed25519() -> tuple[bytes, bytes]:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([])
    root = SYSTEM_ROOT.certificate
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, root.not_valid_before_utc, root.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
        .sign(key, None)
    )
    return certificate.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


_ED25519 = _ed25519()
_P521 = issue("server", issuer=SYSTEM_ROOT, key=ec.generate_private_key(ec.SECP521R1()))


@pytest.mark.parametrize(
    ("credentials", "field"),
    [
        (
            Credentials(certificate_chain=b"", private_key=SERVER.key_pem, client_roots=SYSTEM_ROOT.pem),
            "tls.certificate",
        ),
        (Credentials(certificate_chain=SERVER.pem, private_key=b"?", client_roots=SYSTEM_ROOT.pem), "tls.private_key"),
        (
            Credentials(certificate_chain=SERVER.pem, private_key=CLIENT.key_pem, client_roots=SYSTEM_ROOT.pem),
            "tls.private_key",
        ),
        (Credentials(certificate_chain=SERVER.pem, private_key=SERVER.key_pem, client_roots=b"?"), "tls.client_roots"),
        (
            Credentials(certificate_chain=_P521.pem, private_key=_P521.key_pem, client_roots=SYSTEM_ROOT.pem),
            "tls.certificate",
        ),
        (
            Credentials(certificate_chain=_ED25519[0], private_key=_ED25519[1], client_roots=SYSTEM_ROOT.pem),
            "tls.certificate",
        ),
    ],
    ids=["no certificate", "no key", "another key", "no roots", "P-521", "Ed25519"],
)
def test_credentials_that_cannot_work_are_refused_and_the_old_ones_stay(
    edge: Edge, credentials: Credentials, field: str, tmp_path: Path
) -> None:
    with pytest.raises(CertdError) as raised:
        edge.server.reload(credentials)
    assert [violation.field for violation in raised.value.violations] == [field]
    assert _handshake(edge, tmp_path, ssl.TLSVersion.TLSv1_3)[0] == SERVER.certificate


def test_a_private_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(CREDENTIALS)
