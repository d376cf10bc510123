"""The one place where the error family becomes `google.rpc.Status`.

Every failure carries ErrorInfo with the domain `certd`; where they fit, BadRequest with every field, RetryInfo,
ResourceInfo and QuotaFailure. A status travels in the trailers, which gRPC begins to refuse at 8 KiB together with the
message and the base64 of the details; so what is long is cut, and the cut is told.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from certd.errors import CertdError, Reason, Violation
from certd.v1 import certificate_service_pb2

DOMAIN: Final = "certd"

CODES: Final[Mapping[Reason, grpc.StatusCode]] = {
    Reason.FIELD_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.CSR_MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.CSR_SIGNATURE_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.KEY_TOO_WEAK: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NAME_NOT_ALLOWED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.PROFILE_FORBIDS: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.LINT_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.LIFETIME_EXCEEDS_AUTHORITY: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.AUTHORITY_NOT_ENABLED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NOT_EXPORTABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.STATE_FORBIDS: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.CREDENTIAL_MISSING: grpc.StatusCode.UNAUTHENTICATED,
    Reason.CREDENTIAL_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    Reason.CREDENTIAL_REVOKED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.PERMISSION_MISSING: grpc.StatusCode.PERMISSION_DENIED,
    Reason.TENANT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.AUTHORITY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.CERTIFICATE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.PROFILE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.MANAGED_CERTIFICATE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.AUTHORITY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.MANAGED_CERTIFICATE_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.REQUEST_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.REQUEST_IN_PROGRESS: grpc.StatusCode.ABORTED,
    Reason.OWNERSHIP_LOST: grpc.StatusCode.ABORTED,
    Reason.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.SIGNING_QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.TOKEN_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.TOKEN_POLICY_FORBIDS: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    Reason.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
    Reason.NAME_CONSTRAINT_VIOLATED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.ALREADY_REVOKED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.ETAG_MISMATCH: grpc.StatusCode.ABORTED,
    Reason.PROFILE_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.PROFILE_IN_USE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.IMPORT_NOT_PEM: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.IMPORT_EXPIRED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.IMPORT_KEY_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.IMPORT_CHAIN_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.IMPORT_NOT_COMPATIBLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.PREPARATION_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SERVER_BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_WATCHERS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.ENROLLMENT_CODE_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    Reason.IDENTITY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.GRANT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.GRANT_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.TENANT_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.LAST_ADMINISTRATOR: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.CERTIFICATE_IN_USE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NOT_RENEWABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.ASSOCIATION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.ASSOCIATION_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.WRAPPING_KEY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.RENEWAL_CAMPAIGN_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.RENEWAL_CAMPAIGN_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.LEASE_REFUSED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.WATCHER_TOO_SLOW: grpc.StatusCode.ABORTED,
    Reason.CURSOR_INVALID: grpc.StatusCode.OUT_OF_RANGE,
    Reason.SUBSCRIPTION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.SUBSCRIPTION_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.TARGET_NOT_ALLOWED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.DOWNLOAD_CODE_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    Reason.DOWNLOAD_CODE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.REVOCATION_CAMPAIGN_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.REVOCATION_CAMPAIGN_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.REVOCATION_LIST_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.AUTHORITY_KEY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.AUTHORITY_ENABLED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.DELETION_PROTECTED: grpc.StatusCode.FAILED_PRECONDITION,
}
"""The code of each reason, as the comments of error_reason.proto promise it."""

_RETRY_AFTER: Final[Mapping[Reason, float]] = {
    Reason.REQUEST_IN_PROGRESS: 0.5,
    Reason.OWNERSHIP_LOST: 0.1,
    Reason.RATE_LIMITED: 10.0,
    Reason.SIGNING_QUEUE_FULL: 0.5,
    Reason.TOKEN_UNAVAILABLE: 1.0,
    Reason.PREPARATION_UNAVAILABLE: 0.5,
    Reason.SERVER_BUSY: 1.0,
    Reason.TOO_MANY_WATCHERS: 10.0,
    Reason.STORE_UNAVAILABLE: 1.0,
    Reason.SHUTTING_DOWN: 1.0,
}
"""Seconds after which the same call may succeed, where the error does not say so itself."""

_GONE: Final = frozenset({"CKR_KEY_HANDLE_INVALID", "CKR_OBJECT_HANDLE_INVALID"})
"""What PKCS#11 answers about a key that the token lacks: to be restored, not to be waited for."""
_QUOTAS: Final = frozenset(reason for reason, code in CODES.items() if code is grpc.StatusCode.RESOURCE_EXHAUSTED)

