"""A service of imports behind the edge that answers what it is told to."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from certd.model.access import Caller
from certd.model.import_key import ImportKey
from certd.model.managed_certificate import ManagedCertificateType
from certd.model.names import ManagedCertificateName, TenantName
from certd.pki.key_spec import SignatureAlgorithm
from certd.services.idempotency import RequestKey
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_import import ManagedImport
from certd.services.managed_import_plan import NewImport


class FakeManagedImport(ManagedImport):
    def __init__(self, told: Any, view: ManagedCertificateView, *, now: datetime, authority_certificate: bytes) -> None:
        self._told = told
        imported = replace(view.managed_certificate, type=ManagedCertificateType.IMPORTED, issue_time=now)
        self._view = replace(view, managed_certificate=imported)
        self.key = ImportKey(
            tenant="default",
            import_key_id="k0123456789abcdef",
            public_key=b"p" * 32,
            wrapping_key_number=1,
            sealed_key=b"never shown",
            statement=b"statement",
            signature=b"signature",
            signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA384,
            authority_certificate=authority_certificate,
            create_time=now,
            expire_time=now + timedelta(days=30),
        )

    def import_(
        self, caller: Caller, new: NewImport, *, key: RequestKey | None, validate_only: bool
    ) -> ManagedCertificateView:
        self._told.take(caller, new, key, validate_only)
        return self._view

    def import_key(self, caller: Caller, tenant: TenantName) -> ImportKey:
        self._told.take(caller, tenant)
        return self.key

    def roll_back(
        self,
        caller: Caller,
        name: ManagedCertificateName,
        *,
        version: int | None,
        etag: str,
        key: RequestKey | None,
    ) -> ManagedCertificateView:
        self._told.take(caller, name, version, etag, key)
        return self._view
