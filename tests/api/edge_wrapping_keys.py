"""What stands behind the edge for wrapping keys, and for searches of managed certificates."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from certd.model.access import Caller
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import TenantName, WrappingKeyName
from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.pki.preparation import Warning as PreparationWarning
from certd.services.idempotency import RequestKey
from certd.services.managed_certificate_search import ManagedCertificateSearches
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.paging import Page, PageRequest
from certd.services.wrapping_key_rotation import WrappingKeyRotation, WrappingKeyView

if TYPE_CHECKING:
    from tests.api.edge_server import Told

MADE = datetime(2026, 3, 1, tzinfo=UTC)
KEY = WrappingKey(
    tenant="default",
    number=3,
    key_id=bytes(range(16)),
    state=WrappingKeyState.DESTROYED,
    create_time=MADE,
    reseal_count=7,
    resealed_count=6,
    rotate_time=MADE + timedelta(days=1),
    retire_time=MADE + timedelta(days=2),
    destroy_time=MADE + timedelta(days=3),
    escrowed=True,
    revision=9,
)


class FakeWrappingKeyRotation(WrappingKeyRotation):
    def __init__(self, told: "Told") -> None:
        self._told = told
        self.view = WrappingKeyView(
            wrapping_key=KEY, warnings=(PreparationWarning(field="name", message="backups hold 6 keys"),)
        )

    def get(self, caller: Caller, name: WrappingKeyName) -> WrappingKeyView:
        self._told.take(caller, name)
        return replace(self.view, warnings=())

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[WrappingKeyView]:
        self._told.take(caller, parent, request)
        return Page((replace(self.view, warnings=()),), "next")

    def rotate(self, caller: Caller, parent: TenantName, *, key: RequestKey | None) -> WrappingKeyView:
        self._told.take(caller, parent, key)
        fresh = WrappingKey(
            tenant="default", number=4, key_id=bytes(16), state=WrappingKeyState.PRIMARY, create_time=MADE
        )
        return WrappingKeyView(wrapping_key=fresh)

    def destroy(
        self, caller: Caller, name: WrappingKeyName, *, etag: str, key: RequestKey | None, validate_only: bool
    ) -> WrappingKeyView:
        self._told.take(caller, name, etag, key, validate_only)
        return self.view


class FakeManagedCertificateSearches(ManagedCertificateSearches):
    def __init__(self, told: "Told", view: ManagedCertificateView) -> None:
        self._told = told
        self._view = view

    def search(
        self, caller: Caller, parent: TenantName, wanted: ManagedCertificateFilter, request: PageRequest
    ) -> Page[ManagedCertificateView]:
        self._told.take(caller, parent, wanted, request)
        return Page((replace(self._view, chain=()),), "next")
