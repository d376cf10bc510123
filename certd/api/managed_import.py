"""ManagedCertificateService, imports: convert, call `services.managed_import`, convert back."""

from functools import partial
from typing import Any

from certd.api.call import Call, Methods
from certd.model.request_limits import RequestLimits
from certd.services.managed_import import ManagedImport


def methods(managed_import: ManagedImport, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "ImportManagedCertificate": partial(import_managed_certificate, managed_import, limits),
        "GetImportKey": partial(get_import_key, managed_import, limits),
        "RollBackManagedCertificate": partial(roll_back_managed_certificate, managed_import, limits),
    }


def import_managed_certificate(managed_import: ManagedImport, limits: RequestLimits, request: Any, call: Call) -> Any:
    """ImportManagedCertificate."""
    raise NotImplementedError


def get_import_key(managed_import: ManagedImport, limits: RequestLimits, request: Any, call: Call) -> Any:
    """GetImportKey."""
    raise NotImplementedError


def roll_back_managed_certificate(
    managed_import: ManagedImport, limits: RequestLimits, request: Any, call: Call
) -> Any:
    """RollBackManagedCertificate."""
    raise NotImplementedError
