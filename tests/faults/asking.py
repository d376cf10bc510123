"""What the callers of the rounds ask for. The same thing has the same request id at each try."""

import hashlib
import uuid
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.duration_pb2 import Duration

from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import CreateAuthorityRequest
from certd.v1.certificate_service_pb2 import IssueCertificateRequest
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import RequestManagedCertificateRequest
from certd.v1.x509_pb2 import (
    AttributeTypeAndValue,
    DistinguishedName,
    RelativeDistinguishedName,
    SubjectAlternativeNames,
)

CA = "tenants/default/authorities/ca"


@dataclass(eq=False, slots=True)
class Ask:
    """One certificate that a caller wants."""

    request: IssueCertificateRequest
    public_key_sha256: bytes
    name: str = ""
    der: bytes = b""


def ask(dns_name: str, *, profile: str = "", own_id: bool = True) -> Ask:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(dns_name)])
    csr = (
        x509.CertificateSigningRequestBuilder(x509.Name([]))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    request = IssueCertificateRequest(
        parent=CA,
        csr=csr.public_bytes(Encoding.DER),
        profile=profile,
        request_id=str(uuid.uuid4()) if own_id else "",
    )
    public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Ask(request, hashlib.sha256(public_key).digest())


def stable_id(text: str) -> str:
    """Returns a request id that is the same for the same thing, so that a call can be repeated."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def authority_request(authority_id: str, issuer: str) -> CreateAuthorityRequest:
    name = AttributeTypeAndValue(type="CN", value=f"Fault test {authority_id}")
    return CreateAuthorityRequest(
        parent="tenants/default",
        authority_id=authority_id,
        authority=Authority(
            type=Authority.SUBORDINATE if issuer else Authority.ROOT,
            issuer=issuer,
            subject=DistinguishedName(relative_distinguished_names=[RelativeDistinguishedName(attributes=[name])]),
        ),
        request_id=stable_id(f"authority {authority_id}"),
    )


def outside_request(authority_id: str) -> CreateAuthorityRequest:
    """Returns the request for an authority beside another one, whose parent is an outside one."""
    request = authority_request(f"{authority_id}-outside", "")
    request.authority.type = Authority.SUBORDINATE
    return request


def managed_request(managed_id: str) -> RequestManagedCertificateRequest:
    return RequestManagedCertificateRequest(
        parent="tenants/default",
        managed_certificate_id=managed_id,
        managed_certificate=ManagedCertificate(
            authority=CA,
            subject_alternative_names=SubjectAlternativeNames(dns_names=[f"{managed_id}.example.internal"]),
            lifetime=Duration(seconds=86_400),
        ),
        request_id=stable_id(f"managed {managed_id}"),
    )
