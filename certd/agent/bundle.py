"""What a consumer serves with: one version of a managed certificate, whole."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from certd.agent.errors import AgentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One version of a managed certificate with its private key."""

    name: str
    """Of the certificate in the configuration."""
    version: int
    """Its number on the server."""
    certificate: bytes
    """DER."""
    chain: tuple[bytes, ...]
    """DER, from the issuer of the certificate up to the root."""
    private_key_info: bytes = field(repr=False)
    """DER of the PKCS#8 PrivateKeyInfo: the private key itself."""
    roots: tuple[bytes, ...]
    """DER of the roots that vouch for it."""

    @property
    def certificate_sha256(self) -> bytes:
        """What tells it from every other certificate."""
        return hashlib.sha256(self.certificate).digest()

    @property
    def served_chain(self) -> tuple[bytes, ...]:
        """The chain as a server shows it: without the root, which who verifies has anyway."""
        return tuple(each for each in self.chain if not _is_self_issued(each))

    @property
    def not_after(self) -> datetime:
        """When the certificate ends; AgentError when it cannot be read."""
        return self.parsed().not_valid_after_utc

    def parsed(self) -> x509.Certificate:
        """Returns the certificate; AgentError when it cannot be read."""
        try:
            return x509.load_der_x509_certificate(self.certificate)
        except ValueError as error:
            raise AgentError(f"version {self.version} has a certificate that cannot be read") from error


def _is_self_issued(certificate: bytes) -> bool:
    parsed = x509.load_der_x509_certificate(certificate)
    return parsed.subject == parsed.issuer
