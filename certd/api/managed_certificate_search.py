"""ManagedCertificateService, searches: convert, call `services.managed_certificate_search`, convert back."""

from functools import partial
from typing import Any

from certd.api.call import Call, Methods
from certd.model.request_limits import RequestLimits
from certd.services.managed_certificate_search import ManagedCertificateSearches


def methods(searches: ManagedCertificateSearches, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "SearchManagedCertificates": partial(search_managed_certificates, searches, limits),
    }


def search_managed_certificates(
    searches: ManagedCertificateSearches, limits: RequestLimits, request: Any, call: Call
) -> Any:
    """SearchManagedCertificates."""
    raise NotImplementedError
