"""Imports whose private key is sealed here: it travels encrypted to a key that only the token process opens.

It is sealed for the certificate that it comes with and for one export policy, which nobody on its way can change.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from certd.client.connection import Client
from certd.client.export import ANSWER_INCONSISTENT
from certd.client.failure import CallFailed
from certd.client.messages import moment
from certd.errors import CertdError, field_invalid
from certd.pki.certificate_chain import parse
from certd.pki.encoding import parse_certificates
from certd.pki.import_key import seal_private_key, verify_import_key
from certd.pki.key_spec import SignatureAlgorithm, public_key_der
from certd.v1 import x509_pb2
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    GetImportKeyRequest,
    GetManagedCertificateRequest,
    ImportKey,
    ImportManagedCertificateRequest,
    SealedPrivateKey,
)


def import_sealed(
    client: Client,
    request: ImportManagedCertificateRequest,
    private_key: bytes,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> ManagedCertificate:
    """Imports with a private key that is sealed to the tenant's import key, after that was checked.

    Args:
        client: the connection; the roots that it trusts are those that must vouch for the import key.
        request: without a private key. Where it says nothing of export, a new version gets the policy of the ones
            before, and a new one is not exportable.
        private_key: not encrypted, in any encoding that the API takes.
        now: the time of this machine.

    Raises:
        CallFailed: the server's, or ANSWER_INCONSISTENT when the import key is not one that the server's token process
            made for this tenant, or what there is has no export policy; then nothing was sent.
        CertdError: FIELD_INVALID and IMPORT_NOT_PEM for what is no certificate.
    """
    public_key = _public_key(request.certificate)
    sealed = ImportManagedCertificateRequest()
    sealed.CopyFrom(request)
    # Said, so that the server answers for what the key was sealed for.
    sealed.export_policy = _export_policy(client, request)
    key = import_key(client, request.parent, now=now)
    ciphertext = seal_private_key(
        private_key,
        key.statement,
        public_key=public_key,
        exportable=sealed.export_policy == ManagedCertificate.EXPORTABLE,
    )
    sealed.sealed_private_key.CopyFrom(SealedPrivateKey(import_key=key.name, ciphertext=ciphertext))
    return client.call(client.stubs.import_managed_certificate, sealed)


def import_key(client: Client, parent: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> ImportKey:
    """Returns the import key of `tenants/{tenant}`, checked; raises CallFailed as `import_sealed` does."""
    key = client.call(client.stubs.get_import_key, GetImportKeyRequest(parent=parent))
    trusted = [root.public_bytes(Encoding.DER) for root in x509.load_pem_x509_certificates(client.trust_bundle)]
    try:
        stated = verify_import_key(
            statement=key.statement,
            signature=key.signature,
            signature_algorithm=SignatureAlgorithm(x509_pb2.SignatureAlgorithm.Name(key.signature_algorithm)),
            authority_certificate=key.authority_certificate.der,
            trusted=trusted,
            now=now(),
        )
    except CertdError as error:
        raise _refused(parent, error.violations[0].description) from error
    except ValueError as error:
        raise _refused(parent, "is signed with an algorithm that this client does not know; update it") from error
    # The statement is what is vouched for; what stands beside it must say the same.
    told = (key.name, key.public_key, moment(key.expire_time))
    if told != (f"{parent}/importKeys/{stated.import_key_id}", stated.public_key, stated.expire_time):
        raise _refused(parent, "is another than the one that is vouched for")
    return key


def _public_key(certificate: bytes) -> bytes:
    """Returns the SubjectPublicKeyInfo of the certificate of a request, in the encoding that the server has of it."""
    field = "certificate"
    own, *_ = parse_certificates(certificate, field=field)
    try:
        return public_key_der(parse(own, field=field).parsed.public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise field_invalid(field, "has a key of a kind that is not known here, so that none is sealed") from error


def _export_policy(
    client: Client, request: ImportManagedCertificateRequest
) -> ManagedCertificate.ExportPolicy.ValueType:
    """Returns the policy that a request leads to, which may be that of what is there already."""
    if request.export_policy != ManagedCertificate.EXPORT_POLICY_UNSPECIFIED:
        return request.export_policy
    if not request.replace:
        return ManagedCertificate.NOT_EXPORTABLE
    name = f"{request.parent}/managedCertificates/{request.managed_certificate_id}"
    found = client.call(client.stubs.get_managed_certificate, GetManagedCertificateRequest(name=name))
    if found.export_policy not in {ManagedCertificate.EXPORTABLE, ManagedCertificate.NOT_EXPORTABLE}:
        raise _inconsistent(f"{name} has an export policy that this client does not know", name)
    return found.export_policy


def _refused(parent: str, problem: str) -> CallFailed:
    return _inconsistent(f"the import key of {parent} {problem}", parent)


def _inconsistent(problem: str, resource: str) -> CallFailed:
    return CallFailed(
        ANSWER_INCONSISTENT,
        f"{problem}. Nothing was sent; tell the operator of the server",
        code="DATA_LOSS",
        resource=resource,
    )
