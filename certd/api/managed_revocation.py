"""ManagedCertificateService, revocation: convert, call `services.managed_revocation`, convert back."""

from functools import partial

from certd.api import fields
from certd.api.call import Call, Methods
from certd.api.managed_certificates import managed_certificate_message
from certd.api.revocation import parse_reason
from certd.errors import field_invalid
from certd.model.names import ManagedCertificateName
from certd.services.managed_revocation import ManagedRevocation, NewManagedRevocation
from certd.v1 import managed_certificate_pb2, managed_certificate_service_pb2


def methods(revocation: ManagedRevocation) -> Methods:
    """Returns the functions that answer these methods."""
    return {"RevokeManagedCertificate": partial(revoke_managed_certificate, revocation)}


def revoke_managed_certificate(
    revocation: ManagedRevocation,
    request: managed_certificate_service_pb2.RevokeManagedCertificateRequest,
    call: Call,
) -> managed_certificate_pb2.ManagedCertificate:
    """RevokeManagedCertificate."""
    violations = fields.Violations()
    name = violations.attempt(lambda: ManagedCertificateName.parse("name", request.name))
    version = violations.attempt(lambda: _version(request))
    reason = violations.attempt(lambda: parse_reason("reason", request.reason))
    invalidity_time = violations.attempt(
        lambda: (
            fields.moment("invalidity_time", request.invalidity_time) if request.HasField("invalidity_time") else None
        )
    )
    key = violations.attempt(lambda: fields.request_key("RevokeManagedCertificate", request, request.request_id))
    violations.check()
    new = NewManagedRevocation(name=name, version=version, reason=reason, invalidity_time=invalidity_time)
    return managed_certificate_message(revocation.revoke(call.caller, new, key=key))


def _version(request: managed_certificate_service_pb2.RevokeManagedCertificateRequest) -> int | None:
    """Returns the number of the version to revoke; None for all that have not ended."""
    chosen = request.WhichOneof("versions")
    if chosen == "version":
        if request.version < 1:
            raise field_invalid("version", "must be the number of a version, from 1")
        return request.version
    if chosen == "all_versions" and request.all_versions:
        return None
    raise field_invalid("versions", "is required: the number of a version, or all_versions as true")
