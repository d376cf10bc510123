"""OpenSSL, GnuTLS, NSS, Java and Go open what is exported in every form, and not under another passphrase."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from certd.pki.key_spec import KeySpec
from tests.interop.conftest import Made, System
from tests.interop.exported_files import ExportedFiles, make_authority, make_files, pem_blocks
from tests.interop.hierarchy import PASSPHRASE, run
from tests.interop.test_gnutls import CERTTOOL
from tests.interop.test_go import GO

PROGRAMS = Path(__file__).with_name("exported")
SPECS = (KeySpec.EC_P256, KeySpec.EC_P384, KeySpec.RSA_2048, KeySpec.ED25519)
KEYS = pytest.mark.parametrize("form", ["pkcs8", "der", "acm-compatible"])
BUNDLES = pytest.mark.parametrize("form", ["modern", "legacy"])


@pytest.fixture(scope="session")
def authority(system: System) -> System:
    make_authority(system.core)
    return system


@pytest.fixture(scope="session", params=SPECS)
def files(
    request: pytest.FixtureRequest, authority: System, made: Made, tmp_path_factory: pytest.TempPathFactory
) -> ExportedFiles:
    spec: KeySpec = request.param
    return made.once(
        ("files", spec), lambda: make_files(authority.core, tmp_path_factory.mktemp(f"files-{spec}"), spec)
    )


def public_key(files: ExportedFiles) -> str:
    """The public key of the certificate, as openssl prints it."""
    return run("openssl", "x509", "-in", files.certificate, "-noout", "-pubkey").stdout


# OpenSSL


@KEYS
def test_openssl_opens_the_key(files: ExportedFiles, form: str) -> None:
    command = ("openssl", "pkey", "-in", files.keys[form], "-pubout", "-passin")
    assert run(*command, f"file:{files.passphrase}").stdout == public_key(files)
    refused = run(*command, f"file:{files.wrong_passphrase}")
    assert refused.returncode != 0
    assert "BEGIN PUBLIC KEY" not in refused.stdout


@BUNDLES
def test_openssl_opens_the_bundle(files: ExportedFiles, form: str) -> None:
    """Without -legacy: 3DES is in what every OpenSSL 3 loads, unlike the RC2 of other old files."""
    command = ("openssl", "pkcs12", "-in", files.bundles[form], "-noenc", "-passin")
    opened = run(*command, f"file:{files.passphrase}")
    assert opened.returncode == 0, opened.stdout
    assert pem_blocks(opened.stdout, "CERTIFICATE") == files.certificate_pems
    assert f"friendlyName: {files.alias}" in opened.stdout
    (key,) = pem_blocks(opened.stdout, "PRIVATE KEY")
    assert run("openssl", "pkey", "-pubout", stdin=key).stdout == public_key(files)
    refused = run(*command, f"file:{files.wrong_passphrase}")
    assert refused.returncode != 0
    assert "invalid password" in refused.stdout
    assert "BEGIN" not in refused.stdout


def test_openssl_sees_how_hard_a_passphrase_is_to_try(files: ExportedFiles) -> None:
    command = ("openssl", "pkcs12", "-noout", "-info", "-passin", f"file:{files.passphrase}", "-in")
    modern, legacy = (run(*command, files.bundles[form]).stdout.splitlines() for form in ("modern", "legacy"))
    strong = "PBES2, PBKDF2, AES-256-CBC, Iteration 250000, PRF hmacWithSHA256"
    assert {"MAC: sha256, Iteration 250000", f"PKCS7 Encrypted data: {strong}", f"Shrouded Keybag: {strong}"} <= set(
        modern
    )
    weak = "pbeWithSHA1And3-KeyTripleDES-CBC, Iteration 2048"
    assert {"MAC: sha1, Iteration 2048", f"PKCS7 Encrypted data: {weak}", f"Shrouded Keybag: {weak}"} <= set(legacy)


def test_openssl_reads_the_certificates_alone(files: ExportedFiles) -> None:
    listed = run("openssl", "pkcs7", "-inform", "DER", "-in", files.pkcs7, "-print_certs")
    assert sorted(pem_blocks(listed.stdout, "CERTIFICATE")) == sorted(files.certificate_pems)
    command = ("openssl", "pkcs12", "-in", files.truststore, "-nokeys", "-passin")
    trusted = run(*command, f"file:{files.passphrase}")
    assert pem_blocks(trusted.stdout, "CERTIFICATE") == files.certificate_pems[1:]
    assert run(*command, f"file:{files.wrong_passphrase}").returncode != 0


# GnuTLS


@KEYS
def test_gnutls_opens_the_key(files: ExportedFiles, form: str) -> None:
    command = (CERTTOOL, "--pubkey-info", "--pkcs8", f"--load-privkey={files.keys[form]}")
    encoding = ("--inder",) if form == "der" else ()
    opened = run(*command, *encoding, f"--password={PASSPHRASE}")
    assert public_key(files).strip() in opened.stdout, opened.stdout
    refused = run(*command, *encoding, f"--password={PASSPHRASE}!")
    assert refused.returncode != 0
    assert "Decryption has failed" in refused.stdout


@BUNDLES
def test_gnutls_opens_the_bundle(files: ExportedFiles, form: str, tmp_path: Path) -> None:
    command = (CERTTOOL, "--p12-info", "--inder", f"--infile={files.bundles[form]}")
    opened = run(*command, f"--password={PASSPHRASE}")
    assert opened.returncode == 0, opened.stdout
    assert pem_blocks(opened.stdout, "CERTIFICATE") == files.certificate_pems
    # It prints the key as it stands there, still encrypted.
    key = tmp_path / "key.pem"
    (block,) = pem_blocks(opened.stdout, "ENCRYPTED PRIVATE KEY")
    key.write_text(f"{block}\n")
    shown = run(CERTTOOL, "--pubkey-info", "--pkcs8", f"--load-privkey={key}", f"--password={PASSPHRASE}")
    assert public_key(files).strip() in shown.stdout, shown.stdout
    refused = run(*command, f"--password={PASSPHRASE}!")
    assert refused.returncode != 0
    assert "BEGIN CERTIFICATE" not in refused.stdout


def test_gnutls_reads_the_certificates_alone(files: ExportedFiles) -> None:
    listed = run(CERTTOOL, "--p7-info", "--inder", f"--infile={files.pkcs7}")
    assert sorted(pem_blocks(listed.stdout, "CERTIFICATE")) == sorted(files.certificate_pems)
    trusted = run(CERTTOOL, "--p12-info", "--inder", f"--infile={files.truststore}", f"--password={PASSPHRASE}")
    assert pem_blocks(trusted.stdout, "CERTIFICATE") == files.certificate_pems[1:]


# NSS, which has no way in for a key that is not in a PKCS#12.


@pytest.fixture
def nss(tmp_path: Path) -> Path:
    """A new database of NSS."""
    folder = tmp_path / "nss"
    folder.mkdir()
    made = run("certutil", "-N", "-d", folder, "--empty-password")
    assert made.returncode == 0, made.stdout
    return folder


def knows_to_nss(files: ExportedFiles) -> bool:
    """Ed25519 came to NSS with 3.101, which is later than what is on long-lived systems."""
    return files.key_spec is not KeySpec.ED25519


@BUNDLES
def test_nss_opens_the_bundle(files: ExportedFiles, nss: Path, form: str) -> None:
    refused = run("pk12util", "-i", files.bundles[form], "-d", nss, "-w", files.wrong_passphrase)
    assert refused.returncode != 0
    assert "SEC_ERROR_BAD_PASSWORD" in refused.stdout
    opened = run("pk12util", "-i", files.bundles[form], "-d", nss, "-w", files.passphrase)
    if not knows_to_nss(files) and opened.returncode != 0:
        assert "SEC_ERROR_PKCS12_UNABLE_TO_IMPORT_KEY" in opened.stdout
        return
    assert "IMPORT SUCCESSFUL" in opened.stdout, opened.stdout
    assert files.alias in run("certutil", "-K", "-d", nss).stdout
    found = run("certutil", "-L", "-d", nss, "-n", files.alias, "-a").stdout.replace("\r\n", "\n")
    assert pem_blocks(found, "CERTIFICATE") == files.certificate_pems[:1]
    # What goes out again is the same key.
    again = nss / "again.p12"
    exported = run("pk12util", "-o", again, "-n", files.alias, "-d", nss, "-w", files.passphrase, "-c", "AES-256-CBC")
    assert exported.returncode == 0, exported.stdout
    opened = run("openssl", "pkcs12", "-in", again, "-noenc", "-nocerts", "-passin", f"file:{files.passphrase}")
    (key,) = pem_blocks(opened.stdout, "PRIVATE KEY")
    assert run("openssl", "pkey", "-pubout", stdin=key).stdout == public_key(files)


def test_nss_takes_the_certificates_of_the_truststore(files: ExportedFiles, nss: Path) -> None:
    opened = run("pk12util", "-i", files.truststore, "-d", nss, "-w", files.passphrase)
    assert "IMPORT SUCCESSFUL" in opened.stdout, opened.stdout
    listed = run("certutil", "-L", "-d", nss).stdout
    assert "Interop files-root" in listed
    assert "Interop files-ca" in listed


# Java


@pytest.fixture(scope="session")
def java(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | Path, ...]:
    """OpenExported.java, compiled once."""
    folder = tmp_path_factory.mktemp("java")
    made = run("javac", "-d", folder, PROGRAMS / "OpenExported.java")
    assert made.returncode == 0, made.stdout
    return ("java", "-cp", folder, "OpenExported")


Command = tuple[str | Path, ...]


@KEYS
def test_java_opens_the_key(files: ExportedFiles, java: Command, form: str) -> None:
    command = (*java, "pkcs8", files.keys[form])
    opened = run(*command, files.passphrase, files.certificate)
    assert opened.stdout.split() == ["key", files.key_digest]
    refused = run(*command, files.wrong_passphrase, files.certificate)
    assert refused.returncode != 0
    assert "InvalidKeySpecException" in refused.stdout or "BadPaddingException" in refused.stdout


@BUNDLES
def test_java_opens_the_bundle(files: ExportedFiles, java: Command, form: str) -> None:
    command = (*java, "pkcs12", files.bundles[form])
    opened = run(*command, files.passphrase)
    assert opened.stdout.splitlines() == [
        f"alias {files.alias}",
        f"key {files.key_digest}",
        *(f"certificate {digest}" for digest in files.certificate_digests),
    ]
    refused = run(*command, files.wrong_passphrase)
    assert refused.returncode != 0
    assert "keystore password was incorrect" in refused.stdout


def test_java_trusts_what_is_in_the_truststore(files: ExportedFiles, java: Command) -> None:
    command = (*java, "truststore", files.truststore)
    opened = run(*command, files.passphrase, files.certificate)
    assert opened.returncode == 0, opened.stdout
    *entries, last = opened.stdout.splitlines()
    assert last == "trusted"
    assert {line for line in entries if line.startswith("certificate")} == {
        f"certificate {digest}" for digest in files.certificate_digests[1:]
    }
    assert {line for line in entries if line.startswith("alias")} == {
        "alias interop files-ca",
        "alias interop files-root",
    }
    assert "keystore password was incorrect" in run(*command, files.wrong_passphrase, files.certificate).stdout


def test_java_reads_the_certificates_of_pkcs7(files: ExportedFiles, java: Command) -> None:
    listed = run(*java, "pkcs7", files.pkcs7).stdout.splitlines()
    assert sorted(listed) == sorted(f"certificate {digest}" for digest in files.certificate_digests)


def test_keytool_lists_the_bundle_and_the_truststore(files: ExportedFiles) -> None:
    command = ("keytool", "-list", "-storepass:file", files.passphrase, "-keystore")
    listed = run(*command, files.bundles["modern"]).stdout
    assert f"{files.alias}, " in listed
    assert "PrivateKeyEntry" in listed
    trusted = run(*command, files.truststore).stdout
    assert trusted.count("trustedCertEntry") == 2
    wrong = ("keytool", "-list", "-storepass:file", files.wrong_passphrase, "-keystore", files.truststore)
    assert "password was incorrect" in run(*wrong).stdout


# Go, with the libraries that its programs use: its own know no encrypted keys.


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """open.go, with the modules that it needs."""
    if not Path(GO).exists():
        pytest.skip("there is no Go on this machine")
    built = tmp_path_factory.mktemp("go") / "open"
    made = subprocess.run(
        [GO, "build", "-mod=readonly", "-o", built, "."],
        cwd=PROGRAMS,
        env={**os.environ, "GOFLAGS": "-buildvcs=false"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return built


@KEYS
def test_go_opens_the_key(files: ExportedFiles, go: Path, form: str) -> None:
    opened = run(go, "pkcs8", files.keys[form], files.passphrase)
    assert opened.stdout.split() == ["key", files.key_digest]
    assert run(go, "pkcs8", files.keys[form], files.wrong_passphrase).returncode == 1


@BUNDLES
def test_go_opens_the_bundle(files: ExportedFiles, go: Path, form: str) -> None:
    opened = run(go, "pkcs12", files.bundles[form], files.passphrase)
    assert opened.stdout.splitlines() == [
        f"key {files.key_digest}",
        *(f"certificate {digest}" for digest in files.certificate_digests),
    ]
    refused = run(go, "pkcs12", files.bundles[form], files.wrong_passphrase)
    assert refused.returncode == 1
    assert "password incorrect" in refused.stdout


def test_go_opens_the_truststore(files: ExportedFiles, go: Path) -> None:
    opened = run(go, "truststore", files.truststore, files.passphrase)
    assert opened.stdout.splitlines() == [f"certificate {digest}" for digest in files.certificate_digests[1:]]
    assert run(go, "truststore", files.truststore, files.wrong_passphrase).returncode == 1


@pytest.mark.parametrize("command", ["openssl", CERTTOOL, "pk12util", "certutil", "java", "javac", "keytool"])
def test_every_reader_is_there(command: str) -> None:
    assert shutil.which(command), f"scripts/test installs {command}"
