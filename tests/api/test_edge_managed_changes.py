"""What becomes of managed certificates, at the edge: every field converted, every bad one named."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from certd.model.certificate import RevocationReason
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import ManagedCertificateName, RenewalCampaignName, TenantName
from certd.model.renewal import MaintenanceWindow, RenewalMode, RenewalPolicy
from certd.services.managed_certificate_changes import LABELS, RENEWAL_FIELDS
from certd.services.managed_revocation import NewManagedRevocation
from certd.services.paging import PageRequest
from certd.services.renewal_campaigns import NewRenewalCampaign
from certd.v1 import (
    certificate_pb2,
    managed_certificate_filter_pb2,
    managed_certificate_pb2,
    renewal_campaign_pb2,
)
from certd.v1.managed_certificate_service_pb2 import (
    CancelRenewalCampaignRequest,
    CreateRenewalCampaignRequest,
    DeleteManagedCertificateRequest,
    DeleteManagedCertificateResponse,
    GetRenewalCampaignRequest,
    ListManagedCertificateVersionsRequest,
    ListRenewalCampaignsRequest,
    RenewManagedCertificateRequest,
    RevokeManagedCertificateRequest,
    UpdateManagedCertificateRequest,
)
from tests.api.edge_managed_changes import MADE
from tests.api.edge_messages import MANAGED_NAME, REQUEST_ID, call, encoded, moment_of, refused
from tests.api.edge_server import LEAF, Edge

WEB = ManagedCertificateName.parse("name", MANAGED_NAME)
LEAK = "tenants/default/renewalCampaigns/leak"
SINCE = datetime(2026, 3, 1, tzinfo=UTC)
_MESSAGES = managed_certificate_pb2


def update(*paths: str, **changes: Any) -> UpdateManagedCertificateRequest:
    given: dict[str, Any] = {"name": MANAGED_NAME} | changes
    return UpdateManagedCertificateRequest(
        managed_certificate=_MESSAGES.ManagedCertificate(**given), update_mask=FieldMask(paths=paths)
    )


POLICY = _MESSAGES.RenewalPolicy(
    mode=_MESSAGES.RenewalPolicy.WHEN_USED,
    remaining_percent=20,
    maintenance_windows=[
        _MESSAGES.MaintenanceWindow(cron="0 2 * * SAT", time_zone="Europe/Berlin", duration=Duration(seconds=3600))
    ],
)
_WINDOW = MaintenanceWindow(cron="0 2 * * SAT", time_zone="Europe/Berlin", duration=timedelta(hours=1))


def test_an_update_comes_in_whole(edge: Edge) -> None:
    request = update("*", labels={"team": "web"}, renewal=POLICY, etag="e-1")
    request.request_id, request.validate_only = REQUEST_ID, True
    answer = call(edge, request)
    assert answer.name == MANAGED_NAME
    _, change, key, validate_only = edge.told.last
    assert (change.name, change.fields, change.labels, change.etag) == (
        WEB,
        RENEWAL_FIELDS | {LABELS},
        {"team": "web"},
        "e-1",
    )
    assert change.renewal == RenewalPolicy(
        mode=RenewalMode.WHEN_USED, remaining_percent=20, maintenance_windows=(_WINDOW,)
    )
    assert (key.request_id, validate_only) == (REQUEST_ID.lower(), True)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (update(), set()),
        (update(labels={"a": "b"}), {"labels"}),
        (update(renewal=POLICY), RENEWAL_FIELDS),
        (update("labels"), {"labels"}),
        (update("renewal"), RENEWAL_FIELDS),
        (update("renewal.mode", "labels", renewal=POLICY), {"renewal.mode", "labels"}),
        (update("*"), RENEWAL_FIELDS | {"labels"}),
    ],
    # Sets have no order, and protos no text, that two processes would agree on.
    ids=["nothing", "labels given", "renewal given", "labels", "renewal", "mode and labels", "everything"],
)
def test_a_mask_says_what_changes(edge: Edge, request_: Message, fields: set[str]) -> None:
    call(edge, request_)
    assert edge.told.last[1].fields == fields


def test_what_does_not_change_is_not_looked_at(edge: Edge) -> None:
    bad = _MESSAGES.RenewalPolicy(mode=_MESSAGES.RenewalPolicy.NEVER, remaining_percent=1)
    call(edge, update("renewal.mode", renewal=bad, labels={"": "x"}))
    assert edge.told.last[1].renewal == RenewalPolicy(mode=RenewalMode.NEVER)
    call(edge, update("renewal"))
    assert edge.told.last[1].renewal is None


_BAD: list[tuple[Message, set[str]]] = [
    (UpdateManagedCertificateRequest(), {"managed_certificate", "managed_certificate.name"}),
    (
        update("export_policy", "renewal.cron", "labels.team", "colour", "*"),
        {f"update_mask.paths[{index}]" for index in range(5)},
    ),
    (update(labels={"": "x"}), {"managed_certificate.labels['']"}),
    (
        update(
            renewal=_MESSAGES.RenewalPolicy(
                mode=cast("Any", 9),
                remaining_percent=81,
                maintenance_windows=[_MESSAGES.MaintenanceWindow(cron="often", duration=Duration(seconds=1))],
            )
        ),
        {
            "managed_certificate.renewal.mode",
            "managed_certificate.renewal.remaining_percent",
            "managed_certificate.renewal.maintenance_windows[0].cron",
            "managed_certificate.renewal.maintenance_windows[0].duration",
        },
    ),
    (RenewManagedCertificateRequest(name="web", reason="x" * 257, request_id="1"), {"name", "reason", "request_id"}),
    (DeleteManagedCertificateRequest(name="web", etag="x" * 129, request_id="1"), {"name", "etag", "request_id"}),
    (ListManagedCertificateVersionsRequest(parent="web", page_size=-1), {"parent", "page_size"}),
    (
        RevokeManagedCertificateRequest(name="web", reason=cast("Any", 77), request_id="1"),
        {"name", "versions", "reason", "request_id"},
    ),
    (RevokeManagedCertificateRequest(name=MANAGED_NAME, all_versions=False), {"versions"}),
    (RevokeManagedCertificateRequest(name=MANAGED_NAME, version=0), {"version"}),
    (RevokeManagedCertificateRequest(name=MANAGED_NAME, version=-1), {"version"}),
    (CreateRenewalCampaignRequest(), {"parent", "renewal_campaign", "renewal_campaign.filter"}),
    (
        CreateRenewalCampaignRequest(
            parent="tenants/default",
            renewal_campaign_id="-",
            renewal_campaign=renewal_campaign_pb2.RenewalCampaign(
                filter=managed_certificate_filter_pb2.ManagedCertificateFilter(
                    authority="tenants/other/authorities/ca", states=[cast("Any", 0)]
                ),
                renewals_per_minute=100_001,
                reason="\n",
            ),
        ),
        {
            "renewal_campaign_id",
            "renewal_campaign.filter.authority",
            "renewal_campaign.filter.states[0]",
            "renewal_campaign.renewals_per_minute",
            "renewal_campaign.reason",
        },
    ),
    (GetRenewalCampaignRequest(name="leak"), {"name"}),
    (CancelRenewalCampaignRequest(name=f"{LEAK}/x"), {"name"}),
    (ListRenewalCampaignsRequest(parent="x", page_size=1001), {"parent", "page_size"}),
]


@pytest.mark.parametrize(("request_", "fields"), _BAD, ids=[type(request).__name__ for request, _ in _BAD])
def test_every_bad_field_is_named(edge: Edge, request_: Message, fields: set[str]) -> None:
    failure = refused(edge, request_)
    assert failure.reason == "FIELD_INVALID"
    assert {field for field, _ in failure.violations} == fields


def test_what_is_for_life_says_so(edge: Edge) -> None:
    failure = refused(edge, update("export_policy"))
    assert "never changes under one name" in failure.message


def test_a_renewal_comes_in_whole(edge: Edge) -> None:
    answer = call(edge, RenewManagedCertificateRequest(name=MANAGED_NAME, reason="moved", request_id=REQUEST_ID))
    assert answer.name == MANAGED_NAME
    _, name, reason, key = edge.told.last
    assert (name, reason, key.request_id) == (WEB, "moved", REQUEST_ID.lower())


def test_a_deletion_comes_in_whole(edge: Edge) -> None:
    request = DeleteManagedCertificateRequest(name=MANAGED_NAME, etag="e", request_id=REQUEST_ID, validate_only=True)
    assert call(edge, request) == DeleteManagedCertificateResponse()
    _, name, etag, key, validate_only = edge.told.last
    assert (name, etag, key.request_id, validate_only) == (WEB, "e", REQUEST_ID.lower(), True)


def test_versions_go_out_whole(edge: Edge) -> None:
    answer = call(edge, ListManagedCertificateVersionsRequest(parent=MANAGED_NAME, page_size=5, page_token="token"))
    assert edge.told.last[1:] == (WEB, PageRequest(5, "token"))
    assert answer.next_page_token == "next"
    making, revoked = answer.versions
    kind = _MESSAGES.ManagedCertificateVersion
    assert making == kind(
        name="tenants/default/managedCertificates/web/versions/3",
        version=3,
        state=kind.PENDING,
        create_time=moment_of(MADE),
        key_available=True,
        wrapping_key=4,
    )
    assert revoked.description.serial_number
    revoked.ClearField("description")
    assert revoked == kind(
        name="tenants/default/managedCertificates/web/versions/2",
        version=2,
        state=kind.REVOKED,
        certificate=encoded(LEAF),
        create_time=moment_of(MADE),
        revoke_time=moment_of(MADE + timedelta(days=1)),
        revocation_reason=certificate_pb2.SUPERSEDED,
        wrapping_key=3,
    )


@pytest.mark.parametrize(
    ("versions", "expected"), [({"version": 7}, 7), ({"all_versions": True}, None)], ids=["one", "all"]
)
def test_a_revocation_comes_in_whole(edge: Edge, versions: dict[str, Any], expected: int | None) -> None:
    request = RevokeManagedCertificateRequest(
        name=MANAGED_NAME,
        reason=certificate_pb2.KEY_COMPROMISE,
        invalidity_time=moment_of(SINCE),
        request_id=REQUEST_ID,
        **versions,
    )
    assert call(edge, request).name == MANAGED_NAME
    _, new, key = edge.told.last
    assert new == NewManagedRevocation(
        name=WEB, version=expected, reason=RevocationReason.KEY_COMPROMISE, invalidity_time=SINCE
    )
    assert key.request_id == REQUEST_ID.lower()


def test_a_campaign_comes_in_and_goes_out_whole(edge: Edge) -> None:
    wanted = managed_certificate_filter_pb2.ManagedCertificateFilter(
        labels={"team": "web"}, profile="tenants/default/profiles/end-entity", used=False
    )
    request = CreateRenewalCampaignRequest(
        parent="tenants/default",
        renewal_campaign_id="leak",
        renewal_campaign=renewal_campaign_pb2.RenewalCampaign(filter=wanted, renewals_per_minute=60, reason="leaked"),
        request_id=REQUEST_ID,
        validate_only=True,
    )
    answer = call(edge, request)
    _, new, key, validate_only = edge.told.last
    assert new == NewRenewalCampaign(
        name=RenewalCampaignName("default", "leak"),
        filter=ManagedCertificateFilter(labels={"team": "web"}, profile="end-entity", used=False),
        renewals_per_minute=60,
        reason="leaked",
    )
    assert (key.request_id, validate_only) == (REQUEST_ID.lower(), True)
    assert answer == renewal_campaign_pb2.RenewalCampaign(
        name=LEAK,
        filter=wanted,
        renewals_per_minute=60,
        reason="leaked",
        state=renewal_campaign_pb2.RenewalCampaign.CANCELLED,
        selected_count=10,
        selection_complete=True,
        renewed_count=4,
        blocked_count=2,
        skipped_count=3,
        blocked_managed_certificates=["tenants/default/managedCertificates/web"],
        creator="spiffe://example/identities/alice",
        create_time=moment_of(MADE),
        end_time=moment_of(MADE + timedelta(minutes=1)),
    )


def test_an_empty_filter_is_everything_and_the_server_chooses_what_is_left_out(edge: Edge) -> None:
    everything = renewal_campaign_pb2.RenewalCampaign(filter=managed_certificate_filter_pb2.ManagedCertificateFilter())
    call(edge, CreateRenewalCampaignRequest(parent="tenants/default", renewal_campaign=everything))
    new = edge.told.last[1]
    assert (new.filter, new.renewals_per_minute, new.name.tenant) == (ManagedCertificateFilter(), 600, "default")
    assert new.name == RenewalCampaignName.parse("name", str(new.name))


def test_campaigns_are_asked_for_by_name_and_by_page(edge: Edge) -> None:
    leak = RenewalCampaignName("default", "leak")
    assert call(edge, GetRenewalCampaignRequest(name=LEAK)).name == LEAK
    assert edge.told.last[1:] == (leak,)
    assert call(edge, CancelRenewalCampaignRequest(name=LEAK)).name == LEAK
    assert edge.told.last[1:] == (leak,)
    answer = call(edge, ListRenewalCampaignsRequest(parent="tenants/default"))
    assert edge.told.last[1:] == (TenantName("default"), PageRequest(100, ""))
    assert ([one.name for one in answer.renewal_campaigns], answer.next_page_token) == ([LEAK], "next")
