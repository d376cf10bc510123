"""Bundles of an authority of the tests' own, for what needs no server."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from certd.agent.bundle import Bundle

HOST = "www.example.internal"


class Minter:
    """A root that issues."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Recipe Root")])
        self.root = self._builder(self._name, self._key.public_key(), ca=True).sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> str:
        """The root."""
        return self.root.public_bytes(Encoding.PEM).decode()

    def bundle(
        self,
        name: str = "web",
        version: int = 1,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        begin: timedelta = timedelta(hours=-1),
        end: timedelta = timedelta(days=30),
    ) -> Bundle:
        """Makes a certificate and its key; another key goes with it when one is given. Its times are from now."""
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
        certificate = (
            self._builder(subject, own.public_key(), ca=False, begin=begin, end=end)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        root = self.root.public_bytes(Encoding.DER)
        return Bundle(
            name=name,
            version=version,
            certificate=certificate.public_bytes(Encoding.DER),
            chain=(root,),
            private_key_info=(key or own).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            roots=(root,),
        )

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        *,
        ca: bool,
        begin: timedelta = timedelta(hours=-1),
        end: timedelta = timedelta(days=30),
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
