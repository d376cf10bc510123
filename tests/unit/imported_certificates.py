"""Certificates that an outsider made, to be imported, and how a refusal of one is checked."""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certd.errors import CertdError, Reason
from certd.pki.imported_certificate import (
    ImportedCertificate,
    check,
)
from tests.outside_parent import Extension, OutsideAuthority, certify, name, outside_authority, pem_of

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ROOT = outside_authority("Outside Root", now=NOW)
MIDDLE = outside_authority("Outside Middle", ROOT, now=NOW)
ISSUER = outside_authority("Outside Issuer", MIDDLE, now=NOW)
EMPTY = x509.Name([])


def dns(*names: str) -> Extension:
    return x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), False


def usage(*bits: str) -> Extension:
    all_bits = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{bit: bit in bits for bit in all_bits}), True


def extended(*usages: x509.ObjectIdentifier) -> Extension:
    return x509.ExtendedKeyUsage(usages), False


def leaf(
    issuer: OutsideAuthority | None = ISSUER,
    *,
    subject: x509.Name | None = None,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = KEY,
    extensions: Sequence[Extension] = (dns("www.example.com"),),
    without: Collection[type[x509.ExtensionType]] = (x509.KeyUsage,),
) -> bytes:
    """Returns the DER of a certificate for the tests."""
    return certify(
        issuer,
        now=NOW,
        subject=name("www.example.com") if subject is None else subject,
        public_key=key.public_key(),
        signing_key=key if issuer is None else None,
        authority=False,
        extensions=extensions,
        without=without,
    ).public_bytes(Encoding.DER)


LEAF = leaf()


def imported(certificate: bytes = LEAF, *chain: bytes, now: datetime = NOW) -> ImportedCertificate:
    return check(certificate, pem_of(*(chain or ISSUER.chain)), now=now)


def refused(reason: Reason, call: Callable[[], object], *, field: str, says: str) -> None:
    with pytest.raises(CertdError) as caught:
        call()
    error = caught.value
    assert error.reason is reason, error
    assert [violation.field for violation in error.violations] == [field]
    assert says in error.message
    assert "; " in error.message, "a message has a remedy"


def warned(found: ImportedCertificate) -> list[tuple[str, str]]:
    return [(warning.field, warning.message) for warning in found.warnings]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
