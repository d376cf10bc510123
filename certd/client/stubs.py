"""The generated stubs of every service on one channel, with their types."""

from typing import TYPE_CHECKING

import grpc

from certd.v1.authority_service_pb2_grpc import AuthorityServiceStub
from certd.v1.certificate_service_pb2_grpc import CertificateServiceStub
from certd.v1.managed_certificate_service_pb2_grpc import ManagedCertificateServiceStub
from certd.v1.server_service_pb2_grpc import ServerServiceStub

if TYPE_CHECKING:
    from certd.v1.authority_pb2 import Authority
    from certd.v1.authority_service_pb2 import (
        CreateAuthorityRequest,
        GetAuthorityRequest,
        ListAuthoritiesRequest,
        ListAuthoritiesResponse,
    )
    from certd.v1.certificate_pb2 import Certificate
    from certd.v1.certificate_service_pb2 import (
        GetCertificateRequest,
        IssueCertificateRequest,
        ListCertificatesRequest,
        ListCertificatesResponse,
    )
    from certd.v1.managed_certificate_pb2 import ManagedCertificate
    from certd.v1.managed_certificate_service_pb2 import (
        ExportManagedCertificateRequest,
        ExportManagedCertificateResponse,
        GetManagedCertificateRequest,
        ListManagedCertificatesRequest,
        ListManagedCertificatesResponse,
        RequestManagedCertificateRequest,
    )
    from certd.v1.server_service_pb2 import GetServerInfoRequest, GetTrustBundleRequest, ServerInfo, TrustBundle


class Stubs:
    """Every method of the API on one channel, to be called through `Client.call`."""

    def __init__(self, channel: grpc.Channel) -> None:
        authorities = AuthorityServiceStub(channel)  # type: ignore[no-untyped-call]
        certificates = CertificateServiceStub(channel)  # type: ignore[no-untyped-call]
        managed = ManagedCertificateServiceStub(channel)  # type: ignore[no-untyped-call]
        server = ServerServiceStub(channel)  # type: ignore[no-untyped-call]

        self.create_authority: grpc.UnaryUnaryMultiCallable[CreateAuthorityRequest, Authority] = (
            authorities.CreateAuthority
        )
        self.get_authority: grpc.UnaryUnaryMultiCallable[GetAuthorityRequest, Authority] = authorities.GetAuthority
        self.list_authorities: grpc.UnaryUnaryMultiCallable[ListAuthoritiesRequest, ListAuthoritiesResponse] = (
            authorities.ListAuthorities
        )
        self.issue_certificate: grpc.UnaryUnaryMultiCallable[IssueCertificateRequest, Certificate] = (
            certificates.IssueCertificate
        )
        self.get_certificate: grpc.UnaryUnaryMultiCallable[GetCertificateRequest, Certificate] = (
            certificates.GetCertificate
        )
        self.list_certificates: grpc.UnaryUnaryMultiCallable[ListCertificatesRequest, ListCertificatesResponse] = (
            certificates.ListCertificates
        )
        self.request_managed_certificate: grpc.UnaryUnaryMultiCallable[
            RequestManagedCertificateRequest, ManagedCertificate
        ] = managed.RequestManagedCertificate
        self.get_managed_certificate: grpc.UnaryUnaryMultiCallable[GetManagedCertificateRequest, ManagedCertificate] = (
            managed.GetManagedCertificate
        )
        self.list_managed_certificates: grpc.UnaryUnaryMultiCallable[
            ListManagedCertificatesRequest, ListManagedCertificatesResponse
        ] = managed.ListManagedCertificates
        self.export_managed_certificate: grpc.UnaryUnaryMultiCallable[
            ExportManagedCertificateRequest, ExportManagedCertificateResponse
        ] = managed.ExportManagedCertificate
        self.get_server_info: grpc.UnaryUnaryMultiCallable[GetServerInfoRequest, ServerInfo] = server.GetServerInfo
        self.get_trust_bundle: grpc.UnaryUnaryMultiCallable[GetTrustBundleRequest, TrustBundle] = server.GetTrustBundle
