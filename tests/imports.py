"""Certificates with their private keys as an outside authority and its subscriber made them, to be imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from certd.pki.import_key import seal_private_key
from certd.pki.key_spec import public_key_der
from tests.outside_parent import Extension, OutsideAuthority, certify, name, pem_of

PairKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate, its key, and those above it."""

    certificate: x509.Certificate
    key: PairKey
    above: tuple[bytes, ...]
    """DER, the issuer first."""

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        return pem_of(*self.above)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def key_der(self) -> bytes:
        return self.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def sealed_to(self, statement: bytes, *, exportable: bool = False, private_key: bytes | None = None) -> bytes:
        """Returns the key, or what is taken for it, sealed to an import key for this certificate."""
        public_key = public_key_der(self.key.public_key())
        return seal_private_key(private_key or self.key_der, statement, public_key=public_key, exportable=exportable)


def pair(
    issuer: OutsideAuthority | None,
    *dns_names: str,
    now: datetime,
    key: PairKey | None = None,
    extended: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.SERVER_AUTH,),
    ends: timedelta = timedelta(days=90),
    extensions: Sequence[Extension] = (),
    **changes: Any,
) -> Pair:
    """Makes a certificate for DNS names, for servers unless told otherwise; signed by its own key without an issuer."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    usual: list[Extension] = [
        (usage, True),
        (x509.ExtendedKeyUsage(extended), False),
        (x509.SubjectAlternativeName([x509.DNSName(each) for each in dns_names]), False),
    ]
    replaced = {type(value) for value, _ in extensions}
    certificate = certify(
        issuer,
        now=now,
        subject=name(dns_names[0]),
        public_key=key.public_key(),
        signing_key=key if issuer is None else None,
        authority=False,
        ends=ends,
        extensions=[*(each for each in usual if type(each[0]) not in replaced), *extensions],
        **changes,
    )
    return Pair(certificate=certificate, key=key, above=() if issuer is None else issuer.chain)
