"""What stands in the files, as others read it."""

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from certd.agent.bundle import Bundle
from certd.agent.config import FORMATS, SECRET_FORMATS, File
from certd.agent.errors import AgentError
from certd.agent.formats import content
from tests.agent.bundles import Minter

PASSPHRASE = b"correct horse battery staple"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    minter = Minter()
    # Below the root stands something that is no root, as an issuing authority does.
    return replace(minter.bundle(), chain=(minter.bundle().certificate, *minter.bundle().chain))


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_bytes(PASSPHRASE + b"\n")
    return path


def made(bundle: Bundle, format_: str, passphrase_file: Path | None = None) -> bytes:
    return content(bundle, File(path="file", format=format_, mode=0o600, passphrase_file=passphrase_file))


def ders(pem: bytes) -> tuple[bytes, ...]:
    return tuple(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(pem))


def test_pem_has_the_certificate_first_and_no_root(bundle: Bundle) -> None:
    below = bundle.chain[0]
    assert ders(made(bundle, "certificate")) == (bundle.certificate,)
    assert ders(made(bundle, "chain")) == (below,)
    assert ders(made(bundle, "fullchain")) == (bundle.certificate, below)
    assert ders(made(bundle, "combined")) == (bundle.certificate, below)
    assert ders(made(bundle, "ca")) == bundle.roots


def test_private_keys_are_of_the_certificate(bundle: Bundle) -> None:
    key = bundle.parsed().public_key()
    for format_ in ("private-key", "combined"):
        pem = made(bundle, format_)
        assert load_pem_private_key(pem[pem.index(b"-----BEGIN PRIVATE KEY") :], None).public_key() == key
    assert load_der_private_key(made(bundle, "private-key-der"), None).public_key() == key
    assert made(bundle, "certificate-der") == bundle.certificate


def test_pkcs7_has_the_whole_chain(bundle: Bundle) -> None:
    found = {each.public_bytes(Encoding.DER) for each in load_der_pkcs7_certificates(made(bundle, "pkcs7"))}
    assert found == {bundle.certificate, *bundle.chain}


@pytest.mark.parametrize("format_", ["pkcs12-modern", "pkcs12-legacy"])
def test_pkcs12_opens_with_the_passphrase(bundle: Bundle, format_: str, passphrase_file: Path) -> None:
    found = load_pkcs12(made(bundle, format_, passphrase_file), PASSPHRASE)
    assert found.key is not None
    assert found.key.public_key() == bundle.parsed().public_key()
    assert found.cert is not None
    assert found.cert.certificate.public_bytes(Encoding.DER) == bundle.certificate
    assert len(found.additional_certs) == len(bundle.chain)


def test_a_passphrase_that_everybody_reads_is_refused(bundle: Bundle, passphrase_file: Path) -> None:
    passphrase_file.chmod(0o644)
    with pytest.raises(AgentError, match="chmod 600"):
        made(bundle, "pkcs12-modern", passphrase_file)
    passphrase_file.chmod(0o600)
    passphrase_file.write_bytes(b"short")
    with pytest.raises(AgentError, match="8 to 1024") as caught:
        made(bundle, "pkcs12-modern", passphrase_file)
    assert "short" not in caught.value.message
    passphrase_file.unlink()
    with pytest.raises(AgentError, match="cannot be read"):
        made(bundle, "pkcs12-modern", passphrase_file)


@pytest.mark.parametrize("format_", FORMATS)
def test_the_formats_with_a_key_are_known_as_secrets(bundle: Bundle, format_: str, passphrase_file: Path) -> None:
    written = made(bundle, format_, passphrase_file if format_.startswith("pkcs12") else None)
    assert (b"PRIVATE KEY" in written or bundle.private_key_info in written) <= (format_ in SECRET_FORMATS)
    assert (format_ in SECRET_FORMATS) == ("key" in format_ or "pkcs12" in format_ or format_ == "combined")


def test_the_key_stands_in_no_text_of_a_bundle(bundle: Bundle) -> None:
    assert "private_key" not in repr(bundle)
