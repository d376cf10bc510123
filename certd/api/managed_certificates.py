"""ManagedCertificateService: convert, call `services.managed_certificates`, convert back."""

from functools import partial

from certd.api import fields, x509
from certd.api.associations import use_message
from certd.api.call import Call, Methods
from certd.api.renewal import parse_renewal, renewal_message, window_message
from certd.model.managed_certificate import Condition, ManagedCertificateType
from certd.model.names import AuthorityName, ManagedCertificateName, ProfileName, TenantName, check_id
from certd.model.renewal import Span
from certd.model.request_limits import RequestLimits
from certd.pki import distinguished_name
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_certificates import ManagedCertificates, NewManagedCertificate
from certd.services.paging import Page
from certd.v1 import managed_certificate_pb2, managed_certificate_service_pb2, x509_pb2


def methods(managed_certificates: ManagedCertificates, limits: RequestLimits) -> Methods:
    """Returns the functions that answer ManagedCertificateService."""
    return {
        "RequestManagedCertificate": partial(request_managed_certificate, managed_certificates, limits),
        "GetManagedCertificate": partial(get_managed_certificate, managed_certificates),
        "ListManagedCertificates": partial(list_managed_certificates, managed_certificates, limits),
    }


def request_managed_certificate(
    managed_certificates: ManagedCertificates,
    limits: RequestLimits,
    request: managed_certificate_service_pb2.RequestManagedCertificateRequest,
    call: Call,
) -> managed_certificate_pb2.ManagedCertificate:
    """RequestManagedCertificate."""
    given, violations = request.managed_certificate, fields.Violations()
    violations.attempt(lambda: fields.required("managed_certificate", present=request.HasField("managed_certificate")))
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    id_ = violations.attempt(lambda: check_id("managed_certificate_id", request.managed_certificate_id))
    key = violations.attempt(lambda: fields.request_key("RequestManagedCertificate", request, request.request_id))
    authority = violations.attempt(lambda: AuthorityName.parse("managed_certificate.authority", given.authority))
    profile = violations.attempt(
        lambda: ProfileName.parse("managed_certificate.profile", given.profile) if given.profile else None
    )
    key_spec = violations.attempt(
        lambda: fields.choice("managed_certificate.key_spec", x509_pb2.KeySpec, given.key_spec, KeySpec)
    )
    subject = violations.attempt(
        lambda: (
            x509.parse_distinguished_name("managed_certificate.subject", given.subject)
            if given.HasField("subject")
            else distinguished_name.EMPTY
        )
    )
    names = violations.attempt(lambda: _names(given, most=limits.names))
    lifetime = violations.attempt(
        lambda: fields.lifetime("managed_certificate.lifetime", given.lifetime) if given.HasField("lifetime") else None
    )
    exportable = violations.attempt(lambda: _exportable(given.export_policy))
    labels = violations.attempt(lambda: fields.labels("managed_certificate.labels", given.labels, most=limits.labels))
    renewal = violations.attempt(lambda: parse_renewal("managed_certificate.renewal", given.renewal))
    violations.check()
    view = managed_certificates.request(
        call.caller,
        NewManagedCertificate(
            name=ManagedCertificateName(parent.tenant, id_),
            authority=authority,
            profile=profile,
            key_spec=key_spec,
            subject=subject,
            names=names,
            lifetime=lifetime,
            exportable=exportable,
            renewal=renewal,
            labels=labels,
        ),
        key=key,
        validate_only=request.validate_only,
    )
    return managed_certificate_message(view)


def get_managed_certificate(
    managed_certificates: ManagedCertificates,
    request: managed_certificate_service_pb2.GetManagedCertificateRequest,
    call: Call,
) -> managed_certificate_pb2.ManagedCertificate:
    """GetManagedCertificate."""
    name = ManagedCertificateName.parse("name", request.name)
    return managed_certificate_message(managed_certificates.get(call.caller, name))


def list_managed_certificates(
    managed_certificates: ManagedCertificates,
    limits: RequestLimits,
    request: managed_certificate_service_pb2.ListManagedCertificatesRequest,
    call: Call,
) -> managed_certificate_service_pb2.ListManagedCertificatesResponse:
    """ListManagedCertificates."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[ManagedCertificateView]) -> managed_certificate_service_pb2.ListManagedCertificatesResponse:
        return managed_certificate_service_pb2.ListManagedCertificatesResponse(
            managed_certificates=[managed_certificate_message(view) for view in page.items],
            next_page_token=page.next_page_token,
        )

    return fields.page_that_fits(asked, lambda smaller: managed_certificates.page(call.caller, parent, smaller), answer)


def managed_certificate_message(view: ManagedCertificateView) -> managed_certificate_pb2.ManagedCertificate:
    """Returns a managed certificate as a message."""
    kind = managed_certificate_pb2.ManagedCertificate
    managed = view.managed_certificate
    message = kind(
        name=str(managed.name),
        uid=managed.uid,
        type=kind.Type.Value(managed.type),
        state=kind.State.Value(view.state),
        authority=managed.authority_name,
        profile=view.profile_name,
        key_spec=x509.key_spec_number(managed.key_spec),
        subject=x509.distinguished_name_message(managed.subject),
        subject_alternative_names=x509.names_message(managed.names),
        export_policy=kind.EXPORTABLE if managed.exportable else kind.NOT_EXPORTABLE,
        current_version=managed.current_version,
        chain=x509.encoded_chain(view.chain),
        conditions=[_condition_message(condition) for condition in managed.conditions],
        labels=managed.labels,
        create_time=x509.timestamp(managed.create_time),
        update_time=x509.timestamp(managed.update_time),
        etag=managed.etag,
        warnings=x509.warning_messages(view.warnings),
        used_by=[use_message(association) for association in view.used_by],
        used=managed.used,
    )
    if managed.lifetime is not None:
        message.lifetime.FromTimedelta(managed.lifetime)
    if view.certificate is not None:
        message.certificate.CopyFrom(x509.encoded(view.certificate))
        message.description.CopyFrom(x509.description(view.certificate))
    if managed.next_attempt_time is not None:
        message.next_attempt_time.CopyFrom(x509.timestamp(managed.next_attempt_time))
    if managed.renewal_window is not None:
        message.renewal_window.CopyFrom(window_message(Span(*managed.renewal_window)))
    if managed.export_time is not None:
        message.export_time.CopyFrom(x509.timestamp(managed.export_time))
    if managed.type is not ManagedCertificateType.IMPORTED:
        message.renewal.CopyFrom(renewal_message(managed.renewal))
    elif managed.issue_time is not None:
        message.import_time.CopyFrom(x509.timestamp(managed.issue_time))
    return message


def _condition_message(condition: Condition) -> managed_certificate_pb2.Condition:
    kind = managed_certificate_pb2.Condition
    return kind(
        type=condition.type,
        status=kind.TRUE if condition.status else kind.FALSE,
        reason=condition.reason,
        message=condition.message,
        last_transition_time=x509.timestamp(condition.last_transition_time),
    )


def _names(given: managed_certificate_pb2.ManagedCertificate, *, most: int) -> SubjectAlternativeNames:
    field = "managed_certificate.subject_alternative_names"
    names = x509.parse_names(field, given.subject_alternative_names, most=most)
    fields.required(field, present=len(names) > 0)
    return names


def _exportable(number: int) -> bool:
    kind = managed_certificate_pb2.ManagedCertificate
    policy = fields.choice("managed_certificate.export_policy", kind.ExportPolicy, number, str)
    return policy != "NOT_EXPORTABLE"
