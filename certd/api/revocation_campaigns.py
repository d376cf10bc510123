"""CertificateService, revocation campaigns: convert, call `services.revocation_campaigns`, convert back."""

import hashlib
from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.api.certificate_filter import filter_message
from certd.api.certificate_search import parse_filter
from certd.api.certificates import REVOCATION_REASONS
from certd.api.revocation import parse_invalidity, parse_reason
from certd.errors import field_invalid
from certd.model.names import AuthorityName, IdentityName, ProfileName, RevocationCampaignName, TenantName, check_id
from certd.model.request_limits import RequestLimits
from certd.model.revocation_campaign import (
    OfConsumer,
    OfFilter,
    OfPublicKey,
    RevocationCampaign,
    Selection,
    UnderProfileOf,
)
from certd.pki.key_spec import load_public_key_der, public_key_der
from certd.services.paging import Page
from certd.services.revocation_campaigns import NewRevocationCampaign, RevocationCampaigns
from certd.v1 import certificate_service_pb2, revocation_campaign_pb2

_SHA256_BYTES: Final = 32
_PUBLIC_KEY_BYTES: Final = 16 << 10
_FIELD: Final = "revocation_campaign"


def methods(campaigns: RevocationCampaigns, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "CreateRevocationCampaign": partial(create_revocation_campaign, campaigns),
        "GetRevocationCampaign": partial(get_revocation_campaign, campaigns),
        "ListRevocationCampaigns": partial(list_revocation_campaigns, campaigns, limits),
        "CancelRevocationCampaign": partial(cancel_revocation_campaign, campaigns),
    }


def create_revocation_campaign(
    campaigns: RevocationCampaigns, request: certificate_service_pb2.CreateRevocationCampaignRequest, call: Call
) -> revocation_campaign_pb2.RevocationCampaign:
    """CreateRevocationCampaign."""
    given, violations = request.revocation_campaign, fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    id_ = violations.attempt(lambda: check_id("revocation_campaign_id", request.revocation_campaign_id))
    tenant = request.parent.removeprefix("tenants/")
    authority = violations.attempt(lambda: _authority(given.authority, tenant))
    selection = violations.attempt(lambda: _selection(given, tenant))
    reason = violations.attempt(lambda: parse_reason(f"{_FIELD}.reason", given.reason))
    invalidity_time = violations.attempt(lambda: parse_invalidity(f"{_FIELD}.invalidity_time", given))
    key = violations.attempt(lambda: fields.request_key("CreateRevocationCampaign", request, request.request_id))
    violations.check()
    new = NewRevocationCampaign(
        name=RevocationCampaignName(parent.tenant, id_),
        authority=authority,
        selection=selection,
        reason=reason,
        invalidity_time=invalidity_time,
        include_expired=given.include_expired,
    )
    return campaign_message(campaigns.create(call.caller, new, key=key, validate_only=request.validate_only))


def get_revocation_campaign(
    campaigns: RevocationCampaigns, request: certificate_service_pb2.GetRevocationCampaignRequest, call: Call
) -> revocation_campaign_pb2.RevocationCampaign:
    """GetRevocationCampaign."""
    return campaign_message(campaigns.get(call.caller, RevocationCampaignName.parse("name", request.name)))


