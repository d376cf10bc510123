"""PKCS#7 with certificates alone."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates

from certd.errors import CertdError, Reason
from certd.pki.key_spec import KeySpec
from certd.pki.pkcs7 import certificates_only
from tests.unit.test_pki_pkcs12 import certificate_of


def test_it_holds_each_certificate_once(tmp_path: Path) -> None:
    certificates = [certificate_of(KeySpec.EC_P256, name)[1] for name in ("www.example.internal", "CA", "Root")]
    data = certificates_only(certificates)
    found = [each.public_bytes(Encoding.DER) for each in load_der_pkcs7_certificates(data)]
    assert sorted(found) == sorted(certificates)
    file = tmp_path / "chain.p7b"
    file.write_bytes(data)
    command: list[str | Path] = ["openssl", "pkcs7", "-inform", "DER", "-in", file, "-print_certs", "-noout"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.count("subject=") == 3
    parsed = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER", "-in", file], capture_output=True, text=True, check=True
    ).stdout
    assert "pkcs7-signedData" in parsed


@pytest.mark.parametrize("certificates", [(), (b"none",)])
def test_it_is_never_without(certificates: tuple[bytes, ...]) -> None:
    with pytest.raises(CertdError) as refused:
        certificates_only(certificates)
    assert refused.value.reason is Reason.FIELD_INVALID