_RESOURCE_TYPES: Final[Mapping[str, str]] = {
    "tenants": "certd.v1.Tenant",
    "authorities": "certd.v1.Authority",
    "certificates": "certd.v1.Certificate",
    "profiles": "certd.v1.Profile",
    "managedCertificates": "certd.v1.ManagedCertificate",
    "versions": "certd.v1.ManagedCertificateVersion",
    "associations": "certd.v1.Association",
    "renewalCampaigns": "certd.v1.RenewalCampaign",
    "revocationCampaigns": "certd.v1.RevocationCampaign",
    "importKeys": "certd.v1.ImportKey",
    "wrappingKeys": "certd.v1.WrappingKey",
    "subscriptions": "certd.v1.Subscription",
    "identities": "certd.v1.Identity",
    "grants": "certd.v1.Grant",
}

# Together below 8 KiB, base64 included, past which gRPC drops trailers at random. The message counts twice: once as it
# is, and once with three characters for each byte that is not ASCII.
_MESSAGE_BYTES: Final = 512
_VIOLATIONS_BYTES: Final = 1536
_DESCRIPTION_BYTES: Final = 512
_METADATA_BYTES: Final = 256


def to_status(error: CertdError) -> grpc.Status:
    """Returns the status of a failure that the caller may read."""
    details: list[Message] = [_error_info(error.reason, error.metadata)]
    if error.violations:
        details.append(_bad_request(error.violations))
    delay = _retry_delay(error)
    if delay is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.resource:
        details.append(_resource_info(error.resource))
    if error.reason in _QUOTAS:
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=_cut(error.resource or DOMAIN, _METADATA_BYTES), description=error.reason
        )
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    return _status(_code(error), error.message, details)


def item_error(error: CertdError) -> certificate_service_pb2.ItemError:
    """Returns why an item of a batch failed, as the status of a call of its own would tell it."""
    told = certificate_service_pb2.ItemError(
        code=_code(error).value[0],
        reason=error.reason,
        message=_cut(error.message, _MESSAGE_BYTES),
        metadata=_error_info(error.reason, error.metadata).metadata,
        violations=[
            certificate_service_pb2.ItemError.FieldViolation(field=one.field, description=one.description)
            for one in _bad_request(error.violations).field_violations
        ],
    )
    delay = _retry_delay(error)
    if delay is not None:
        told.retry_delay.CopyFrom(delay)
    return told


def _is_gone(error: CertdError) -> bool:
    return error.reason is Reason.TOKEN_UNAVAILABLE and error.metadata.get("ckr") in _GONE


def _code(error: CertdError) -> grpc.StatusCode:
    # UNAVAILABLE is tried again by clients that know of no reasons.
    return grpc.StatusCode.FAILED_PRECONDITION if _is_gone(error) else CODES[error.reason]


def _retry_delay(error: CertdError) -> Duration | None:
    if _is_gone(error):
        return None
    retry_after = error.retry_after if error.retry_after is not None else _RETRY_AFTER.get(error.reason)
    if retry_after is None:
        return None
    delay = Duration()
    delay.FromTimedelta(timedelta(seconds=retry_after))
    return delay


def internal(error_id: str) -> grpc.Status:
    """Returns the status of a defect: an id, under which the log tells more, and nothing else."""
    message = f"a defect of the server; its log tells more under the error id {error_id}"
    return _status(grpc.StatusCode.INTERNAL, message, [_error_info(Reason.INTERNAL, {"error_id": error_id})])


def _status(code: grpc.StatusCode, message: str, details: Iterable[Message]) -> grpc.Status:
    packed = []
    for detail in details:
        wrapped = AnyMessage()
        wrapped.Pack(detail)
        packed.append(wrapped)
    status: grpc.Status = rpc_status.to_status(
        status_pb2.Status(code=code.value[0], message=_cut(message, _MESSAGE_BYTES), details=packed)
    )
    return status


def _error_info(reason: Reason, metadata: Mapping[str, str]) -> error_details_pb2.ErrorInfo:
    kept = {key: _cut(value, _METADATA_BYTES) for key, value in list(metadata.items())[:8]}
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=kept)


def _bad_request(violations: tuple[Violation, ...]) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    for number, violation in enumerate(violations):
        request.field_violations.add(
            field=_cut(violation.field, 256), description=_cut(violation.description, _DESCRIPTION_BYTES)
        )
        if request.ByteSize() > _VIOLATIONS_BYTES and number:
            del request.field_violations[-1]
            request.field_violations.add(description=f"and {len(violations) - number} more")
            break
    return request


def _resource_info(name: str) -> error_details_pb2.ResourceInfo:
    collections = [part for part in name.split("/")[::2] if part in _RESOURCE_TYPES]
    resource_type = _RESOURCE_TYPES[collections[-1]] if collections else ""
    return error_details_pb2.ResourceInfo(resource_type=resource_type, resource_name=_cut(name, _METADATA_BYTES))


def _cut(text: str, longest: int) -> str:
    """Returns `text`, cut to `longest` bytes of UTF-8; what has no UTF-8 becomes question marks."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= longest:
        return encoded.decode()
    return encoded[: longest - 4].decode(errors="ignore") + " …"
