"""ManagedCertificateService, revocation: convert, call `services.managed_revocation`, convert back."""

from functools import partial
from typing import Any

from certd.api.call import Call, Methods
from certd.model.request_limits import RequestLimits
from certd.services.managed_revocation import ManagedRevocation


def methods(revocation: ManagedRevocation, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "RevokeManagedCertificate": partial(revoke_managed_certificate, revocation, limits),
    }


def revoke_managed_certificate(revocation: ManagedRevocation, limits: RequestLimits, request: Any, call: Call) -> Any:
    """RevokeManagedCertificate."""
    raise NotImplementedError
