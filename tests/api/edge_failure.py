"""Failed calls, decoded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2


@dataclass(frozen=True)
class Failure:
    """A failed call, decoded."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None
    resource: tuple[str, str] | None = None
    quota: tuple[tuple[str, str], ...] | None = None


def failure_of(error: grpc.RpcError) -> Failure:
    """Decodes the status of a failed call; every detail must be one that is known here."""
    failure = Failure(error.code(), error.details() or "")
    for trailer in error.trailing_metadata() or ():
        if trailer.key != "grpc-status-details-bin":
            continue
        status = status_pb2.Status.FromString(trailer.value)
        assert (status.code, status.message) == (error.code().value[0], error.details())
        for detail in status.details:
            failure = replace(failure, **_decoded(detail))
    return failure


def _decoded(detail: Any) -> dict[str, Any]:
    info, request, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    resource, quota = error_details_pb2.ResourceInfo(), error_details_pb2.QuotaFailure()
    if detail.Unpack(info):
        return {"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)}
    if detail.Unpack(request):
        return {"violations": tuple((violation.field, violation.description) for violation in request.field_violations)}
    if detail.Unpack(retry):
        return {"retry_after": retry.retry_delay.ToTimedelta().total_seconds()}
    if detail.Unpack(resource):
        return {"resource": (resource.resource_type, resource.resource_name)}
    assert detail.Unpack(quota), detail.type_url
    return {"quota": tuple((violation.subject, violation.description) for violation in quota.violations)}
