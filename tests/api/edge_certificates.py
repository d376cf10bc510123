"""Services of certificates behind the edge that answer what they are told to."""

from dataclasses import replace
from typing import Any

from certd.model.access import Caller
from certd.model.certificate import CertificateState
from certd.model.certificate_filter import CertificateFilter
from certd.model.names import AuthorityName
from certd.services.certificate_search import CertificateSearches
from certd.services.certificates import CertificateView
from certd.services.idempotency import RequestKey
from certd.services.paging import Page, PageRequest
from certd.services.revocation import NewRevocation, Revocation


class FakeCertificateSearches(CertificateSearches):
    def __init__(self, told: Any, view: CertificateView) -> None:
        self._told = told
        self._view = view

    def search(
        self, caller: Caller, parent: AuthorityName, wanted: CertificateFilter | None, request: PageRequest
    ) -> Page[CertificateView]:
        self._told.take(caller, parent, wanted, request)
        return Page((replace(self._view, chain=(), warnings=()),), "next")


class FakeRevocation(Revocation):
    def __init__(self, told: Any, view: CertificateView) -> None:
        self._told = told
        self._view = view

    def revoke(
        self, caller: Caller, new: NewRevocation, *, key: RequestKey | None, validate_only: bool
    ) -> CertificateView:
        self._told.take(caller, new, key, validate_only)
        row = self._view.certificate
        revoked = replace(
            row,
            state=CertificateState.REVOKED,
            revoke_time=row.create_time,
            revocation_reason=new.reason,
            invalidity_time=new.invalidity_time,
        )
        return replace(self._view, certificate=revoked)
