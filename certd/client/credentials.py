"""The files that a client connects with: its certificate, its private key, and the roots that vouch for the server."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from certd.errors import CertdError, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What mutual TLS needs, checked to fit together."""

    certificate_chain: bytes
    """PEM, the client's own certificate first."""
    private_key: bytes
    """PEM, not encrypted."""
    trust_bundle: bytes
    """PEM of the roots that vouch for the server."""
    not_after: datetime
    """End of the client certificate's validity."""

    def __repr__(self) -> str:
        return f"Credentials(not_after={self.not_after.isoformat()})"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCredentials:
    """What calls with a bearer token need."""

    token_file: Path
    """The token is read from here for every try, for who renews tokens writes new ones into the file."""
    trust_bundle: bytes
    """PEM of the roots that vouch for the server."""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns what a call carries; CREDENTIAL_MISSING or CREDENTIAL_INVALID when the file holds no token."""
        try:
            token = _read(self.token_file).decode("ascii").strip()
        except UnicodeDecodeError:
            token = ""
        if not token or not token.isprintable() or " " in token:
            raise CertdError(Reason.CREDENTIAL_INVALID, f"{self.token_file} holds no token; write one into it, alone")
        return (("authorization", f"Bearer {token}"),)


@dataclass(frozen=True, slots=True)
class ServerRoots:
    """What calls need that are made by nobody yet: whom to trust."""

    trust_bundle: bytes
    """PEM of the roots that vouch for the server."""


def read_token_credentials(*, token_file: Path, trust_bundle: Path) -> TokenCredentials:
    """Reads the trust bundle, and the token once, to tell early what is missing.

    CREDENTIAL_MISSING when one cannot be read; CREDENTIAL_INVALID when one holds something else.
    """
    bundle_pem = _read(trust_bundle)
    _certificates(trust_bundle, bundle_pem)
    credentials = TokenCredentials(token_file=token_file, trust_bundle=bundle_pem)
    credentials.metadata()
    return credentials


def read_credentials(*, certificate: Path, private_key: Path, trust_bundle: Path) -> Credentials:
    """Reads the three PEM files.

    CREDENTIAL_MISSING when one cannot be read; CREDENTIAL_INVALID when one holds something else, or the private key
    belongs to another certificate.
    """
    chain_pem, key_pem, bundle_pem = _read(certificate), _read(private_key), _read(trust_bundle)
    chain = _certificates(certificate, chain_pem)
    _certificates(trust_bundle, bundle_pem)
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise CertdError(
            Reason.CREDENTIAL_INVALID, f"{private_key} holds no unencrypted PEM private key; enrol again or restore it"
        ) from error
    own = chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != own:
        raise CertdError(
            Reason.CREDENTIAL_INVALID,
            f"the private key in {private_key} does not belong to the certificate in {certificate}; name one pair",
        )
    return Credentials(
        certificate_chain=chain_pem,
        private_key=key_pem,
        trust_bundle=bundle_pem,
        not_after=chain[0].not_valid_after_utc,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertdError(
            Reason.CREDENTIAL_MISSING,
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}; name the file that `certd init` wrote",
        ) from error


def _certificates(path: Path, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise CertdError(Reason.CREDENTIAL_INVALID, f"{path} holds no PEM certificate that can be read") from error
