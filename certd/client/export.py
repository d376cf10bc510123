"""Exports to a one-time key: the private key travels encrypted to a key that exists for one call, in memory."""

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from certd.client.connection import Client
from certd.client.failure import CallFailed
from certd.errors import CertdError
from certd.pki.export_form import ExportForm
from certd.pki.sealing import Purpose, SealContext, export_info, hpke_decrypt
from certd.v1.managed_certificate_service_pb2 import (
    ExportManagedCertificateRequest,
    ExportManagedCertificateResponse,
    GetManagedCertificateRequest,
    PassphraseProtection,
    RecipientProtection,
)

ANSWER_INCONSISTENT: Final = "ANSWER_INCONSISTENT"
"""Reason of a failure that the client itself found: the answer does not fit what was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An export that was opened and checked."""

    response: ExportManagedCertificateResponse
    """The answer as it came."""
    private_key_info: bytes
    """DER of the PKCS#8 PrivateKeyInfo: the private key itself. Never printed by `repr`."""

    def __repr__(self) -> str:
        return f"Exported(version={self.response.version})"


def export_to_one_time_key(client: Client, name: str, *, version: int = 0, reason: str = "") -> Exported:
    """Exports a managed certificate to a key made for this call, opens it, and checks that it is the right one.

    Args:
        client: the connection.
        name: `tenants/{tenant}/managedCertificates/{managed_certificate}`.
        version: number of the version; 0 for the current one.
        reason: why, for the event.

    Raises CallFailed: the server's, or ANSWER_INCONSISTENT when the context under which the key was encrypted names
    another certificate, version or key than the answer, or the private key does not belong to the certificate.
    """
    managed = client.call(client.stubs.get_managed_certificate, GetManagedCertificateRequest(name=name))
    one_time_key = X25519PrivateKey.generate()
    response = client.call(
        client.stubs.export_managed_certificate,
        ExportManagedCertificateRequest(
            name=name,
            version=version,
            recipient=RecipientProtection(
                public_key=one_time_key.public_key().public_bytes_raw(),
                suite=RecipientProtection.X25519_HKDF_SHA256_AES_256_GCM,
            ),
            reason=reason,
        ),
    )
    if version not in {0, response.version} or response.version < 1:
        raise _inconsistent(name, f"version {response.version} came instead of {version or 'the current one'}")
    public_key = _public_key(name, response.certificate.der)
    info = export_info(
        SealContext(
            tenant=_tenant(name, response.hpke_info),
            certificate=managed.uid,
            version=response.version,
            purpose=Purpose.CUSTODY,
            exportable=True,
            public_key_sha256=hashlib.sha256(public_key).digest(),
        )
    )
    if response.hpke_info != info:
        raise _inconsistent(name, "the private key was encrypted for another certificate or version")
    try:
        private_key_info = hpke_decrypt(response.sealed_private_key, private_key=one_time_key, info=info)
    except CertdError as error:
        raise _inconsistent(name, "the private key does not open with the one-time key of this call") from error
    if _public_key_of_private(name, private_key_info) != public_key:
        raise _inconsistent(name, "the private key does not belong to the certificate")
    return Exported(response=response, private_key_info=private_key_info)


def export_under_passphrase(
    client: Client,
    name: str,
    *,
    passphrase: bytes,
    form: ExportForm = ExportForm.PKCS8,
    version: int = 0,
    reason: str = "",
) -> ExportManagedCertificateResponse:
    """Exports a managed certificate under a passphrase, which the server sees, and checks the key.

    Args:
        client: the connection.
        name: `tenants/{tenant}/managedCertificates/{managed_certificate}`.
        passphrase: by the rules of the form.
        form: how the key is encoded; the answer has a PKCS#12, or the PEM of a key.
        version: number of the version; 0 for the current one.
        reason: why, for the event.

    Raises CallFailed: the server's, or ANSWER_INCONSISTENT when the private key does not open with the passphrase or
    does not belong to the certificate.
    """
    response = client.call(
        client.stubs.export_managed_certificate,
        ExportManagedCertificateRequest(
            name=name,
            version=version,
            passphrase=PassphraseProtection(
                passphrase=passphrase, format=PassphraseProtection.Format.Value(form.value)
            ),
            reason=reason,
        ),
    )
    if version not in {0, response.version}:
        raise _inconsistent(name, f"version {response.version} came instead of {version}")
    try:
        key = _key_of_pkcs12(name, response, passphrase) if form.is_pkcs12 else _key_of_pem(response, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _inconsistent(name, "the private key does not open with the passphrase") from error
    own = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if own != _public_key(name, response.certificate.der):
        raise _inconsistent(name, "the private key does not belong to the certificate")
    return response


def _key_of_pem(response: ExportManagedCertificateResponse, passphrase: bytes) -> PrivateKeyTypes:
    return load_pem_private_key(response.encrypted_private_key_pem.encode(), password=passphrase)


def _key_of_pkcs12(name: str, response: ExportManagedCertificateResponse, passphrase: bytes) -> PrivateKeyTypes:
    opened = load_pkcs12(response.pkcs12, passphrase)
    held = [each.certificate for each in (opened.cert, *opened.additional_certs) if each is not None]
    told = [response.certificate.der, *(each.der for each in response.chain)]
    if opened.key is None or [each.public_bytes(Encoding.DER) for each in held] != told:
        raise _inconsistent(name, "the PKCS#12 holds other certificates than the answer, or no key")
    return opened.key


def _tenant(name: str, info: bytes) -> str:
    """Returns the tenant that an HPKE info names: the second of its fields, each behind its length in four bytes.

    It is the tenant's opaque id, which the API does not tell, so the answer's own is taken. The certificate's uid is
    compared, and belongs to one tenant for ever.
    """
    domain_end = 4 + int.from_bytes(info[:4])
    tenant_at = domain_end + 4
    try:
        return info[tenant_at : tenant_at + int.from_bytes(info[domain_end:tenant_at])].decode()
    except UnicodeDecodeError as error:
        raise _inconsistent(name, "the context of the private key cannot be read") from error


def _public_key(name: str, certificate: bytes) -> bytes:
    """Returns the DER of the SubjectPublicKeyInfo of a certificate."""
    try:
        return (
            x509.load_der_x509_certificate(certificate)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _inconsistent(name, "the certificate cannot be read") from error


def _public_key_of_private(name: str, private_key_info: bytes) -> bytes:
    try:
        return (
            load_der_private_key(private_key_info, password=None)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _inconsistent(name, "the private key cannot be read") from error


def _inconsistent(name: str, what: str) -> CallFailed:
    return CallFailed(
        ANSWER_INCONSISTENT,
        f"the export of {name} is refused: {what}. Nothing was written; tell the operator of the server",
        code="DATA_LOSS",
        resource=name,
    )
