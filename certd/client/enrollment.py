"""Enrollment by a code: the server is known by the pin in the code before the code is sent.

1. The server's certificate is fetched, from whoever answers.
2. Over a connection that is tied to that certificate, whoever answers is asked for the system roots.
3. The root with the hash in the code is taken; it must have signed the certificate.
4. Over a new connection, which trusts this root alone, the code is sent.

Nothing that matters goes over the connections of 1 and 2, and what comes from them is taken only when the hash fits.
"""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from certd.client.connection import Client, Waiting
from certd.client.credentials import ServerRoots
from certd.errors import CertdError, Reason
from certd.pki.encoding import certificate_pem
from certd.pki.enrollment_code import EnrollmentCode, key_sha256
from certd.v1.access_service_pb2 import EnrollRequest
from certd.v1.identity_pb2 import IdentityCredential
from certd.v1.server_service_pb2 import GetTrustBundleRequest

_HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds."""

OnWait = Callable[[Waiting], None]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What an identity got."""

    credential: IdentityCredential
    trust_bundle: bytes
    """PEM of the root that the code names, and of the others that the server names over the connection to it."""


def enroll(
    address: str, code: EnrollmentCode, csr: bytes, *, timeout: float | None = None, on_wait: OnWait | None = None
) -> Enrolled:
    """Enrolls with a code at `host:port` of an enrollment port.

    Raises CREDENTIAL_INVALID for a server that the code does not name, and CallFailed.
    """
    roots = pinned_root(address, code, timeout=timeout, on_wait=on_wait)
    with Client(address, roots, timeout=timeout, on_wait=on_wait) as client:
        credential = client.call(client.stubs.enroll, EnrollRequest(code=code.text(), csr=csr))
    # The next system authority may issue before this certificate is renewed, so its root is needed from now on.
    others = (_pem(root.der) for root in credential.system_roots)
    return Enrolled(credential, b"".join(dict.fromkeys((roots.trust_bundle, *others))))


def pinned_root(
    address: str, code: EnrollmentCode, *, timeout: float | None = None, on_wait: OnWait | None = None
) -> ServerRoots:
    """Returns the root that a code names, as the server at `host:port` told it and as it vouches for that server.

    Raises CREDENTIAL_INVALID for a server that the code does not name, and CallFailed.
    """
    offered = _offered_certificate(address, _HANDSHAKE_TIMEOUT if timeout is None else timeout)
    with Client(address, ServerRoots(_pem(offered)), timeout=timeout, on_wait=on_wait) as client:
        bundle = client.call(client.stubs.get_trust_bundle, GetTrustBundleRequest())
    for root in bundle.system_roots:
        with suppress(ValueError):
            if key_sha256(root.der) == code.root_sha256 and _signed(root.der, offered):
                return ServerRoots(_pem(root.der))
    raise CertdError(
        Reason.CREDENTIAL_INVALID,
        f"{address} is not the server that the enrollment code is for, so the code was not sent; check the address, "
        "and ask an administrator of the server for a code when it is right",
    )


def _offered_certificate(address: str, timeout: float) -> bytes:
    """Returns the certificate (DER) that a server shows; nothing is believed of it."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, int(port)), timeout=timeout) as connection,
            context.wrap_socket(connection, server_hostname=host) as wrapped,
        ):
            return wrapped.getpeercert(binary_form=True) or b""
    except ssl.SSLError as error:
        raise CertdError(
            Reason.CREDENTIAL_INVALID,
            f"{address} does not speak TLS as an enrollment port does ({error.reason}); name what certd.toml calls "
            "listen.enrollment",
        ) from error
    except OSError as error:
        raise CertdError(
            Reason.CREDENTIAL_INVALID,
            f"no connection to {address} ({(error.strerror or str(error)).lower()}); check that the daemon runs and "
            "that the address is that of listen.enrollment",
        ) from error


def _signed(root: bytes, certificate: bytes) -> bool:
    try:
        x509.load_der_x509_certificate(certificate).verify_directly_issued_by(x509.load_der_x509_certificate(root))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _pem(certificate: bytes) -> bytes:
    return certificate_pem(certificate).encode()
