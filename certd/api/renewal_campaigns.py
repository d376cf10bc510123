"""ManagedCertificateService, campaigns: convert, call `services.renewal_campaigns`, convert back."""

from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.api.managed_certificate_filter import filter_message, parse_filter
from certd.errors import field_invalid
from certd.model.names import RenewalCampaignName, TenantName, check_id
from certd.model.renewal_campaign import (
    DEFAULT_RENEWALS_PER_MINUTE,
    RENEWALS_PER_MINUTE,
    RenewalCampaign,
    new_campaign_id,
)
from certd.model.request_limits import RequestLimits
from certd.services.paging import Page
from certd.services.renewal_campaigns import NewRenewalCampaign, RenewalCampaigns
from certd.v1 import managed_certificate_service_pb2, renewal_campaign_pb2

_LONGEST_REASON: Final = 256


def methods(campaigns: RenewalCampaigns, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "CreateRenewalCampaign": partial(create_renewal_campaign, campaigns, limits),
        "GetRenewalCampaign": partial(get_renewal_campaign, campaigns),
        "ListRenewalCampaigns": partial(list_renewal_campaigns, campaigns, limits),
        "CancelRenewalCampaign": partial(cancel_renewal_campaign, campaigns),
    }


def create_renewal_campaign(
    campaigns: RenewalCampaigns,
    limits: RequestLimits,
    request: managed_certificate_service_pb2.CreateRenewalCampaignRequest,
    call: Call,
) -> renewal_campaign_pb2.RenewalCampaign:
    """CreateRenewalCampaign."""
    given, violations = request.renewal_campaign, fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    id_ = violations.attempt(
        lambda: (
            check_id("renewal_campaign_id", request.renewal_campaign_id)
            if request.renewal_campaign_id
            else new_campaign_id()
        )
    )
    violations.attempt(lambda: fields.required("renewal_campaign", present=request.HasField("renewal_campaign")))
    # So that nobody renews everything who forgot to say what.
    violations.attempt(lambda: fields.required("renewal_campaign.filter", present=given.HasField("filter")))
    tenant = request.parent.removeprefix("tenants/")
    wanted = violations.attempt(
        lambda: parse_filter("renewal_campaign.filter", given.filter, tenant=tenant, limits=limits)
    )
    rate = violations.attempt(lambda: _rate(given.renewals_per_minute))
    reason = violations.attempt(lambda: fields.text("renewal_campaign.reason", given.reason, longest=_LONGEST_REASON))
    key = violations.attempt(lambda: fields.request_key("CreateRenewalCampaign", request, request.request_id))
    violations.check()
    new = NewRenewalCampaign(
        name=RenewalCampaignName(parent.tenant, id_), filter=wanted, renewals_per_minute=rate, reason=reason
    )
    return campaign_message(campaigns.create(call.caller, new, key=key, validate_only=request.validate_only))


def get_renewal_campaign(
    campaigns: RenewalCampaigns, request: managed_certificate_service_pb2.GetRenewalCampaignRequest, call: Call
) -> renewal_campaign_pb2.RenewalCampaign:
    """GetRenewalCampaign."""
    return campaign_message(campaigns.get(call.caller, RenewalCampaignName.parse("name", request.name)))


def list_renewal_campaigns(
    campaigns: RenewalCampaigns,
    limits: RequestLimits,
    request: managed_certificate_service_pb2.ListRenewalCampaignsRequest,
    call: Call,
) -> managed_certificate_service_pb2.ListRenewalCampaignsResponse:
    """ListRenewalCampaigns."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[RenewalCampaign]) -> managed_certificate_service_pb2.ListRenewalCampaignsResponse:
        return managed_certificate_service_pb2.ListRenewalCampaignsResponse(
            renewal_campaigns=[campaign_message(campaign) for campaign in page.items],
            next_page_token=page.next_page_token,
        )

    return fields.page_that_fits(asked, lambda smaller: campaigns.page(call.caller, parent, smaller), answer)


def cancel_renewal_campaign(
    campaigns: RenewalCampaigns, request: managed_certificate_service_pb2.CancelRenewalCampaignRequest, call: Call
) -> renewal_campaign_pb2.RenewalCampaign:
    """CancelRenewalCampaign."""
    return campaign_message(campaigns.cancel(call.caller, RenewalCampaignName.parse("name", request.name)))


def campaign_message(campaign: RenewalCampaign) -> renewal_campaign_pb2.RenewalCampaign:
    """Returns a campaign as a message."""
    kind = renewal_campaign_pb2.RenewalCampaign
    message = kind(
        name=str(campaign.name),
        filter=filter_message(campaign.filter, tenant=campaign.name.tenant),
        renewals_per_minute=campaign.renewals_per_minute,
        reason=campaign.reason,
        state=kind.State.Value(campaign.state),
        selected_count=campaign.selected_count,
        selection_complete=campaign.selection_complete,
        renewed_count=campaign.renewed_count,
        blocked_count=campaign.blocked_count,
        skipped_count=campaign.skipped_count,
        blocked_managed_certificates=campaign.blocked,
        creator=campaign.creator,
        create_time=x509.timestamp(campaign.create_time),
    )
    if campaign.end_time is not None:
        message.end_time.CopyFrom(x509.timestamp(campaign.end_time))
    return message


def _rate(number: int) -> int:
    rate = number or DEFAULT_RENEWALS_PER_MINUTE
    if rate not in RENEWALS_PER_MINUTE:
        raise field_invalid(
            "renewal_campaign.renewals_per_minute",
            f"must be from {RENEWALS_PER_MINUTE[0]} to {RENEWALS_PER_MINUTE[-1]:,}, or 0 for"
            f" {DEFAULT_RENEWALS_PER_MINUTE}",
        )
    return rate
