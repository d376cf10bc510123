import hashlib
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certd.errors import CertdError, Reason
from certd.pki import distinguished_name as dn
from certd.pki.description import describe
from certd.pki.extensions import KeyUsage, key_usage_extension, key_usages_of
from certd.pki.key_spec import KeySpec, SignatureAlgorithm, default_signature_algorithm, public_key_der
from certd.pki.names import SubjectAlternativeNames
from tests.unit.memory_authority import SERIAL, prepare_leaf, public_key, root


@pytest.mark.parametrize("spec", KeySpec)
def test_what_a_certificate_says(spec: KeySpec) -> None:
    authority = root(spec)
    key = public_key(spec)
    names = SubjectAlternativeNames(dns_names=("www.example.internal",), ip_addresses=("192.0.2.1",))
    prepared = prepare_leaf(authority, key=key, subject="C=DE,O=Example", names=names)
    certificate = authority.sign(prepared)
    described = describe(certificate)
    assert described.subject == dn.parse_text("C=DE,O=Example")
    assert described.subject_text == "C=DE,O=Example"
    assert described.issuer_text == "CN=Example Root,O=Example"
    assert described.serial_number == f"{SERIAL:x}"
    assert (described.not_before_time, described.not_after_time) == (prepared.not_before, prepared.not_after)
    assert described.subject_alternative_names == names
    assert described.key_spec is spec
    assert described.public_key == key
    assert described.signature_algorithm is default_signature_algorithm(spec)
    assert described.path_length is None
    assert described.sha256_fingerprint == hashlib.sha256(certificate).digest()
    for extension in described.extensions:
        assert extension.value in certificate


def _foreign(*, serial: int = 1, extensions: tuple[x509.ExtensionType, ...] = ()) -> bytes:
    """A certificate that certd would never sign."""
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a")])
    builder = x509.CertificateBuilder(
        issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=serial,
        not_valid_before=datetime(2020, 1, 1, tzinfo=UTC), not_valid_after=datetime(2060, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA224()).public_bytes(Encoding.DER)


def test_foreign_certificate() -> None:
    described = describe(_foreign(serial=0xABC))
    assert described.serial_number == "0abc"
    assert described.key_spec is None
    assert described.signature_algorithm is None
    assert described.extensions == ()
    assert described.key_usages == ()
    assert described.extended_key_usages == ()
    assert not described.authority
    assert described.subject_key_identifier == described.authority_key_identifier == b""
    assert not described.subject_alternative_names


def test_unknown_extensions_and_names_are_shown_as_they_are() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    registered = x509.SubjectAlternativeName([x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), x509.DNSName("a")])
    described = describe(_foreign(extensions=(unknown, registered)))
    assert [(extension.oid, extension.value) for extension in described.extensions] == [
        ("1.2.3.4", b"\x05\x00"),
        ("2.5.29.17", bytes.fromhex("300788022a03820161")),
    ]
    assert described.subject_alternative_names == SubjectAlternativeNames(dns_names=("a",))


@pytest.mark.parametrize("certificate", [b"", b"\x30\x00", b"garbage", _foreign()[:-1], _foreign() + b"\x00"])
def test_what_is_no_certificate(certificate: bytes) -> None:
    with pytest.raises(CertdError) as caught:
        describe(certificate)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "certificate"


def test_key_usages_round_trip() -> None:
    everything = frozenset(KeyUsage) - {KeyUsage.DECIPHER_ONLY}
    for usages in (frozenset[KeyUsage](), everything, frozenset({KeyUsage.KEY_CERT_SIGN})):
        assert key_usages_of(key_usage_extension(usages)) == usages


def test_key_that_the_library_does_not_know() -> None:
    authority = root()
    certificate = authority.sign(prepare_leaf(authority))
    curve = bytes.fromhex("06082a8648ce3d030107")
    assert describe(certificate.replace(curve, bytes.fromhex("06082a8648ce3d03017f"))).key_spec is None


def test_algorithm_and_key_of_the_real_thing() -> None:
    authority = root(KeySpec.EC_P384)
    described = describe(authority.certificate)
    assert described.signature_algorithm is SignatureAlgorithm.ECDSA_WITH_SHA384
    private_key = authority.private_key
    assert isinstance(private_key, ec.EllipticCurvePrivateKey)
    assert described.public_key == public_key_der(private_key.public_key())
    assert (described.authority, described.path_length) == (True, 2)
    assert described.subject_key_identifier == described.authority_key_identifier
