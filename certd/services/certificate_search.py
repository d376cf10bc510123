"""Searches among certificates."""

from certd.model.access import Caller, Permission
from certd.model.certificate_filter import CertificateFilter
from certd.model.names import WILDCARD, AuthorityName
from certd.services.access import Access
from certd.services.authorities import every_authority, existing_authority
from certd.services.certificates import CertificateView, managed_version, place_of, view_of
from certd.services.paging import Page, PageRequest, page_until
from certd.services.tenants import existing_tenant
from certd.store import certificate_search
from certd.store.store import Store


class CertificateSearches:
    """The use case of finding certificates."""

    def __init__(self, *, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    def search(
        self, caller: Caller, parent: AuthorityName, wanted: CertificateFilter | None, request: PageRequest
    ) -> Page[CertificateView]:
        """Returns certificates that fit, newest first, without chains. The authority may be the wildcard.

        A page may have fewer than asked for, and none, without being the last: a call looks at so many rows and no
        more. Raises PERMISSION_MISSING, TENANT_NOT_FOUND, AUTHORITY_NOT_FOUND, and FIELD_INVALID for a token of
        another query.
        """
        scope = f"tenants/{parent.tenant}/authorities" if parent.authority == WILDCARD else str(parent)
        self._access.require(caller, Permission.CERTIFICATE_READ, scope)
        query = f"certificates {parent} {wanted!r}"
        after = request.after(query)
        with self._store.read("certificates.search") as tx:
            existing_tenant(tx, parent.tenant)
            among = (
                every_authority(tx, parent.tenant) if parent.authority == WILDCARD else [existing_authority(tx, parent)]
            )
            by_uid = {authority.uid: authority for authority in among}
            found = certificate_search.search(
                tx, list(by_uid), wanted, after=None if after is None else place_of(after), limit=request.size
            )
            views = [
                view_of(row, by_uid[row.authority_uid], managed=managed_version(tx, row), with_chain=False)
                for row in found.certificates
            ]
        place = None if found.after is None else (found.after[0].isoformat(), found.after[1])
        return page_until(views, query, after=place)
