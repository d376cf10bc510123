import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from certd.errors import CertdError, Reason
from certd.pki.key_spec import KeySpec, generate_private_key
from certd.pki.pkcs8 import check_passphrase, encrypt, encrypt_acm_compatible, to_pem

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


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.EC_P256, KeySpec.ED25519])
def test_others_open_what_is_as_that_of_acm(tmp_path: Path, spec: KeySpec) -> None:
    plain = generate_private_key(spec).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    encrypted = encrypt_acm_compatible(plain, b"four")
    opened = load_der_private_key(encrypted, b"four")
    assert opened.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) == plain
    with pytest.raises(ValueError, match=r".*"):
        load_der_private_key(encrypted, b"five")
    key = tmp_path / "key.pem"
    key.write_bytes(to_pem(encrypted))
    arguments: list[str | Path] = ["-topk8", "-nocrypt", "-in", key, "-passin", "pass:four", "-outform", "DER"]
    run = subprocess.run(["openssl", "pkcs8", *arguments], capture_output=True, check=True)
    assert run.stdout == plain


def test_what_is_as_that_of_acm_begins_as_theirs_and_has_their_length() -> None:
    """Their documentation shows the key of a certificate of RSA-2048: up to its salt it says the same."""
    # As long as such a key, of which the blocks of AES tell no more.
    lines = to_pem(encrypt_acm_compatible(bytes(1217), b"a passphrase")).split(b"\n")
    assert lines[1].startswith(b"MIIFKzBVBgkqhkiG9w0BBQ0wSDAnBgkqhkiG9w0BBQwwGgQU")


def test_what_is_as_that_of_acm_has_their_parameters(tmp_path: Path) -> None:
    file = tmp_path / "key.der"
    first, second = (encrypt_acm_compatible(b"\x30\x00", _PASSPHRASE_OF_ACM) for _ in range(2))
    assert first != second
    file.write_bytes(first)
    command: list[str | Path] = ["openssl", "asn1parse", "-inform", "DER", "-in", file]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for word in ("PBES2", "PBKDF2", "aes-256-cbc", ":0800"):
        assert word in told
    # HMAC-SHA1 is the default, which is not written.
    assert "hmacWith" not in told
    assert "l=  20 prim: OCTET STRING" in told


_PASSPHRASE_OF_ACM = bytes(set(range(1, 128)) - set(b"#$%"))


@pytest.mark.parametrize(
    "passphrase",
    [b"", b"abc", b"x" * 129, b"with#hash", b"with$dollar", b"with%percent", "pässword".encode()],
)
def test_a_passphrase_that_acm_does_not_take_is_refused(passphrase: bytes) -> None:
    with pytest.raises(CertdError) as caught:
        encrypt_acm_compatible(b"\x30\x00", passphrase)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "passphrase"
    assert not any(word in str(caught.value) for word in ("abc", "hash", "dollar", "percent", "ssword", "xxx"))


@pytest.mark.parametrize("at", [2, 30, 60, 90, -40, -1])
def test_a_flipped_bit_lets_no_key_out(at: int) -> None:
    """There is no MAC in the format: what opens at all is no longer a key, or not the same one."""
    plain = generate_private_key(KeySpec.EC_P256).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for make, passphrase in ((encrypt, _PASSPHRASE), (encrypt_acm_compatible, b"four")):
        bent = bytearray(make(plain, passphrase))
        bent[at] ^= 1
        try:
            opened = load_der_private_key(bytes(bent), passphrase)
        except (ValueError, UnsupportedAlgorithm):
            continue
        assert opened.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) != plain
