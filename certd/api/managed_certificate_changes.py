"""ManagedCertificateService, changes: convert, call `services.managed_certificate_changes`, convert back."""

from functools import partial
from typing import Any

from certd.api.call import Call, Methods
from certd.model.request_limits import RequestLimits
from certd.services.managed_certificate_changes import ManagedCertificateChanges


def methods(changes: ManagedCertificateChanges, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "UpdateManagedCertificate": partial(update_managed_certificate, changes, limits),
        "RenewManagedCertificate": partial(renew_managed_certificate, changes, limits),
        "DeleteManagedCertificate": partial(delete_managed_certificate, changes, limits),
        "ListManagedCertificateVersions": partial(list_managed_certificate_versions, changes, limits),
    }


def update_managed_certificate(
    changes: ManagedCertificateChanges, limits: RequestLimits, request: Any, call: Call
) -> Any:
    """UpdateManagedCertificate."""
    raise NotImplementedError


def renew_managed_certificate(
    changes: ManagedCertificateChanges, limits: RequestLimits, request: Any, call: Call
) -> Any:
    """RenewManagedCertificate."""
    raise NotImplementedError


def delete_managed_certificate(
    changes: ManagedCertificateChanges, limits: RequestLimits, request: Any, call: Call
) -> Any:
    """DeleteManagedCertificate."""
    raise NotImplementedError


def list_managed_certificate_versions(
    changes: ManagedCertificateChanges, limits: RequestLimits, request: Any, call: Call
) -> Any:
    """ListManagedCertificateVersions."""
    raise NotImplementedError
