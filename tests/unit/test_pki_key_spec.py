import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from certd.errors import CertdError, Reason
from certd.pki import key_spec as key_specs
from certd.pki.key_spec import KeyFamily, KeySpec, SignatureAlgorithm
from tests.unit.memory_authority import public_key, sign


@pytest.mark.parametrize("spec", KeySpec)
def test_generated_key_has_its_spec_and_verifies_its_signatures(spec: KeySpec) -> None:
    private_key = key_specs.generate_private_key(spec)
    assert key_specs.key_spec_of(private_key.public_key()) is spec
    encoded = key_specs.public_key_der(private_key.public_key())
    fitting = [algorithm for algorithm in SignatureAlgorithm if key_specs.fits(algorithm, spec)]
    assert key_specs.default_signature_algorithm(spec) in fitting
    for algorithm in fitting:
        signature = sign(private_key, algorithm, b"data")
        assert key_specs.verify_signature(encoded, algorithm, signature=signature, data=b"data")
        assert not key_specs.verify_signature(encoded, algorithm, signature=signature, data=b"date")
        assert not key_specs.verify_signature(encoded, algorithm, signature=b"", data=b"data")


def test_families() -> None:
    for spec in KeySpec:
        fitting = {key_specs.family_of(a) for a in SignatureAlgorithm if key_specs.fits(a, spec)}
        assert len(fitting) == 1
        assert KeyFamily(spec.value.partition("_")[0]) in fitting


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.EC_P256, KeySpec.ED25519])
def test_key_of_another_family_verifies_nothing(spec: KeySpec) -> None:
    encoded = public_key(spec)
    for algorithm in SignatureAlgorithm:
        assert not key_specs.verify_signature(encoded, algorithm, signature=b"x" * 64, data=b"data")


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        ed448.Ed448PrivateKey.generate().public_key(),
        dsa.generate_private_key(2048).public_key(),
    ],
)
def test_other_kinds_have_no_spec(key: PublicKeyTypes) -> None:
    assert key_specs.key_spec_of(key) is None


@pytest.mark.parametrize("algorithm", SignatureAlgorithm)
def test_identifier_is_known_by_its_bytes(algorithm: SignatureAlgorithm) -> None:
    identifier = key_specs.algorithm_identifier(algorithm)
    assert key_specs.algorithm_of_identifier(identifier) is algorithm
    assert identifier.endswith(b"\x05\x00") is (key_specs.family_of(algorithm) is KeyFamily.RSA)
    assert key_specs.algorithm_of_identifier(identifier + b"\x05\x00") is None


def test_defaults_are_those_of_the_api() -> None:
    expected = {"RSA_2048": "SHA256_WITH_RSA", "EC_P256": "ECDSA_WITH_SHA256", "EC_P384": "ECDSA_WITH_SHA384"}
    assert {spec: key_specs.default_signature_algorithm(KeySpec(spec)).value for spec in expected} == expected
    assert key_specs.default_signature_algorithm(KeySpec.EC_P521) is SignatureAlgorithm.ECDSA_WITH_SHA512


def test_key_identifier_is_short_and_not_sha1() -> None:
    encoded = public_key()
    sha1 = x509.SubjectKeyIdentifier.from_public_key(
        key_specs.load_public_key_der(encoded)  # type: ignore[arg-type]  # An EC key, which certificates may have.
    ).digest
    identifier = key_specs.key_identifier(encoded)
    assert len(identifier) == 20
    assert identifier != sha1
    assert identifier == key_specs.key_identifier(encoded)


@pytest.mark.parametrize("encoded", [b"", b"\x30\x00", b"\x30\x05\x30\x00\x03\x01\x01"])
def test_malformed_key(encoded: bytes) -> None:
    for parse in (key_specs.key_identifier, key_specs.load_public_key_der):
        with pytest.raises(CertdError) as caught:
            parse(encoded)
        assert caught.value.reason is Reason.FIELD_INVALID
