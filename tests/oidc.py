"""An issuer of OpenID Connect on a loopback port over HTTPS, with keys of its own."""

import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Answer = Callable[[BaseHTTPRequestHandler], None]

AUDIENCE = "certd.test"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def jwk(key: PrivateKey, key_id: str, **more: object) -> dict[str, Any]:
    """A public key as JSON."""
    document: dict[str, Any]
    if isinstance(key, rsa.RSAPrivateKey):
        document = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        document = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        document = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    # What the library says of it beyond the key is for the test to say.
    document.pop("key_ops", None)
    return {**document, "kid": key_id, **more}


@dataclass(kw_only=True)
class Issuer:
    """A running issuer."""

    url: str
    ca_file: Path
    keys: list[dict[str, Any]] = field(default_factory=list)
    answer: Answer | None = None
    """What answers instead of the keys."""
    requests: int = 0

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/keys"

    def claims(self, now: datetime, **more: object) -> dict[str, Any]:
        """Claims of a good token; None takes one out."""
        moment = int(now.timestamp())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "iat": moment, "exp": moment + 300, **more}
        return {claim: value for claim, value in claims.items() if value is not None}


def token(
    claims: Mapping[str, Any], key: PrivateKey, algorithm: str, key_id: str | None = None, **header: object
) -> str:
    return jwt.encode(
        dict(claims), key, algorithm=algorithm, headers={**({} if key_id is None else {"kid": key_id}), **header}
    )


@contextmanager
def running_issuer(folder: Path) -> Iterator[Issuer]:
    certificate = folder / "issuer.pem"
    key = folder / "issuer.key"
    _write_certificate(certificate, key)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.requests += 1
            if issuer.answer is not None:
                issuer.answer(self)
            else:
                send(self, json.dumps({"keys": issuer.keys}).encode())

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_arguments: None  # type: ignore[method-assign]  # Clients that go are what is tested.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    issuer = Issuer(url=f"https://127.0.0.1:{server.server_port}", ca_file=certificate)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, content: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


def _write_certificate(certificate: Path, key_file: Path) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Issuer")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
