"""The error family in HTTP: a status and an application/problem+json body (RFC 9457)."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.responses import JSONResponse

from certd.errors import CertdError, Reason

_DEFAULT_RETRY_AFTER: Final = 1.0

STATUSES: Final[Mapping[Reason, HTTPStatus]] = {
    Reason.FIELD_INVALID: HTTPStatus.BAD_REQUEST,
    Reason.CSR_MALFORMED: HTTPStatus.BAD_REQUEST,
    Reason.CSR_SIGNATURE_INVALID: HTTPStatus.BAD_REQUEST,
    Reason.KEY_TOO_WEAK: HTTPStatus.BAD_REQUEST,
    Reason.NAME_NOT_ALLOWED: HTTPStatus.BAD_REQUEST,
    Reason.PROFILE_FORBIDS: HTTPStatus.BAD_REQUEST,
    Reason.LINT_FAILED: HTTPStatus.CONFLICT,
    Reason.LIFETIME_EXCEEDS_AUTHORITY: HTTPStatus.CONFLICT,
    Reason.AUTHORITY_NOT_ENABLED: HTTPStatus.CONFLICT,
    Reason.NOT_EXPORTABLE: HTTPStatus.CONFLICT,
    Reason.STATE_FORBIDS: HTTPStatus.CONFLICT,
    Reason.CREDENTIAL_MISSING: HTTPStatus.UNAUTHORIZED,
    Reason.CREDENTIAL_INVALID: HTTPStatus.UNAUTHORIZED,
    Reason.CREDENTIAL_REVOKED: HTTPStatus.UNAUTHORIZED,
    Reason.PERMISSION_MISSING: HTTPStatus.FORBIDDEN,
    Reason.TENANT_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.AUTHORITY_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.CERTIFICATE_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.PROFILE_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.MANAGED_CERTIFICATE_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.AUTHORITY_EXISTS: HTTPStatus.CONFLICT,
    Reason.MANAGED_CERTIFICATE_EXISTS: HTTPStatus.CONFLICT,
    Reason.REQUEST_ID_REUSED: HTTPStatus.CONFLICT,
    Reason.REQUEST_IN_PROGRESS: HTTPStatus.CONFLICT,
    Reason.OWNERSHIP_LOST: HTTPStatus.CONFLICT,
    Reason.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.SIGNING_QUEUE_FULL: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.TOKEN_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.TOKEN_POLICY_FORBIDS: HTTPStatus.CONFLICT,
    Reason.STORE_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.SHUTTING_DOWN: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Reason.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    Reason.NAME_CONSTRAINT_VIOLATED: HTTPStatus.CONFLICT,
    Reason.ALREADY_REVOKED: HTTPStatus.CONFLICT,
    Reason.ETAG_MISMATCH: HTTPStatus.CONFLICT,
    Reason.PROFILE_EXISTS: HTTPStatus.CONFLICT,
    Reason.PROFILE_IN_USE: HTTPStatus.CONFLICT,
    Reason.IMPORT_NOT_PEM: HTTPStatus.BAD_REQUEST,
    Reason.IMPORT_EXPIRED: HTTPStatus.CONFLICT,
    Reason.IMPORT_KEY_MISMATCH: HTTPStatus.CONFLICT,
    Reason.IMPORT_CHAIN_INVALID: HTTPStatus.CONFLICT,
    Reason.IMPORT_NOT_COMPATIBLE: HTTPStatus.CONFLICT,
    Reason.QUOTA_EXCEEDED: HTTPStatus.CONFLICT,
    Reason.PREPARATION_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.SERVER_BUSY: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.TOO_MANY_WATCHERS: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.ENROLLMENT_CODE_INVALID: HTTPStatus.UNAUTHORIZED,
    Reason.IDENTITY_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.GRANT_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.GRANT_EXISTS: HTTPStatus.CONFLICT,
    Reason.TENANT_EXISTS: HTTPStatus.CONFLICT,
    Reason.LAST_ADMINISTRATOR: HTTPStatus.CONFLICT,
    Reason.CERTIFICATE_IN_USE: HTTPStatus.CONFLICT,
    Reason.NOT_RENEWABLE: HTTPStatus.CONFLICT,
    Reason.ASSOCIATION_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.ASSOCIATION_EXISTS: HTTPStatus.CONFLICT,
    Reason.WRAPPING_KEY_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.RENEWAL_CAMPAIGN_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.RENEWAL_CAMPAIGN_EXISTS: HTTPStatus.CONFLICT,
    Reason.LEASE_REFUSED: HTTPStatus.FORBIDDEN,
    Reason.WATCHER_TOO_SLOW: HTTPStatus.CONFLICT,
    Reason.CURSOR_INVALID: HTTPStatus.BAD_REQUEST,
    Reason.SUBSCRIPTION_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.SUBSCRIPTION_EXISTS: HTTPStatus.CONFLICT,
    Reason.TARGET_NOT_ALLOWED: HTTPStatus.CONFLICT,
    Reason.DOWNLOAD_CODE_INVALID: HTTPStatus.UNAUTHORIZED,
    Reason.DOWNLOAD_CODE_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.REVOCATION_LIST_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.REVOCATION_CAMPAIGN_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.REVOCATION_CAMPAIGN_EXISTS: HTTPStatus.CONFLICT,
    Reason.AUTHORITY_KEY_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.AUTHORITY_ENABLED: HTTPStatus.CONFLICT,
    Reason.DELETION_PROTECTED: HTTPStatus.CONFLICT,
}
"""The status of each reason."""

_COME_AGAIN: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


def to_response(error: CertdError) -> JSONResponse:
    """Returns the response of a failure that the caller may read."""
    status = STATUSES[error.reason]
    headers = {}
    if error.retry_after is not None or status in _COME_AGAIN:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or _DEFAULT_RETRY_AFTER)))
    return problem(status, error.message, reason=error.reason, headers=headers)


def internal(error_id: str) -> JSONResponse:
    """Returns the response of a defect: an id, under which the log tells more, and nothing else."""
    detail = f"a defect of the server; its log tells more under the error id {error_id}"
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail, reason=Reason.INTERNAL, more={"error_id": error_id})


def problem(
    status: HTTPStatus,
    detail: str,
    *,
    reason: str = "",
    more: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Returns a problem. Caches keep none of them."""
    body = {"status": status.value, "title": status.phrase, "detail": detail, **(more or {})}
    if reason:
        body["reason"] = reason
    return JSONResponse(
        body,
        status_code=status.value,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type="application/problem+json",
    )
