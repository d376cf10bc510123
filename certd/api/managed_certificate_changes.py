"""ManagedCertificateService, changes: convert, call `services.managed_certificate_changes`, convert back."""

from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.api.certificates import REVOCATION_REASONS
from certd.api.managed_certificates import managed_certificate_message
from certd.api.renewal import parse_renewal
from certd.model.names import ManagedCertificateName
from certd.model.renewal import RenewalPolicy
from certd.model.request_limits import RequestLimits
from certd.services.managed_certificate_changes import (
    LABELS,
    RENEWAL_FIELDS,
    ManagedCertificateChange,
    ManagedCertificateChanges,
    VersionView,
)
from certd.services.paging import Page
from certd.v1 import managed_certificate_pb2, managed_certificate_service_pb2

_LONGEST_ETAG: Final = 128
_LONGEST_REASON: Final = 256
_RENEWAL: Final = "renewal"
_EVERY_FIELD: Final = "*"
_EVERYTHING: Final = RENEWAL_FIELDS | {LABELS}


def methods(changes: ManagedCertificateChanges, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "UpdateManagedCertificate": partial(update_managed_certificate, changes, limits),
        "RenewManagedCertificate": partial(renew_managed_certificate, changes),
        "DeleteManagedCertificate": partial(delete_managed_certificate, changes),
        "ListManagedCertificateVersions": partial(list_managed_certificate_versions, changes, limits),
    }


def update_managed_certificate(
    changes: ManagedCertificateChanges,
    limits: RequestLimits,
    request: managed_certificate_service_pb2.UpdateManagedCertificateRequest,
    call: Call,
) -> managed_certificate_pb2.ManagedCertificate:
    """UpdateManagedCertificate."""
    given, violations = request.managed_certificate, fields.Violations()
    violations.attempt(lambda: fields.required("managed_certificate", present=request.HasField("managed_certificate")))
    name = violations.attempt(lambda: ManagedCertificateName.parse("managed_certificate.name", given.name))
    etag = violations.attempt(lambda: fields.text("managed_certificate.etag", given.etag, longest=_LONGEST_ETAG))
    key = violations.attempt(lambda: fields.request_key("UpdateManagedCertificate", request, request.request_id))
    chosen = violations.attempt(lambda: _chosen(request))
    violations.check()
    labels = violations.attempt(
        lambda: (
            fields.labels("managed_certificate.labels", given.labels, most=limits.labels) if LABELS in chosen else {}
        )
    )
    renewal = violations.attempt(lambda: _renewal(given, chosen))
    violations.check()
    change = ManagedCertificateChange(name=name, fields=chosen, labels=labels, renewal=renewal, etag=etag)
    view = changes.update(call.caller, change, key=key, validate_only=request.validate_only)
    return managed_certificate_message(view)


def renew_managed_certificate(
    changes: ManagedCertificateChanges,
    request: managed_certificate_service_pb2.RenewManagedCertificateRequest,
    call: Call,
) -> managed_certificate_pb2.ManagedCertificate:
    """RenewManagedCertificate."""
    violations = fields.Violations()
    name = violations.attempt(lambda: ManagedCertificateName.parse("name", request.name))
    reason = violations.attempt(lambda: fields.text("reason", request.reason, longest=_LONGEST_REASON))
    key = violations.attempt(lambda: fields.request_key("RenewManagedCertificate", request, request.request_id))
    violations.check()
    return managed_certificate_message(changes.renew(call.caller, name, reason=reason, key=key))


def delete_managed_certificate(
    changes: ManagedCertificateChanges,
    request: managed_certificate_service_pb2.DeleteManagedCertificateRequest,
    call: Call,
) -> managed_certificate_service_pb2.DeleteManagedCertificateResponse:
    """DeleteManagedCertificate."""
    violations = fields.Violations()
    name = violations.attempt(lambda: ManagedCertificateName.parse("name", request.name))
    etag = violations.attempt(lambda: fields.text("etag", request.etag, longest=_LONGEST_ETAG))
    key = violations.attempt(lambda: fields.request_key("DeleteManagedCertificate", request, request.request_id))
    violations.check()
    changes.delete(call.caller, name, etag=etag, key=key, validate_only=request.validate_only)
    return managed_certificate_service_pb2.DeleteManagedCertificateResponse()


