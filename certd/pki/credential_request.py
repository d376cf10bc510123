"""A new key of certd's own (a server's, an identity's) and the CSR by which its certificate is asked for."""

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from certd.errors import field_invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRequest:
    """A private key and a CSR signed by it."""

    private_key: bytes = field(repr=False)
    """PKCS#8 PEM, unencrypted; belongs into a file of mode 0600."""
    csr: bytes
    """DER (RFC 2986). Subject and names are empty: who signs says whose it is."""


def new_credential_request() -> CredentialRequest:
    """Makes a P-256 key, the kind that every gRPC peer accepts, and its CSR."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return CredentialRequest(private_key=pem, csr=_csr(key))


def credential_request_of(private_key: bytes) -> CredentialRequest:
    """Returns the request for a key that exists, given as PKCS#8 PEM; raises FIELD_INVALID when it is none of ours."""
    try:
        key = load_pem_private_key(private_key, None)
    except (ValueError, TypeError) as error:
        raise field_invalid("private_key", "must be an unencrypted private key as PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise field_invalid("private_key", "must be an elliptic curve key; remove the file to have one made")
    return CredentialRequest(private_key=private_key, csr=_csr(key))


def _csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
