"""A whole daemon in this process, with two tenants: real token, real store, real mutual TLS."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from certd import administration, main
from certd import daemon as serving
from certd.clock import Clock, SystemClock
from certd.config import Config, Database, Listen, Tls, Token
from certd.config_notify import Notify
from certd.core import Core
from certd.model.access import EVERYTHING, Grant, Role
from certd.model.identity import IdentityState
from certd.model.names import IdentityName
from certd.pki.credential_request import CredentialRequest, new_credential_request
from certd.pki.encoding import certificate_pem
from certd.services.identities import Identities
from certd.services.steps import no_step
from certd.store import grants
from certd.store import identities as rows
from tests.api.edge_failure import Failure, failure_of
from tests.api.every_method import TRUST_DOMAIN, Resources, full_name, named, requests_to
from tests.softhsm import make_token
from tests.waiting import eventually


@dataclass(kw_only=True)
class Installed:
    """A daemon that serves two tenants."""

    core: Core
    ready: serving.Ready
    system_root: bytes
    administrator: grpc.Channel
    callers: dict[str, grpc.Channel]
    there: Resources
    elsewhere: Resources
    """Of the other tenant."""
    reload: Callable[[], None]
    """As SIGHUP does."""

    @property
    def identities(self) -> Identities:
        core = self.core
        return Identities(store=core.store, clock=core.clock, loop=core.loop, system_authority=core.system_authority)

    def caller(self, name: str, *held: Grant) -> grpc.Channel:
        """A channel of an identity of this name, which holds these grants."""
        if name not in self.callers:
            core, made = self.core, new_credential_request()
            principal = f"spiffe://{TRUST_DOMAIN}/identities/{name}"
            certificate = self.identities.ensure_identity(principal, made.csr).certificate
            identity = IdentityName(None, name)
            core.store.write(
                "test.identity",
                lambda tx: rows.ensure(tx, identity, principal, IdentityState.ACTIVE, core.clock.now()),
            )
            for grant in held:
                assert grant.principal == principal
                core.store.write("test.grant", lambda tx, grant=grant: grants.insert(tx, grant))  # type: ignore[misc]
            self.callers[name] = self.channel(made, certificate_pem(certificate).encode())
        return self.callers[name]

    def channel(self, made: CredentialRequest, certificate: bytes) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.system_root, made.private_key, certificate)
        return grpc.secure_channel(self.ready.grpc, credentials, [("grpc.use_local_subchannel_pool", 1)])


def call(channel: grpc.Channel, method: MethodDescriptor, request: Message) -> Message:
    """The answer, of a stream the first."""
    answer: type[Message] = GetMessageClass(method.output_type)
    kind: Callable[..., Any] = channel.unary_stream if method.server_streaming else channel.unary_unary
    call: Callable[..., Any] = kind(
        full_name(method),
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    response: Any = call(request, timeout=60)
    if method.server_streaming:
        first: Message = next(response)
        response.cancel()
        return first
    one: Message = response
    return one


def failure_to(channel: grpc.Channel, method: MethodDescriptor, request: Message) -> Failure | None:
    """How a call fails, None when it does not."""
    try:
        call(channel, method, request)
    except grpc.RpcError as error:
        return failure_of(error)
    return None


_THERE = Resources(tenant="default", authority="ca", managed="web", serial="")
_ELSEWHERE = Resources(
    tenant="other",
    authority="xca",
    managed="xweb",
    serial="",
    profile="xown",
    identity="xmachine",
    grant="xgiven",
    campaign="xagain",
    association="xtaken",
    subscription="xtold",
)


def _fill(administrator: grpc.Channel, wanted: Resources) -> Resources:
    """Gives a tenant one of everything; returns the names, with the serial."""
    requests = requests_to(wanted)
    for name in (
        "CreateAuthority",
        "RequestManagedCertificate",
        "CreateRenewalCampaign",
        "CreateRevocationCampaign",
        "CreateProfile",
        "CreateEnrollmentCode",
        "CreateAssociation",
        "CreateSubscription",
    ):
        call(administrator, named(name), requests[name])
    grant: Any = requests["CreateGrant"]
    grant.grant_id = wanted.grant
    _call_without_trying(administrator, "CreateGrant", requests)
    issued: Any = call(administrator, named("IssueCertificate"), requests["IssueCertificate"])
    # There is one as soon as the managed certificate has its key, and the first may go as soon as nothing is under it.
    for name in ("RotateWrappingKey", "DestroyWrappingKey"):
        eventually(lambda name=name: failure_to(administrator, named(name), requests[name]) is None)  # type: ignore[misc]  # mypy infers no type for a default.
    return replace(wanted, serial=issued.description.serial_number)


def _call_without_trying(channel: grpc.Channel, name: str, requests: dict[str, Message]) -> None:
    request: Any = requests[name]
    request.validate_only = False
    call(channel, named(name), request)


@contextmanager
def whole_daemon(folder: Path, *, clock: Clock | None = None) -> Iterator[Installed]:
    """Runs a daemon in this process, with two tenants that each have one of everything."""
    config = _configuration(folder)
    administrator = new_credential_request()
    server = new_credential_request()
    made = administration.initialise(
        config, server_csr=server.csr, administrator_csr=administrator.csr, server_names=("127.0.0.1",)
    )
    config.tls.private_key.write_bytes(server.private_key)
    config.tls.certificate.write_bytes(made.server_certificate)
    core = main.assemble(config, clock=clock or SystemClock(), step=no_step)
    daemon = serving.Daemon(core)
    channels: list[grpc.Channel] = []
    try:
        world = Installed(
            core=core,
            ready=daemon.start(),
            system_root=made.system_root,
            administrator=grpc.insecure_channel("unused:1"),
            callers={},
            there=_THERE,
            elsewhere=_ELSEWHERE,
            reload=daemon.reload,
        )
        world.administrator.close()
        world.administrator = world.channel(administrator, made.administrator_certificate)
        channels.append(world.administrator)
        _call_without_trying(world.administrator, "CreateTenant", requests_to(_ELSEWHERE))
        world.there = _fill(world.administrator, _THERE)
        world.elsewhere = _fill(world.administrator, _ELSEWHERE)
        yield world
    finally:
        for channel in (*channels, *world.callers.values()):
            channel.close()
        daemon.stop()


def _configuration(folder: Path) -> Config:
    token = make_token(folder)
    return Config(
        listen=Listen(**dict.fromkeys(("grpc", "enrollment", "http", "metrics", "devices"), "127.0.0.1:0")),  # type: ignore[arg-type]  # Parsed.
        database=Database(url=f"sqlite:///{folder}/certd.db"),
        notify=Notify(allowed_networks=("127.0.0.0/8",)),  # type: ignore[arg-type]  # Parsed.
        token=Token(
            module=str(token.module),  # type: ignore[arg-type]  # Parsed.
            label=token.label,
            pin_file=str(token.pin_file),  # type: ignore[arg-type]  # Parsed.
            softhsm_conf=str(token.softhsm_conf),  # type: ignore[arg-type]  # Parsed.
        ),
        tls=Tls(
            certificate=str(folder / "server.pem"),  # type: ignore[arg-type]  # Parsed.
            private_key=str(folder / "server.key"),  # type: ignore[arg-type]  # Parsed.
            trust_domain=TRUST_DOMAIN,
        ),
    )


def grant_of(name: str, role: Role, scope: str = EVERYTHING, profiles: frozenset[str] | None = None) -> Grant:
    principal = f"spiffe://{TRUST_DOMAIN}/identities/{name}"
    return Grant(grant_id=f"{name}-{role}", principal=principal, role=role, scope=scope, profiles=profiles)
