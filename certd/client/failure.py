"""What a failed call tells: `google.rpc.Status` decoded into one exception."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

from certd.errors import Reason, Violation

if TYPE_CHECKING:
    # certctl tells gRPC to be quiet before it loads it, and --help does without.
    import grpc

_STATUS_DETAILS: Final = "grpc-status-details-bin"


class CallFailed(Exception):  # noqa: N818  # It names what happened, as CertdError's siblings do in sentences.
    """A call that the server refused, or that never reached it.

    Args:
        reason: the reason of the ErrorInfo; the name of the status code when the server sent none.
        message: for people: the failing check, the resource, the remedy.
        metadata: metadata of the ErrorInfo; with `request_id` when the call had one.
        violations: the fields that break a rule.
        code: name of the gRPC status code, for example `NOT_FOUND`.
        retry_after: seconds after which the server allows another try; None when it did not say.
        resource: name of the resource that the failure is about; empty when the server did not say.
        answered: whether the server itself gave the reason; otherwise the failure lies before or in the transport.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        code: str = "UNKNOWN",
        retry_after: float | None = None,
        resource: str = "",
        answered: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.violations = violations
        self.code = code
        self.retry_after = retry_after
        self.resource = resource
        self.answered = answered

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    def with_metadata(self, **more: str) -> "CallFailed":
        """Returns the same failure with more metadata; what the server sent wins."""
        return CallFailed(
            self.reason,
            self.message,
            metadata={**more, **self.metadata},
            violations=self.violations,
            code=self.code,
            retry_after=self.retry_after,
            resource=self.resource,
            answered=self.answered,
        )


def decode(error: "grpc.RpcError") -> CallFailed:
    """Returns the failure that an error of grpc stands for, with whatever details the server attached."""
    code = error.code().name
    info = ErrorInfo()
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None
    about = ResourceInfo()
    for detail in _details(error):
        request, retry = BadRequest(), RetryInfo()
        if detail.Unpack(info):
            continue
        if detail.Unpack(request):
            violations = tuple(Violation(v.field, v.description) for v in request.field_violations)
        elif detail.Unpack(retry):
            # A delay that no clock can wait for is none.
            with suppress(OverflowError, ValueError):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        else:
            detail.Unpack(about)
    return CallFailed(
        info.reason or code,
        error.details() or "the server gave no message",
        metadata=info.metadata,
        violations=violations,
        code=code,
        retry_after=retry_after,
        resource=about.resource_name,
        answered=bool(info.reason),
    )


def _details(error: "grpc.RpcError") -> list[AnyMessage]:
    """Returns the details of the error's status; none when the trailer is missing or mangled, as by a proxy."""
    for trailer in error.trailing_metadata() or ():
        if trailer.key == _STATUS_DETAILS:
            try:
                return list(Status.FromString(trailer.value).details)
            except DecodeError:
                return []
    return []


def explain(
    failure: CallFailed, *, address: str, limit: float, not_after: datetime | None, listener: str = "listen.grpc"
) -> CallFailed:
    """Returns a failure of the transport in words that name the remedy; one that the server gave, as it is.

    Args:
        failure: how a try failed.
        address: of the server.
        limit: seconds that the try had.
        not_after: end of the client certificate's validity; None without one.
        listener: what certd.toml calls the address that takes such calls.
    """
    if failure.answered or failure.code not in {"DEADLINE_EXCEEDED", "UNAVAILABLE"}:
        return failure
    # grpc puts the addresses that it tried before what failed last.
    cause = failure.message.rsplit("last error: ", 1)[-1]
    reason: str = Reason.CREDENTIAL_INVALID
    if failure.code == "DEADLINE_EXCEEDED":
        reason = Reason.DEADLINE_EXCEEDED
        message = (
            f"{address} gave no answer within {limit:.3g} seconds, and whether the call was done is unknown; "
            "repeat it with a longer timeout and the same request id"
        )
    elif "Hostname Verification Check failed" in cause:
        message = (
            f"the certificate of {address} is for another host; use the address that the server's certificate names"
        )
    elif "CERTIFICATE_VERIFY_FAILED" in cause:
        message = (
            f"the certificate of {address} is not vouched for by the trust bundle; check the address, the trust bundle "
            f"and this machine's clock ({cause})"
        )
    elif "WRONG_VERSION_NUMBER" in cause:
        reason = failure.code
        message = f"{address} does not speak TLS, so it is not the API; name what certd.toml calls {listener}"
    elif not_after is not None and not_after < datetime.now(UTC):
        message = (
            f"the client certificate expired at {not_after.isoformat()}; get a new one (for an administrator: "
            "`certd recover-admin` on the server)"
        )
    else:
        reason = failure.code
        known = f"it is that of {listener}" if not_after is None else "it knows your client certificate"
        message = (
            f"no connection to {address}; check that the daemon runs, that the address is right and that "
            f"{known} ({cause})"
        )
    return CallFailed(reason, message, code=failure.code)
