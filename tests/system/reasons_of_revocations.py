"""How the reasons of revocations of many certificates are raised."""

from typing import Final

from certd.errors import Reason
from certd.v1.certificate_service_pb2 import CreateRevocationCampaignRequest, GetRevocationCampaignRequest
from certd.v1.revocation_campaign_pb2 import RevocationCampaign
from tests.system.reason_server import TENANT, Raised, Server, Told


def _campaign_twice(server: Server) -> Told:
    request = CreateRevocationCampaignRequest(
        parent=TENANT, revocation_campaign_id="twice", revocation_campaign=RevocationCampaign(public_key=bytes(32))
    )
    server.ask(request)
    return server.refused(request)


RAISED_OF_REVOCATIONS: Final = {
    Reason.REVOCATION_CAMPAIGN_NOT_FOUND: Raised(
        by=lambda it: it.refused(GetRevocationCampaignRequest(name=f"{TENANT}/revocationCampaigns/none")),
        remedy="exist",
    ),
    Reason.REVOCATION_CAMPAIGN_EXISTS: Raised(by=_campaign_twice, remedy="choose another revocation_campaign_id"),
}
