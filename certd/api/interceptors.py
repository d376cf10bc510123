"""What every call passes before its method runs, in the order in which it is written in `Gate._admit`.

    error id, log and metrics → TLS version → deadline → identity → the table of methods, default deny

The request is parsed after all of that: what a stranger sends is not even read as a message. Nothing that a request
holds is logged: methods, principals, reasons and field paths are.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from certd.api import peer, status
from certd.api.call import Call, making
from certd.api.methods import METHODS, Admission
from certd.api.streams import StreamSlots
from certd.api.waiting_calls import WaitingCalls, busy
from certd.errors import CertdError, Reason, field_invalid
from certd.log import traceback_of
from certd.metrics import CALL_SECONDS, CALLS
from certd.model.access import Caller, Permission

LONGEST_CALL: Final = 120.0
"""Seconds after which the server gives up on a call whose caller set no deadline, or a later one."""

_log = structlog.get_logger("certd.api")

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


@dataclass(slots=True)
class _Outcome:
    """How a call ended, for log and metrics."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    principal: str = ""


class Gate(Interceptor):
    """Lets in the calls that may come in, and turns every failure into a status.

    Args:
        access: tells callers by their certificates.
        slots: where streams run.
        calls: where calls with one answer run.
        rules: what each method needs, by its full name; a method without a rule is refused.
    """

    def __init__(
        self, *, access: Authenticator, slots: StreamSlots, calls: WaitingCalls, rules: Rules = METHODS
    ) -> None:
        self._access = access
        self._slots = slots
        self._calls = calls
        self._rules = rules
        self._stopping = threading.Event()

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
        return self._around_unary(method, handler, handler.unary_unary)

    def _refusing(self, method: str) -> Handler:
        def run(_request: bytes, context: grpc.ServicerContext) -> object:
            with self._told(method, context):
                raise busy()

        # The attribute by which grpc takes another pool for a method.
        run.experimental_thread_pool = self._calls.refusing  # type: ignore[attr-defined]
        return grpc.unary_unary_rpc_method_handler(run)

    def _around_unary(
        self, method: str, handler: Handler, answer: Callable[[Any, grpc.ServicerContext], Any]
    ) -> Handler:
        def run(request: bytes, context: grpc.ServicerContext) -> object:
            with self._told(method, context) as outcome, making(self._admit(method, context, outcome)):
                return answer(_parsed(handler, request), context)

        return grpc.unary_unary_rpc_method_handler(run, response_serializer=handler.response_serializer)

    def _around_stream(self, method: str, handler: Handler) -> Handler:
        def run(request: Any, context: grpc.ServicerContext) -> Iterator[object]:  # noqa: ANN401  # Bytes, or an iterator.
            with self._told(method, context) as outcome:
                call = self._admit(method, context, outcome)
                with self._slots.slot(context):
                    with making(call):
                        responses = _responses(handler, request, context)
                    yield from responses

        # The attribute by which grpc takes another pool for a method.
        run.experimental_thread_pool = self._slots.pool  # type: ignore[attr-defined]
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(run, response_serializer=handler.response_serializer)
        return grpc.unary_stream_rpc_method_handler(run, response_serializer=handler.response_serializer)

    def _admit(self, method: str, context: grpc.ServicerContext, outcome: _Outcome) -> Call | None:
        """Returns the call that may go on, None for one that needs no caller; raises what refuses it."""
        if self._stopping.is_set():
            raise CertdError(Reason.SHUTTING_DOWN, "the server is stopping; try again")
        # The stubs say bytes; each property is a sequence of them.
        connection: Any = context.auth_context()
        peer.check_tls_version(connection)
        timeout = _time_left(context)
        rule = self._rules.get(method)
        if rule is Admission.PUBLIC:
            return None
        caller = self._access.authenticate(peer.certificate_of(connection))
        outcome.principal = caller.principal
        if rule is None:
            raise CertdError(Reason.PERMISSION_MISSING, f"no permission exists for {method}, so nobody holds it")
        return Call(caller=caller, timeout=timeout)

    @contextlib.contextmanager
    def _told(self, method: str, context: grpc.ServicerContext) -> Iterator[_Outcome]:
        """Counts and logs a call, and answers what it raises."""
        outcome = _Outcome()
        started = time.perf_counter()
        try:
            yield outcome
            # None until a method sets one, as health does for a service that it does not know.
            code: grpc.StatusCode | None = context.code()  # type: ignore[attr-defined]  # Missing in the stubs.
            outcome.code = code or grpc.StatusCode.OK
        except grpc.RpcError:
            # The caller went away while their stream was read.
            outcome.code = grpc.StatusCode.CANCELLED
            raise
        except CertdError as error:
            if error.reason is Reason.INTERNAL:
                self._answer_defect(method, context, outcome, error)
            outcome.code = status.CODES[error.reason]
            _log.info(
                "call refused",
                method=method,
                principal=outcome.principal,
                reason=error.reason.value,
                fields=[violation.field for violation in error.violations[:20]],
            )
            context.abort_with_status(status.to_status(error))
        except NotImplementedError:
            # As the health service of the library answers for `List`, which it declares and does not have.
            outcome.code = grpc.StatusCode.UNIMPLEMENTED
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented")
        except Exception as error:  # noqa: BLE001  # The last resort: whatever it is, the caller learns an id only.
            self._answer_defect(method, context, outcome, error)
        finally:
            seconds = time.perf_counter() - started
            CALLS.labels(method, outcome.code.name).inc()
            CALL_SECONDS.labels(method).observe(seconds)
            _log.debug(
                "call",
                method=method,
                principal=outcome.principal,
                code=outcome.code.name,
                milliseconds=round(seconds * 1000, 1),
            )

    @staticmethod
    def _answer_defect(method: str, context: grpc.ServicerContext, outcome: _Outcome, error: Exception) -> None:
        """Logs a defect under a new id and answers the id."""
        error_id = uuid.uuid4().hex
        outcome.code = grpc.StatusCode.INTERNAL
        _log.error(
            "defect", error_id=error_id, method=method, principal=outcome.principal, traceback=traceback_of(error)
        )
        context.abort_with_status(status.internal(error_id))


def _time_left(context: grpc.ServicerContext) -> float:
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
