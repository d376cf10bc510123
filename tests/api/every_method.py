"""A request for every method of the API, which fails for nothing but what it is about."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from certd.api.server import SERVICES
from certd.v1 import (
    access_service_pb2,
    association_pb2,
    authority_pb2,
    authority_service_pb2,
    certificate_service_pb2,
    event_service_pb2,
    grant_pb2,
    managed_certificate_filter_pb2,
    managed_certificate_pb2,
    managed_certificate_service_pb2,
    profile_pb2,
    profile_service_pb2,
    renewal_campaign_pb2,
    revocation_campaign_pb2,
    server_service_pb2,
    subscription_pb2,
    tenant_pb2,
    tenant_service_pb2,
    wrapping_key_service_pb2,
    x509_pb2,
)
from tests.imports import pair

TRUST_DOMAIN = "certd.test"
METHODS_OF_SERVICES: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]


def request_id_of(tenant: str) -> str:
    """The request id with which the resources of a tenant are made."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, tenant))


def full_name(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def named(name: str) -> MethodDescriptor:
    (found,) = [method for method in METHODS_OF_SERVICES if method.name == name]
    return found


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Names that go into requests."""

    tenant: str
    authority: str
    managed: str
    serial: str
    profile: str = "own"
    identity: str = "machine"
    grant: str = "given"
    campaign: str = "again"
    wrapping_key: str = "1"
    association: str = "taken"
    subscription: str = "told"

    @property
    def words(self) -> tuple[str, ...]:
        own = (self.authority, self.managed, self.serial, self.profile, self.identity, self.grant, self.campaign)
        return (self.tenant, *own, self.wrapping_key, self.association, self.subscription)


MISSING = Resources(
    tenant="nowhere",
    authority="no-ca",
    managed="no-web",
    serial="0abc",
    profile="no-own",
    identity="no-machine",
    grant="no-given",
    campaign="no-again",
    association="no-taken",
    subscription="no-told",
    wrapping_key="7",
)


def csr_of(*names: x509.GeneralName, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


CSR = csr_of(x509.DNSName("www.example.internal"))
MADE_ELSEWHERE = pair(None, "www.example.internal", now=datetime.now(UTC))
PROFILE = profile_pb2.Profile(
    longest_lifetime=Duration(seconds=86400),
    extended_key_usages=["1.3.6.1.5.5.7.3.1"],
    names=profile_pb2.NameRules(dns_names=profile_pb2.DnsNameRules(allow_any=True)),
)
# Nobody listens there, and nothing is sent but tests.
SUBSCRIPTION = subscription_pb2.Subscription(
    webhook=subscription_pb2.Webhook(url="https://127.0.0.1:9/hook"), state=subscription_pb2.Subscription.DISABLED
)


def requests_to(to: Resources) -> dict[str, Message]:
    """A request for every method, which fails for nothing but what it is about."""
    tenant = f"tenants/{to.tenant}"
    authority, managed = f"{tenant}/authorities/{to.authority}", f"{tenant}/managedCertificates/{to.managed}"
    subject = x509_pb2.DistinguishedName(
        relative_distinguished_names=[
            x509_pb2.RelativeDistinguishedName(attributes=[x509_pb2.AttributeTypeAndValue(type="CN", value="Denied")])
        ]
    )
    profile = f"{tenant}/profiles/{to.profile}"
    campaign = f"{tenant}/renewalCampaigns/{to.campaign}"
    revocation_campaign = f"{tenant}/revocationCampaigns/{to.campaign}"
    wrapping_key = f"{tenant}/wrappingKeys/{to.wrapping_key}"
    identity, grant = f"{tenant}/identities/{to.identity}", f"{tenant}/grants/{to.grant}"
    association = f"{managed}/associations/{to.association}"
    subscription = f"{tenant}/subscriptions/{to.subscription}"
    passphrase = managed_certificate_service_pb2.PassphraseProtection(passphrase=b"correct horse")
    return {
        "CreateAuthority": authority_service_pb2.CreateAuthorityRequest(
            parent=tenant,
            authority_id=to.authority,
            authority=authority_pb2.Authority(type=authority_pb2.Authority.ROOT, subject=subject),
            request_id=request_id_of(to.tenant),
        ),
        "GetAuthority": authority_service_pb2.GetAuthorityRequest(name=authority),
        "ListAuthorities": authority_service_pb2.ListAuthoritiesRequest(parent=tenant),
        "UpdateAuthority": authority_service_pb2.UpdateAuthorityRequest(
            authority=authority_pb2.Authority(name=authority, labels={"team": "web"})
        ),
        "GetAuthorityCsr": authority_service_pb2.GetAuthorityCsrRequest(name=authority),
        "ActivateAuthority": authority_service_pb2.ActivateAuthorityRequest(
            name=authority, certificate=b"certificate", chain=b"chain"
        ),
        "EnableAuthority": authority_service_pb2.EnableAuthorityRequest(name=authority),
        "DisableAuthority": authority_service_pb2.DisableAuthorityRequest(name=authority, validate_only=True),
        "ReissueAuthorityCertificate": authority_service_pb2.ReissueAuthorityCertificateRequest(
            name=authority, validate_only=True
        ),
        "DeleteAuthority": authority_service_pb2.DeleteAuthorityRequest(name=authority, validate_only=True),
        "UndeleteAuthority": authority_service_pb2.UndeleteAuthorityRequest(name=authority),
        "PrepareAuthorityKey": authority_service_pb2.PrepareAuthorityKeyRequest(name=authority, validate_only=True),
        "ActivateAuthorityKey": authority_service_pb2.ActivateAuthorityKeyRequest(name=authority, key_number=1),
        "TaintAuthorityKey": authority_service_pb2.TaintAuthorityKeyRequest(name=authority, key_number=1),
        "RetireAuthorityKey": authority_service_pb2.RetireAuthorityKeyRequest(name=authority, key_number=1),
        "CreateCrossCertificate": authority_service_pb2.CreateCrossCertificateRequest(
            parent=authority, certificate=MADE_ELSEWHERE.pem, validate_only=True
        ),
        "AdoptAuthority": authority_service_pb2.AdoptAuthorityRequest(
            parent=tenant,
            authority_id=f"{to.authority}-old",
            key_id="a1b2",
            certificate=MADE_ELSEWHERE.pem,
            validate_only=True,
        ),
        "ImportIssuedCertificates": authority_service_pb2.ImportIssuedCertificatesRequest(
            parent=authority,
            certificates=[
                authority_service_pb2.IssuedCertificate(
                    serial_number="0a1b", not_after_time=Timestamp(seconds=4_000_000_000)
                )
            ],
            validate_only=True,
        ),
        "GetRevocationList": authority_service_pb2.GetRevocationListRequest(name=authority),
        "GenerateRevocationList": authority_service_pb2.GenerateRevocationListRequest(name=authority),
        "CreateAuditReport": authority_service_pb2.CreateAuditReportRequest(name=authority),
        "IssueCertificate": certificate_service_pb2.IssueCertificateRequest(
            parent=authority, csr=CSR, request_id=request_id_of(to.tenant)
        ),
        "BatchIssueCertificates": certificate_service_pb2.BatchIssueCertificatesRequest(
            parent=authority, requests=[certificate_service_pb2.IssueCertificateRequest(csr=CSR)], validate_only=True
        ),
        "GetCertificate": certificate_service_pb2.GetCertificateRequest(name=f"{authority}/certificates/{to.serial}"),
        "ListCertificates": certificate_service_pb2.ListCertificatesRequest(parent=authority),
        "SearchCertificates": certificate_service_pb2.SearchCertificatesRequest(parent=authority),
        "RevokeCertificate": certificate_service_pb2.RevokeCertificateRequest(
            name=f"{authority}/certificates/{to.serial}", validate_only=True
        ),
        "BatchRevokeCertificates": certificate_service_pb2.BatchRevokeCertificatesRequest(
            parent=authority,
            requests=[certificate_service_pb2.RevokeCertificateRequest(name=f"{authority}/certificates/{to.serial}")],
            validate_only=True,
        ),
        "CreateRevocationCampaign": certificate_service_pb2.CreateRevocationCampaignRequest(
            parent=tenant,
            revocation_campaign_id=to.campaign,
            revocation_campaign=revocation_campaign_pb2.RevocationCampaign(public_key=bytes(32)),
            request_id=request_id_of(to.tenant),
        ),
        "GetRevocationCampaign": certificate_service_pb2.GetRevocationCampaignRequest(name=revocation_campaign),
        "ListRevocationCampaigns": certificate_service_pb2.ListRevocationCampaignsRequest(parent=tenant),
        "CancelRevocationCampaign": certificate_service_pb2.CancelRevocationCampaignRequest(name=revocation_campaign),
        "RequestManagedCertificate": managed_certificate_service_pb2.RequestManagedCertificateRequest(
            parent=tenant,
            managed_certificate_id=to.managed,
            managed_certificate=managed_certificate_pb2.ManagedCertificate(
                authority=authority,
                subject_alternative_names=x509_pb2.SubjectAlternativeNames(dns_names=["www.example.internal"]),
            ),
            request_id=request_id_of(to.tenant),
        ),
        "GetManagedCertificate": managed_certificate_service_pb2.GetManagedCertificateRequest(name=managed),
        "ListManagedCertificates": managed_certificate_service_pb2.ListManagedCertificatesRequest(parent=tenant),
        "ExportManagedCertificate": managed_certificate_service_pb2.ExportManagedCertificateRequest(
            name=managed, passphrase=passphrase
        ),
        "UpdateManagedCertificate": managed_certificate_service_pb2.UpdateManagedCertificateRequest(
            managed_certificate=managed_certificate_pb2.ManagedCertificate(name=managed, labels={"team": "web"})
        ),
        "RenewManagedCertificate": managed_certificate_service_pb2.RenewManagedCertificateRequest(name=managed),
        # One that nobody has: what is revoked is of no use to the other requests.
        "RevokeManagedCertificate": managed_certificate_service_pb2.RevokeManagedCertificateRequest(
            name=managed, version=1_000_000
        ),
        "DeleteManagedCertificate": managed_certificate_service_pb2.DeleteManagedCertificateRequest(
            name=managed, validate_only=True
        ),
        "ListManagedCertificateVersions": managed_certificate_service_pb2.ListManagedCertificateVersionsRequest(
            parent=managed
        ),
        "ImportManagedCertificate": managed_certificate_service_pb2.ImportManagedCertificateRequest(
            parent=tenant,
            managed_certificate_id=f"{to.managed}-imported",
            certificate=MADE_ELSEWHERE.pem,
            plain_private_key=MADE_ELSEWHERE.key_pem,
            request_id=request_id_of(to.tenant),
        ),
        "SearchManagedCertificates": managed_certificate_service_pb2.SearchManagedCertificatesRequest(parent=tenant),
        "GetImportKey": managed_certificate_service_pb2.GetImportKeyRequest(parent=tenant),
        "RollBackManagedCertificate": managed_certificate_service_pb2.RollBackManagedCertificateRequest(name=managed),
        "CreateAssociation": managed_certificate_service_pb2.CreateAssociationRequest(
            parent=managed,
            association_id=to.association,
            association=association_pb2.Association(consumer=identity),
            request_id=request_id_of(to.tenant),
        ),
        "GetAssociation": managed_certificate_service_pb2.GetAssociationRequest(name=association),
        "ListAssociations": managed_certificate_service_pb2.ListAssociationsRequest(parent=managed),
        # One that nobody has: the others are about the one that is there.
        "DeleteAssociation": managed_certificate_service_pb2.DeleteAssociationRequest(name=f"{association}-over"),
        "CreateDownloadCode": managed_certificate_service_pb2.CreateDownloadCodeRequest(name=managed),
        "ListDownloadCodes": managed_certificate_service_pb2.ListDownloadCodesRequest(parent=managed),
        "DeleteDownloadCode": managed_certificate_service_pb2.DeleteDownloadCodeRequest(
            name=f"{managed}/downloadCodes/{'0' * 16}"
        ),
        "LeaseKey": managed_certificate_service_pb2.LeaseKeyRequest(
            name=association,
            version=1,
            public_key=bytes(range(32)),
            sign_time=Timestamp(seconds=int(datetime.now(UTC).timestamp())),
            certificate=MADE_ELSEWHERE.pem,
            signature=b"signature",
        ),
        "ReportDeployment": managed_certificate_service_pb2.ReportDeploymentRequest(
            name=association,
            deployment=managed_certificate_pb2.Deployment(state=managed_certificate_pb2.Deployment.SERVING, version=1),
        ),
        "CreateRenewalCampaign": managed_certificate_service_pb2.CreateRenewalCampaignRequest(
            parent=tenant,
            renewal_campaign_id=to.campaign,
            renewal_campaign=renewal_campaign_pb2.RenewalCampaign(
                filter=managed_certificate_filter_pb2.ManagedCertificateFilter(domain="nowhere.example.internal")
            ),
            request_id=request_id_of(to.tenant),
        ),
        "GetRenewalCampaign": managed_certificate_service_pb2.GetRenewalCampaignRequest(name=campaign),
        "ListRenewalCampaigns": managed_certificate_service_pb2.ListRenewalCampaignsRequest(parent=tenant),
        "CancelRenewalCampaign": managed_certificate_service_pb2.CancelRenewalCampaignRequest(name=campaign),
        "ListWrappingKeys": wrapping_key_service_pb2.ListWrappingKeysRequest(parent=tenant),
        "GetWrappingKey": wrapping_key_service_pb2.GetWrappingKeyRequest(name=wrapping_key),
        "RotateWrappingKey": wrapping_key_service_pb2.RotateWrappingKeyRequest(
            parent=tenant, request_id=request_id_of(to.tenant)
        ),
        "DestroyWrappingKey": wrapping_key_service_pb2.DestroyWrappingKeyRequest(name=wrapping_key, validate_only=True),
        "CreateProfile": profile_service_pb2.CreateProfileRequest(
            parent=tenant, profile_id=to.profile, profile=PROFILE, request_id=request_id_of(to.tenant)
        ),
        "GetProfile": profile_service_pb2.GetProfileRequest(name=profile),
        "ListProfiles": profile_service_pb2.ListProfilesRequest(parent=tenant),
        "UpdateProfile": profile_service_pb2.UpdateProfileRequest(
            profile=profile_pb2.Profile(name=profile, description="changed")
        ),
        "DeleteProfile": profile_service_pb2.DeleteProfileRequest(name=profile),
        "CheckProfile": profile_service_pb2.CheckProfileRequest(name=profile, profile=PROFILE, csr=CSR),
        "CreateTenant": tenant_service_pb2.CreateTenantRequest(tenant_id=to.tenant, validate_only=True),
        "GetTenant": tenant_service_pb2.GetTenantRequest(name=tenant),
        "ListTenants": tenant_service_pb2.ListTenantsRequest(),
        "UpdateTenant": tenant_service_pb2.UpdateTenantRequest(
            tenant=tenant_pb2.Tenant(name=tenant, display_name="Example"), validate_only=True
        ),
        "WatchManagedCertificates": managed_certificate_service_pb2.WatchManagedCertificatesRequest(
            parent=tenant, names=[managed]
        ),
        "ListEvents": event_service_pb2.ListEventsRequest(parent=tenant),
        "WatchEvents": event_service_pb2.WatchEventsRequest(parent=tenant, from_beginning=True),
        "GetCheckpoint": event_service_pb2.GetCheckpointRequest(),
        "CreateSubscription": event_service_pb2.CreateSubscriptionRequest(
            parent=tenant, subscription_id=to.subscription, subscription=SUBSCRIPTION
        ),
        "GetSubscription": event_service_pb2.GetSubscriptionRequest(name=subscription),
        "ListSubscriptions": event_service_pb2.ListSubscriptionsRequest(parent=tenant),
        "UpdateSubscription": event_service_pb2.UpdateSubscriptionRequest(
            subscription=subscription_pb2.Subscription(name=subscription, display_name="Example"),
            update_mask=FieldMask(paths=["display_name"]),
        ),
        # One that nobody has: the others are about the one that is there.
        "DeleteSubscription": event_service_pb2.DeleteSubscriptionRequest(name=f"{subscription}-over"),
        "RotateSubscriptionSecret": event_service_pb2.RotateSubscriptionSecretRequest(name=subscription),
        "TestSubscription": event_service_pb2.TestSubscriptionRequest(name=subscription),
        "ListFailedDeliveries": event_service_pb2.ListFailedDeliveriesRequest(parent=subscription),
        "RetryFailedDeliveries": event_service_pb2.RetryFailedDeliveriesRequest(name=subscription),
        "WhoAmI": access_service_pb2.WhoAmIRequest(),
        "CreateEnrollmentCode": access_service_pb2.CreateEnrollmentCodeRequest(identity=identity),
        "Enroll": access_service_pb2.EnrollRequest(code="certd-no-code", csr=CSR),
        "RenewIdentity": access_service_pb2.RenewIdentityRequest(csr=CSR),
        "GetIdentity": access_service_pb2.GetIdentityRequest(name=identity),
        "ListIdentities": access_service_pb2.ListIdentitiesRequest(parent=tenant),
        "RevokeIdentity": access_service_pb2.RevokeIdentityRequest(name=identity, validate_only=True),
        "CreateGrant": access_service_pb2.CreateGrantRequest(
            parent=tenant,
            grant_id=f"{to.grant}-more",
            # Nobody grants what they do not hold, and only administrators grant.
            grant=grant_pb2.Grant(principal=f"spiffe://{TRUST_DOMAIN}/{identity}", role=grant_pb2.ADMINISTRATOR),
            validate_only=True,
        ),
        "GetGrant": access_service_pb2.GetGrantRequest(name=grant),
        "ListGrants": access_service_pb2.ListGrantsRequest(parent=tenant),
        "DeleteGrant": access_service_pb2.DeleteGrantRequest(name=grant, validate_only=True),
        "TestPermissions": access_service_pb2.TestPermissionsRequest(
            resource=tenant, permissions=["certificate.issue"], principal=f"spiffe://{TRUST_DOMAIN}/{identity}"
        ),
        "GetServerInfo": server_service_pb2.GetServerInfoRequest(),
        "GetTrustBundle": server_service_pb2.GetTrustBundleRequest(tenant=tenant),
    }
