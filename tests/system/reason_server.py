"""A whole daemon within the test's own process, so that a test can stop the world at a step and change its books."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import Message

from certd import daemon as daemons
from certd import main
from certd.client.failure import CallFailed, decode
from certd.clock import SystemClock
from certd.config import Config, Limits, load
from certd.core import Core
from certd.errors import CertdError
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import (
    ActivateAuthorityRequest,
    CreateAuthorityRequest,
    DisableAuthorityRequest,
    GetAuthorityCsrRequest,
)
from certd.v1.certificate_service_pb2 import IssueCertificateRequest
from certd.v1.profile_pb2 import Profile
from certd.v1.profile_service_pb2 import CreateProfileRequest
from certd.v1.x509_pb2 import AttributeTypeAndValue, DistinguishedName, RelativeDistinguishedName
from tests.daemon import Installation, installed
from tests.outside_parent import OutsideAuthority, certify, outside_authority, pem_of
from tests.system.calls import Caller, make_csr

TENANT = "tenants/default"
CA = f"{TENANT}/authorities/ca"
"""Lives two days and signs for example.internal alone."""
DISABLED = f"{TENANT}/authorities/disabled"
AWAITING = f"{TENANT}/authorities/awaiting"
PROFILE = f"{TENANT}/profiles/web"
_DAY = 86_400
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Told:
    """How a call failed."""

    reason: str
    message: str
    violations: Mapping[str, str]
    """Descriptions by the paths of the fields."""
    retry: bool
    """Whether it says when to come again."""


def told_by(failure: CallFailed | CertdError) -> Told:
    """Returns what a failure says, of a call or of the inside."""
    return Told(
        str(failure.reason),
        failure.message,
        {violation.field: violation.description for violation in failure.violations},
        failure.retry_after is not None,
    )


@dataclass
class Hold:
    """A step hook that does once, at one step, what a test says; before that it does nothing."""

    at: dict[str, Callable[[], object]] = field(default_factory=dict)

    def __call__(self, name: str) -> None:
        action = self.at.pop(name, None)
        if action is not None:
            action()


@dataclass(kw_only=True)
class Server:
    """The daemon, and its first administrator."""

    installation: Installation
    core: Core
    daemon: daemons.Daemon
    hold: Hold
    address: str
    caller: Caller

    def refused(self, request: Message, *, caller: Caller | None = None) -> Told:
        """Makes the call that takes this request; it must fail, and the server itself must say why."""
        try:
            answer = self._method(request, caller)(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            failure = decode(error)
            assert failure.answered, failure
            return told_by(failure)
        raise AssertionError(f"the call succeeded: {answer}")

    def ask(self, request: Message) -> Any:
        """Makes the call that takes this request."""
        return self._method(request, None)(request, timeout=_SECONDS)

    def _method(self, request: Message, caller: Caller | None) -> Callable[..., Any]:
        words = request.DESCRIPTOR.name.removesuffix("Request")
        name = "".join(f"_{sign.lower()}" if sign.isupper() else sign for sign in words).removeprefix("_")
        method: Callable[..., Any] = getattr((caller or self.caller).stubs, name)
        return method

    @contextmanager
    def held(self, step: str, request: Message | None = None) -> Iterator[None]:
        """Runs a call in the background as far as a step, where it waits until the end."""
        reached, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            reached.set()
            go_on.wait(_SECONDS)

        self.hold.at[step] = wait

        def call() -> None:
            with contextlib.suppress(grpc.RpcError):
                self.ask(request or issue())

        thread = threading.Thread(target=call)
        thread.start()
        try:
            assert reached.wait(_SECONDS)
            yield
        finally:
            go_on.set()
            thread.join(_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """How a reason is raised, and what its failure must say."""

    by: Callable[[Server], Told]
    field: str | None = None
    """Path of the field that is to blame; None: no field is."""
    remedy: str
    """Words that tell what to do."""
    retry: bool = False
    """Whether it says when to come again."""
    alone: bool = False
    """Whether the server is of no use afterwards."""
    limits: Limits | None = None


def issue(**changes: Any) -> IssueCertificateRequest:
    """Returns a request that succeeds, unless changed."""
    return IssueCertificateRequest(**{"parent": CA, "csr": make_csr(), **changes})


def common_name(text: str) -> DistinguishedName:
    attribute = AttributeTypeAndValue(type="CN", value=text)
    return DistinguishedName(relative_distinguished_names=[RelativeDistinguishedName(attributes=[attribute])])


def create_authority(authority_id: str, **changes: Any) -> CreateAuthorityRequest:
    """Returns a request for a root, unless changed."""
    wanted: dict[str, Any] = {"type": Authority.ROOT, "subject": common_name(authority_id), **changes}
    return CreateAuthorityRequest(parent=TENANT, authority_id=authority_id, authority=Authority(**wanted))


def create_profile(profile_id: str) -> CreateProfileRequest:
    """Returns a request for a profile of servers."""
    profile = Profile(extended_key_usages=["1.3.6.1.5.5.7.3.1"])
    profile.longest_lifetime.seconds = _DAY
    profile.names.dns_names.allow_any = True
    return CreateProfileRequest(parent=TENANT, profile_id=profile_id, profile=profile)


@dataclass(frozen=True, slots=True)
class Outside:
    """The parent of the authority that waits, and what it asked of it."""

    root: OutsideAuthority
    csr: x509.CertificateSigningRequest

    def activation(self, *, chain: bytes | None = None, **changes: Any) -> ActivateAuthorityRequest:
        """Returns a request that would succeed, unless changed; of `certify` what is in `changes`."""
        wanted: dict[str, Any] = {
            "now": datetime.now(UTC),
            "subject": self.csr.subject,
            "public_key": self.csr.public_key(),
            **changes,
        }
        certificate = certify(self.root, **wanted)
        return ActivateAuthorityRequest(
            name=AWAITING,
            certificate=certificate.public_bytes(Encoding.DER),
            chain=pem_of(self.root.der) if chain is None else chain,
            validate_only=True,
        )


def outside_of(server: Server) -> Outside:
    csr = x509.load_der_x509_csr(server.ask(GetAuthorityCsrRequest(name=AWAITING)).der)
    return Outside(outside_authority("Outside", now=datetime.now(UTC)), csr)


@contextmanager
def serving(folder: Path, *, limits: Limits | None = None) -> Iterator[Server]:
    """Runs a daemon with authorities of every state and a profile."""
    installation = installed(folder)
    config: Config = load(installation.config)
    if limits is not None:
        config = config.model_copy(update={"limits": limits})
    hold = Hold()
    core = main.assemble(config, clock=SystemClock(), step=hold)
    daemon = daemons.Daemon(core)
    try:
        ready = daemon.start()
        caller = Caller(
            ready.grpc,
            root=installation.trust_bundle.read_bytes(),
            certificate=installation.certificate.read_bytes(),
            private_key=installation.private_key.read_bytes(),
        )
        server = Server(
            installation=installation, core=core, daemon=daemon, hold=hold, address=ready.grpc, caller=caller
        )
        _furnish(server)
        with contextlib.closing(caller):
            yield server
    finally:
        daemon.stop()


def _furnish(server: Server) -> None:
    bound = create_authority("ca")
    bound.authority.lifetime.seconds = 2 * _DAY
    bound.authority.name_constraints.excluded.dns_names.append("secret.internal")
    for request in (
        bound,
        create_authority("disabled"),
        create_authority("awaiting", type=Authority.SUBORDINATE),
        create_profile("web"),
        DisableAuthorityRequest(name=DISABLED),
    ):
        server.ask(request)
