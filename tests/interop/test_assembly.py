"""What is to be signed is written as the library's builder writes it, byte for byte."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from certd.pki.assembly import unsigned
from certd.pki.key_spec import KeyFamily, KeySpec, family_of, generate_private_key, hash_of
from certd.pki.tbs import parse_tbs_certificate
from tests.interop.generated import generated_certificates
from tests.unit.memory_authority import prepare_leaf, root

_KEYS: dict[KeyFamily, CertificateIssuerPrivateKeyTypes] = {
    KeyFamily.EC: generate_private_key(KeySpec.EC_P256),
    KeyFamily.RSA: generate_private_key(KeySpec.RSA_2048),
    KeyFamily.ED25519: generate_private_key(KeySpec.ED25519),
}


def _as_the_builder_writes_it(tbs: bytes) -> bytes:
    """Takes what is to be signed apart and has the library build it again."""
    algorithm = parse_tbs_certificate(tbs).signature_algorithm
    read = x509.load_der_x509_certificate(unsigned(tbs, algorithm))
    builder = x509.CertificateBuilder(
        issuer_name=read.issuer,
        subject_name=read.subject,
        public_key=read.public_key(),
        serial_number=read.serial_number,
        not_valid_before=read.not_valid_before_utc,
        not_valid_after=read.not_valid_after_utc,
        extensions=list(read.extensions),
    )
    return builder.sign(_KEYS[family_of(algorithm)], hash_of(algorithm)).tbs_certificate_bytes


def test_certificates_of_random_requests_are_written_as_the_builder_writes_them() -> None:
    for each in generated_certificates(20261125, 600):
        tbs = x509.load_der_x509_certificate(each.certificate).tbs_certificate_bytes
        assert _as_the_builder_writes_it(tbs) == tbs


@pytest.mark.parametrize("end", [datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)])
@pytest.mark.parametrize("spec", [KeySpec.EC_P256, KeySpec.ED25519, KeySpec.RSA_2048])
def test_times_on_both_sides_of_2050_are_written_as_the_builder_writes_them(end: datetime, spec: KeySpec) -> None:
    now = end - timedelta(days=30)
    prepared = prepare_leaf(root(spec, now=now), now=now, lifetime=timedelta(days=30, seconds=1))
    assert prepared.not_after == end
    assert _as_the_builder_writes_it(prepared.tbs) == prepared.tbs
