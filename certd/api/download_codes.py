"""ManagedCertificateService, codes for downloads: convert, call `services.download_codes`, convert back."""

from functools import partial

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.model.names import ManagedCertificateName
from certd.services.download_codes import LIFETIME_RULE, DownloadCodes, NewDownloadCode
from certd.services.managed_export import LONGEST_REASON
from certd.v1 import managed_certificate_service_pb2


def methods(codes: DownloadCodes) -> Methods:
    """Returns the functions that answer these methods."""
    return {"CreateDownloadCode": partial(create_download_code, codes)}


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
    return managed_certificate_service_pb2.DownloadCode(
        code=made.code.text(), expire_time=x509.timestamp(made.expire_time), path=f"/v1/{name}"
    )
