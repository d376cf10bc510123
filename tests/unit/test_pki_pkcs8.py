import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from certd.errors import CertdError, Reason
from certd.pki.key_spec import KeySpec, generate_private_key
from certd.pki.pkcs8 import check_passphrase, encrypt, to_pem

_PASSPHRASE = "pässword-\x01".encode()


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.EC_P521, KeySpec.ED25519])
def test_others_open_it(tmp_path: Path, spec: KeySpec) -> None:
    plain = generate_private_key(spec).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    encrypted = encrypt(plain, _PASSPHRASE)
    opened = load_der_private_key(encrypted, _PASSPHRASE)
    assert opened.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) == plain
    key, passphrase = tmp_path / "key.pem", tmp_path / "pass"
    key.write_bytes(to_pem(encrypted))
    passphrase.write_bytes(_PASSPHRASE)
    arguments: list[str | Path] = ["-topk8", "-nocrypt", "-in", key, "-passin", f"file:{passphrase}", "-outform", "DER"]
    run = subprocess.run(["openssl", "pkcs8", *arguments], capture_output=True, check=True)
    assert run.stdout == plain
    read = load_pem_private_key(key.read_bytes(), _PASSPHRASE)
    assert read.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) == plain


def test_parameters_are_strong_and_never_the_same(tmp_path: Path) -> None:
    first, second = (encrypt(b"\x30\x00", _PASSPHRASE) for _ in range(2))
    assert first != second
    file = tmp_path / "key.der"
    file.write_bytes(first)
    run = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER", "-in", file], capture_output=True, text=True, check=True
    )
    for word in ("PBES2", "PBKDF2", "hmacWithSHA256", "aes-256-cbc", f":{600_000:06X}"):
        assert word in run.stdout


def test_wrong_passphrase_does_not_open() -> None:
    plain = generate_private_key(KeySpec.EC_P256).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match=r".*"):
        load_der_private_key(encrypt(plain, _PASSPHRASE), b"another one")


def test_pem_has_its_label_and_short_lines() -> None:
    lines = to_pem(bytes(100)).split(b"\n")
    assert lines[0] == b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
    assert lines[-2:] == [b"-----END ENCRYPTED PRIVATE KEY-----", b""]
    assert max(map(len, lines[1:-2])) == 64


@pytest.mark.parametrize("length", [8, 1024])
def test_passphrase_within_its_bounds(length: int) -> None:
    check_passphrase(b"x" * length, "passphrase")


@pytest.mark.parametrize("length", [0, 7, 1025])
def test_passphrase_out_of_its_bounds(length: int) -> None:
    with pytest.raises(CertdError, match="8 to 1024") as caught:
        check_passphrase(b"x" * length, "protection.passphrase")
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "protection.passphrase"
    assert "xxx" not in str(caught.value)
    with pytest.raises(CertdError):
        encrypt(b"\x30\x00", b"x" * length)
