"""BatchRevokeCertificates: convert, call `services.revocation_batch`, convert back."""

from functools import partial
from typing import Final

from certd.api import fields
from certd.api.call import Call, Methods
from certd.api.certificates import certificate_message
from certd.api.items import item_error
from certd.api.revocation import parse_revocation
from certd.errors import CertdError, field_invalid
from certd.model.names import WILDCARD, AuthorityName
from certd.model.request_limits import RequestLimits
from certd.services.idempotency import RequestKey
from certd.services.revocation import METHOD
from certd.services.revocation_batch import BatchRevocation, Outcome, RevocationItem
from certd.v1 import certificate_service_pb2

_BATCH_METHOD: Final = "/certd.v1.CertificateService/BatchRevokeCertificates"
_LEFT_OUT: Final = ("certificate", "labels")
"""A thousand of them with all that they may have are more than a message may be."""


def methods(revocation: BatchRevocation, limits: RequestLimits) -> Methods:
    """Returns the function that answers BatchRevokeCertificates."""
    return {"BatchRevokeCertificates": partial(batch_revoke_certificates, revocation, limits)}


def batch_revoke_certificates(
    revocation: BatchRevocation,
    limits: RequestLimits,
    request: certificate_service_pb2.BatchRevokeCertificatesRequest,
    call: Call,
) -> certificate_service_pb2.BatchRevokeCertificatesResponse:
    """BatchRevokeCertificates: what is wrong with the batch fails the call, what is wrong with an item that item."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: AuthorityName.parse("parent", request.parent, wildcard=True))
    batch_id = violations.attempt(lambda: fields.request_id("request_id", request.request_id))
    if not 1 <= len(request.requests) <= limits.batch_items:
        violations.add("requests", f"must be 1 to {limits.batch_items}, and are {len(request.requests)}; divide them")
    violations.check()
    parsed: list[RevocationItem | CertdError] = []
    for position, asked in enumerate(request.requests):
        try:
            parsed.append(_item(request, parent, asked, f"{batch_id}/{position}" if batch_id else ""))
        except CertdError as error:
            parsed.append(error)
    items = [one for one in parsed if isinstance(one, RevocationItem)]
    made = iter(revocation.revoke(call.caller, items, validate_only=request.validate_only))
    return certificate_service_pb2.BatchRevokeCertificatesResponse(
        results=[_result(one if isinstance(one, CertdError) else next(made)) for one in parsed]
    )


def _item(
    request: certificate_service_pb2.BatchRevokeCertificatesRequest,
    parent: AuthorityName,
    asked: certificate_service_pb2.RevokeCertificateRequest,
    request_id: str,
) -> RevocationItem:
    if asked.validate_only and not request.validate_only:
        raise field_invalid("validate_only", "belongs to the batch, not to an item")
    # As a call of its own would have it, so that it can be repeated as one.
    asked.validate_only = request.validate_only
    item = parse_revocation(asked)
    name = item.new.name
    if name.tenant != parent.tenant or parent.authority not in {WILDCARD, name.authority}:
        raise field_invalid("name", f"must be of a certificate below the parent of the batch, {parent}")
    if item.key is None and request_id:
        return RevocationItem(item.new, RequestKey(request_id, fields.request_sha256(METHOD, asked)))
    return item


def _result(outcome: Outcome) -> certificate_service_pb2.BatchRevokeCertificatesResponse.Result:
    if isinstance(outcome, CertdError):
        error = item_error(outcome, method=_BATCH_METHOD)
        return certificate_service_pb2.BatchRevokeCertificatesResponse.Result(error=error)
    message = certificate_message(outcome, with_chain=False, with_description=False)
    for field in _LEFT_OUT:
        message.ClearField(field)
    return certificate_service_pb2.BatchRevokeCertificatesResponse.Result(certificate=message)
