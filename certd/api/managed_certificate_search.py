"""ManagedCertificateService, searches: convert, call `services.managed_certificate_search`, convert back."""

from functools import partial

from certd.api import fields
from certd.api.call import Call, Methods
from certd.api.managed_certificate_filter import parse_filter
from certd.api.managed_certificates import managed_certificate_message
from certd.errors import CertdError
from certd.model.names import TenantName
from certd.model.request_limits import RequestLimits
from certd.services.managed_certificate_search import ManagedCertificateSearches
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.paging import Page
from certd.v1 import managed_certificate_service_pb2 as service_pb2


def methods(searches: ManagedCertificateSearches, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "SearchManagedCertificates": partial(search_managed_certificates, searches, limits),
    }


def search_managed_certificates(
    searches: ManagedCertificateSearches,
    limits: RequestLimits,
    request: service_pb2.SearchManagedCertificatesRequest,
    call: Call,
) -> service_pb2.SearchManagedCertificatesResponse:
    """SearchManagedCertificates."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    wanted = violations.attempt(
        lambda: parse_filter("filter", request.filter, tenant=_tenant(request.parent), limits=limits)
    )
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[ManagedCertificateView]) -> service_pb2.SearchManagedCertificatesResponse:
        return service_pb2.SearchManagedCertificatesResponse(
            managed_certificates=[managed_certificate_message(view) for view in page.items],
            next_page_token=page.next_page_token,
        )

    return fields.page_that_fits(asked, lambda smaller: searches.search(call.caller, parent, wanted, smaller), answer)


def _tenant(parent: str) -> str:
    """Returns the tenant of a parent; empty when that is malformed, which is told of the parent itself."""
    try:
        return TenantName.parse("parent", parent).tenant
    except CertdError:
        return ""
