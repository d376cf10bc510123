"""ManagedCertificateService, leases: convert, call `services.leases`, convert back."""

from functools import partial
from typing import Any

from certd.api.call import Call, Methods
from certd.model.request_limits import RequestLimits
from certd.services.leases import Leases


def methods(leases: Leases, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "LeaseKey": partial(lease_key, leases, limits),
        "ReportDeployment": partial(report_deployment, leases, limits),
    }


def lease_key(leases: Leases, limits: RequestLimits, request: Any, call: Call) -> Any:
    """LeaseKey."""
    raise NotImplementedError


def report_deployment(leases: Leases, limits: RequestLimits, request: Any, call: Call) -> Any:
    """ReportDeployment."""
    raise NotImplementedError
