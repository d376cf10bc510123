"""The generated stubs of every service on one channel, with their types."""

from typing import TYPE_CHECKING

import grpc

from certd.v1.access_service_pb2_grpc import AccessServiceStub
from certd.v1.authority_service_pb2_grpc import AuthorityServiceStub
from certd.v1.certificate_service_pb2_grpc import CertificateServiceStub
from certd.v1.event_service_pb2_grpc import EventServiceStub
from certd.v1.managed_certificate_service_pb2_grpc import ManagedCertificateServiceStub
from certd.v1.profile_service_pb2_grpc import ProfileServiceStub
from certd.v1.server_service_pb2_grpc import ServerServiceStub
from certd.v1.tenant_service_pb2_grpc import TenantServiceStub
from certd.v1.wrapping_key_service_pb2_grpc import WrappingKeyServiceStub

if TYPE_CHECKING:
    from google.protobuf.empty_pb2 import Empty

    from certd.v1.access_service_pb2 import (
        CreateEnrollmentCodeRequest,
        CreateGrantRequest,
        DeleteGrantRequest,
        EnrollmentCode,
        EnrollRequest,
        GetGrantRequest,
        GetIdentityRequest,
        ListGrantsRequest,
        ListGrantsResponse,
        ListIdentitiesRequest,
        ListIdentitiesResponse,
        RenewIdentityRequest,
        RevokeIdentityRequest,
        TestPermissionsRequest,
        TestPermissionsResponse,
        WhoAmIRequest,
        WhoAmIResponse,
    )
    from certd.v1.association_pb2 import Association
    from certd.v1.authority_pb2 import Authority
    from certd.v1.authority_service_pb2 import (
        ActivateAuthorityKeyRequest,
        ActivateAuthorityRequest,
        AdoptAuthorityRequest,
        AuthorityCsr,
        CreateAuditReportRequest,
        CreateAuditReportResponse,
        CreateAuthorityRequest,
        CreateCrossCertificateRequest,
        CreateCrossCertificateResponse,
        DeleteAuthorityRequest,
        DisableAuthorityRequest,
        EnableAuthorityRequest,
        GenerateRevocationListRequest,
        GetAuthorityCsrRequest,
        GetAuthorityRequest,
        GetRevocationListRequest,
        ImportIssuedCertificatesRequest,
        ImportIssuedCertificatesResponse,
        ListAuthoritiesRequest,
        ListAuthoritiesResponse,
        PrepareAuthorityKeyRequest,
        ReissueAuthorityCertificateRequest,
        RetireAuthorityKeyRequest,
        RevocationList,
        TaintAuthorityKeyRequest,
        UndeleteAuthorityRequest,
        UpdateAuthorityRequest,
    )
    from certd.v1.certificate_pb2 import Certificate
    from certd.v1.certificate_service_pb2 import (
        BatchIssueCertificatesRequest,
        BatchIssueCertificatesResponse,
        BatchRevokeCertificatesRequest,
        BatchRevokeCertificatesResponse,
        CancelRevocationCampaignRequest,
        CreateRevocationCampaignRequest,
        GetCertificateRequest,
        GetRevocationCampaignRequest,
        IssueCertificateRequest,
        ListCertificatesRequest,
        ListCertificatesResponse,
        ListRevocationCampaignsRequest,
        ListRevocationCampaignsResponse,
        RevokeCertificateRequest,
        SearchCertificatesRequest,
        SearchCertificatesResponse,
    )
    from certd.v1.event_service_pb2 import (
        Checkpoint,
        CreateSubscriptionRequest,
        CreateSubscriptionResponse,
        DeleteSubscriptionRequest,
        DeleteSubscriptionResponse,
        GetCheckpointRequest,
        GetSubscriptionRequest,
        ListEventsRequest,
        ListEventsResponse,
        ListFailedDeliveriesRequest,
        ListFailedDeliveriesResponse,
        ListSubscriptionsRequest,
        ListSubscriptionsResponse,
        RetryFailedDeliveriesRequest,
        RetryFailedDeliveriesResponse,
        RotateSubscriptionSecretRequest,
        RotateSubscriptionSecretResponse,
        TestSubscriptionRequest,
        TestSubscriptionResponse,
        UpdateSubscriptionRequest,
        WatchEventsRequest,
        WatchEventsResponse,
    )
    from certd.v1.grant_pb2 import Grant
    from certd.v1.identity_pb2 import Identity, IdentityCredential
    from certd.v1.managed_certificate_pb2 import ManagedCertificate
    from certd.v1.managed_certificate_service_pb2 import (
        CancelRenewalCampaignRequest,
        CreateAssociationRequest,
        CreateDownloadCodeRequest,
        CreateRenewalCampaignRequest,
        DeleteAssociationRequest,
        DeleteAssociationResponse,
        DeleteDownloadCodeRequest,
        DeleteDownloadCodeResponse,
        DeleteManagedCertificateRequest,
        DeleteManagedCertificateResponse,
        DownloadCode,
        ExportManagedCertificateRequest,
        ExportManagedCertificateResponse,
        GetAssociationRequest,
        GetImportKeyRequest,
        GetManagedCertificateRequest,
        GetRenewalCampaignRequest,
        ImportKey,
        ImportManagedCertificateRequest,
        LeaseKeyRequest,
        LeaseKeyResponse,
        ListAssociationsRequest,
        ListAssociationsResponse,
        ListDownloadCodesRequest,
        ListDownloadCodesResponse,
        ListManagedCertificatesRequest,
        ListManagedCertificatesResponse,
        ListManagedCertificateVersionsRequest,
        ListManagedCertificateVersionsResponse,
        ListRenewalCampaignsRequest,
        ListRenewalCampaignsResponse,
        RenewManagedCertificateRequest,
        ReportDeploymentRequest,
        RequestManagedCertificateRequest,
        RevokeManagedCertificateRequest,
        RollBackManagedCertificateRequest,
        SearchManagedCertificatesRequest,
        SearchManagedCertificatesResponse,
        UpdateManagedCertificateRequest,
        WatchManagedCertificatesRequest,
        WatchManagedCertificatesResponse,
    )
    from certd.v1.profile_pb2 import Profile
    from certd.v1.profile_service_pb2 import (
        CheckProfileRequest,
        CheckProfileResponse,
        CreateProfileRequest,
        DeleteProfileRequest,
        GetProfileRequest,
        ListProfilesRequest,
        ListProfilesResponse,
        UpdateProfileRequest,
    )
    from certd.v1.renewal_campaign_pb2 import RenewalCampaign
    from certd.v1.revocation_campaign_pb2 import RevocationCampaign
    from certd.v1.server_service_pb2 import GetServerInfoRequest, GetTrustBundleRequest, ServerInfo, TrustBundle
    from certd.v1.subscription_pb2 import Subscription
    from certd.v1.tenant_pb2 import Tenant
    from certd.v1.tenant_service_pb2 import (
        CreateTenantRequest,
        GetTenantRequest,
        ListTenantsRequest,
        ListTenantsResponse,
        UpdateTenantRequest,
    )
    from certd.v1.wrapping_key_pb2 import WrappingKey
    from certd.v1.wrapping_key_service_pb2 import (
        DestroyWrappingKeyRequest,
        GetWrappingKeyRequest,
        ListWrappingKeysRequest,
        ListWrappingKeysResponse,
        RotateWrappingKeyRequest,
    )


