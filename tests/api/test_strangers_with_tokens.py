"""The port for bearer tokens asks for no certificate: what strangers may call there holds up nobody else."""

import contextlib
import threading
from collections.abc import Iterator

import grpc
from grpc_health.v1 import health_pb2

from certd.api.arrivals import Patience
from certd.api.server import GrpcServer, Limits, serve
from certd.model.access import Caller
from certd.services.bearer import Bearer
from certd.v1 import authority_service_pb2
from tests.api.edge_server import ALICE, CREDENTIALS, SYSTEM_ROOT, Edge, running_edge
from tests.waiting import eventually

_METHOD = "/certd.v1.AuthorityService/GetAuthority"
_CHECK = "/grpc.health.v1.Health/Check"
_GET = authority_service_pb2.GetAuthorityRequest(name="tenants/default/authorities/web-ca").SerializeToString()
_WORKERS = 4


class _Tokens(Bearer):
    def __init__(self) -> None:
        pass

    def authenticate(self, token: str) -> Caller:
        return Caller(principal=f"{ALICE}-{token}", serial="")


@contextlib.contextmanager
def _running(edge: Edge) -> Iterator[GrpcServer]:
    patient = Patience(seconds=60, when_others_wait=60)
    limits = Limits(unary_workers=_WORKERS, patience=patient)
    server = serve(
        host="127.0.0.1", port=0, credentials=CREDENTIALS, services=edge.services, limits=limits, bearer=_Tokens()
    )
    try:
        yield server
    finally:
        server.stop(0)


def _channel(server: GrpcServer) -> grpc.Channel:
    trust = grpc.ssl_channel_credentials(SYSTEM_ROOT.pem)
    return grpc.secure_channel(f"localhost:{server.port}", trust, [("grpc.use_local_subchannel_pool", 1)])


def _is_told(channel: grpc.Channel) -> bool:
    try:
        channel.unary_unary(_CHECK, bytes, bytes)(health_pb2.HealthCheckRequest().SerializeToString(), timeout=20)
    except grpc.RpcError:
        # For a moment, while those who are silent have only just come.
        return False
    return True


def test_silent_strangers_do_not_take_the_threads_of_callers() -> None:
    ended = threading.Event()

    def silence() -> Iterator[bytes]:
        ended.wait(60)
        yield from ()

    with running_edge() as edge, _running(edge) as server, _channel(server) as strange, _channel(server) as own:
        try:
            check = strange.stream_unary(_CHECK, bytes, bytes)
            silent = [check.future(silence(), timeout=60) for _ in range(2 * _WORKERS)]
            eventually(lambda: server._pool.arrivals._waiting)
            own.unary_unary(_METHOD, bytes, bytes)(_GET, timeout=20, metadata=(("authorization", "Bearer a"),))
            assert len(edge.told.calls) == 1
            # Nor do they keep health from being told.
            eventually(lambda: _is_told(own))
            assert any(one.done() for one in silent)
        finally:
            ended.set()
