"""What every call passes before its method runs, in the order in which it is written in `Gate._admit`.

    error id, log, metrics and refusals → TLS version → deadline → identity → rate → the table of methods, default deny

The identity is that of the client certificate; on the port for bearer tokens, which asks for no certificate, that of
the token.

The request is read and parsed after all of that: gRPC would wait for it in the thread that is to answer, so methods are
registered as ones that read their messages themselves, which is the same on the wire. When it was long in coming, the
identity is looked at once more. Nothing that a request holds is logged: methods, principals, reasons and field paths
are.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError
from prometheus_client import Counter, Histogram

from certd.api import peer, status
from certd.api.arrivals import Arrivals
from certd.api.call import Call, making
from certd.api.methods import METHODS, Admission
from certd.api.streams import OpenStream, StreamSlots
from certd.api.waiting_calls import WaitingCalls, busy
from certd.errors import CertdError, Reason, field_invalid
from certd.log import traceback_of
from certd.metrics import CALL_SECONDS, CALLS
from certd.model.access import Caller, Permission
from certd.services.rates import Rates
from certd.services.refusals import Refusals

AT_ONCE: Final = 0.05
"""Seconds after its admission within which the message of a call is there, as a rule."""
LONGEST_CALL: Final = 120.0
"""Seconds after which the server gives up on a call whose caller set no deadline, or a later one."""
_OWN_METHODS: Final = "/certd.v1."

_log = structlog.get_logger("certd.api")
_plain_log = logging.getLogger("certd.api")

if TYPE_CHECKING:
    # Generic in the stubs alone.
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
    Interceptor: TypeAlias = grpc.ServerInterceptor[Any, Any]
else:
    Handler = grpc.RpcMethodHandler
    Interceptor = grpc.ServerInterceptor
Rules = Mapping[str, Permission | Admission]


class Authenticator(Protocol):
    """Tells callers by their certificates: `services.access.Access`."""

    def authenticate(self, certificate_der: bytes) -> Caller:
        """Returns who shows the certificate; raises CREDENTIAL_INVALID or CREDENTIAL_REVOKED."""


class TokenAuthenticator(Protocol):
    """Tells callers by their bearer tokens: `services.bearer.Bearer`."""

    def authenticate(self, token: str) -> Caller:
        """Returns who shows the token; raises CREDENTIAL_INVALID."""


class _Told:
    """Counts and logs a call, and answers what it raises.

    A class, for a generator would be a third of what all of this costs.
    """

    __slots__ = ("_context", "_method", "_refusals", "_started", "code", "principal")

    def __init__(self, method: str, context: grpc.ServicerContext, refusals: Refusals) -> None:
        self._refusals = refusals
        self._method = method
        self._context = context
        self._started = 0.0
        self.code = grpc.StatusCode.OK
        self.principal = ""

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                # None until a method sets one, as health does for a service that it does not know.
                code: grpc.StatusCode | None = self._context.code()  # type: ignore[attr-defined]  # Missing in the stubs.
                self.code = code or grpc.StatusCode.OK
            else:
                self._answer(error)
        finally:
            self._note()

    def _answer(self, error: BaseException) -> None:
        """Ends the call with the status of an error; returns for one that passes as it is."""
        if isinstance(error, grpc.RpcError):
            # The caller went away while their stream was read.
            self.code = grpc.StatusCode.CANCELLED
        elif isinstance(error, CertdError) and error.reason is not Reason.INTERNAL:
            self.code = status.CODES[error.reason]
            _log.info(
                "call refused",
                method=self._method,
                principal=self.principal,
                reason=error.reason.value,
                fields=[violation.field for violation in error.violations[:20]],
            )
            self._refusals.note(
                principal=self.principal,
                method=self._method,
                reason=error.reason,
                peer=peer.address_of(self._context.peer()),
            )
            self._context.abort_with_status(status.to_status(error))
        elif isinstance(error, NotImplementedError):
            # As the health service of the library answers for `List`, which it declares and does not have.
            self.code = grpc.StatusCode.UNIMPLEMENTED
            self._context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{self._method} is not implemented")
        elif isinstance(error, Exception):
            # The last resort: whatever it is, the caller learns an id only.
            error_id = uuid.uuid4().hex
            self.code = grpc.StatusCode.INTERNAL
            _log.error(
                "defect",
                error_id=error_id,
                method=self._method,
                principal=self.principal,
                traceback=traceback_of(error),
            )
            self._context.abort_with_status(status.internal(error_id))

    def _note(self) -> None:
        seconds = time.perf_counter() - self._started
        calls, times = _counters(self._method, self.code)
        calls.inc()
        times.observe(seconds)
        if _plain_log.isEnabledFor(logging.DEBUG):
            _log.debug(
                "call",
                method=self._method,
                principal=self.principal,
                code=self.code.name,
                milliseconds=round(seconds * 1000, 1),
            )


@lru_cache(maxsize=4096)
def _counters(method: str, code: grpc.StatusCode) -> tuple[Counter, Histogram]:
    return CALLS.labels(method, code.name), CALL_SECONDS.labels(method)


class Gate(Interceptor):
    """Lets in the calls that may come in, and turns every failure into a status.

    Args:
        access: tells callers by their certificates.
        slots: where streams run.
        calls: where calls with one answer run.
        rates: how often each caller may call.
        refusals: where refused calls are counted.
        rules: what each method needs, by its full name; a method without a rule is refused.
        bearer: tells callers by their tokens, on a port without client certificates; None: tokens are not looked at.
    """

    def __init__(
        self,
        *,
        access: Authenticator,
        slots: StreamSlots,
        calls: WaitingCalls,
        rates: Rates,
        refusals: Refusals,
        rules: Rules = METHODS,
        bearer: TokenAuthenticator | None = None,
    ) -> None:
        self._access = access
        self._bearer = bearer
        self._slots = slots
        self._calls = calls
        self._rates = rates
        self._refusals = refusals
        self._rules = rules
        self._stopping = threading.Event()
        self._around: dict[str, tuple[Handler, Handler]] = {}
        """Handlers of methods with the chain around them."""

    def stop(self) -> None:
        """From now on calls are told that the server is stopping."""
        self._stopping.set()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Returns the method's handler with the chain around it; None (UNIMPLEMENTED) for a method that nobody has."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if handler.response_streaming:
            return self._around_stream(method, handler)
        if handler.unary_unary is None:
            raise TypeError(f"{method}: client streams with one answer are not part of the API")
        if self._calls.is_full:
            return self._refusing(method)
        # Making one costs as much as a small call; the same handler comes with every call of a method.
        known, around = self._around.get(method, (None, None))
        if known is not handler or around is None:
            around = self._around_unary(method, handler, handler.unary_unary)
            self._around[method] = (handler, around)
        return around

    def _refusing(self, method: str) -> Handler:
        def run(_requests: Iterator[bytes], context: grpc.ServicerContext) -> object:
            with _Told(method, context, self._refusals):
                raise busy()

        # The attribute by which grpc takes another pool for a method.
        run.experimental_thread_pool = self._calls.refusing  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(run)

    def _around_unary(
        self, method: str, handler: Handler, answer: Callable[[Any, grpc.ServicerContext], Any]
    ) -> Handler:
        def run(requests: Iterator[bytes], context: grpc.ServicerContext) -> object:
            with _Told(method, context, self._refusals) as told:
                call = self._admit(method, context, told)
                request = self._first(self._calls.arrivals, requests, context, call)
                with making(call):
                    return answer(_parsed(handler, request), context)

        return grpc.stream_unary_rpc_method_handler(run, response_serializer=handler.response_serializer)

    def _around_stream(self, method: str, handler: Handler) -> Handler:
        def run(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[object]:
            with _Told(method, context, self._refusals) as told:
                call = self._admit(method, context, told)
                arrivals = self._slots.arrivals
                request = requests if handler.request_streaming else self._first(arrivals, requests, context, call)
                again = _nobody if call is None else self._again(context)
                stream = OpenStream(context, again, ends_by_itself=method.startswith(_OWN_METHODS))
                with self._slots.slot(stream, told.principal):
                    with making(None if call is None else replace(call, stream=stream)):
                        responses = _responses(handler, request, context)
                    yield from stream.sent(responses)

        # The attribute by which grpc takes another pool for a method.
        run.experimental_thread_pool = self._slots.pool  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(run, response_serializer=handler.response_serializer)

    def _admit(self, method: str, context: grpc.ServicerContext, told: _Told) -> Call | None:
        """Returns the call that may go on, None for one that needs no caller; raises what refuses it."""
        if self._stopping.is_set():
            raise CertdError(Reason.SHUTTING_DOWN, "the server is stopping; try again")
        # The stubs say bytes; each property is a sequence of them.
        connection: Any = context.auth_context()
        peer.check_tls_version(connection)
        timeout = time_left(context)
        rule = self._rules.get(method)
        if rule is Admission.PUBLIC:
            return None
        caller = self._caller(context, connection)
        told.principal = caller.principal
        self._rates.take(caller.principal)
        if rule is None:
            raise CertdError(Reason.PERMISSION_MISSING, f"no permission exists for {method}, so nobody holds it")
        return Call(caller=caller, timeout=timeout)

    def _caller(self, context: grpc.ServicerContext, connection: Any) -> Caller:  # noqa: ANN401  # As in `_admit`.
        if self._bearer is None:
            return self._access.authenticate(peer.certificate_of(connection))
        return self._bearer.authenticate(peer.token_of(context.invocation_metadata()))

    def _again(self, context: grpc.ServicerContext) -> Callable[[], object]:
        """Returns what tells the caller once more, by what they have shown."""
        bearer, connection = self._bearer, context.auth_context()
        if bearer is None:
            certificate = peer.certificate_of(connection)  # type: ignore[arg-type]  # The stubs say bytes, as in `_admit`.
            return lambda: self._access.authenticate(certificate)
        token = peer.token_of(context.invocation_metadata())
        return lambda: bearer.authenticate(token)

    def _first(
        self, arrivals: Arrivals, requests: Iterator[bytes], context: grpc.ServicerContext, call: Call | None
    ) -> bytes:
        """Returns the message of a call; its caller must be good still when it was long in coming.

        Who is about to be revoked could otherwise keep calls open, and have them done afterwards.
        """
        since = time.monotonic()
        if call is None and self._bearer is not None:
            return self._first_of_stranger(arrivals, requests, context)
        request: bytes = arrivals.first(requests, context)
        if call is not None and time.monotonic() - since > AT_ONCE:
            self._caller(context, context.auth_context())
        return request

    def _first_of_stranger(self, arrivals: Arrivals, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Returns the message of a public call; those who send none may not hold every thread."""
        if not self._calls.strangers.enter(context):
            raise busy()
        try:
            request: bytes = arrivals.first(requests, context)
        finally:
            self._calls.strangers.leave(context)
        return request


def _nobody() -> None:
    """Tells again who calls a public method."""


def time_left(context: grpc.ServicerContext) -> float:
    """Returns how many seconds the caller still waits, LONGEST_CALL at most; raises DEADLINE_EXCEEDED."""
    seconds = min(context.time_remaining(), LONGEST_CALL)
    if seconds <= 0:
        raise CertdError(
            Reason.DEADLINE_EXCEEDED, "the deadline of the call passed before its turn came; allow more time"
        )
    return seconds


def _parsed(handler: Handler, request: bytes) -> object:
    """Returns the request as a message; raises FIELD_INVALID when the bytes are none."""
    if handler.request_deserializer is None:
        return request
    try:
        return handler.request_deserializer(request)
    except DecodeError as error:
        raise field_invalid("request", "the bytes are not the message that this method takes") from error


def _responses(handler: Handler, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401  # As grpc's.
    """Calls a method that streams its answer."""
    if handler.stream_stream is not None:
        return handler.stream_stream((_parsed(handler, each) for each in request), context)
    if handler.unary_stream is not None:
        return handler.unary_stream(_parsed(handler, request), context)
    raise TypeError("the method has no handler of its kind")