class Stubs:
    """Every method of the API on one channel, to be called through `Client.call`."""

    def __init__(self, channel: grpc.Channel) -> None:  # noqa: PLR0915  # One for each method.
        access = AccessServiceStub(channel)  # type: ignore[no-untyped-call]
        authorities = AuthorityServiceStub(channel)  # type: ignore[no-untyped-call]
        certificates = CertificateServiceStub(channel)  # type: ignore[no-untyped-call]
        events = EventServiceStub(channel)  # type: ignore[no-untyped-call]
        managed = ManagedCertificateServiceStub(channel)  # type: ignore[no-untyped-call]
        profiles = ProfileServiceStub(channel)  # type: ignore[no-untyped-call]
        server = ServerServiceStub(channel)  # type: ignore[no-untyped-call]
        tenants = TenantServiceStub(channel)  # type: ignore[no-untyped-call]
        wrapping_keys = WrappingKeyServiceStub(channel)  # type: ignore[no-untyped-call]

        self.create_authority: grpc.UnaryUnaryMultiCallable[CreateAuthorityRequest, Authority] = (
            authorities.CreateAuthority
        )
        self.get_authority: grpc.UnaryUnaryMultiCallable[GetAuthorityRequest, Authority] = authorities.GetAuthority
        self.list_authorities: grpc.UnaryUnaryMultiCallable[ListAuthoritiesRequest, ListAuthoritiesResponse] = (
            authorities.ListAuthorities
        )
        self.update_authority: grpc.UnaryUnaryMultiCallable[UpdateAuthorityRequest, Authority] = (
            authorities.UpdateAuthority
        )
        self.get_authority_csr: grpc.UnaryUnaryMultiCallable[GetAuthorityCsrRequest, AuthorityCsr] = (
            authorities.GetAuthorityCsr
        )
        self.get_revocation_list: grpc.UnaryUnaryMultiCallable[GetRevocationListRequest, RevocationList] = (
            authorities.GetRevocationList
        )
        self.generate_revocation_list: grpc.UnaryUnaryMultiCallable[GenerateRevocationListRequest, RevocationList] = (
            authorities.GenerateRevocationList
        )
        self.activate_authority: grpc.UnaryUnaryMultiCallable[ActivateAuthorityRequest, Authority] = (
            authorities.ActivateAuthority
        )
        self.enable_authority: grpc.UnaryUnaryMultiCallable[EnableAuthorityRequest, Authority] = (
            authorities.EnableAuthority
        )
        self.disable_authority: grpc.UnaryUnaryMultiCallable[DisableAuthorityRequest, Authority] = (
            authorities.DisableAuthority
        )
        self.reissue_authority_certificate: grpc.UnaryUnaryMultiCallable[
            ReissueAuthorityCertificateRequest, Authority
        ] = authorities.ReissueAuthorityCertificate
        self.delete_authority: grpc.UnaryUnaryMultiCallable[DeleteAuthorityRequest, Authority] = (
            authorities.DeleteAuthority
        )
        self.prepare_authority_key: grpc.UnaryUnaryMultiCallable[PrepareAuthorityKeyRequest, Authority] = (
            authorities.PrepareAuthorityKey
        )
        self.activate_authority_key: grpc.UnaryUnaryMultiCallable[ActivateAuthorityKeyRequest, Authority] = (
            authorities.ActivateAuthorityKey
        )
        self.taint_authority_key: grpc.UnaryUnaryMultiCallable[TaintAuthorityKeyRequest, Authority] = (
            authorities.TaintAuthorityKey
        )
        self.retire_authority_key: grpc.UnaryUnaryMultiCallable[RetireAuthorityKeyRequest, Authority] = (
            authorities.RetireAuthorityKey
        )
        self.create_cross_certificate: grpc.UnaryUnaryMultiCallable[
            CreateCrossCertificateRequest, CreateCrossCertificateResponse
        ] = authorities.CreateCrossCertificate
        self.adopt_authority: grpc.UnaryUnaryMultiCallable[AdoptAuthorityRequest, Authority] = (
            authorities.AdoptAuthority
        )
        self.import_issued_certificates: grpc.UnaryUnaryMultiCallable[
            ImportIssuedCertificatesRequest, ImportIssuedCertificatesResponse
        ] = authorities.ImportIssuedCertificates
        self.undelete_authority: grpc.UnaryUnaryMultiCallable[UndeleteAuthorityRequest, Authority] = (
            authorities.UndeleteAuthority
        )
        self.create_audit_report: grpc.UnaryStreamMultiCallable[CreateAuditReportRequest, CreateAuditReportResponse] = (
            authorities.CreateAuditReport
        )
        self.issue_certificate: grpc.UnaryUnaryMultiCallable[IssueCertificateRequest, Certificate] = (
            certificates.IssueCertificate
        )
        self.batch_issue_certificates: grpc.UnaryUnaryMultiCallable[
            BatchIssueCertificatesRequest, BatchIssueCertificatesResponse
        ] = certificates.BatchIssueCertificates
        self.get_certificate: grpc.UnaryUnaryMultiCallable[GetCertificateRequest, Certificate] = (
            certificates.GetCertificate
        )
        self.list_certificates: grpc.UnaryUnaryMultiCallable[ListCertificatesRequest, ListCertificatesResponse] = (
            certificates.ListCertificates
        )
        self.search_certificates: grpc.UnaryUnaryMultiCallable[
            SearchCertificatesRequest, SearchCertificatesResponse
        ] = certificates.SearchCertificates
        self.revoke_certificate: grpc.UnaryUnaryMultiCallable[RevokeCertificateRequest, Certificate] = (
            certificates.RevokeCertificate
        )
        self.batch_revoke_certificates: grpc.UnaryUnaryMultiCallable[
            BatchRevokeCertificatesRequest, BatchRevokeCertificatesResponse
        ] = certificates.BatchRevokeCertificates
        self.create_revocation_campaign: grpc.UnaryUnaryMultiCallable[
            CreateRevocationCampaignRequest, RevocationCampaign
        ] = certificates.CreateRevocationCampaign
        self.get_revocation_campaign: grpc.UnaryUnaryMultiCallable[GetRevocationCampaignRequest, RevocationCampaign] = (
            certificates.GetRevocationCampaign
        )
        self.list_revocation_campaigns: grpc.UnaryUnaryMultiCallable[
            ListRevocationCampaignsRequest, ListRevocationCampaignsResponse
        ] = certificates.ListRevocationCampaigns
        self.cancel_revocation_campaign: grpc.UnaryUnaryMultiCallable[
            CancelRevocationCampaignRequest, RevocationCampaign
        ] = certificates.CancelRevocationCampaign
        self.request_managed_certificate: grpc.UnaryUnaryMultiCallable[
            RequestManagedCertificateRequest, ManagedCertificate
        ] = managed.RequestManagedCertificate
        self.get_managed_certificate: grpc.UnaryUnaryMultiCallable[GetManagedCertificateRequest, ManagedCertificate] = (
            managed.GetManagedCertificate
        )
        self.list_managed_certificates: grpc.UnaryUnaryMultiCallable[
            ListManagedCertificatesRequest, ListManagedCertificatesResponse
        ] = managed.ListManagedCertificates
        self.search_managed_certificates: grpc.UnaryUnaryMultiCallable[
            SearchManagedCertificatesRequest, SearchManagedCertificatesResponse
        ] = managed.SearchManagedCertificates
        self.export_managed_certificate: grpc.UnaryUnaryMultiCallable[
            ExportManagedCertificateRequest, ExportManagedCertificateResponse
        ] = managed.ExportManagedCertificate
        self.get_import_key: grpc.UnaryUnaryMultiCallable[GetImportKeyRequest, ImportKey] = managed.GetImportKey
        self.import_managed_certificate: grpc.UnaryUnaryMultiCallable[
            ImportManagedCertificateRequest, ManagedCertificate
        ] = managed.ImportManagedCertificate
        self.roll_back_managed_certificate: grpc.UnaryUnaryMultiCallable[
            RollBackManagedCertificateRequest, ManagedCertificate
        ] = managed.RollBackManagedCertificate
        self.update_managed_certificate: grpc.UnaryUnaryMultiCallable[
            UpdateManagedCertificateRequest, ManagedCertificate
        ] = managed.UpdateManagedCertificate
        self.renew_managed_certificate: grpc.UnaryUnaryMultiCallable[
            RenewManagedCertificateRequest, ManagedCertificate
        ] = managed.RenewManagedCertificate
        self.revoke_managed_certificate: grpc.UnaryUnaryMultiCallable[
            RevokeManagedCertificateRequest, ManagedCertificate
        ] = managed.RevokeManagedCertificate
        self.delete_managed_certificate: grpc.UnaryUnaryMultiCallable[
            DeleteManagedCertificateRequest, DeleteManagedCertificateResponse
        ] = managed.DeleteManagedCertificate
        self.list_managed_certificate_versions: grpc.UnaryUnaryMultiCallable[
            ListManagedCertificateVersionsRequest, ListManagedCertificateVersionsResponse
        ] = managed.ListManagedCertificateVersions
        self.create_association: grpc.UnaryUnaryMultiCallable[CreateAssociationRequest, Association] = (
            managed.CreateAssociation
        )
        self.get_association: grpc.UnaryUnaryMultiCallable[GetAssociationRequest, Association] = managed.GetAssociation
        self.list_associations: grpc.UnaryUnaryMultiCallable[ListAssociationsRequest, ListAssociationsResponse] = (
            managed.ListAssociations
        )
        self.delete_association: grpc.UnaryUnaryMultiCallable[DeleteAssociationRequest, DeleteAssociationResponse] = (
            managed.DeleteAssociation
        )
        self.lease_key: grpc.UnaryUnaryMultiCallable[LeaseKeyRequest, LeaseKeyResponse] = managed.LeaseKey
        self.report_deployment: grpc.UnaryUnaryMultiCallable[ReportDeploymentRequest, Association] = (
            managed.ReportDeployment
        )
        self.create_renewal_campaign: grpc.UnaryUnaryMultiCallable[CreateRenewalCampaignRequest, RenewalCampaign] = (
            managed.CreateRenewalCampaign
        )
        self.get_renewal_campaign: grpc.UnaryUnaryMultiCallable[GetRenewalCampaignRequest, RenewalCampaign] = (
            managed.GetRenewalCampaign
        )
        self.list_renewal_campaigns: grpc.UnaryUnaryMultiCallable[
            ListRenewalCampaignsRequest, ListRenewalCampaignsResponse
        ] = managed.ListRenewalCampaigns
        self.cancel_renewal_campaign: grpc.UnaryUnaryMultiCallable[CancelRenewalCampaignRequest, RenewalCampaign] = (
            managed.CancelRenewalCampaign
        )
        self.watch_managed_certificates: grpc.UnaryStreamMultiCallable[
            WatchManagedCertificatesRequest, WatchManagedCertificatesResponse
        ] = managed.WatchManagedCertificates
        self.create_download_code: grpc.UnaryUnaryMultiCallable[CreateDownloadCodeRequest, DownloadCode] = (
            managed.CreateDownloadCode
        )
        self.list_download_codes: grpc.UnaryUnaryMultiCallable[ListDownloadCodesRequest, ListDownloadCodesResponse] = (
            managed.ListDownloadCodes
        )
        self.delete_download_code: grpc.UnaryUnaryMultiCallable[
            DeleteDownloadCodeRequest, DeleteDownloadCodeResponse
        ] = managed.DeleteDownloadCode
        self.list_events: grpc.UnaryUnaryMultiCallable[ListEventsRequest, ListEventsResponse] = events.ListEvents
        self.watch_events: grpc.UnaryStreamMultiCallable[WatchEventsRequest, WatchEventsResponse] = events.WatchEvents
        self.get_checkpoint: grpc.UnaryUnaryMultiCallable[GetCheckpointRequest, Checkpoint] = events.GetCheckpoint
        self.create_subscription: grpc.UnaryUnaryMultiCallable[
            CreateSubscriptionRequest, CreateSubscriptionResponse
        ] = events.CreateSubscription
        self.get_subscription: grpc.UnaryUnaryMultiCallable[GetSubscriptionRequest, Subscription] = (
            events.GetSubscription
        )
        self.list_subscriptions: grpc.UnaryUnaryMultiCallable[ListSubscriptionsRequest, ListSubscriptionsResponse] = (
            events.ListSubscriptions
        )
        self.update_subscription: grpc.UnaryUnaryMultiCallable[UpdateSubscriptionRequest, Subscription] = (
            events.UpdateSubscription
        )
        self.delete_subscription: grpc.UnaryUnaryMultiCallable[
            DeleteSubscriptionRequest, DeleteSubscriptionResponse
        ] = events.DeleteSubscription
        self.rotate_subscription_secret: grpc.UnaryUnaryMultiCallable[
            RotateSubscriptionSecretRequest, RotateSubscriptionSecretResponse
        ] = events.RotateSubscriptionSecret
        self.test_subscription: grpc.UnaryUnaryMultiCallable[TestSubscriptionRequest, TestSubscriptionResponse] = (
            events.TestSubscription
        )
        self.list_failed_deliveries: grpc.UnaryUnaryMultiCallable[
            ListFailedDeliveriesRequest, ListFailedDeliveriesResponse
        ] = events.ListFailedDeliveries
        self.retry_failed_deliveries: grpc.UnaryUnaryMultiCallable[
            RetryFailedDeliveriesRequest, RetryFailedDeliveriesResponse
        ] = events.RetryFailedDeliveries
        self.create_profile: grpc.UnaryUnaryMultiCallable[CreateProfileRequest, Profile] = profiles.CreateProfile
        self.get_profile: grpc.UnaryUnaryMultiCallable[GetProfileRequest, Profile] = profiles.GetProfile
        self.list_profiles: grpc.UnaryUnaryMultiCallable[ListProfilesRequest, ListProfilesResponse] = (
            profiles.ListProfiles
        )
        self.update_profile: grpc.UnaryUnaryMultiCallable[UpdateProfileRequest, Profile] = profiles.UpdateProfile
        self.delete_profile: grpc.UnaryUnaryMultiCallable[DeleteProfileRequest, Empty] = profiles.DeleteProfile
        self.check_profile: grpc.UnaryUnaryMultiCallable[CheckProfileRequest, CheckProfileResponse] = (
            profiles.CheckProfile
        )
        self.create_enrollment_code: grpc.UnaryUnaryMultiCallable[CreateEnrollmentCodeRequest, EnrollmentCode] = (
            access.CreateEnrollmentCode
        )
        self.enroll: grpc.UnaryUnaryMultiCallable[EnrollRequest, IdentityCredential] = access.Enroll
        self.who_am_i: grpc.UnaryUnaryMultiCallable[WhoAmIRequest, WhoAmIResponse] = access.WhoAmI
        self.create_grant: grpc.UnaryUnaryMultiCallable[CreateGrantRequest, Grant] = access.CreateGrant
        self.get_grant: grpc.UnaryUnaryMultiCallable[GetGrantRequest, Grant] = access.GetGrant
        self.list_grants: grpc.UnaryUnaryMultiCallable[ListGrantsRequest, ListGrantsResponse] = access.ListGrants
        self.delete_grant: grpc.UnaryUnaryMultiCallable[DeleteGrantRequest, Empty] = access.DeleteGrant
        self.test_permissions: grpc.UnaryUnaryMultiCallable[TestPermissionsRequest, TestPermissionsResponse] = (
            access.TestPermissions
        )
        self.renew_identity: grpc.UnaryUnaryMultiCallable[RenewIdentityRequest, IdentityCredential] = (
            access.RenewIdentity
        )
        self.get_identity: grpc.UnaryUnaryMultiCallable[GetIdentityRequest, Identity] = access.GetIdentity
        self.list_identities: grpc.UnaryUnaryMultiCallable[ListIdentitiesRequest, ListIdentitiesResponse] = (
            access.ListIdentities
        )
        self.revoke_identity: grpc.UnaryUnaryMultiCallable[RevokeIdentityRequest, Identity] = access.RevokeIdentity
        self.create_tenant: grpc.UnaryUnaryMultiCallable[CreateTenantRequest, Tenant] = tenants.CreateTenant
        self.get_tenant: grpc.UnaryUnaryMultiCallable[GetTenantRequest, Tenant] = tenants.GetTenant
        self.list_tenants: grpc.UnaryUnaryMultiCallable[ListTenantsRequest, ListTenantsResponse] = tenants.ListTenants
        self.update_tenant: grpc.UnaryUnaryMultiCallable[UpdateTenantRequest, Tenant] = tenants.UpdateTenant
        self.list_wrapping_keys: grpc.UnaryUnaryMultiCallable[ListWrappingKeysRequest, ListWrappingKeysResponse] = (
            wrapping_keys.ListWrappingKeys
        )
        self.get_wrapping_key: grpc.UnaryUnaryMultiCallable[GetWrappingKeyRequest, WrappingKey] = (
            wrapping_keys.GetWrappingKey
        )
        self.rotate_wrapping_key: grpc.UnaryUnaryMultiCallable[RotateWrappingKeyRequest, WrappingKey] = (
            wrapping_keys.RotateWrappingKey
        )
        self.destroy_wrapping_key: grpc.UnaryUnaryMultiCallable[DestroyWrappingKeyRequest, WrappingKey] = (
            wrapping_keys.DestroyWrappingKey
        )
        self.get_server_info: grpc.UnaryUnaryMultiCallable[GetServerInfoRequest, ServerInfo] = server.GetServerInfo
        self.get_trust_bundle: grpc.UnaryUnaryMultiCallable[GetTrustBundleRequest, TrustBundle] = server.GetTrustBundle