def list_revocation_campaigns(
    campaigns: RevocationCampaigns,
    limits: RequestLimits,
    request: certificate_service_pb2.ListRevocationCampaignsRequest,
    call: Call,
) -> certificate_service_pb2.ListRevocationCampaignsResponse:
    """ListRevocationCampaigns."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[RevocationCampaign]) -> certificate_service_pb2.ListRevocationCampaignsResponse:
        return certificate_service_pb2.ListRevocationCampaignsResponse(
            revocation_campaigns=[campaign_message(campaign) for campaign in page.items],
            next_page_token=page.next_page_token,
        )

    return fields.page_that_fits(asked, lambda smaller: campaigns.page(call.caller, parent, smaller), answer)


def cancel_revocation_campaign(
    campaigns: RevocationCampaigns, request: certificate_service_pb2.CancelRevocationCampaignRequest, call: Call
) -> revocation_campaign_pb2.RevocationCampaign:
    """CancelRevocationCampaign. A repetition finds it ended and changes nothing, with a `request_id` or without."""
    violations = fields.Violations()
    name = violations.attempt(lambda: RevocationCampaignName.parse("name", request.name))
    violations.attempt(lambda: fields.request_id("request_id", request.request_id))
    violations.check()
    return campaign_message(campaigns.cancel(call.caller, name))


def campaign_message(campaign: RevocationCampaign) -> revocation_campaign_pb2.RevocationCampaign:
    """Returns a campaign as a message."""
    kind, tenant = revocation_campaign_pb2.RevocationCampaign, campaign.name.tenant
    message = kind(
        name=str(campaign.name),
        authority="" if campaign.authority is None else str(campaign.authority),
        reason=REVOCATION_REASONS[campaign.reason],
        include_expired=campaign.include_expired,
        state=kind.State.Value(campaign.state),
        found_count=campaign.found_count,
        revoked_count=campaign.revoked_count,
        unchanged_count=campaign.unchanged_count,
        failed_count=campaign.failed_count,
        failed_certificates=campaign.failed_certificates,
        creator=campaign.creator,
        create_time=x509.timestamp(campaign.create_time),
    )
    match campaign.selection:
        case UnderProfileOf(profile):
            message.profile = str(ProfileName(tenant, profile))
        case OfPublicKey(sha256):
            message.public_key = sha256
        case OfConsumer(consumer):
            message.consumer = consumer
        case OfFilter(wanted):
            message.filter.CopyFrom(filter_message(wanted, tenant=tenant))
    if campaign.invalidity_time is not None:
        message.invalidity_time.CopyFrom(x509.timestamp(campaign.invalidity_time))
    if campaign.end_time is not None:
        message.end_time.CopyFrom(x509.timestamp(campaign.end_time))
    return message


def _authority(text: str, tenant: str) -> AuthorityName | None:
    if not text:
        return None
    name = AuthorityName.parse(f"{_FIELD}.authority", text)
    if name.tenant != tenant:
        raise field_invalid(f"{_FIELD}.authority", f"is of the tenant {name.tenant}, and the campaign of another")
    return name


def _selection(given: revocation_campaign_pb2.RevocationCampaign, tenant: str) -> Selection:
    selected = given.WhichOneof("selection")
    field = f"{_FIELD}.{selected}"
    match selected:
        case "profile":
            profile = ProfileName.parse(field, given.profile)
            if profile.tenant != tenant:
                raise field_invalid(field, f"is of the tenant {profile.tenant}, and the campaign of another")
            return UnderProfileOf(profile.profile)
        case "public_key":
            return OfPublicKey(_public_key_sha256(field, given.public_key))
        case "consumer":
            consumer = IdentityName.parse(field, given.consumer)
            if consumer.tenant not in {None, tenant}:
                raise field_invalid(field, f"is of the tenant {consumer.tenant}, and the campaign of another")
            return OfConsumer(str(consumer))
        case "filter":
            return OfFilter(parse_filter(field, given.filter, tenant=tenant))
        case _:
            # So that nobody revokes everything who forgot to say what.
            rule = "must say which certificates: by profile, public_key, consumer or filter"
            raise field_invalid(f"{_FIELD}.selection", rule)


def _public_key_sha256(field: str, given: bytes) -> bytes:
    if len(given) == _SHA256_BYTES:
        return given
    if len(given) > _PUBLIC_KEY_BYTES:
        raise field_invalid(field, f"must have at most {_PUBLIC_KEY_BYTES} bytes")
    # As certificates have it, in whichever encoding it comes.
    return hashlib.sha256(public_key_der(load_public_key_der(given, field=field))).digest()
