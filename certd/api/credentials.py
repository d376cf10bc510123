"""The server's TLS credentials, which change without a restart."""

import threading
from dataclasses import dataclass, field

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from certd.errors import CertdError, field_invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the server shows and whom it trusts, all PEM."""

    certificate_chain: bytes
    """The server's certificate, then those above it."""
    private_key: bytes = field(repr=False)
    """Unencrypted."""
    client_roots: bytes
    """Roots that may vouch for callers: the system root alone."""

    def check(self) -> None:
        """Raises FIELD_INVALID for what would fail every handshake: no PEM, another key, a key that peers refuse."""
        certificate = _first_certificate("tls.certificate", self.certificate_chain)
        _first_certificate("tls.client_roots", self.client_roots)
        try:
            private_key = load_pem_private_key(self.private_key, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise field_invalid("tls.private_key", "must be an unencrypted private key as PEM") from error
        public_key = private_key.public_key()
        encoding = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if public_key.public_bytes(*encoding) != certificate.public_key().public_bytes(*encoding):
            raise field_invalid("tls.private_key", "is not the key of tls.certificate; install the two together")
        fits = isinstance(public_key, rsa.RSAPublicKey) or (
            isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name in {"secp256r1", "secp384r1"}
        )
        if not fits:
            raise field_invalid(
                "tls.certificate", "must have a key of RSA, P-256 or P-384; gRPC peers refuse the handshake with others"
            )


class ReloadingCredentials:
    """Credentials that the next handshake takes from memory.

    Args:
        initial: the first ones.
        client_certificates: whether clients must show a certificate; otherwise they are not asked for one.
    """

    def __init__(self, initial: Credentials, *, client_certificates: bool = True) -> None:
        initial.check()
        self._lock = threading.Lock()
        self._waiting: grpc.ServerCertificateConfiguration | None = None
        self.server_credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(initial),
            self._fetch,  # type: ignore[arg-type]  # The stubs miss that None means: no change.
            require_client_authentication=client_certificates,
        )

    def replace(self, credentials: Credentials) -> None:
        """Handshakes from now on use `credentials`; raises FIELD_INVALID and changes nothing when they cannot work."""
        credentials.check()
        with self._lock:
            self._waiting = _configuration(credentials)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what is new since the last handshake. Runs on a thread of gRPC's core, so it only reads memory."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        return waiting


def _configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(credentials.private_key, credentials.certificate_chain)], root_certificates=credentials.client_roots
    )


def _first_certificate(name: str, data: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(data)[0]
    except (ValueError, IndexError) as error:
        raise _no_certificate(name) from error


def _no_certificate(name: str) -> CertdError:
    return field_invalid(name, "must be certificates as PEM")
