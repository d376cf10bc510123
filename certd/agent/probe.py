"""Whether a program shows the new certificate: a handshake with it, again and again until it does."""

import socket
import ssl
import threading
import time
from typing import Final

from cryptography import x509

from certd.agent import config
from certd.agent.commands import StoppedError
from certd.agent.errors import AgentError

_PAUSE: Final = 0.1
"""Seconds between two tries."""
_ONE_TRY: Final = 5.0
_POSTGRESQL_SSL_REQUEST: Final = (8).to_bytes(4) + (80_877_103).to_bytes(4)
"""SSLRequest of the PostgreSQL protocol, 3.0, section 55.7."""


def probe(target: config.Probe, certificate: bytes, *, stop: threading.Event) -> None:
    """Returns when the program shows the certificate (DER); raises AgentError when it does not in time."""
    deadline = time.monotonic() + target.timeout
    while True:
        left = deadline - time.monotonic()
        try:
            shown = _shown(target, min(_ONE_TRY, max(left, 0.05)))
            if shown == certificate:
                return
            problem = f"{target.address} shows {_described(shown)}, and not the new certificate"
        except (OSError, ssl.SSLError) as error:
            problem = f"{target.address} shows no certificate: {_cause(error)}"
        if time.monotonic() + _PAUSE >= deadline:
            raise AgentError(f"{problem}, after {target.timeout:g} seconds")
        if stop.wait(_PAUSE):
            raise StoppedError("the agent ended before the certificate was seen")


def _shown(target: config.Probe, timeout: float) -> bytes:
    host, _, port = target.address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # It is compared with the one that must show, byte for byte.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout) as connection:
        if target.protocol == "postgresql":
            connection.sendall(_POSTGRESQL_SSL_REQUEST)
            if connection.recv(1) != b"S":
                raise OSError("PostgreSQL refuses TLS; see ssl in its configuration")
        with context.wrap_socket(connection, server_hostname=target.server_name) as wrapped:
            return wrapped.getpeercert(binary_form=True) or b""


def _described(certificate: bytes) -> str:
    try:
        return f"serial {x509.load_der_x509_certificate(certificate).serial_number:x}"
    except ValueError:
        return "something else"


def _cause(error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror
    return str(reason).lower() if reason else str(error)
