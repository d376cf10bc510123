"""The one error family of certd and its reasons.

Rooms below the edges raise `CertdError`; `api/status.py` and `web/` turn it into what their protocol speaks. A message
names the failing check, the resource and the remedy, and never a secret.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class Reason(enum.StrEnum):
    """Why a call failed. The same names as the proto's `ErrorReason`; a test equates the two."""

    FIELD_INVALID = "FIELD_INVALID"
    CSR_MALFORMED = "CSR_MALFORMED"
    CSR_SIGNATURE_INVALID = "CSR_SIGNATURE_INVALID"
    KEY_TOO_WEAK = "KEY_TOO_WEAK"
    NAME_NOT_ALLOWED = "NAME_NOT_ALLOWED"
    PROFILE_FORBIDS = "PROFILE_FORBIDS"
    LINT_FAILED = "LINT_FAILED"
    LIFETIME_EXCEEDS_AUTHORITY = "LIFETIME_EXCEEDS_AUTHORITY"
    AUTHORITY_NOT_ENABLED = "AUTHORITY_NOT_ENABLED"
    NOT_EXPORTABLE = "NOT_EXPORTABLE"
    STATE_FORBIDS = "STATE_FORBIDS"
    CREDENTIAL_MISSING = "CREDENTIAL_MISSING"
    CREDENTIAL_INVALID = "CREDENTIAL_INVALID"
    CREDENTIAL_REVOKED = "CREDENTIAL_REVOKED"
    PERMISSION_MISSING = "PERMISSION_MISSING"
    TENANT_NOT_FOUND = "TENANT_NOT_FOUND"
    AUTHORITY_NOT_FOUND = "AUTHORITY_NOT_FOUND"
    CERTIFICATE_NOT_FOUND = "CERTIFICATE_NOT_FOUND"
    PROFILE_NOT_FOUND = "PROFILE_NOT_FOUND"
    MANAGED_CERTIFICATE_NOT_FOUND = "MANAGED_CERTIFICATE_NOT_FOUND"
    AUTHORITY_EXISTS = "AUTHORITY_EXISTS"
    MANAGED_CERTIFICATE_EXISTS = "MANAGED_CERTIFICATE_EXISTS"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    REQUEST_IN_PROGRESS = "REQUEST_IN_PROGRESS"
    OWNERSHIP_LOST = "OWNERSHIP_LOST"
    RATE_LIMITED = "RATE_LIMITED"
    SIGNING_QUEUE_FULL = "SIGNING_QUEUE_FULL"
    TOKEN_UNAVAILABLE = "TOKEN_UNAVAILABLE"  # noqa: S105  # A reason, not a credential.
    TOKEN_POLICY_FORBIDS = "TOKEN_POLICY_FORBIDS"  # noqa: S105  # As above.
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"
    NAME_CONSTRAINT_VIOLATED = "NAME_CONSTRAINT_VIOLATED"
    ALREADY_REVOKED = "ALREADY_REVOKED"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    PROFILE_EXISTS = "PROFILE_EXISTS"
    PROFILE_IN_USE = "PROFILE_IN_USE"
    IMPORT_NOT_PEM = "IMPORT_NOT_PEM"
    IMPORT_EXPIRED = "IMPORT_EXPIRED"
    IMPORT_KEY_MISMATCH = "IMPORT_KEY_MISMATCH"
    IMPORT_CHAIN_INVALID = "IMPORT_CHAIN_INVALID"
    IMPORT_NOT_COMPATIBLE = "IMPORT_NOT_COMPATIBLE"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    PREPARATION_UNAVAILABLE = "PREPARATION_UNAVAILABLE"
    SERVER_BUSY = "SERVER_BUSY"
    TOO_MANY_WATCHERS = "TOO_MANY_WATCHERS"
    ENROLLMENT_CODE_INVALID = "ENROLLMENT_CODE_INVALID"
    IDENTITY_NOT_FOUND = "IDENTITY_NOT_FOUND"
    GRANT_NOT_FOUND = "GRANT_NOT_FOUND"
    GRANT_EXISTS = "GRANT_EXISTS"
    TENANT_EXISTS = "TENANT_EXISTS"
    LAST_ADMINISTRATOR = "LAST_ADMINISTRATOR"
    CERTIFICATE_IN_USE = "CERTIFICATE_IN_USE"
    NOT_RENEWABLE = "NOT_RENEWABLE"
    ASSOCIATION_NOT_FOUND = "ASSOCIATION_NOT_FOUND"
    ASSOCIATION_EXISTS = "ASSOCIATION_EXISTS"
    WRAPPING_KEY_NOT_FOUND = "WRAPPING_KEY_NOT_FOUND"
    RENEWAL_CAMPAIGN_NOT_FOUND = "RENEWAL_CAMPAIGN_NOT_FOUND"
    RENEWAL_CAMPAIGN_EXISTS = "RENEWAL_CAMPAIGN_EXISTS"
    LEASE_REFUSED = "LEASE_REFUSED"
    WATCHER_TOO_SLOW = "WATCHER_TOO_SLOW"
    CURSOR_INVALID = "CURSOR_INVALID"
    SUBSCRIPTION_NOT_FOUND = "SUBSCRIPTION_NOT_FOUND"
    SUBSCRIPTION_EXISTS = "SUBSCRIPTION_EXISTS"
    TARGET_NOT_ALLOWED = "TARGET_NOT_ALLOWED"
    DOWNLOAD_CODE_INVALID = "DOWNLOAD_CODE_INVALID"
    DOWNLOAD_CODE_NOT_FOUND = "DOWNLOAD_CODE_NOT_FOUND"
    REVOCATION_CAMPAIGN_NOT_FOUND = "REVOCATION_CAMPAIGN_NOT_FOUND"
    REVOCATION_CAMPAIGN_EXISTS = "REVOCATION_CAMPAIGN_EXISTS"
    REVOCATION_LIST_NOT_FOUND = "REVOCATION_LIST_NOT_FOUND"
    AUTHORITY_KEY_NOT_FOUND = "AUTHORITY_KEY_NOT_FOUND"
    AUTHORITY_ENABLED = "AUTHORITY_ENABLED"
    DELETION_PROTECTED = "DELETION_PROTECTED"


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of the request that breaks a rule."""

    field: str
    """Path of the field, for example `authority.subject`."""
    description: str
    """The rule and how the value breaks it, in a sentence."""


class CertdError(Exception):
    """A failure that the caller may read.

    Args:
        reason: the machine-readable reason.
        message: for people: the failing check, the resource, the remedy.
        metadata: more for machines, for example the lint that failed.
        violations: every field that breaks a rule, not only the first.
        retry_after: seconds after which a retry makes sense; None when it never does unchanged.
        resource: name of the resource that the failure is about.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
        resource: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after
        self.resource = resource

    def another(self) -> "CertdError":
        """Returns an equal error, for one more caller to raise: each carries a traceback of its own."""
        return CertdError(
            self.reason,
            self.message,
            metadata=self.metadata,
            violations=self.violations,
            retry_after=self.retry_after,
            resource=self.resource,
        )

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def field_invalid(field: str, description: str) -> CertdError:
    """Returns the error of a single field that breaks a rule."""
    return CertdError(Reason.FIELD_INVALID, f"{field}: {description}", violations=(Violation(field, description),))


def fields_invalid(violations: Sequence[Violation]) -> CertdError:
    """Returns the error of all fields that break a rule, one at least."""
    told = "; ".join(f"{one.field}: {one.description}" for one in violations)
    return CertdError(Reason.FIELD_INVALID, told, violations=tuple(violations))
