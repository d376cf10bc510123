"""What is described while a certificate is prepared, against what the library reads of the certificate."""

from dataclasses import replace

from certd.pki.description import describe
from tests.interop.generated import generated_certificates


def test_a_description_made_before_the_signature_says_what_the_certificate_says() -> None:
    for each in generated_certificates(20261124, 400):
        said = describe(each.certificate)
        assert each.description == replace(said, sha256_fingerprint=b"")
