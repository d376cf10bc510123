"""Authorities outside of certd, with keys in memory, that certify what certd asks for, well or badly."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

OutsideKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Extension = tuple[x509.ExtensionType, bool]
"""An extension, and whether it is critical."""


def name(text: str) -> x509.Name:
    """Returns the name with one CN."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideAuthority:
    """An authority, its key, and those above it, its own issuer first."""

    certificate: x509.Certificate
    key: OutsideKey
    above: tuple["OutsideAuthority", ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """DER of its certificate and those above it: the chain of what it certifies."""
        return (self.der, *(one.der for one in self.above))


def pem_of(*certificates: bytes) -> bytes:
    """Returns a PEM bundle."""
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates)


def key_usage(*, cert_sign: bool = True, crl_sign: bool = True) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def certify(
    issuer: OutsideAuthority | None,
    *,
    now: datetime,
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    signing_key: OutsideKey | None = None,
    issuer_name: x509.Name | None = None,
    begins: timedelta = timedelta(minutes=-5),
    ends: timedelta = timedelta(days=1000),
    authority: bool = True,
    path_length: int | None = None,
    extensions: Sequence[Extension] = (),
    without: Collection[type[x509.ExtensionType]] = (),
) -> x509.Certificate:
    """Returns a certificate with what an authority's should have, and changes to that.

    Args:
        issuer: who signs; None for one that signs itself.
        now: from when `begins` and `ends` count.
        subject: its name.
        public_key: its key.
        signing_key: signs instead of the issuer's.
        issuer_name: stands there instead of the issuer's.
        begins: before `now`, as a rule.
        ends: after `now`, as a rule.
        authority: cA of basic constraints.
        path_length: of basic constraints.
        extensions: more of them, or others in place of the usual ones.
        without: kinds of extensions to leave out.
    """
    usual: list[Extension] = [
        (x509.BasicConstraints(ca=authority, path_length=path_length if authority else None), True),
        (key_usage(), True),
        (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
    ]
    signer = signing_key or (issuer.key if issuer is not None else None)
    assert signer is not None
    if issuer is not None:
        usual.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), False))
    replaced = {type(value) for value, _ in extensions} | set(without)
    chosen = [one for one in usual if type(one[0]) not in replaced] + list(extensions)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name or (issuer.certificate.subject if issuer is not None else subject))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
    for value, critical in chosen:
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(signer, hashes.SHA256())


def outside_authority(
    text: str,
    issuer: OutsideAuthority | None = None,
    *,
    now: datetime,
    key: OutsideKey | None = None,
    ends: timedelta = timedelta(days=3000),
    path_length: int | None = None,
    extensions: Sequence[Extension] = (),
    without: Collection[type[x509.ExtensionType]] = (),
) -> OutsideAuthority:
    """Makes an authority: a root, or one below `issuer`."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    certificate = certify(
        issuer,
        now=now,
        subject=name(text),
        public_key=key.public_key(),
        signing_key=key if issuer is None else None,
        ends=ends,
        path_length=path_length,
        extensions=extensions,
        without=without,
    )
    above = () if issuer is None else (issuer, *issuer.above)
    return OutsideAuthority(certificate=certificate, key=key, above=above)
