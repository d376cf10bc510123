"""Leases: the consumer signs for a key with its identity's, and gets it encrypted to a key that exists for one call."""

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from certd.client.connection import Client
from certd.client.credentials import Credentials
from certd.client.export import ANSWER_INCONSISTENT
from certd.client.failure import CallFailed
from certd.client.messages import timestamp
from certd.errors import CertdError, Reason
from certd.pki.lease import lease_statement, sign_lease
from certd.pki.sealing import hpke_decrypt
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_service_pb2 import LeaseKeyRequest, LeaseKeyResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A lease that was opened and checked."""

    response: LeaseKeyResponse
    """The answer as it came."""
    private_key_info: bytes
    """DER of the PKCS#8 PrivateKeyInfo: the private key itself. Never printed by `repr`."""

    def __repr__(self) -> str:
        return f"Leased(version={self.response.version})"


def lease(client: Client, association: Association, version: int, credentials: Credentials) -> Leased:
    """Leases a version of what the caller is associated with, opens the answer, and checks that it is the right one.

    Args:
        client: the connection.
        association: of the caller, as the server has it.
        version: number of the version; 0 for the current one.
        credentials: of the identity that calls: its key signs.

    Raises CallFailed: the server's, or ANSWER_INCONSISTENT when what came is not what was signed for, or the private
    key does not belong to the certificate. CertdError: STATE_FORBIDS while there is no version to lease,
    CREDENTIAL_INVALID for an association of another consumer.
    """
    certificate = x509.load_pem_x509_certificates(credentials.certificate_chain)[0]
    consumer = _spiffe_id(certificate)
    if consumer != association.consumer_spiffe_id:
        raise CertdError(
            Reason.CREDENTIAL_INVALID,
            f"{association.name} is of {association.consumer_spiffe_id}, and the certificate of {consumer or 'nobody'};"
            " lease with the credentials of the consumer",
            resource=association.name,
        )
    version = version or association.current_version
    if version < 1:
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{association.name} has no version to lease yet; wait until the managed certificate is ACTIVE",
            resource=association.name,
        )
    one_time_key = X25519PrivateKey.generate()
    public_key, sign_time = one_time_key.public_key().public_bytes_raw(), datetime.now(UTC)
    statement = lease_statement(
        tenant=association.tenant_uid,
        certificate=association.managed_certificate_uid,
        version=version,
        consumer=consumer,
        public_key=public_key,
        sign_time=sign_time,
    )
    response = client.call(
        client.stubs.lease_key,
        LeaseKeyRequest(
            name=association.name,
            version=version,
            public_key=public_key,
            sign_time=timestamp(sign_time),
            certificate=certificate.public_bytes(Encoding.DER),
            signature=sign_lease(load_pem_private_key(credentials.private_key, password=None), statement),
        ),
    )
    if response.version != version:
        raise _inconsistent(association.name, f"version {response.version} came instead of {version}")
    try:
        private_key_info = hpke_decrypt(response.sealed_private_key, private_key=one_time_key, info=statement)
    except CertdError as error:
        raise _inconsistent(association.name, "the private key was encrypted for something else") from error
    _check_pair(association.name, response.certificate.der, private_key_info)
    return Leased(response=response, private_key_info=private_key_info)


def _spiffe_id(certificate: x509.Certificate) -> str:
    """Returns the one URI that an identity's certificate has; empty when it is none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if len(uris) == 1 else ""


def _check_pair(name: str, certificate: bytes, private_key_info: bytes) -> None:
    try:
        certified = x509.load_der_x509_certificate(certificate).public_key()
        own = load_der_private_key(private_key_info, password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _inconsistent(name, "certificate or private key cannot be read") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certified.public_bytes(*form) != own.public_bytes(*form):
        raise _inconsistent(name, "the private key does not belong to the certificate")


def _inconsistent(name: str, what: str) -> CallFailed:
    return CallFailed(
        ANSWER_INCONSISTENT,
        f"the lease of {name} is refused: {what}. Nothing was written; tell the operator of the server",
        code="DATA_LOSS",
        resource=name,
    )
