"""Imports whose private key is sealed here: it travels encrypted to a key that only the token process opens."""

from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certd.client.connection import Client
from certd.client.export import ANSWER_INCONSISTENT
from certd.client.failure import CallFailed
from certd.client.messages import moment
from certd.errors import CertdError
from certd.pki.import_key import seal_private_key, verify_import_key
from certd.pki.key_spec import SignatureAlgorithm
from certd.v1 import x509_pb2
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    GetImportKeyRequest,
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
        request: without a private key.
        private_key: not encrypted, in any encoding that the API takes.
        now: the time of this machine.

    Raises:
        CallFailed: the server's, or ANSWER_INCONSISTENT when the import key is not one that the server's token process
            made for this tenant; then nothing was sent.
    """
    key = import_key(client, request.parent, now=now)
    sealed = ImportManagedCertificateRequest()
    sealed.CopyFrom(request)
    ciphertext = seal_private_key(private_key, key.statement)
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


def _refused(parent: str, problem: str) -> CallFailed:
    return CallFailed(
        ANSWER_INCONSISTENT,
        f"the import key of {parent} {problem}. Nothing was sent; tell the operator of the server",
        code="DATA_LOSS",
        resource=parent,
    )
