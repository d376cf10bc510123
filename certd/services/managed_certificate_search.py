"""Finding managed certificates."""

from certd.clock import Clock
from certd.model.access import Caller, Permission
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import TenantName
from certd.services.access import Access
from certd.services.managed_certificate_views import ManagedCertificateView, listed_view_of
from certd.services.paging import Page, PageRequest, page_until
from certd.services.tenants import existing_tenant
from certd.store.managed_certificate_filters import filter_text
from certd.store.managed_certificate_search import matching
from certd.store.store import Store


class ManagedCertificateSearches:
    """The use case of searching."""

    def __init__(self, *, store: Store, clock: Clock, access: Access) -> None:
        self._store = store
        self._clock = clock
        self._access = access

    def search(
        self, caller: Caller, parent: TenantName, wanted: ManagedCertificateFilter, request: PageRequest
    ) -> Page[ManagedCertificateView]:
        """Returns managed certificates of a tenant that fit, by name, without chains.

        A page may have fewer than asked for, and none, without being the last: a call looks at so many rows and no
        more. Raises PERMISSION_MISSING, TENANT_NOT_FOUND, and FIELD_INVALID for a token of another query.
        """
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_READ, f"{parent}/managedCertificates")
        query = f"managedCertificates {parent} {filter_text(wanted)}"
        place = request.after(query)
        now = self._clock.now()
        with self._store.read("managed-certificates.search") as tx:
            existing_tenant(tx, parent.tenant)
            found = matching(
                tx, parent.tenant, wanted, now=now, after=None if place is None else place[0], limit=request.size
            )
            views = [listed_view_of(tx, row, now) for row in found.managed_certificates]
        return page_until(views, query, after=None if found.after is None else (found.after,))
