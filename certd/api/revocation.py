"""RevokeCertificate: convert, call `services.revocation`, convert back."""

from datetime import datetime
from functools import partial
from typing import Final

from certd.api import fields
from certd.api.call import Call, Methods
from certd.api.certificates import REVOCATION_REASONS, certificate_message
from certd.errors import field_invalid
from certd.model.certificate import RevocationReason
from certd.model.names import CertificateName
from certd.services.revocation import METHOD, NewRevocation, Revocation
from certd.services.revocation_batch import RevocationItem
from certd.v1 import certificate_pb2, certificate_service_pb2, revocation_campaign_pb2

_REASONS: Final = {int(number): reason for reason, number in REVOCATION_REASONS.items()}


def methods(revocation: Revocation) -> Methods:
    """Returns the function that answers RevokeCertificate."""
    return {"RevokeCertificate": partial(revoke_certificate, revocation)}


def revoke_certificate(
    revocation: Revocation, request: certificate_service_pb2.RevokeCertificateRequest, call: Call
) -> certificate_pb2.Certificate:
    """RevokeCertificate."""
    item = parse_revocation(request)
    view = revocation.revoke(call.caller, item.new, key=item.key, validate_only=request.validate_only)
    return certificate_message(view)


def parse_revocation(request: certificate_service_pb2.RevokeCertificateRequest) -> RevocationItem:
    """Returns what a request asks for; raises FIELD_INVALID."""
    violations = fields.Violations()
    name = violations.attempt(lambda: CertificateName.parse("name", request.name))
    reason = violations.attempt(lambda: parse_reason("reason", request.reason))
    invalidity_time = violations.attempt(lambda: parse_invalidity("invalidity_time", request))
    key = violations.attempt(lambda: fields.request_key(METHOD, request, request.request_id))
    violations.check()
    return RevocationItem(NewRevocation(name=name, reason=reason, invalidity_time=invalidity_time), key)


def parse_invalidity(
    field: str, message: certificate_service_pb2.RevokeCertificateRequest | revocation_campaign_pb2.RevocationCampaign
) -> datetime | None:
    """Returns since when a key is thought to be compromised, None when it is not said; raises FIELD_INVALID."""
    return fields.moment(field, message.invalidity_time) if message.HasField("invalidity_time") else None


def parse_reason(field: str, number: int) -> RevocationReason:
    """Returns why something is revoked; raises FIELD_INVALID for what is no reason of RFC 5280."""
    reason = _REASONS.get(number)
    if reason is None:
        # Also the hold of RFC 5280: what is revoked here stays revoked.
        known = ", ".join(one.name for one in RevocationReason)
        raise field_invalid(field, f"has the value {number}, which is none of {known}")
    return reason
