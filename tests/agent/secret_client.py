"""Streams as Envoy opens them, answered as a test says."""

import queue
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from certd.agent.bundle import Bundle
from certd.agent.sds import SecretServer
from certd.agent.sds_subscription import TYPE_URL
from certd.envoy.secrets_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Node,
    Secret,
    Status,
)
from tests.agent.bundles import Minter

NAMES: Final = ("web", "api")
"""Of the certificates that the server of a test has."""
Told = list[tuple[int, str | None]]
"""Versions that it heard of while nobody waited for it, and why they were refused."""
Start = Callable[..., SecretServer]
SERVICE: Final = "/envoy.service.secret.v3.SecretDiscoveryService"
_SECONDS: Final = 20.0

both_forms = pytest.mark.parametrize("delta", [False, True], ids=["state-of-the-world", "delta"])


def connect(socket: Path) -> grpc.Channel:
    """A connection of its own, as each Envoy has."""
    return grpc.insecure_channel(f"unix://{socket}", options=[("grpc.use_local_subchannel_pool", 1)])


def fetch(channel: grpc.Channel, request: DiscoveryRequest) -> DiscoveryResponse:
    call = channel.unary_unary(
        f"{SERVICE}/FetchSecrets", DiscoveryRequest.SerializeToString, DiscoveryResponse.FromString
    )
    answer: DiscoveryResponse = call(request, timeout=_SECONDS)
    return answer


class SecretStream:
    """One stream, in one form of the two; `with` ends it."""

    def __init__(self, socket: Path, *, delta: bool, node: str = "edge-1") -> None:
        self._channel = connect(socket)
        self._delta = delta
        self._node = node
        self._requests: queue.Queue[Any] = queue.Queue()
        self._names: dict[str, None] = {}
        self._version = ""
        name = "DeltaSecrets" if delta else "StreamSecrets"
        request, response = (
            (DeltaDiscoveryRequest, DeltaDiscoveryResponse) if delta else (DiscoveryRequest, DiscoveryResponse)
        )
        self.call: Any = self._channel.stream_stream(
            f"{SERVICE}/{name}", request.SerializeToString, response.FromString
        )(iter(self._requests.get, None), timeout=_SECONDS)
        self._responses = iter(self.call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._requests.put(None)
        self.call.cancel()
        self._channel.close()

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def ask(self, *names: str, has: dict[str, str] | None = None) -> None:
        """Asks for names beside those before."""
        self._names |= dict.fromkeys(names)
        if self._delta:
            self.send(
                DeltaDiscoveryRequest(
                    node=Node(id=self._node),
                    type_url=TYPE_URL,
                    resource_names_subscribe=names,
                    initial_resource_versions=has,
                )
            )
        else:
            self.send(DiscoveryRequest(node=Node(id=self._node), type_url=TYPE_URL, resource_names=self._names))

    def next(self) -> Any:
        """Waits for the next response."""
        return next(self._responses)

    def answer(self, response: Any, *, error: str | None = None) -> Secret:
        """Takes or refuses a response, and returns the secret in it."""
        detail = None if error is None else Status(code=13, message=error)
        (resource,) = response.resources
        if self._delta:
            self.send(DeltaDiscoveryRequest(type_url=TYPE_URL, response_nonce=response.nonce, error_detail=detail))
            packed = resource.resource
        else:
            self._version = response.version_info if error is None else self._version
            self.send(
                DiscoveryRequest(
                    type_url=TYPE_URL,
                    resource_names=self._names,
                    version_info=self._version,
                    response_nonce=response.nonce,
                    error_detail=detail,
                )
            )
            packed = resource
        assert packed.type_url == response.type_url == TYPE_URL
        return Secret.FromString(packed.value)

    def take(self, *, error: str | None = None) -> Secret:
        """Waits for the next response and answers it."""
        return self.answer(self.next(), error=error)


def holds(secret: Secret, bundle: Bundle) -> bool:
    """Whether a secret is that of a bundle, whole."""
    pem = secret.tls_certificate.certificate_chain.inline_bytes
    key = load_pem_private_key(secret.tls_certificate.private_key.inline_bytes, None)
    (certificate,) = x509.load_pem_x509_certificates(pem)
    return (
        secret.name == bundle.name
        and certificate == bundle.parsed()
        and key.private_numbers() == load_der_private_key(bundle.private_key_info, None).private_numbers()  # type: ignore[union-attr]
    )


def subscribe(stream: SecretStream, server: SecretServer, minter: Minter) -> None:
    """Asks for the secret `web`, which is not there, and returns when the server knows."""
    server.restore(minter.bundle("api"))
    stream.ask("web", "api")
    assert stream.take().name == "api"
