"""A gRPC server of our own that answers as a test tells it, over real mutual TLS, and remembers what it was asked."""

import ipaddress
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from google.protobuf import message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from certd.v1 import (
    access_service_pb2,
    authority_service_pb2,
    certificate_service_pb2,
    event_service_pb2,
    managed_certificate_service_pb2,
    profile_service_pb2,
    server_service_pb2,
    tenant_service_pb2,
    wrapping_key_service_pb2,
)

_FILES = (
    access_service_pb2,
    authority_service_pb2,
    certificate_service_pb2,
    event_service_pb2,
    managed_certificate_service_pb2,
    profile_service_pb2,
    server_service_pb2,
    tenant_service_pb2,
    wrapping_key_service_pb2,
)


def _methods() -> dict[str, Any]:
    return {
        f"/{service.full_name}/{method.name}": method
        for file in _FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """An answer that is a failure."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "it failed; try something else"
    metadata: dict[str, str] = field(default_factory=dict)
    violations: Sequence[tuple[str, str]] = ()
    retry_after: timedelta | None = None
    resource: str = ""

    def status(self) -> Any:
        details: list[Message] = []
        if self.reason:
            details.append(ErrorInfo(reason=self.reason, domain="certd", metadata=self.metadata))
        if self.violations:
            fields = [BadRequest.FieldViolation(field=f, description=d) for f, d in self.violations]
            details.append(BadRequest(field_violations=fields))
        if self.retry_after is not None:
            delay = Duration()
            delay.FromTimedelta(self.retry_after)
            details.append(RetryInfo(retry_delay=delay))
        if self.resource:
            details.append(ResourceInfo(resource_name=self.resource))
        packed = []
        for detail in details:
            packed.append(AnyMessage())
            packed[-1].Pack(detail)
        return rpc_status.to_status(Status(code=self.code.value[0], message=self.message, details=packed))


Answer = Message | Failing | Callable[[Any, grpc.ServicerContext], Message] | Sequence[Message | Failing]
"""One of several is a stream, which ends with the last of them."""


class FakeServer(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # Generic in the stubs alone.
    """Answers calls from a script, one entry a call; the last entry of a method's script answers for ever."""

    def __init__(self) -> None:
        self.port = 0
        self.calls: list[tuple[str, Any]] = []
        self._scripts: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()
        self._methods = _methods()

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def answer(self, method: str, *answers: Answer) -> None:
        """Sets the answers to a method such as `CreateAuthority`."""
        with self._lock:
            self._scripts[method] = list(answers)

    def requests(self, method: str) -> list[Any]:
        """Returns what a method was asked, in order."""
        with self._lock:
            return [request for name, request in self.calls if name == method]

    def service(self, handler_call_details: Any) -> Any:
        method = self._methods.get(handler_call_details.method)
        if method is None:
            return None
        request_type = message_factory.GetMessageClass(method.input_type)

        def answer_to(request: Message, context: grpc.ServicerContext) -> Answer:
            with self._lock:
                self.calls.append((method.name, request))
                script = self._scripts.get(method.name)
                answer = None if not script else script.pop(0) if len(script) > 1 else script[0]
            if answer is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"the script has no answer to {method.name}")
            return answer

        def handle(request: Message, context: grpc.ServicerContext) -> Message:
            answer = answer_to(request, context)
            if isinstance(answer, Failing):
                context.abort_with_status(answer.status())
            if isinstance(answer, Message):
                return answer
            assert callable(answer)
            return answer(request, context)

        def stream(request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
            answers = answer_to(request, context)
            for answer in answers if isinstance(answers, Sequence) else [answers]:
                if isinstance(answer, Failing):
                    context.abort_with_status(answer.status())
                assert isinstance(answer, Message)
                yield answer

        handler, function = (
            (grpc.unary_stream_rpc_method_handler, stream)
            if method.server_streaming
            else (grpc.unary_unary_rpc_method_handler, handle)
        )
        made: Any = handler  # The stubs' two have no common type.
        return made(
            function, request_deserializer=request_type.FromString, response_serializer=lambda m: m.SerializeToString()
        )


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_root(name: str = "Test Root") -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key, days=10).add_extension(x509.BasicConstraints(True, None), True)
    return Issued(builder.sign(key, hashes.SHA256()), key)


def make_leaf(root: Issued, *names: str, days: int = 5, key: ec.EllipticCurvePrivateKey | None = None) -> Issued:
    """Returns a leaf for DNS names and IP addresses; with negative `days`, one that has expired."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    general: list[x509.GeneralName] = []
    for name in names:
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            general.append(x509.DNSName(name))
    builder = (
        _builder(x509.Name([]), root.certificate.subject, key, days=days)
        .add_extension(x509.SubjectAlternativeName(general), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False)
    )
    return Issued(builder.sign(root.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=20))
        .not_valid_after(now + timedelta(days=days))
    )


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Files as a client names them."""

    certificate: Path
    private_key: Path
    trust_bundle: Path


def write_credentials(folder: Path, client: Issued, root: Issued) -> CredentialFiles:
    folder.mkdir(parents=True, exist_ok=True)
    files = CredentialFiles(folder / "client.pem", folder / "client.key", folder / "root.pem")
    files.certificate.write_bytes(client.certificate_pem)
    files.private_key.write_bytes(client.key_pem)
    files.private_key.chmod(0o600)
    files.trust_bundle.write_bytes(root.certificate_pem)
    return files


@contextmanager
def running(fake: FakeServer, server: Issued, clients: Issued, *, port: int = 0) -> Iterator[FakeServer]:
    """Runs the fake on loopback with mutual TLS: `server` is its credential, `clients` the root of its callers."""
    runner = grpc.server(ThreadPoolExecutor(8), handlers=[fake], options=(("grpc.so_reuseport", 0),))
    credentials = grpc.ssl_server_credentials(
        [(server.key_pem, server.certificate_pem)],
        root_certificates=clients.certificate_pem,
        require_client_auth=True,
    )
    fake.port = runner.add_secure_port(f"127.0.0.1:{port}", credentials)
    runner.start()
    try:
        yield fake
    finally:
        runner.stop(0).wait()
