"""What stands behind the edge for changes and revocations of managed certificates, and for campaigns."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from certd.model.access import Caller
from certd.model.certificate import RevocationReason
from certd.model.managed_certificate import ManagedCertificateVersion, VersionState
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import ManagedCertificateName, RenewalCampaignName, TenantName
from certd.model.renewal_campaign import RenewalCampaign, RenewalCampaignState
from certd.services.idempotency import RequestKey
from certd.services.managed_certificate_changes import ManagedCertificateChange, ManagedCertificateChanges, VersionView
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_revocation import ManagedRevocation, NewManagedRevocation
from certd.services.paging import Page, PageRequest
from certd.services.renewal_campaigns import NewRenewalCampaign, RenewalCampaigns

if TYPE_CHECKING:
    from tests.api.edge_server import Told

MADE = datetime(2026, 3, 1, tzinfo=UTC)
_WEB = "tenants/default/managedCertificates/web"
CAMPAIGN = RenewalCampaign(
    uid="uid",
    name=RenewalCampaignName("default", "leak"),
    filter=ManagedCertificateFilter(labels={"team": "web"}, profile="end-entity", used=False),
    renewals_per_minute=60,
    reason="leaked",
    state=RenewalCampaignState.CANCELLED,
    next_renewal_time=MADE,
    selection_complete=True,
    selected_count=10,
    renewed_count=4,
    blocked_count=2,
    skipped_count=3,
    blocked=(_WEB,),
    creator="spiffe://example/identities/alice",
    create_time=MADE,
    end_time=MADE + timedelta(minutes=1),
)


def _versions(certificate: bytes) -> tuple[VersionView, ...]:
    made = ManagedCertificateVersion(
        managed_certificate_uid="uid",
        number=2,
        public_key=b"key",
        wrapping_key_number=3,
        authority_uid="uid",
        serial="0a",
        create_time=MADE,
        revoke_time=MADE + timedelta(days=1),
        revocation_reason=RevocationReason.SUPERSEDED,
    )
    making = ManagedCertificateVersion(
        managed_certificate_uid="uid",
        number=3,
        public_key=b"key",
        wrapping_key_number=4,
        authority_uid="uid",
        serial=None,
        create_time=MADE,
    )
    return (
        VersionView(
            name=f"{_WEB}/versions/3", version=making, state=VersionState.PENDING, certificate=None, key_available=True
        ),
        VersionView(
            name=f"{_WEB}/versions/2",
            version=made,
            state=VersionState.REVOKED,
            certificate=certificate,
            key_available=False,
        ),
    )


class FakeManagedCertificateChanges(ManagedCertificateChanges):
    def __init__(self, told: "Told", view: ManagedCertificateView) -> None:
        self._told = told
        self._view = view

    def update(
        self, caller: Caller, change: ManagedCertificateChange, *, key: RequestKey | None, validate_only: bool
    ) -> ManagedCertificateView:
        self._told.take(caller, change, key, validate_only)
        return self._view

    def renew(
        self, caller: Caller, name: ManagedCertificateName, *, reason: str, key: RequestKey | None
    ) -> ManagedCertificateView:
        self._told.take(caller, name, reason, key)
        return self._view

    def delete(
        self, caller: Caller, name: ManagedCertificateName, *, etag: str, key: RequestKey | None, validate_only: bool
    ) -> None:
        self._told.take(caller, name, etag, key, validate_only)

    def versions(self, caller: Caller, parent: ManagedCertificateName, request: PageRequest) -> Page[VersionView]:
        self._told.take(caller, parent, request)
        return Page(_versions(self._view.certificate or b""), "next")


class FakeManagedRevocation(ManagedRevocation):
    def __init__(self, told: "Told", view: ManagedCertificateView) -> None:
        self._told = told
        self._view = view

    def revoke(self, caller: Caller, new: NewManagedRevocation, *, key: RequestKey | None) -> ManagedCertificateView:
        self._told.take(caller, new, key)
        return self._view


class FakeRenewalCampaigns(RenewalCampaigns):
    def __init__(self, told: "Told") -> None:
        self._told = told

    def create(
        self, caller: Caller, new: NewRenewalCampaign, *, key: RequestKey | None, validate_only: bool
    ) -> RenewalCampaign:
        self._told.take(caller, new, key, validate_only)
        return CAMPAIGN

    def get(self, caller: Caller, name: RenewalCampaignName) -> RenewalCampaign:
        self._told.take(caller, name)
        return CAMPAIGN

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[RenewalCampaign]:
        self._told.take(caller, parent, request)
        return Page((CAMPAIGN,), "next")

    def cancel(self, caller: Caller, name: RenewalCampaignName) -> RenewalCampaign:
        self._told.take(caller, name)
        return CAMPAIGN
