"""What the TLS handshake says about the peer."""

import ssl
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import unquote

from certd.errors import CertdError, Reason

_TLS_VERSIONS: Final = frozenset({b"TLSv1.2", b"TLSv1.3"})

AuthContext = Mapping[str, Sequence[bytes]]
"""`auth_context()` of a call: property to values."""


def check_tls_version(peer: AuthContext) -> None:
    """Raises CREDENTIAL_INVALID unless the connection is of TLS 1.2 or later; what is not said fails closed."""
    versions = peer.get("ssl_tls_version", ())
    if not versions or versions[0] not in _TLS_VERSIONS:
        raise CertdError(Reason.CREDENTIAL_INVALID, "the connection must use TLS 1.2 or later; configure the client so")


def token_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Returns the bearer token of a call (RFC 6750, section 2.1).

    Raises:
        CertdError: CREDENTIAL_MISSING without one, CREDENTIAL_INVALID when it is not clear which.
    """
    given = [value for key, value in metadata if key == "authorization"]
    if not given:
        raise CertdError(
            Reason.CREDENTIAL_MISSING,
            "no bearer token came with the call; send it as the metadata `authorization: Bearer …`",
        )
    scheme, _, token = given[0].partition(" ") if isinstance(given[0], str) else ("", "", "")
    if len(given) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise CertdError(
            Reason.CREDENTIAL_INVALID, "the metadata `authorization` must be there once, as `Bearer` and a token"
        )
    return token.strip()


def certificate_of(peer: AuthContext) -> bytes:
    """Returns the DER of the peer's certificate, which the handshake verified; raises CREDENTIAL_MISSING."""
    certificates = peer.get("x509_pem_cert", ())
    if not certificates:
        raise CertdError(
            Reason.CREDENTIAL_MISSING, "no client certificate came with the connection; configure the client with one"
        )
    return ssl.PEM_cert_to_DER_cert(certificates[0].decode("ascii"))


def address_of(peer: str) -> str:
    """Returns the address of a peer as gRPC names it, without its port: 192.0.2.1 for `ipv4:192.0.2.1:4711`."""
    address, _, _ = peer.partition(":")[2].rpartition(":")
    return unquote(address).strip("[]")
