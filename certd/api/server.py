"""The gRPC server: mutual TLS on one port, the services, health and reflection."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from certd.api import (
    associations,
    audit,
    authorities,
    authority_changes,
    authority_imports,
    authority_keys,
    authority_life,
    certificate_search,
    certificates,
    download_codes,
    enrollment,
    events,
    grants,
    identities,
    issuance,
    leases,
    managed_certificate_changes,
    managed_certificate_search,
    managed_certificates,
    managed_export,
    managed_import,
    managed_revocation,
    managed_watch,
    profiles,
    renewal_campaigns,
    revocation,
    revocation_batch,
    revocation_campaigns,
    revocation_lists,
    server_info,
    subscriptions,
    tenants,
    wrapping_keys,
)
from certd.api.arrivals import Patience
from certd.api.call import Methods, current_call
from certd.api.credentials import Credentials, ReloadingCredentials
from certd.api.interceptors import Gate
from certd.api.streams import StreamSlots
from certd.api.waiting_calls import WaitingCalls
from certd.errors import field_invalid
from certd.model.request_limits import RequestLimits
from certd.services.access import Access
from certd.services.adoption import Adoption
from certd.services.associations import Associations
from certd.services.audit_reports import AuditReports
from certd.services.authorities import Authorities
from certd.services.authority_activation import AuthorityActivation
from certd.services.authority_changes import AuthorityChanges
from certd.services.authority_deletion import AuthorityDeletion
from certd.services.authority_key_changes import AuthorityKeyChanges
from certd.services.authority_keys import AuthorityKeys
from certd.services.authority_reissue import AuthorityReissue
from certd.services.bearer import Bearer
from certd.services.certificate_search import CertificateSearches
from certd.services.certificates import Certificates
from certd.services.checkpoints import Checkpoints
from certd.services.cross_certification import CrossCertifier
from certd.services.download_codes import DownloadCodes
from certd.services.enrollment import Enrollment
from certd.services.event_streams import EventStreams
from certd.services.failed_deliveries import FailedDeliveries
from certd.services.grants import Grants
from certd.services.identity_changes import IdentityChanges
from certd.services.issued_import import IssuedImport
from certd.services.leases import Leases
from certd.services.managed_certificate_changes import ManagedCertificateChanges
from certd.services.managed_certificate_search import ManagedCertificateSearches
from certd.services.managed_certificates import ManagedCertificates
from certd.services.managed_export import ManagedExport
from certd.services.managed_import import ManagedImport
from certd.services.managed_revocation import ManagedRevocation
from certd.services.managed_watch import ManagedWatch
from certd.services.profile_check import ProfileChecks
from certd.services.profiles import Profiles
from certd.services.rates import Rates
from certd.services.refusals import Refusals
from certd.services.renewal_campaigns import RenewalCampaigns
from certd.services.revocation import Revocation
from certd.services.revocation_batch import BatchRevocation
from certd.services.revocation_campaigns import RevocationCampaigns
from certd.services.revocation_lists import RevocationLists
from certd.services.server import Server
from certd.services.subscriptions import Subscriptions
from certd.services.tenants import Tenants
from certd.services.wrapping_key_rotation import WrappingKeyRotation
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

CALLS_BEING_REFUSED: Final = 4096
"""At once, beside those that are answered."""
_MEBIBYTE: Final = 1024 * 1024
LARGEST_ANSWER: Final = 16 * _MEBIBYTE
"""Bytes."""
_SECOND: Final = 1000
_MINUTE: Final = 60 * _SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The use cases behind the API."""

    access: Access
    authorities: Authorities
    authority_activation: AuthorityActivation
    authority_changes: AuthorityChanges
    authority_reissue: AuthorityReissue
    authority_deletion: AuthorityDeletion
    authority_keys: AuthorityKeys
    authority_key_changes: AuthorityKeyChanges
    cross_certifier: CrossCertifier
    adoption: Adoption
    issued_import: IssuedImport
    revocation_lists: RevocationLists
    certificates: Certificates
    certificate_searches: CertificateSearches
    revocation: Revocation
    batch_revocation: BatchRevocation
    revocation_campaigns: RevocationCampaigns
    managed_certificates: ManagedCertificates
    managed_export: ManagedExport
    download_codes: DownloadCodes
    managed_import: ManagedImport
    managed_certificate_changes: ManagedCertificateChanges
    managed_revocation: ManagedRevocation
    managed_certificate_searches: ManagedCertificateSearches
    associations: Associations
    leases: Leases
    renewal_campaigns: RenewalCampaigns
    wrapping_key_rotation: WrappingKeyRotation
    profiles: Profiles
    profile_checks: ProfileChecks
    tenants: Tenants
    grants: Grants
    identity_changes: IdentityChanges
    enrollment: Enrollment
    event_streams: EventStreams
    checkpoints: Checkpoints
    audit_reports: AuditReports
    subscriptions: Subscriptions
    failed_deliveries: FailedDeliveries
    managed_watch: ManagedWatch
    server: Server
    rates: Rates
    refusals: Refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much the server takes on."""

    unary_workers: int = 32
    """Threads for calls with one answer."""
    streams: int = 1024
    """Streams open at once, over all callers."""
    longest_send: float = 30.0
    """Seconds in which the reader of a stream may take nothing, before its slot is given to another."""
    waiting_calls: int = 1024
    """Calls that may wait for one of those threads; further ones are told SERVER_BUSY."""
    message_bytes: int = 16 * _MEBIBYTE
    """Of a message that comes in. Answers have as much room as ever: what was done has to be told."""
    requests: RequestLimits = field(default_factory=RequestLimits)
    patience: Patience = field(default_factory=Patience)
    """With messages that are slow to come."""
    connections: int = 4096
    """Open at once, from all addresses; further ones are closed before their handshake."""
    handshake_seconds: float = 10.0
    """From the first packet of a connection to the end of its handshakes, of TLS and of HTTP/2."""
    connection_age: float = 1800.0
    """Seconds after which a connection is asked to close, so that its certificate is looked at anew."""
    connection_idle: float = 600.0
    """Seconds without a call after which a connection is asked to close; the next call opens another."""
    metadata_bytes: int = 16 * 1024
    """Of the headers of a call, a bearer token included."""


class GrpcServer:
    """A server that is bound and answers; `set_serving` says so to those who ask for its health."""

    def __init__(
        self,
        server: grpc.Server,
        *,
        port: int,
        gate: Gate,
        slots: StreamSlots,
        credentials: ReloadingCredentials,
        pool: WaitingCalls,
        services: Sequence[str],
    ) -> None:
        self.port = port
        self._services = tuple(services)
        self._server = server
        self._gate = gate
        self._slots = slots
        self._credentials = credentials
        self._pool = pool
        self._health = health.HealthServicer(experimental_non_blocking=False)
        self.set_serving(serving=False)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

    def set_serving(self, *, serving: bool) -> None:
        """Sets what grpc.health.v1 answers, for the server as a whole and for every service."""
        states = health_pb2.HealthCheckResponse
        for name in ("", *self._services):
            self._health.set(name, states.SERVING if serving else states.NOT_SERVING)

    def reload(self, credentials: Credentials) -> None:
        """Takes new credentials for the handshakes to come; raises FIELD_INVALID and keeps the old ones."""
        self._credentials.replace(credentials)

    def stop(self, grace: float) -> None:
        """Health NOT_SERVING, then no new calls; those that run have `grace` seconds. Returns when all has ended."""
        self._health.enter_graceful_shutdown()
        self._gate.stop()
        stopped = self._server.stop(grace)
        self._slots.close()
        stopped.wait()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._slots.pool.shutdown(wait=True, cancel_futures=True)


SERVICES: Final[tuple[ServiceDescriptor, ...]] = (
    authority_service_pb2.DESCRIPTOR.services_by_name["AuthorityService"],
    certificate_service_pb2.DESCRIPTOR.services_by_name["CertificateService"],
    managed_certificate_service_pb2.DESCRIPTOR.services_by_name["ManagedCertificateService"],
    wrapping_key_service_pb2.DESCRIPTOR.services_by_name["WrappingKeyService"],
    profile_service_pb2.DESCRIPTOR.services_by_name["ProfileService"],
    tenant_service_pb2.DESCRIPTOR.services_by_name["TenantService"],
    access_service_pb2.DESCRIPTOR.services_by_name["AccessService"],
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
    server_service_pb2.DESCRIPTOR.services_by_name["ServerService"],
)
"""The services of certd.v1."""


def serve(
    *,
    host: str,
    port: int,
    credentials: Credentials,
    services: Services,
    limits: Limits | None = None,
    bearer: Bearer | None = None,
) -> GrpcServer:
    """Binds and starts a server, whose health is NOT_SERVING at first. Port 0 takes a free one.

    With `bearer` the server asks for no client certificates: its callers are told by their tokens alone.
    Raises FIELD_INVALID when the address cannot be bound or the credentials cannot work.
    """
    limits = limits or Limits()
    slots = StreamSlots(limits.streams, patience=limits.patience, longest_send=limits.longest_send)
    pool = WaitingCalls(limits.unary_workers, most_waiting=limits.waiting_calls, patience=limits.patience)
    gate = Gate(
        access=services.access,
        slots=slots,
        calls=pool,
        rates=services.rates,
        refusals=services.refusals,
        bearer=bearer,
    )
    # What is past this is refused without a reason; it is not reached while refusing is quicker than calling.
    outer_wall = limits.unary_workers + limits.waiting_calls + limits.streams + CALLS_BEING_REFUSED
    server = grpc.server(pool, interceptors=[gate], options=options(limits), maximum_concurrent_rpcs=outer_wall)
    for descriptor, methods in zip(SERVICES, _methods(services, limits.requests), strict=True):
        add_service(server, descriptor, methods)
    key = "listen.grpc" if bearer is None else "listen.bearer"
    with ended_unless_bound(slots, pool):
        reloading = ReloadingCredentials(credentials, client_certificates=bearer is None)
        bound = bind(server, host, port, reloading.server_credentials, key=key)
    names = [descriptor.full_name for descriptor in SERVICES]
    running = GrpcServer(server, port=bound, gate=gate, slots=slots, credentials=reloading, pool=pool, services=names)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    server.start()
    return running


def add_service(server: grpc.Server, descriptor: ServiceDescriptor, methods: Methods) -> None:
    """Registers the functions that answer a service."""
    if set(methods) != set(descriptor.methods_by_name):
        raise TypeError(f"{descriptor.full_name}: the functions are not those of the proto")
    handlers = {
        name: _handler_of(descriptor.methods_by_name[name].server_streaming)(
            _answering(function),
            request_deserializer=GetMessageClass(descriptor.methods_by_name[name].input_type).FromString,
            response_serializer=GetMessageClass(descriptor.methods_by_name[name].output_type).SerializeToString,
        )
        for name, function in methods.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(descriptor.full_name, handlers),))


def _handler_of(streams: bool) -> Any:  # noqa: ANN401, FBT001  # The stubs' two functions have no common type.
    return grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler


def _answering(function: Any) -> Any:  # noqa: ANN401  # Each function takes and returns the messages of its own method.
    def answer(request: object, _context: grpc.ServicerContext) -> object:
        return function(request, current_call())

    return answer


def _methods(services: Services, limits: RequestLimits) -> tuple[Methods, ...]:
    """Returns the functions of each of SERVICES, in their order."""
    return (
        {
            **authorities.methods(services.authorities, limits),
            **audit.authority_methods(services.audit_reports),
            **authority_changes.methods(services.authority_activation, services.authority_changes, limits),
            **authority_life.methods(services.authority_reissue, services.authority_deletion),
            **authority_keys.methods(services.authority_keys, services.authority_key_changes, services.cross_certifier),
            **authority_imports.methods(services.adoption, services.issued_import, limits),
            **revocation_lists.methods(services.revocation_lists),
        },
        {
            **certificates.methods(services.certificates, limits),
            **issuance.methods(services.certificates, limits),
            **certificate_search.methods(services.certificate_searches, limits),
            **revocation.methods(services.revocation),
            **revocation_batch.methods(services.batch_revocation, limits),
            **revocation_campaigns.methods(services.revocation_campaigns, limits),
        },
        {
            **managed_certificates.methods(services.managed_certificates, limits),
            **managed_export.methods(services.managed_export, limits),
            **managed_import.methods(services.managed_import, limits),
            **managed_certificate_changes.methods(services.managed_certificate_changes, limits),
            **managed_revocation.methods(services.managed_revocation),
            **managed_certificate_search.methods(services.managed_certificate_searches, limits),
            **associations.methods(services.associations, limits),
            **leases.methods(services.leases),
            **renewal_campaigns.methods(services.renewal_campaigns, limits),
            **managed_watch.methods(services.managed_watch),
            **download_codes.methods(services.download_codes, limits),
        },
        wrapping_keys.methods(services.wrapping_key_rotation, limits),
        profiles.methods(services.profiles, services.profile_checks, limits),
        tenants.methods(services.tenants, limits),
        {
            **grants.methods(services.grants, limits),
            **identities.methods(services.identity_changes, limits),
            **enrollment.methods(services.enrollment),
        },
        {
            **events.methods(services.event_streams, limits),
            **audit.event_methods(services.checkpoints),
            **subscriptions.methods(services.subscriptions, services.failed_deliveries, limits),
        },
        server_info.methods(services.server),
    )


@contextlib.contextmanager
def ended_unless_bound(slots: StreamSlots, pool: WaitingCalls) -> Iterator[None]:
    """Ends the threads of a server that comes to nothing."""
    try:
        yield
    except BaseException:
        slots.close()
        slots.pool.shutdown()
        pool.shutdown()
        raise


def bind(server: grpc.Server, host: str, port: int, credentials: grpc.ServerCredentials, *, key: str) -> int:
    """Binds an address and returns its port; raises FIELD_INVALID with the key of the configuration that named it."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise _not_bound(key, address) from error
    if bound == 0:
        raise _not_bound(key, address)
    return bound


