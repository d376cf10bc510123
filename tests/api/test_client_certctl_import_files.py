"""What certctl imports from: PEM, DER and PKCS#12 of openssl, certtool, keytool and ssh-keygen, encrypted or not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from tests.api.imports_of_clients import (
    ISSUER,
    NOW,
    PASSPHRASE,
    ROOT,
    Files,
    Importing,
    files,
    importing,
    sealed_key,
    shop,
    tool,
)
from tests.certctl import Certctl
from tests.fakes_server import FakeServer
from tests.imports import Pair, pair

__all__ = ["files", "importing", "shop"]

# Homebrew has it under another name, for macOS has a certtool of its own.
CERTTOOL = shutil.which("gnutls-certtool") or shutil.which("certtool") or "certtool"


@pytest.mark.usefixtures("importing")
def test_a_full_chain_file_needs_no_other(fake: FakeServer, certctl: Certctl, shop: Pair, files: Files) -> None:
    fullchain = files("fullchain.pem", shop.pem + shop.chain_pem)
    key = files("k.pem", shop.key_pem)
    ended = certctl("managed", "import", "shop", "--certificate", fullchain, "--private-key", key)
    assert ended.code == 0
    assert "those after it (2) are its chain" in ended.err
    (request,) = fake.requests("ImportManagedCertificate")
    assert (request.certificate, request.certificate_chain) == (shop.der, shop.chain_pem)
    chain = files("ch.pem", shop.chain_pem)
    refused = certctl("managed", "import", "shop", "--certificate", fullchain, "--private-key", key, "--chain", chain)
    assert refused.code == 1
    assert str(fullchain) in refused.err


def test_der_files_are_read_too(certctl: Certctl, importing: Importing, files: Files) -> None:
    shop = pair(ROOT, "shop.example.internal", now=NOW)
    ended = certctl(
        *("managed", "import", "shop", "--certificate", files("c.der", shop.der)),
        *("--private-key", files("k.der", shop.key_der), "--chain", files("ch.der", ROOT.der)),
    )
    assert ended.code == 0, ended.err
    assert sealed_key(importing).private_numbers() == shop.key.private_numbers()


@pytest.mark.usefixtures("importing")
def test_files_that_do_not_fit_are_named_with_the_remedy(
    fake: FakeServer, certctl: Certctl, shop: Pair, files: Files
) -> None:
    other = pair(ISSUER, "other.example.internal", now=NOW)
    cert, key, chain = files("c.pem", shop.pem), files("k.pem", shop.key_pem), files("ch.pem", shop.chain_pem)
    foreign = files("o.pem", other.key_pem)
    both = files("both.pem", shop.key_pem + shop.pem)
    empty = files("empty.pem", b"")
    missing = files.folder / "missing.pem"
    big = files("big.pem", b" " * (17 << 10))
    for certificate, private_key, expected in (
        (cert, foreign, (f"IMPORT_KEY_MISMATCH: the private key in {foreign}", str(cert))),
        (both, key, (f"FIELD_INVALID: {both} holds a private key", "--private-key")),
        (empty, key, ("IMPORT_NOT_PEM", str(empty))),
        (key, key, (str(key), "--private-key")),
        (cert, cert, (str(cert),)),
        (cert, empty, (str(empty),)),
        (missing, key, (f"the certificate file {missing} cannot be read",)),
        (cert, missing, (f"the private key file {missing} cannot be read",)),
        (cert, big, (str(big), "16384")),
    ):
        ended = certctl(
            "managed", "import", "shop", "--certificate", certificate, "--private-key", private_key, "--chain", chain
        )
        assert ended.code == 1, (certificate, private_key)
        for told in expected:
            assert told in ended.err, ended.err
    assert not fake.calls


@pytest.mark.usefixtures("importing")
def test_a_key_that_others_can_read_is_told(certctl: Certctl, shop: Pair, files: Files) -> None:
    arguments = files.of(shop)
    (files.folder / "k.pem").chmod(0o644)
    ended = certctl("managed", "import", "shop", *arguments)
    assert ended.code == 0
    assert f"chmod 600 {files.folder / 'k.pem'}" in ended.err


@pytest.mark.parametrize(
    "encrypt",
    [
        ("pkcs8", "-topk8"),
        ("pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES", "-provider", "legacy", "-provider", "default"),
        ("pkcs8", "-topk8", "-outform", "DER"),
        ("ec", "-aes256"),
    ],
    ids=["pkcs8", "pbes1", "der", "traditional"],
)
def test_an_encrypted_key_is_opened_here(
    fake: FakeServer,
    certctl: Certctl,
    importing: Importing,
    shop: Pair,
    files: Files,
    encrypt: tuple[str, ...],
) -> None:
    arguments = files.of(shop)
    plain, encrypted = files("plain.pem", shop.key_pem), files.folder / "k.pem"
    tool("openssl", *encrypt, "-in", plain, "-out", encrypted, "-passout", f"pass:{PASSPHRASE}")
    missing = certctl("managed", "import", "shop", *arguments)
    assert missing.code == 1
    assert f"{encrypted} is encrypted" in missing.err
    assert "--private-key-passphrase-file" in missing.err
    wrong = files("wrong.txt", "another\n")
    refused = certctl("managed", "import", "shop", *arguments, "--private-key-passphrase-file", wrong)
    assert refused.code == 1
    assert f"{encrypted} does not open" in refused.err
    assert not fake.requests("ImportManagedCertificate")
    right = files("right.txt", f"{PASSPHRASE}\n")
    ended = certctl("managed", "import", "shop", *arguments, "--private-key-passphrase-file", right)
    assert ended.code == 0, ended.err
    assert sealed_key(importing).private_numbers() == shop.key.private_numbers()
    assert not any(PASSPHRASE.encode() in message.SerializeToString() for _, message in fake.calls)


@pytest.mark.usefixtures("importing")
def test_a_passphrase_that_is_not_needed_is_told(certctl: Certctl, shop: Pair, files: Files) -> None:
    arguments = (*files.of(shop), "--private-key-passphrase-file", files("p.txt", "x\n"))
    ended = certctl("managed", "import", "shop", *arguments)
    assert ended.code == 0
    assert "k.pem is not encrypted" in ended.err


def self_signed(files: Files, key_file: Path) -> Path:
    certificate = files.folder / "self.pem"
    subject = ("-subj", "/CN=shop.example.internal", "-addext", "subjectAltName=DNS:shop.example.internal")
    tool("openssl", "req", "-x509", "-new", "-key", key_file, "-days", "30", *subject, "-out", certificate)
    return certificate


def test_a_key_of_ssh_keygen(fake: FakeServer, certctl: Certctl, importing: Importing, files: Files) -> None:
    ours = files.folder / "id_ecdsa"
    tool("ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-f", ours)
    assert ours.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    copy = files("copy", ours.read_bytes())
    tool("ssh-keygen", "-q", "-p", "-m", "PKCS8", "-N", "", "-P", "", "-f", copy)
    certificate = self_signed(files, copy)
    ended = certctl("managed", "import", "shop", "--certificate", certificate, "--private-key", ours)
    assert ended.code == 0, ended.err
    spki = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    assert sealed_key(importing).public_key() == spki
    tool("ssh-keygen", "-q", "-p", "-N", "five5", "-P", "", "-f", ours)
    fake.calls.clear()
    passphrase = files("p.txt", "five5\n")
    ended = certctl(
        *("managed", "import", "shop", "--certificate", certificate, "--private-key", ours),
        *("--private-key-passphrase-file", passphrase),
    )
    # The library that opens them is not among ours; the way around it is told.
    assert ended.code == 1
    assert "ssh-keygen -p -m PKCS8" in ended.err
    assert not fake.calls


def pkcs12_by_openssl(files: Files, shop: Pair, target: Path) -> None:
    key, cert, chain = files("k.pem", shop.key_pem), files("c.pem", shop.pem), files("ch.pem", shop.chain_pem)
    tool(
        *("openssl", "pkcs12", "-export", "-inkey", key, "-in", cert, "-certfile", chain, "-out", target),
        *("-passout", f"pass:{PASSPHRASE}"),
    )


def pkcs12_of_old_by_openssl(files: Files, shop: Pair, target: Path) -> None:
    key, cert, chain = files("k.pem", shop.key_pem), files("c.pem", shop.pem), files("ch.pem", shop.chain_pem)
    tool(
        *("openssl", "pkcs12", "-export", "-legacy", "-inkey", key, "-in", cert, "-certfile", chain, "-out", target),
        *("-passout", f"pass:{PASSPHRASE}"),
    )


def pkcs12_by_certtool(files: Files, shop: Pair, target: Path) -> None:
    key, cert = files("k.pem", shop.key_pem), files("c.pem", shop.pem + shop.chain_pem)
    tool(
        *(CERTTOOL, "--to-p12", "--load-privkey", key, "--load-certificate", cert, "--outder", "--outfile", target),
        *("--p12-name", "shop", "--password", PASSPHRASE),
    )


def pkcs12_by_keytool(files: Files, shop: Pair, target: Path) -> None:
    source = files.folder / "source.p12"
    pkcs12_by_openssl(files, shop, source)
    tool(
        *("keytool", "-importkeystore", "-noprompt", "-srckeystore", source, "-srcstoretype", "PKCS12"),
        *("-srcstorepass", PASSPHRASE, "-destkeystore", target, "-deststoretype", "PKCS12"),
        *("-deststorepass", PASSPHRASE),
    )


@pytest.mark.parametrize(
    "make",
    [pkcs12_by_openssl, pkcs12_of_old_by_openssl, pkcs12_by_certtool, pkcs12_by_keytool],
    ids=lambda make: make.__name__,
)
def test_a_pkcs12_file_has_all_three(
    fake: FakeServer,
    certctl: Certctl,
    importing: Importing,
    shop: Pair,
    files: Files,
    make: Callable[[Files, Pair, Path], None],
) -> None:
    bundle = files.folder / "shop.p12"
    make(files, shop, bundle)
    passphrase = files("p.txt", f"{PASSPHRASE}\n")
    ended = certctl("managed", "import", "shop", "--pkcs12", bundle, "--passphrase-file", passphrase)
    assert ended.code == 0, ended.err
    (request,) = fake.requests("ImportManagedCertificate")
    # In order, whatever the order in the file.
    assert (request.certificate, request.certificate_chain) == (shop.der, shop.chain_pem)
    assert sealed_key(importing).private_numbers() == shop.key.private_numbers()


def test_a_pkcs12_file_of_two_entries_gives_one_and_says_what_it_leaves(
    fake: FakeServer, certctl: Certctl, importing: Importing, files: Files
) -> None:
    store = files.folder / "two.p12"
    for alias in ("one", "two"):
        tool(
            *("keytool", "-genkeypair", "-alias", alias, "-keyalg", "EC", "-groupname", "secp256r1"),
            *("-dname", f"CN={alias}.example.internal", "-validity", "30"),
            *("-storetype", "PKCS12", "-keystore", store, "-storepass", "changeit"),
        )
    passphrase = files("p.txt", "changeit\n")
    ended = certctl("managed", "import", "shop", "--pkcs12", store, "--passphrase-file", passphrase)
    assert ended.code == 0, ended.err
    (request,) = fake.requests("ImportManagedCertificate")
    imported = x509.load_der_x509_certificate(request.certificate)
    assert sealed_key(importing).public_key() == imported.public_key()
    assert not request.certificate_chain
    (note,) = ended.err.splitlines()
    left = {"CN=one.example.internal", "CN=two.example.internal"} - {imported.subject.rfc4514_string()}
    assert left.pop() in note


@pytest.mark.usefixtures("importing")
def test_a_pkcs12_file_that_does_not_open_says_why(
    fake: FakeServer, certctl: Certctl, shop: Pair, files: Files
) -> None:
    bundle = files.folder / "shop.p12"
    pkcs12_by_openssl(files, shop, bundle)
    wrong = files("w.txt", "another\n")
    keyless = files.folder / "keyless.p12"
    tool(
        *("openssl", "pkcs12", "-export", "-nokeys", "-in", files("c.pem", shop.pem), "-out", keyless),
        *("-passout", "pass:another"),
    )
    pem = files("k.pem", shop.key_pem)
    for file, passphrase, told in (
        (bundle, wrong, "does not open with the passphrase"),
        (bundle, None, "--passphrase-file"),
        (pem, wrong, "is no PKCS#12 file"),
        (keyless, wrong, "holds no private key"),
    ):
        more = () if passphrase is None else ("--passphrase-file", passphrase)
        ended = certctl("managed", "import", "shop", "--pkcs12", file, *more)
        assert ended.code == 1
        assert str(file) in ended.err
        assert told in ended.err
    assert not fake.calls
