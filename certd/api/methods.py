"""The table of methods: what each one needs. A method that is not here is refused.

The interceptor admits by this table. Whether a grant of the caller holds the permission on the resource, the services
ask (`Access.require`), because only they know the resource.
"""

import enum
from collections.abc import Mapping
from typing import Final

from certd.model.access import Permission


class Admission(enum.Enum):
    """Methods that need no permission."""

    PUBLIC = "public"
    """Anybody who can connect."""
    AUTHENTICATED = "authenticated"
    """Every known caller."""


METHODS: Final[Mapping[str, Permission | Admission]] = {
    "/certd.v1.AuthorityService/CreateAuthority": Permission.AUTHORITY_CREATE,
    "/certd.v1.AuthorityService/GetAuthority": Permission.AUTHORITY_READ,
    "/certd.v1.AuthorityService/ListAuthorities": Permission.AUTHORITY_READ,
    "/certd.v1.AuthorityService/UpdateAuthority": Permission.AUTHORITY_UPDATE,
    "/certd.v1.AuthorityService/GetAuthorityCsr": Permission.AUTHORITY_ACTIVATE,
    "/certd.v1.AuthorityService/ActivateAuthority": Permission.AUTHORITY_ACTIVATE,
    "/certd.v1.AuthorityService/EnableAuthority": Permission.AUTHORITY_ENABLE,
    "/certd.v1.AuthorityService/DisableAuthority": Permission.AUTHORITY_ENABLE,
    "/certd.v1.AuthorityService/ReissueAuthorityCertificate": Permission.AUTHORITY_REISSUE,
    "/certd.v1.AuthorityService/DeleteAuthority": Permission.AUTHORITY_DELETE,
    "/certd.v1.AuthorityService/UndeleteAuthority": Permission.AUTHORITY_DELETE,
    "/certd.v1.AuthorityService/PrepareAuthorityKey": Permission.AUTHORITY_ROTATE,
    "/certd.v1.AuthorityService/ActivateAuthorityKey": Permission.AUTHORITY_ROTATE,
    "/certd.v1.AuthorityService/TaintAuthorityKey": Permission.AUTHORITY_ROTATE,
    "/certd.v1.AuthorityService/RetireAuthorityKey": Permission.AUTHORITY_ROTATE,
    "/certd.v1.AuthorityService/CreateCrossCertificate": Permission.AUTHORITY_CROSS_CERTIFY,
    "/certd.v1.AuthorityService/AdoptAuthority": Permission.AUTHORITY_ADOPT,
    "/certd.v1.AuthorityService/ImportIssuedCertificates": Permission.CERTIFICATE_IMPORT,
    "/certd.v1.AuthorityService/GetRevocationList": Permission.AUTHORITY_READ,
    "/certd.v1.AuthorityService/GenerateRevocationList": Permission.AUTHORITY_PUBLISH,
    "/certd.v1.AuthorityService/CreateAuditReport": Permission.AUTHORITY_AUDIT,
    "/certd.v1.ProfileService/CreateProfile": Permission.PROFILE_WRITE,
    "/certd.v1.ProfileService/GetProfile": Permission.PROFILE_READ,
    "/certd.v1.ProfileService/ListProfiles": Permission.PROFILE_READ,
    "/certd.v1.ProfileService/UpdateProfile": Permission.PROFILE_WRITE,
    "/certd.v1.ProfileService/DeleteProfile": Permission.PROFILE_WRITE,
    "/certd.v1.ProfileService/CheckProfile": Permission.PROFILE_READ,
    "/certd.v1.CertificateService/IssueCertificate": Permission.CERTIFICATE_ISSUE,
    "/certd.v1.CertificateService/BatchIssueCertificates": Permission.CERTIFICATE_ISSUE,
    "/certd.v1.CertificateService/SearchCertificates": Permission.CERTIFICATE_READ,
    "/certd.v1.CertificateService/RevokeCertificate": Permission.CERTIFICATE_REVOKE,
    "/certd.v1.CertificateService/BatchRevokeCertificates": Permission.CERTIFICATE_REVOKE,
    "/certd.v1.CertificateService/CreateRevocationCampaign": Permission.CERTIFICATE_REVOKE,
    "/certd.v1.CertificateService/GetRevocationCampaign": Permission.CERTIFICATE_READ,
    "/certd.v1.CertificateService/ListRevocationCampaigns": Permission.CERTIFICATE_READ,
    "/certd.v1.CertificateService/CancelRevocationCampaign": Permission.CERTIFICATE_REVOKE,
    "/certd.v1.CertificateService/GetCertificate": Permission.CERTIFICATE_READ,
    "/certd.v1.CertificateService/ListCertificates": Permission.CERTIFICATE_READ,
    "/certd.v1.ManagedCertificateService/RequestManagedCertificate": Permission.MANAGED_CERTIFICATE_REQUEST,
    "/certd.v1.ManagedCertificateService/GetManagedCertificate": Permission.MANAGED_CERTIFICATE_READ,
    "/certd.v1.ManagedCertificateService/ListManagedCertificates": Permission.MANAGED_CERTIFICATE_READ,
    "/certd.v1.ManagedCertificateService/ExportManagedCertificate": Permission.MANAGED_CERTIFICATE_EXPORT,
    "/certd.v1.ManagedCertificateService/SearchManagedCertificates": Permission.MANAGED_CERTIFICATE_READ,
    "/certd.v1.ManagedCertificateService/ImportManagedCertificate": Permission.MANAGED_CERTIFICATE_IMPORT,
    "/certd.v1.ManagedCertificateService/GetImportKey": Permission.MANAGED_CERTIFICATE_IMPORT,
    "/certd.v1.ManagedCertificateService/UpdateManagedCertificate": Permission.MANAGED_CERTIFICATE_UPDATE,
    "/certd.v1.ManagedCertificateService/RenewManagedCertificate": Permission.MANAGED_CERTIFICATE_RENEW,
    "/certd.v1.ManagedCertificateService/RollBackManagedCertificate": Permission.MANAGED_CERTIFICATE_IMPORT,
    "/certd.v1.ManagedCertificateService/RevokeManagedCertificate": Permission.MANAGED_CERTIFICATE_REVOKE,
    "/certd.v1.ManagedCertificateService/DeleteManagedCertificate": Permission.MANAGED_CERTIFICATE_DELETE,
    "/certd.v1.ManagedCertificateService/ListManagedCertificateVersions": Permission.MANAGED_CERTIFICATE_READ,
    "/certd.v1.ManagedCertificateService/CreateAssociation": Permission.ASSOCIATION_CREATE,
    # The consumer itself may ask too.
    "/certd.v1.ManagedCertificateService/GetAssociation": Permission.ASSOCIATION_READ,
    "/certd.v1.ManagedCertificateService/ListAssociations": Permission.ASSOCIATION_READ,
    "/certd.v1.ManagedCertificateService/DeleteAssociation": Permission.ASSOCIATION_DELETE,
    "/certd.v1.ManagedCertificateService/LeaseKey": Permission.KEY_LEASE,
    "/certd.v1.ManagedCertificateService/ReportDeployment": Permission.KEY_LEASE,
    "/certd.v1.ManagedCertificateService/CreateRenewalCampaign": Permission.RENEWAL_CAMPAIGN_CREATE,
    "/certd.v1.ManagedCertificateService/GetRenewalCampaign": Permission.RENEWAL_CAMPAIGN_READ,
    "/certd.v1.ManagedCertificateService/ListRenewalCampaigns": Permission.RENEWAL_CAMPAIGN_READ,
    "/certd.v1.ManagedCertificateService/CancelRenewalCampaign": Permission.RENEWAL_CAMPAIGN_CREATE,
    # A consumer asks for what it may lease.
    "/certd.v1.ManagedCertificateService/WatchManagedCertificates": Permission.MANAGED_CERTIFICATE_READ,
    "/certd.v1.ManagedCertificateService/CreateDownloadCode": Permission.MANAGED_CERTIFICATE_EXPORT,
    "/certd.v1.ManagedCertificateService/ListDownloadCodes": Permission.MANAGED_CERTIFICATE_READ,
    "/certd.v1.ManagedCertificateService/DeleteDownloadCode": Permission.MANAGED_CERTIFICATE_EXPORT,
    "/certd.v1.EventService/ListEvents": Permission.EVENT_READ,
    "/certd.v1.EventService/WatchEvents": Permission.EVENT_READ,
    "/certd.v1.EventService/GetCheckpoint": Permission.EVENT_READ,
    # Making, changing and testing one needs the permission to read events as well.
    "/certd.v1.EventService/CreateSubscription": Permission.SUBSCRIPTION_WRITE,
    "/certd.v1.EventService/GetSubscription": Permission.SUBSCRIPTION_READ,
    "/certd.v1.EventService/ListSubscriptions": Permission.SUBSCRIPTION_READ,
    "/certd.v1.EventService/UpdateSubscription": Permission.SUBSCRIPTION_WRITE,
    "/certd.v1.EventService/DeleteSubscription": Permission.SUBSCRIPTION_WRITE,
    "/certd.v1.EventService/RotateSubscriptionSecret": Permission.SUBSCRIPTION_WRITE,
    "/certd.v1.EventService/TestSubscription": Permission.SUBSCRIPTION_WRITE,
    "/certd.v1.EventService/ListFailedDeliveries": Permission.SUBSCRIPTION_READ,
    "/certd.v1.EventService/RetryFailedDeliveries": Permission.SUBSCRIPTION_WRITE,
    "/certd.v1.WrappingKeyService/ListWrappingKeys": Permission.WRAPPING_KEY_READ,
    "/certd.v1.WrappingKeyService/GetWrappingKey": Permission.WRAPPING_KEY_READ,
    "/certd.v1.WrappingKeyService/RotateWrappingKey": Permission.WRAPPING_KEY_ROTATE,
    "/certd.v1.WrappingKeyService/DestroyWrappingKey": Permission.WRAPPING_KEY_DESTROY,
    "/certd.v1.TenantService/CreateTenant": Permission.TENANT_CREATE,
    "/certd.v1.TenantService/GetTenant": Permission.TENANT_READ,
    # Every caller may ask, and sees what they may read.
    "/certd.v1.TenantService/ListTenants": Permission.TENANT_READ,
    "/certd.v1.TenantService/UpdateTenant": Permission.TENANT_UPDATE,
    "/certd.v1.AccessService/WhoAmI": Admission.AUTHENTICATED,
    "/certd.v1.AccessService/CreateEnrollmentCode": Permission.IDENTITY_ENROLL,
    # Answered on the enrollment port (`enrollment_server.METHODS`), where a code stands for a certificate.
    "/certd.v1.AccessService/Enroll": Admission.AUTHENTICATED,
    # One's own.
    "/certd.v1.AccessService/RenewIdentity": Admission.AUTHENTICATED,
    "/certd.v1.AccessService/GetIdentity": Permission.IDENTITY_READ,
    "/certd.v1.AccessService/ListIdentities": Permission.IDENTITY_READ,
    "/certd.v1.AccessService/RevokeIdentity": Permission.IDENTITY_REVOKE,
    "/certd.v1.AccessService/CreateGrant": Permission.GRANT_CREATE,
    "/certd.v1.AccessService/GetGrant": Permission.GRANT_READ,
    "/certd.v1.AccessService/ListGrants": Permission.GRANT_READ,
    "/certd.v1.AccessService/DeleteGrant": Permission.GRANT_DELETE,
    # One's own; for another's the service asks for more.
    "/certd.v1.AccessService/TestPermissions": Admission.AUTHENTICATED,
    "/certd.v1.ServerService/GetServerInfo": Permission.SERVER_READ,
    # Every caller may have the system root; for the roots of a tenant the service asks for more.
    "/certd.v1.ServerService/GetTrustBundle": Admission.AUTHENTICATED,
    "/grpc.health.v1.Health/Check": Admission.PUBLIC,
    "/grpc.health.v1.Health/List": Admission.PUBLIC,
    "/grpc.health.v1.Health/Watch": Admission.PUBLIC,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Admission.AUTHENTICATED,
}
"""What each method needs, by its full name."""
