"""Issuing by CertificateService, one certificate or a batch: convert, call `services.certificates`, convert back."""

from collections.abc import Mapping
from functools import lru_cache, partial
from types import MappingProxyType

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.api.certificates import certificate_message
from certd.api.items import item_error
from certd.errors import CertdError, field_invalid
from certd.model.names import AuthorityName, ProfileName
from certd.model.request_limits import RequestLimits
from certd.pki import csr as csrs
from certd.services.certificates import BatchItem, Certificates, CertificateView, NewCertificate
from certd.services.idempotency import RequestKey
from certd.v1 import certificate_pb2, certificate_service_pb2

MOST_BYTES = 2_500_000
"""Of a batch: its answer, up to five times as long, has to fit into a message too, or nobody hears what was issued."""
_METHOD = "IssueCertificate"
_BATCH_METHOD = "/certd.v1.CertificateService/BatchIssueCertificates"
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


def methods(certificates: Certificates, limits: RequestLimits) -> Methods:
    """Returns the functions that answer the methods of CertificateService that issue."""
    return {
        "IssueCertificate": partial(issue_certificate, certificates, limits),
        "BatchIssueCertificates": partial(batch_issue_certificates, certificates, limits),
    }


def issue_certificate(
    certificates: Certificates,
    limits: RequestLimits,
    request: certificate_service_pb2.IssueCertificateRequest,
    call: Call,
) -> certificate_pb2.Certificate:
    """IssueCertificate."""
    item = _item(request, limits)
    view = certificates.issue(
        call.caller, item.new, key=item.key, validate_only=request.validate_only, timeout=call.timeout
    )
    return certificate_message(view)


def batch_issue_certificates(
    certificates: Certificates,
    limits: RequestLimits,
    request: certificate_service_pb2.BatchIssueCertificatesRequest,
    call: Call,
) -> certificate_service_pb2.BatchIssueCertificatesResponse:
    """BatchIssueCertificates: what is wrong with the batch fails the call, what is wrong with an item that item."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: AuthorityName.parse("parent", request.parent))
    batch_id = violations.attempt(lambda: fields.request_id("request_id", request.request_id))
    if not 1 <= len(request.requests) <= limits.batch_items:
        violations.add("requests", f"must be 1 to {limits.batch_items}, and are {len(request.requests)}; divide them")
    if (size := request.ByteSize()) > MOST_BYTES:
        violations.add("requests", f"must be {MOST_BYTES} bytes together at most, and are {size}; divide them")
    violations.check()
    outcomes: list[CertificateView | CertdError] = []
    items: list[BatchItem] = []
    places: list[int] = []
    for position, asked in enumerate(request.requests):
        try:
            items.append(_batch_item(request, asked, f"{batch_id}/{position}" if batch_id else "", limits))
        except CertdError as error:
            outcomes.append(error)
        else:
            # Its place is taken until it is issued.
            places.append(position)
            outcomes.append(field_invalid("requests", "was not looked at"))
    made = certificates.issue_batch(
        call.caller,
        parent,
        items,
        validate_only=request.validate_only,
        timeout=call.timeout,
        descriptions=not request.certificates_only,
    )
    for place, outcome in zip(places, made, strict=True):
        outcomes[place] = outcome
    chain = next((view.chain for view in made if not isinstance(view, CertdError)), ())
    return certificate_service_pb2.BatchIssueCertificatesResponse(
        results=[_result(outcome, with_description=not request.certificates_only) for outcome in outcomes],
        chain=x509.encoded_chain(chain),
    )


def _batch_item(
    request: certificate_service_pb2.BatchIssueCertificatesRequest,
    asked: certificate_service_pb2.IssueCertificateRequest,
    request_id: str,
    limits: RequestLimits,
) -> BatchItem:
    if asked.parent not in {"", request.parent}:
        raise field_invalid("parent", f"must be empty or that of the batch, {request.parent}; make another batch")
    if asked.validate_only and not request.validate_only:
        raise field_invalid("validate_only", "belongs to the batch, not to an item")
    # As a call of its own would have it, so that it can be repeated as one.
    asked.parent = request.parent
    asked.validate_only = request.validate_only
    item = _item(asked, limits)
    if item.key is None and request_id:
        return BatchItem(item.new, RequestKey(request_id, fields.request_sha256(_METHOD, asked)))
    return item


def _item(request: certificate_service_pb2.IssueCertificateRequest, limits: RequestLimits) -> BatchItem:
    # Most fields of most requests are empty, and this is done for every certificate.
    violations = fields.Violations()
    authority = violations.attempt(lambda: _authority(request.parent))
    csr = request.csr
    if csr:
        violations.attempt(lambda: csrs.check_length(csr, longest=limits.csr_bytes))
    else:
        violations.add("csr", "is required")
    profile, lifetime, not_after, subject, names, labels = None, None, None, None, None, _NO_LABELS
    if request.profile:
        profile = violations.attempt(lambda: ProfileName.parse("profile", request.profile))
    match request.WhichOneof("validity"):
        case "lifetime":
            lifetime = violations.attempt(lambda: fields.lifetime("lifetime", request.lifetime))
        case "not_after_time":
            not_after = violations.attempt(lambda: fields.moment("not_after_time", request.not_after_time))
    if request.HasField("subject"):
        subject = violations.attempt(lambda: x509.parse_distinguished_name("subject", request.subject))
    if request.HasField("subject_alternative_names"):
        names = violations.attempt(
            lambda: x509.parse_names("subject_alternative_names", request.subject_alternative_names, most=limits.names)
        )
    if request.labels:
        labels = violations.attempt(lambda: fields.labels("labels", request.labels, most=limits.labels))
    key = violations.attempt(lambda: fields.request_key(_METHOD, request, request.request_id))
    violations.check()
    new = NewCertificate(
        authority=authority,
        csr=csr,
        profile=profile,
        lifetime=lifetime,
        not_after=not_after,
        subject=subject,
        names=names,
        labels=labels,
    )
    return BatchItem(new, key)


@lru_cache(maxsize=1024)
def _authority(name: str) -> AuthorityName:
    return AuthorityName.parse("parent", name)


def _result(
    outcome: CertificateView | CertdError, *, with_description: bool
) -> certificate_service_pb2.BatchIssueCertificatesResponse.Result:
    if isinstance(outcome, CertdError):
        return certificate_service_pb2.BatchIssueCertificatesResponse.Result(
            error=item_error(outcome, method=_BATCH_METHOD)
        )
    message = certificate_message(outcome, with_chain=False, with_description=with_description)
    return certificate_service_pb2.BatchIssueCertificatesResponse.Result(certificate=message)
