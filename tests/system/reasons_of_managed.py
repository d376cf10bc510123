"""How the reasons of managed certificates after their request, of consumers and of campaigns are raised."""

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from certd.client.messages import timestamp
from certd.errors import Reason
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_filter_pb2 import ManagedCertificateFilter
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    CreateAssociationRequest,
    CreateRenewalCampaignRequest,
    DeleteDownloadCodeRequest,
    DeleteManagedCertificateRequest,
    GetAssociationRequest,
    GetManagedCertificateRequest,
    GetRenewalCampaignRequest,
    ImportManagedCertificateRequest,
    LeaseKeyRequest,
    RenewManagedCertificateRequest,
    RequestManagedCertificateRequest,
)
from certd.v1.renewal_campaign_pb2 import RenewalCampaign
from certd.v1.x509_pb2 import SubjectAlternativeNames
from tests.imports import pair
from tests.system.calls import NAME
from tests.system.reason_server import CA, TENANT, Raised, Server, Told
from tests.waiting import eventually


def _active(server: Server, managed_id: str) -> str:
    """Requests a managed certificate and waits until it is issued; returns its name."""
    names = SubjectAlternativeNames(dns_names=[NAME])
    managed = ManagedCertificate(authority=CA, subject_alternative_names=names)
    made = server.ask(
        RequestManagedCertificateRequest(parent=TENANT, managed_certificate_id=managed_id, managed_certificate=managed)
    )
    request = GetManagedCertificateRequest(name=made.name)
    eventually(lambda: server.ask(request).state == ManagedCertificate.ACTIVE)
    return str(made.name)


def _association(managed: str) -> CreateAssociationRequest:
    return CreateAssociationRequest(parent=managed, association=Association(consumer="identities/admin"))


def _associated_twice(server: Server) -> Told:
    request = _association(_active(server, "associated-twice"))
    server.ask(request)
    return server.refused(request)


def _in_use(server: Server) -> Told:
    managed = _active(server, "in-use")
    server.ask(_association(managed))
    return server.refused(DeleteManagedCertificateRequest(name=managed))


def _signed_long_ago(server: Server) -> Told:
    association = server.ask(_association(_active(server, "leased-late")))
    return server.refused(
        LeaseKeyRequest(
            name=association.name,
            version=1,
            public_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
            sign_time=timestamp(datetime.now(UTC) - timedelta(minutes=10)),
            certificate=server.installation.certificate.read_bytes(),
            signature=b"signature",
        )
    )


def _renewed_though_imported(server: Server) -> Told:
    made_elsewhere = pair(None, NAME, now=datetime.now(UTC))
    imported = server.ask(
        ImportManagedCertificateRequest(
            parent=TENANT,
            managed_certificate_id="imported",
            certificate=made_elsewhere.pem,
            plain_private_key=made_elsewhere.key_pem,
        )
    )
    return server.refused(RenewManagedCertificateRequest(name=imported.name))


def _campaign_twice(server: Server) -> Told:
    campaign = RenewalCampaign(filter=ManagedCertificateFilter(domain="nowhere.example.internal"))
    request = CreateRenewalCampaignRequest(parent=TENANT, renewal_campaign_id="twice", renewal_campaign=campaign)
    server.ask(request)
    return server.refused(request)


RAISED_OF_MANAGED: Final = {
    Reason.ASSOCIATION_NOT_FOUND: Raised(
        by=lambda it: it.refused(GetAssociationRequest(name=f"{TENANT}/managedCertificates/none/associations/none")),
        remedy="ListAssociations shows",
    ),
    Reason.DOWNLOAD_CODE_NOT_FOUND: Raised(
        by=lambda it: it.refused(DeleteDownloadCodeRequest(name=f"{_active(it, 'no-codes')}/downloadCodes/{'0' * 16}")),
        remedy="ListDownloadCodes shows",
    ),
    Reason.ASSOCIATION_EXISTS: Raised(by=_associated_twice, remedy="choose another association_id"),
    Reason.LEASE_REFUSED: Raised(by=_signed_long_ago, remedy="set the consumer's clock, or sign another"),
    Reason.CERTIFICATE_IN_USE: Raised(by=_in_use, remedy="end the associations"),
    Reason.NOT_RENEWABLE: Raised(by=_renewed_though_imported, remedy="import a new version"),
    Reason.RENEWAL_CAMPAIGN_NOT_FOUND: Raised(
        by=lambda it: it.refused(GetRenewalCampaignRequest(name=f"{TENANT}/renewalCampaigns/none")), remedy="exist"
    ),
    Reason.RENEWAL_CAMPAIGN_EXISTS: Raised(by=_campaign_twice, remedy="choose another renewal_campaign_id"),
}