def _not_bound(key: str, address: str) -> Exception:
    return field_invalid(
        key, f"{address} cannot be bound; another program may have it, or the host is not of this machine"
    )


def options(limits: Limits) -> list[tuple[str, Any]]:
    """Returns the options of a server."""
    chosen = {
        # A second daemon on the port is an error to be seen, not a colleague.
        "grpc.so_reuseport": 0,
        "grpc.max_receive_message_length": limits.message_bytes,
        "grpc.max_send_message_length": LARGEST_ANSWER,
        # A connection that has watchers has room for calls as well.
        "grpc.max_concurrent_streams": 512 + limits.streams,
        # Agents behind NAT keep their mapping alive by pings, with and without open calls; ours find the dead ones.
        "grpc.keepalive_time_ms": _MINUTE,
        "grpc.keepalive_timeout_ms": 20 * _SECOND,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.http2.min_ping_interval_without_data_ms": 5 * _SECOND,
        # TLS is looked at in the handshake only, so connections end.
        "grpc.max_connection_age_ms": int(limits.connection_age * _SECOND),
        "grpc.max_connection_age_grace_ms": 2 * _MINUTE,
        "grpc.max_connection_idle_ms": int(limits.connection_idle * _SECOND),
        "grpc.server_handshake_timeout_ms": int(limits.handshake_seconds * _SECOND),
        "grpc.max_allowed_incoming_connections": limits.connections,
        # No gap between the two: in it gRPC refuses at random.
        "grpc.max_metadata_size": limits.metadata_bytes,
        "grpc.absolute_max_metadata_size": limits.metadata_bytes,
    }
    return list(chosen.items())
