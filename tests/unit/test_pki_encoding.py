import ssl
import subprocess

import pytest

from certd.errors import CertdError, Reason
from certd.pki.encoding import LONGEST_CHAIN, certificate_pem, parse_certificates
from tests.unit.memory_authority import root, subordinate

_ROOT = root()
_ROOT_CERTIFICATE = _ROOT.certificate
_SUBORDINATE = subordinate(_ROOT).certificate
_BUNDLE = (certificate_pem(_SUBORDINATE) + certificate_pem(_ROOT_CERTIFICATE)).encode()


def test_pem_is_what_others_write() -> None:
    run = subprocess.run(
        ["openssl", "x509", "-inform", "DER"], input=_ROOT_CERTIFICATE, capture_output=True, check=True
    )
    assert certificate_pem(_ROOT_CERTIFICATE).encode() == run.stdout
    assert ssl.PEM_cert_to_DER_cert(certificate_pem(_ROOT_CERTIFICATE)) == _ROOT_CERTIFICATE


@pytest.mark.parametrize(
    ("data", "certificates"),
    [
        (_ROOT_CERTIFICATE, [_ROOT_CERTIFICATE]),
        (_BUNDLE, [_SUBORDINATE, _ROOT_CERTIFICATE]),
        (b"Certificate:\n  Data:\n" + _BUNDLE + b"\n# end\n", [_SUBORDINATE, _ROOT_CERTIFICATE]),
        (_BUNDLE.replace(b"\n", b"\r\n"), [_SUBORDINATE, _ROOT_CERTIFICATE]),
        (_BUNDLE.replace(b"BEGIN CERT", b"BEGIN X509 CERT").replace(b"END CERT", b"END X509 CERT"),
         [_SUBORDINATE, _ROOT_CERTIFICATE]),
    ],
)  # fmt: skip
def test_bundles(data: bytes, certificates: list[bytes]) -> None:
    assert parse_certificates(data) == certificates


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "neither PEM nor DER"),
        (b"garbage", "neither PEM nor DER"),
        (_ROOT_CERTIFICATE[:-1], "neither PEM nor DER"),
        (_ROOT_CERTIFICATE + _SUBORDINATE, "neither PEM nor DER"),
        (b"\x30\x00", "neither PEM nor DER"),
        (_BUNDLE[:-30], "whole certificate"),
        (
            _BUNDLE + b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            "whole certificate",
        ),
        (_BUNDLE + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "private key"),
        (b"-----BEGIN CERTIFICATE-----\nA*A=\n-----END CERTIFICATE-----\n", "not base64"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "neither PEM nor DER"),
        (bytes(LONGEST_CHAIN + 1), "longer than"),
    ],
)
def test_what_is_no_bundle(data: bytes, problem: str) -> None:
    with pytest.raises(CertdError, match=problem) as caught:
        parse_certificates(data, field="chain")
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "chain"
