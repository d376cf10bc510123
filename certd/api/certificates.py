"""CertificateService: convert, call `services.certificates`, convert back."""

from functools import partial

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.names import AuthorityName, CertificateName
from certd.model.request_limits import RequestLimits
from certd.services.certificates import Certificates, CertificateView
from certd.services.paging import Page
from certd.v1 import certificate_pb2, certificate_service_pb2

STATES = {
    # Nobody sees a pending one; with validate_only there is no row at all.
    CertificateState.PENDING: certificate_pb2.Certificate.STATE_UNSPECIFIED,
    CertificateState.ISSUED: certificate_pb2.Certificate.ISSUED,
    CertificateState.REVOKED: certificate_pb2.Certificate.REVOKED,
    CertificateState.LOST: certificate_pb2.Certificate.LOST,
}
_RECORDED = {CertificateState.ISSUED, CertificateState.REVOKED}
"""Without a certificate only when that was another CA's and nobody has it."""
REVOCATION_REASONS = {
    RevocationReason.UNSPECIFIED: certificate_pb2.REVOCATION_REASON_UNSPECIFIED,
    RevocationReason.KEY_COMPROMISE: certificate_pb2.KEY_COMPROMISE,
    RevocationReason.CA_COMPROMISE: certificate_pb2.CA_COMPROMISE,
    RevocationReason.AFFILIATION_CHANGED: certificate_pb2.AFFILIATION_CHANGED,
    RevocationReason.SUPERSEDED: certificate_pb2.SUPERSEDED,
    RevocationReason.CESSATION_OF_OPERATION: certificate_pb2.CESSATION_OF_OPERATION,
    RevocationReason.PRIVILEGE_WITHDRAWN: certificate_pb2.PRIVILEGE_WITHDRAWN,
    RevocationReason.AA_COMPROMISE: certificate_pb2.AA_COMPROMISE,
}


def methods(certificates: Certificates, limits: RequestLimits) -> Methods:
    """Returns the functions that answer the methods of CertificateService that read."""
    return {
        "GetCertificate": partial(get_certificate, certificates),
        "ListCertificates": partial(list_certificates, certificates, limits),
    }


def get_certificate(
    certificates: Certificates, request: certificate_service_pb2.GetCertificateRequest, call: Call
) -> certificate_pb2.Certificate:
    """GetCertificate."""
    return certificate_message(certificates.get(call.caller, CertificateName.parse("name", request.name)))


def list_certificates(
    certificates: Certificates,
    limits: RequestLimits,
    request: certificate_service_pb2.ListCertificatesRequest,
    call: Call,
) -> certificate_service_pb2.ListCertificatesResponse:
    """ListCertificates."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: AuthorityName.parse("parent", request.parent, wildcard=True))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[CertificateView]) -> certificate_service_pb2.ListCertificatesResponse:
        return certificate_service_pb2.ListCertificatesResponse(
            certificates=[certificate_message(view) for view in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(asked, lambda smaller: certificates.page(call.caller, parent, smaller), answer)


def certificate_message(
    view: CertificateView, *, with_chain: bool = True, with_description: bool = True
) -> certificate_pb2.Certificate:
    """Returns a certificate as a message."""
    row = view.certificate
    message = certificate_pb2.Certificate(
        name=view.name,
        state=STATES[row.state],
        chain=x509.encoded_chain(view.chain) if with_chain else (),
        profile=view.profile_name,
        profile_version=row.profile_version,
        managed_certificate_version=view.managed_certificate_version,
        create_time=x509.timestamp(row.create_time),
        labels=row.labels,
        warnings=x509.warning_messages(view.warnings),
    )
    if view.der is not None:
        message.certificate.CopyFrom(x509.encoded(view.der))
        if with_description:
            x509.describe_in(message.description, view.der, known=view.description)
    elif row.state in _RECORDED:
        message.description.serial_number = row.serial
        message.description.subject_text = row.subject_text
        message.description.not_after_time.CopyFrom(x509.timestamp(row.not_after))
    if row.revoke_time is not None:
        message.revoke_time.CopyFrom(x509.timestamp(row.revoke_time))
    if row.revocation_reason is not None:
        message.revocation_reason = REVOCATION_REASONS[row.revocation_reason]
    if row.invalidity_time is not None:
        message.invalidity_time.CopyFrom(x509.timestamp(row.invalidity_time))
    return message
