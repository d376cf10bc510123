"""Requests with every field that is needed, which a test bends, and ways to make the calls."""

from datetime import datetime
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from certd.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    authority_pb2,
    authority_service_pb2,
    authority_service_pb2_grpc,
    certificate_service_pb2,
    certificate_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    managed_certificate_pb2,
    managed_certificate_service_pb2,
    managed_certificate_service_pb2_grpc,
    profile_service_pb2,
    profile_service_pb2_grpc,
    server_service_pb2,
    server_service_pb2_grpc,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
    wrapping_key_service_pb2,
    wrapping_key_service_pb2_grpc,
    x509_pb2,
)
from tests.api.edge_credentials import Identity
from tests.api.edge_failure import Failure, failure_of
from tests.api.edge_server import Edge

AUTHORITY_NAME = "tenants/default/authorities/web-ca"
MANAGED_NAME = "tenants/default/managedCertificates/web"
PROFILE_NAME = "tenants/default/profiles/end-entity"
REQUEST_ID = "1F6E5B0A-6f0e-4d3b-9f55-2f0c6f1f8a11"

_SERVICES: dict[str, tuple[Any, Any]] = {
    "AccessService": (access_service_pb2, access_service_pb2_grpc),
    "AuthorityService": (authority_service_pb2, authority_service_pb2_grpc),
    "CertificateService": (certificate_service_pb2, certificate_service_pb2_grpc),
    "EventService": (event_service_pb2, event_service_pb2_grpc),
    "ManagedCertificateService": (managed_certificate_service_pb2, managed_certificate_service_pb2_grpc),
    "ProfileService": (profile_service_pb2, profile_service_pb2_grpc),
    "ServerService": (server_service_pb2, server_service_pb2_grpc),
    "TenantService": (tenant_service_pb2, tenant_service_pb2_grpc),
    "WrappingKeyService": (wrapping_key_service_pb2, wrapping_key_service_pb2_grpc),
}


def call(edge: Edge, request: Message) -> Any:
    """Calls the method that takes this request."""
    method = type(request).__name__.removesuffix("Request")
    for service, (messages, stubs) in _SERVICES.items():
        if method in messages.DESCRIPTOR.services_by_name[service].methods_by_name:
            return getattr(edge.stub(getattr(stubs, f"{service}Stub")), method)(request, timeout=20)
    raise LookupError(method)


def refused(edge: Edge, request: Message) -> Failure:
    with pytest.raises(grpc.RpcError) as raised:
        call(edge, request)
    assert edge.told.calls == [], "the service was reached"
    return failure_of(raised.value)


def encoded(identity: Identity) -> x509_pb2.EncodedCertificate:
    return x509_pb2.EncodedCertificate(der=identity.der, pem=identity.pem.decode())


def distinguished_name_of(*attributes: tuple[str, str]) -> x509_pb2.DistinguishedName:
    return x509_pb2.DistinguishedName(
        relative_distinguished_names=[
            x509_pb2.RelativeDistinguishedName(attributes=[x509_pb2.AttributeTypeAndValue(type=type_, value=value)])
            for type_, value in attributes
        ]
    )


def moment_of(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def create_authority(**changes: Any) -> authority_service_pb2.CreateAuthorityRequest:
    authority: dict[str, Any] = {
        "type": authority_pb2.Authority.SUBORDINATE,
        "subject": distinguished_name_of(("CN", "Issuing"), ("1.3.6.1.4.1.55555.1", "x")),
        "issuer": "tenants/default/authorities/web-root",
    }
    authority.update(
        {name: value for name, value in changes.items() if name in authority_pb2.Authority.DESCRIPTOR.fields_by_name}
    )
    request: dict[str, Any] = {"parent": "tenants/default", "authority_id": "web-ca", "request_id": REQUEST_ID}
    request.update({name: value for name, value in changes.items() if name not in authority})
    return authority_service_pb2.CreateAuthorityRequest(authority=authority_pb2.Authority(**authority), **request)


def issue(**changes: Any) -> certificate_service_pb2.IssueCertificateRequest:
    return certificate_service_pb2.IssueCertificateRequest(**{"parent": AUTHORITY_NAME, "csr": b"csr", **changes})


def request_managed(**changes: Any) -> managed_certificate_service_pb2.RequestManagedCertificateRequest:
    fields_of_it = managed_certificate_pb2.ManagedCertificate.DESCRIPTOR.fields_by_name
    managed: dict[str, Any] = {
        "authority": AUTHORITY_NAME,
        "subject_alternative_names": x509_pb2.SubjectAlternativeNames(dns_names=["WWW.example.internal"]),
    }
    managed.update({name: value for name, value in changes.items() if name in fields_of_it})
    request: dict[str, Any] = {"parent": "tenants/default", "managed_certificate_id": "web"}
    request.update({name: value for name, value in changes.items() if name not in fields_of_it})
    return managed_certificate_service_pb2.RequestManagedCertificateRequest(
        managed_certificate=managed_certificate_pb2.ManagedCertificate(**managed), **request
    )


def export(**changes: Any) -> managed_certificate_service_pb2.ExportManagedCertificateRequest:
    protection = managed_certificate_service_pb2.PassphraseProtection(passphrase=b"correct horse")
    return managed_certificate_service_pb2.ExportManagedCertificateRequest(
        **{"name": MANAGED_NAME, "passphrase": protection, **changes}
    )
