"""The enrollment port: TLS without client certificates, and exactly what somebody needs who has none yet.

That is Enroll, the system roots, and health. No reflection: there is nothing else to find.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import grpc
from google.protobuf.message_factory import GetMessageClass

from certd.api import enrollment as enrollment_methods
from certd.api import peer
from certd.api.arrivals import Patience
from certd.api.credentials import Credentials, ReloadingCredentials
from certd.api.interceptors import Gate, time_left
from certd.api.methods import Admission
from certd.api.server import CALLS_BEING_REFUSED, GrpcServer, Limits, bind, ended_unless_bound, options
from certd.api.streams import StreamSlots
from certd.api.waiting_calls import WaitingCalls
from certd.services.access import Access
from certd.services.enrollment import Enrollment
from certd.services.rates import Rates
from certd.services.refusals import Refusals
from certd.v1 import access_service_pb2, server_service_pb2

METHODS: Final[Mapping[str, Admission]] = {
    "/certd.v1.AccessService/Enroll": Admission.PUBLIC,
    "/certd.v1.ServerService/GetTrustBundle": Admission.PUBLIC,
    "/grpc.health.v1.Health/Check": Admission.PUBLIC,
    "/grpc.health.v1.Health/List": Admission.PUBLIC,
    "/grpc.health.v1.Health/Watch": Admission.PUBLIC,
}
"""What there is, by its full name."""
LIMITS: Final = Limits(
    unary_workers=8,
    streams=16,
    waiting_calls=64,
    message_bytes=64 << 10,
    patience=Patience(seconds=5.0),
    connections=512,
    handshake_seconds=5.0,
    connection_age=60.0,
    connection_idle=20.0,
)
"""Strangers get little: a code and a CSR of 32 KiB fit."""
_ENROLL: Final = access_service_pb2.DESCRIPTOR.services_by_name["AccessService"].methods_by_name["Enroll"]
_TRUST_BUNDLE: Final = server_service_pb2.DESCRIPTOR.services_by_name["ServerService"].methods_by_name["GetTrustBundle"]

Answer = Callable[[Any, str, float], Any]
"""Answers a request, given the address it came from and the seconds that are left."""


def serve_enrollment(
    *,
    host: str,
    port: int,
    credentials: Credentials,
    enrollment: Enrollment,
    access: Access,
    rates: Rates,
    refusals: Refusals,
    limits: Limits = LIMITS,
) -> GrpcServer:
    """Binds and starts the server of the enrollment port; as `server.serve`."""
    slots = StreamSlots(limits.streams, patience=limits.patience)
    pool = WaitingCalls(limits.unary_workers, most_waiting=limits.waiting_calls, patience=limits.patience)
    gate = Gate(access=access, slots=slots, calls=pool, rates=rates, refusals=refusals, rules=METHODS)
    outer_wall = limits.unary_workers + limits.waiting_calls + limits.streams + CALLS_BEING_REFUSED
    server = grpc.server(pool, interceptors=[gate], options=options(limits), maximum_concurrent_rpcs=outer_wall)
    answers: tuple[tuple[Any, Answer], ...] = (
        (_ENROLL, partial(enrollment_methods.enroll, enrollment)),
        (_TRUST_BUNDLE, partial(enrollment_methods.get_trust_bundle, enrollment)),
    )
    for method, answer in answers:
        _add_method(server, method, answer)
    with ended_unless_bound(slots, pool):
        reloading = ReloadingCredentials(credentials, client_certificates=False)
        bound = bind(server, host, port, reloading.server_credentials, key="listen.enrollment")
    services = tuple(method.containing_service.full_name for method, _ in answers)
    running = GrpcServer(
        server, port=bound, gate=gate, slots=slots, credentials=reloading, pool=pool, services=services
    )
    server.start()
    return running


def _add_method(server: grpc.Server, method: Any, answer: Answer) -> None:  # noqa: ANN401  # protobuf's own type has none.
    def run(request: object, context: grpc.ServicerContext) -> object:
        return answer(request, peer.address_of(context.peer()), time_left(context))

    handler = grpc.unary_unary_rpc_method_handler(
        run,
        request_deserializer=GetMessageClass(method.input_type).FromString,
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )
    service = method.containing_service.full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method.name: handler}),))
