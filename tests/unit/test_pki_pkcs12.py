"""PKCS#12 files: what is in them, how hard a passphrase is to try, and what does not open."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12KeyAndCertificates, load_pkcs12
from cryptography.x509.oid import NameOID

from certd.errors import CertdError, Reason
from certd.pki import pkcs12
from certd.pki.export_form import ExportForm, check_passphrase, protect
from certd.pki.key_spec import KeySpec, generate_private_key

PASSPHRASE = b"correct horse"
FORMS = pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])


def certificate_of(spec: KeySpec, common_name: str) -> tuple[bytes, bytes]:
    """Returns the PrivateKeyInfo and the certificate of a new key."""
    key, signer = generate_private_key(spec), ed25519.Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Issuer")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2030, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2031, 1, 1, tzinfo=UTC))
        .sign(signer, None)
    )
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return private, certificate.public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def leaf() -> tuple[bytes, bytes]:
    return certificate_of(KeySpec.EC_P256, "www.example.internal")


@pytest.fixture(scope="module")
def chain() -> tuple[bytes, ...]:
    return tuple(certificate_of(KeySpec.EC_P256, name)[1] for name in ("Issuing CA", "Root"))


@pytest.fixture(scope="module")
def modern(leaf: tuple[bytes, bytes], chain: tuple[bytes, ...]) -> bytes:
    return pkcs12.encrypt(leaf[0], [leaf[1], *chain], PASSPHRASE, friendly_name="web")


def contents(opened: PKCS12KeyAndCertificates) -> tuple[bytes, list[tuple[bytes, bytes | None]]]:
    assert opened.key is not None
    assert opened.cert is not None
    private = opened.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    all_of_them = (opened.cert, *opened.additional_certs)
    return private, [(each.certificate.public_bytes(Encoding.DER), each.friendly_name) for each in all_of_them]


def openssl_info(tmp_path: Path, data: bytes, passphrase: bytes = PASSPHRASE) -> "subprocess.CompletedProcess[str]":
    file, secret = tmp_path / "bundle.p12", tmp_path / "pass"
    file.write_bytes(data)
    secret.write_bytes(passphrase)
    command: list[str | Path] = ["openssl", "pkcs12", "-in", file, "-passin", f"file:{secret}", "-info", "-noout"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@FORMS
@pytest.mark.parametrize("spec", list(KeySpec))
def test_key_and_certificates_are_in_it(spec: KeySpec, chain: tuple[bytes, ...], *, legacy: bool) -> None:
    private, certificate = certificate_of(spec, "www.example.internal")
    data = pkcs12.encrypt(private, [certificate, *chain], PASSPHRASE, friendly_name="web", legacy=legacy)
    assert contents(load_pkcs12(data, PASSPHRASE)) == (
        private,
        [(certificate, b"web"), *((each, None) for each in chain)],
    )


def test_nothing_in_a_modern_one_is_quick_to_try(tmp_path: Path, modern: bytes) -> None:
    told = openssl_info(tmp_path, modern).stderr
    strong = "PBES2, PBKDF2, AES-256-CBC, Iteration 250000, PRF hmacWithSHA256"
    assert "MAC: sha256, Iteration 250000" in told
    assert f"PKCS7 Encrypted data: {strong}" in told
    assert f"Shrouded Keybag: {strong}" in told


def test_a_legacy_one_has_what_old_readers_know(tmp_path: Path, leaf: tuple[bytes, bytes]) -> None:
    told = openssl_info(
        tmp_path, pkcs12.encrypt(leaf[0], leaf[1:], PASSPHRASE, friendly_name="web", legacy=True)
    ).stderr
    assert "MAC: sha1, Iteration 2048" in told
    assert told.count("pbeWithSHA1And3-KeyTripleDES-CBC, Iteration 2048") == 2


@FORMS
def test_no_two_are_the_same(leaf: tuple[bytes, bytes], *, legacy: bool) -> None:
    made = {pkcs12.encrypt(leaf[0], leaf[1:], PASSPHRASE, friendly_name="web", legacy=legacy) for _ in range(2)}
    assert len(made) == 2
    assert not any(leaf[0] in each or leaf[1] in each for each in made)


@FORMS
def test_another_passphrase_does_not_open_it(leaf: tuple[bytes, bytes], tmp_path: Path, *, legacy: bool) -> None:
    data = pkcs12.encrypt(leaf[0], leaf[1:], PASSPHRASE, friendly_name="web", legacy=legacy)
    for passphrase in (b"correct horsf", b"Correct horse", b"correct horse\n", b""):
        with pytest.raises(ValueError, match="Invalid password"):
            load_pkcs12(data, passphrase)
    refused = openssl_info(tmp_path, data, b"correct horsf")
    assert refused.returncode != 0
    assert "invalid password" in refused.stderr


@FORMS
def test_a_flipped_bit_is_noticed_wherever_it_is(leaf: tuple[bytes, bytes], *, legacy: bool) -> None:
    data = pkcs12.encrypt(leaf[0], leaf[1:], PASSPHRASE, friendly_name="web", legacy=legacy)
    # A prime step, so that every part of the file has its turn.
    for at in range(30, len(data), 97 if legacy else 211):
        bent = bytearray(data)
        bent[at] ^= 1 << at % 8
        with pytest.raises(ValueError, match=r".+"):
            load_pkcs12(bytes(bent), PASSPHRASE)


@FORMS
@pytest.mark.parametrize("passphrase", ["pässwörd", "密码密码密码", "🐎 battery staple"])
def test_a_passphrase_of_any_language_opens_it(
    leaf: tuple[bytes, bytes], tmp_path: Path, passphrase: str, *, legacy: bool
) -> None:
    data = pkcs12.encrypt(leaf[0], leaf[1:], passphrase.encode(), friendly_name="web", legacy=legacy)
    assert contents(load_pkcs12(data, passphrase.encode()))[0] == leaf[0]
    opened = openssl_info(tmp_path, data, passphrase.encode())
    assert opened.returncode == 0, opened.stderr


@pytest.mark.parametrize("form", [ExportForm.PKCS12_MODERN, ExportForm.PKCS12_LEGACY])
@pytest.mark.parametrize(
    "passphrase", [b"", b"seven77", b"x" * 1025, b"\xff" * 8, b"eight\0000", "ä".encode("latin-1") * 8]
)
def test_a_passphrase_is_text_within_bounds(leaf: tuple[bytes, bytes], form: ExportForm, passphrase: bytes) -> None:
    with pytest.raises(CertdError) as checked:
        check_passphrase(form, passphrase, "passphrase.passphrase")
    with pytest.raises(CertdError) as used:
        protect(form, leaf[0], passphrase, certificates=leaf[1:], friendly_name="web")
    assert {checked.value.reason, used.value.reason} == {Reason.FIELD_INVALID}
    assert checked.value.violations[0].field == "passphrase.passphrase"
    assert "seven77" not in str(checked.value)
    assert "eight" not in str(checked.value)


@FORMS
def test_the_first_certificate_must_hold_the_key(
    leaf: tuple[bytes, bytes], chain: tuple[bytes, ...], *, legacy: bool
) -> None:
    for certificates in ((), chain, (*chain, leaf[1]), (b"none",)):
        with pytest.raises(CertdError) as refused:
            pkcs12.encrypt(leaf[0], certificates, PASSPHRASE, friendly_name="web", legacy=legacy)
        assert refused.value.violations[0].field == "certificates"
    with pytest.raises(CertdError) as no_key:
        pkcs12.encrypt(b"none", leaf[1:], PASSPHRASE, friendly_name="web", legacy=legacy)
    assert no_key.value.violations[0].field == "private_key"


def test_it_pauses_so_that_others_may_go_on(leaf: tuple[bytes, bytes]) -> None:
    pauses = []
    pkcs12.encrypt(leaf[0], leaf[1:], PASSPHRASE, friendly_name="web", pause=lambda: pauses.append(1))
    assert len(pauses) == (pkcs12.ROUNDS - 1) // 256


def test_a_truststore_holds_certificates_under_names_of_their_own(chain: tuple[bytes, ...], tmp_path: Path) -> None:
    roots = [certificate_of(KeySpec.EC_P256, name)[1] for name in ("root", "ROOT", "")]
    data = pkcs12.truststore([*chain, *roots], PASSPHRASE)
    opened = load_pkcs12(data, PASSPHRASE)
    assert (opened.key, opened.cert) == (None, None)
    assert [(each.certificate.public_bytes(Encoding.DER), each.friendly_name) for each in opened.additional_certs] == [
        (chain[0], b"Issuing CA"),
        (chain[1], b"Root"),
        (roots[0], b"root (2)"),
        (roots[1], b"ROOT (3)"),
        (roots[2], b"certificate"),
    ]
    # The passphrase may be that of a key beside it.
    told = openssl_info(tmp_path, data).stderr
    assert "MAC: sha256, Iteration 250000" in told
    with pytest.raises(ValueError, match="Invalid password"):
        load_pkcs12(data, b"correct horsf")


def test_a_truststore_is_not_empty_and_has_a_passphrase(chain: tuple[bytes, ...]) -> None:
    for certificates, passphrase, field in (
        ((), PASSPHRASE, "certificates"),
        ((b"none",), PASSPHRASE, "certificates"),
        (chain, b"short", "passphrase"),
    ):
        with pytest.raises(CertdError) as refused:
            pkcs12.truststore(certificates, passphrase)
        assert refused.value.violations[0].field == field