def list_managed_certificate_versions(
    changes: ManagedCertificateChanges,
    limits: RequestLimits,
    request: managed_certificate_service_pb2.ListManagedCertificateVersionsRequest,
    call: Call,
) -> managed_certificate_service_pb2.ListManagedCertificateVersionsResponse:
    """ListManagedCertificateVersions."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: ManagedCertificateName.parse("parent", request.parent))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(
        page: Page[VersionView],
    ) -> managed_certificate_service_pb2.ListManagedCertificateVersionsResponse:
        return managed_certificate_service_pb2.ListManagedCertificateVersionsResponse(
            versions=[_version_message(view) for view in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(asked, lambda smaller: changes.versions(call.caller, parent, smaller), answer)


def _version_message(view: VersionView) -> managed_certificate_pb2.ManagedCertificateVersion:
    kind = managed_certificate_pb2.ManagedCertificateVersion
    version = view.version
    message = kind(
        name=view.name,
        version=version.number,
        state=kind.State.Value(view.state),
        create_time=x509.timestamp(version.create_time),
        key_available=view.key_available,
        wrapping_key=version.wrapping_key_number,
    )
    if view.certificate is not None:
        message.certificate.CopyFrom(x509.encoded(view.certificate))
        message.description.CopyFrom(x509.description(view.certificate))
    if version.revoke_time is not None:
        message.revoke_time.CopyFrom(x509.timestamp(version.revoke_time))
    if version.revocation_reason is not None:
        message.revocation_reason = REVOCATION_REASONS[version.revocation_reason]
    return message


def _chosen(request: managed_certificate_service_pb2.UpdateManagedCertificateRequest) -> frozenset[str]:
    """Returns the paths of what is to change; raises FIELD_INVALID with every path that never does."""
    given, paths = request.managed_certificate, request.update_mask.paths
    if not paths:
        # What is set and can change.
        labels = {LABELS} if given.labels else set()
        return RENEWAL_FIELDS | labels if given.HasField(_RENEWAL) else frozenset(labels)
    if set(paths) == {_EVERY_FIELD}:
        return _EVERYTHING
    violations = fields.Violations()
    chosen: set[str] = set()
    for index, path in enumerate(paths):
        if path in _EVERYTHING:
            chosen.add(path)
        elif path == _RENEWAL:
            chosen |= RENEWAL_FIELDS
        else:
            violations.add(f"update_mask.paths[{index}]", _path_problem(path))
    violations.check()
    return frozenset(chosen)


def _path_problem(path: str) -> str:
    shown, first = ascii(path[:64]), path.partition(".")[0]
    changeable = f"only {LABELS} and {_RENEWAL} with its parts can change"
    if path == _EVERY_FIELD:
        return f"{shown} stands for every field, so it stands alone"
    if first == LABELS:
        return f"{shown}: labels are replaced as a whole; say {LABELS}"
    if first == _RENEWAL:
        return f"{shown} is no part of a renewal policy; those are {', '.join(sorted(RENEWAL_FIELDS))}"
    if first in managed_certificate_pb2.ManagedCertificate.DESCRIPTOR.fields_by_name:
        return f"{shown} never changes under one name; {changeable}"
    return f"{shown} is no field of a managed certificate; {changeable}"


def _renewal(given: managed_certificate_pb2.ManagedCertificate, chosen: frozenset[str]) -> RenewalPolicy | None:
    """Returns what is said of the parts that are chosen; None when nothing is said of the policy."""
    if not given.HasField(_RENEWAL):
        return None
    said = given.renewal
    # What is not to change is not looked at.
    bare = managed_certificate_pb2.RenewalPolicy(
        mode=said.mode if f"{_RENEWAL}.mode" in chosen else managed_certificate_pb2.RenewalPolicy.MODE_UNSPECIFIED,
        remaining_percent=said.remaining_percent if f"{_RENEWAL}.remaining_percent" in chosen else 0,
        maintenance_windows=said.maintenance_windows if f"{_RENEWAL}.maintenance_windows" in chosen else (),
    )
    return parse_renewal("managed_certificate.renewal", bare)
