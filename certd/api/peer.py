"""What the TLS handshake says about the peer."""

import ssl
from collections.abc import Mapping, Sequence
from typing import Final

from certd.errors import CertdError, Reason

_TLS_VERSIONS: Final = frozenset({b"TLSv1.2", b"TLSv1.3"})

AuthContext = Mapping[str, Sequence[bytes]]
"""`auth_context()` of a call: property to values."""


def check_tls_version(peer: AuthContext) -> None:
    """Raises CREDENTIAL_INVALID unless the connection is of TLS 1.2 or later; what is not said fails closed."""
    versions = peer.get("ssl_tls_version", ())
    if not versions or versions[0] not in _TLS_VERSIONS:
        raise CertdError(Reason.CREDENTIAL_INVALID, "the connection must use TLS 1.2 or later; configure the client so")


def certificate_of(peer: AuthContext) -> bytes:
    """Returns the DER of the peer's certificate, which the handshake verified; raises CREDENTIAL_MISSING."""
    certificates = peer.get("x509_pem_cert", ())
    if not certificates:
        raise CertdError(
            Reason.CREDENTIAL_MISSING, "no client certificate came with the connection; configure the client with one"
        )
    return ssl.PEM_cert_to_DER_cert(certificates[0].decode("ascii"))
