"""ManagedCertificateService, codes for downloads: convert, call `services.download_codes`, convert back."""

from functools import partial

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.model.names import DownloadCodeName, ManagedCertificateName
from certd.model.request_limits import RequestLimits
from certd.services.download_codes import LIFETIME_RULE, DownloadCodes, DownloadCodeView, NewDownloadCode
from certd.services.managed_export import LONGEST_REASON
from certd.services.paging import Page
from certd.v1 import managed_certificate_service_pb2


def methods(codes: DownloadCodes, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "CreateDownloadCode": partial(create_download_code, codes),
        "ListDownloadCodes": partial(list_download_codes, codes, limits),
        "DeleteDownloadCode": partial(delete_download_code, codes),
    }


def create_download_code(
    codes: DownloadCodes, request: managed_certificate_service_pb2.CreateDownloadCodeRequest, call: Call
) -> managed_certificate_service_pb2.DownloadCode:
    """CreateDownloadCode."""
    violations = fields.Violations()
    name = violations.attempt(lambda: ManagedCertificateName.parse("name", request.name))
    lifetime = violations.attempt(
        lambda: (
            fields.lifetime("lifetime", request.lifetime, rule=LIFETIME_RULE) if request.HasField("lifetime") else None
        )
    )
    reason = violations.attempt(lambda: fields.text("reason", request.reason, longest=LONGEST_REASON))
    violations.check()
    new = NewDownloadCode(name=name, lifetime=lifetime, source_networks=tuple(request.source_networks), reason=reason)
    made = codes.create(call.caller, new)
    message = _message(made.view)
    message.code = made.code.text()
    return message


def list_download_codes(
    codes: DownloadCodes,
    limits: RequestLimits,
    request: managed_certificate_service_pb2.ListDownloadCodesRequest,
    call: Call,
) -> managed_certificate_service_pb2.ListDownloadCodesResponse:
    """ListDownloadCodes."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: ManagedCertificateName.parse("parent", request.parent, wildcard=True))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[DownloadCodeView]) -> managed_certificate_service_pb2.ListDownloadCodesResponse:
        return managed_certificate_service_pb2.ListDownloadCodesResponse(
            download_codes=[_message(view) for view in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(asked, lambda smaller: codes.page(call.caller, parent, smaller), answer)


def delete_download_code(
    codes: DownloadCodes, request: managed_certificate_service_pb2.DeleteDownloadCodeRequest, call: Call
) -> managed_certificate_service_pb2.DeleteDownloadCodeResponse:
    """DeleteDownloadCode."""
    violations = fields.Violations()
    name = violations.attempt(lambda: DownloadCodeName.parse("name", request.name))
    key = violations.attempt(lambda: fields.request_key("DeleteDownloadCode", request, request.request_id))
    violations.check()
    codes.delete(call.caller, name, key=key)
    return managed_certificate_service_pb2.DeleteDownloadCodeResponse()


def _message(view: DownloadCodeView) -> managed_certificate_service_pb2.DownloadCode:
    row = view.row
    message = managed_certificate_service_pb2.DownloadCode(
        name=str(view.name),
        path=f"/v1/{view.name.managed_certificate}",
        creator=row.creator,
        create_time=x509.timestamp(row.create_time),
        expire_time=x509.timestamp(row.expire_time),
        source_networks=row.source_networks,
        reason=row.reason,
    )
    if row.use_time is not None:
        message.use_time.CopyFrom(x509.timestamp(row.use_time))
    return message
