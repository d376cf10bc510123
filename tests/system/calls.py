"""Calls to a daemon: with certctl as its first administrator, and with no client between that would try again."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certd.client.failure import CallFailed, decode
from certd.client.stubs import Stubs
from tests.daemon import RunningDaemon

NAME = "www.example.internal"
_CALL_SECONDS = 60.0


def must(daemon: RunningDaemon, *arguments: str | Path, stdin: bytes = b"") -> str:
    """Runs certctl, which must succeed, and returns what it printed."""
    ended = daemon.certctl(*arguments, stdin=stdin)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def make_csr(*names: x509.GeneralName, encoding: Encoding = Encoding.DER) -> bytes:
    """Returns a CSR of a new key, for NAME unless other names are given."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    alternative = x509.SubjectAlternativeName(names or [x509.DNSName(NAME)])
    key = ec.generate_private_key(ec.SECP256R1())
    return builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256()).public_bytes(encoding)


class Caller:
    """A caller over mutual TLS that tries once.

    Args:
        address: host:port.
        root: PEM of the root that vouches for the server.
        certificate: PEM, the caller's; None shows none.
        private_key: PEM.
    """

    def __init__(
        self, address: str, *, root: bytes, certificate: bytes | None = None, private_key: bytes | None = None
    ) -> None:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=root, private_key=private_key, certificate_chain=certificate
        )
        self._channel = grpc.secure_channel(address, credentials, options=[("grpc.enable_retries", 0)])
        self.stubs = Stubs(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def serving(self, service: str = "") -> bool:
        """Asks grpc.health.v1."""
        answer = self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=_CALL_SECONDS)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def administrator(daemon: RunningDaemon) -> Caller:
    """Returns a caller with the first administrator's credentials."""
    made = daemon.installation
    return Caller(
        daemon.grpc,
        root=made.trust_bundle.read_bytes(),
        certificate=made.certificate.read_bytes(),
        private_key=made.private_key.read_bytes(),
    )


@contextmanager
def calling(caller: Caller) -> Iterator[Caller]:
    """Closes the caller at the end."""
    with closing(caller):
        yield caller


def refused(method: Callable[..., Any], request: Message) -> CallFailed:
    """Makes a call that must fail and returns how; a defect of the server is never the answer."""
    try:
        answer = method(request, timeout=_CALL_SECONDS)
    except grpc.RpcError as error:
        failure = decode(error)
        assert failure.code not in {"INTERNAL", "UNKNOWN"}, failure
        return failure
    raise AssertionError(f"the call succeeded: {answer}")
