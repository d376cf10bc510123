"""ServerService: convert, call `services.server`, convert back."""

from functools import partial

from certd.api import x509
from certd.api.call import Call, Methods
from certd.model.names import TenantName
from certd.services.server import Server, ServerDescription
from certd.v1 import server_service_pb2


def methods(server: Server) -> Methods:
    """Returns the functions that answer ServerService."""
    return {
        "GetServerInfo": partial(get_server_info, server),
        "GetTrustBundle": partial(get_trust_bundle, server),
    }


def get_server_info(
    server: Server, _request: server_service_pb2.GetServerInfoRequest, call: Call
) -> server_service_pb2.ServerInfo:
    """GetServerInfo."""
    return server_info_message(server.describe(call.caller))


def get_trust_bundle(
    server: Server, request: server_service_pb2.GetTrustBundleRequest, call: Call
) -> server_service_pb2.TrustBundle:
    """GetTrustBundle."""
    tenant = TenantName.parse("tenant", request.tenant) if request.tenant else None
    bundle = server.trust_bundle(call.caller, tenant)
    return server_service_pb2.TrustBundle(
        system_roots=x509.encoded_chain(bundle.system_roots), tenant_roots=x509.encoded_chain(bundle.tenant_roots)
    )


def server_info_message(described: ServerDescription) -> server_service_pb2.ServerInfo:
    """Returns the server's description as a message."""
    kind = server_service_pb2.ServerInfo
    message = kind(
        version=described.version,
        isolation=kind.ISOLATION_UNSPECIFIED
        if described.isolation is None
        else kind.Isolation.Value(described.isolation.name),
        database_engine=described.database_engine,
        start_time=x509.timestamp(described.start_time),
        trust_domain=described.trust_domain,
        problems=described.complaints,
        preparation=server_service_pb2.PreparationInfo(
            configured_processes=described.preparer.configured,
            ready_processes=described.preparer.ready,
            problem=described.preparer.problem,
        ),
    )
    # Always: while the token is away, why is all that there is to tell.
    message.token.ready = described.token_ready
    message.token.problem = described.token_problem
    token = described.token
    if token is not None:
        message.token.MergeFrom(
            server_service_pb2.TokenInfo(
                module=token.module,
                label=token.label,
                serial_number=token.serial_number,
                manufacturer=token.manufacturer,
                model=token.model,
                mechanisms=token.mechanisms,
                missing=token.missing,
            )
        )
    return message
