"""ManagedCertificateService, campaigns: convert, call `services.renewal_campaigns`, convert back."""

from functools import partial
from typing import Any

from certd.api.call import Call, Methods
from certd.model.request_limits import RequestLimits
from certd.services.renewal_campaigns import RenewalCampaigns


def methods(campaigns: RenewalCampaigns, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "CreateRenewalCampaign": partial(create_renewal_campaign, campaigns, limits),
        "GetRenewalCampaign": partial(get_renewal_campaign, campaigns, limits),
        "ListRenewalCampaigns": partial(list_renewal_campaigns, campaigns, limits),
        "CancelRenewalCampaign": partial(cancel_renewal_campaign, campaigns, limits),
    }


def create_renewal_campaign(campaigns: RenewalCampaigns, limits: RequestLimits, request: Any, call: Call) -> Any:
    """CreateRenewalCampaign."""
    raise NotImplementedError


def get_renewal_campaign(campaigns: RenewalCampaigns, limits: RequestLimits, request: Any, call: Call) -> Any:
    """GetRenewalCampaign."""
    raise NotImplementedError


def list_renewal_campaigns(campaigns: RenewalCampaigns, limits: RequestLimits, request: Any, call: Call) -> Any:
    """ListRenewalCampaigns."""
    raise NotImplementedError


def cancel_renewal_campaign(campaigns: RenewalCampaigns, limits: RequestLimits, request: Any, call: Call) -> Any:
    """CancelRenewalCampaign."""
    raise NotImplementedError
