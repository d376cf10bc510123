"""Consumers of leased keys, and the authorities that say who they are: by code that is not certd's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
CONSUMER = "spiffe://certd.internal/identities/web-1"
OTHER_CONSUMER = "spiffe://certd.internal/identities/web-2"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class SystemRoot:
    """A system authority, or whoever gives itself out as one."""

    key: ec.EllipticCurvePrivateKey
    name: x509.Name
    certificate: bytes
    """DER."""

    def issue(
        self,
        key: Key,
        *,
        uris: Sequence[str] = (CONSUMER,),
        other_names: Sequence[x509.GeneralName] = (),
        begin: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
        authority: bool = False,
        certificate_sign: bool = False,
        issuer: x509.Name | None = None,
    ) -> bytes:
        """Returns the DER of an identity certificate, or of one that is almost that."""
        names = [*(x509.UniformResourceIdentifier(uri) for uri in uris), *other_names]
        builder = (
            x509.CertificateBuilder()
            .issuer_name(self.name if issuer is None else issuer)
            .subject_name(x509.Name([]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        if certificate_sign:
            builder = builder.add_extension(key_usage(certificate_sign=True), critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)


def key_usage(*, certificate_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificate_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def make_root(
    name: str = "certd system authority", *, begin: datetime = NOW - DAY, end: datetime = NOW + 365 * DAY
) -> SystemRoot:
    """Makes a root; two of one name have nothing else in common."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .issuer_name(subject)
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(certificate_sign=True), critical=True)
    )
    return SystemRoot(key, subject, builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER))
