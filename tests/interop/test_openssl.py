"""openssl accepts every chain under its strict checks, and reads the exported keys."""

import re
from pathlib import Path

import pytest

from certd.pki.key_spec import KeySpec
from tests.interop.hierarchy import HOST, PASSPHRASE, WILDCARD_HOST, Hierarchy, run


def verify(hierarchy: Hierarchy, *leaves: Path, options: tuple[str, ...] = ()) -> tuple[int, str]:
    ended = run(
        *("openssl", "verify", "-x509_strict", "-check_ss_sig", "-CAfile", hierarchy.root),
        *("-untrusted", hierarchy.subordinate),
        *options,
        *leaves,
    )
    return ended.returncode, ended.stdout


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_verifies_every_chain(hierarchy: Hierarchy, purpose: str) -> None:
    leaves = [*hierarchy.leaves.values(), hierarchy.exported.certificate]
    code, output = verify(hierarchy, *leaves, options=("-purpose", purpose))
    assert code == 0, output
    assert output.splitlines() == [f"{leaf}: OK" for leaf in leaves]


@pytest.mark.parametrize(
    "names",
    [("-verify_hostname", HOST), ("-verify_hostname", WILDCARD_HOST), ("-verify_ip", "192.0.2.7"),
     ("-verify_ip", "2001:db8::7")],
)  # fmt: skip
def test_openssl_finds_the_names(hierarchy: Hierarchy, names: tuple[str, str]) -> None:
    code, output = verify(hierarchy, *hierarchy.leaves.values(), options=names)
    assert code == 0, output


def test_openssl_refuses_what_it_should(hierarchy: Hierarchy) -> None:
    leaf = hierarchy.leaves[KeySpec.EC_P256]
    code, output = verify(hierarchy, leaf, options=("-verify_hostname", "apps.example.internal"))
    assert code != 0
    assert "hostname mismatch" in output
    code, output = verify(hierarchy, leaf, options=("-purpose", "smimesign"))
    assert code != 0
    assert "unsuitable certificate purpose" in output


def test_openssl_opens_the_exported_key(hierarchy: Hierarchy, tmp_path: Path) -> None:
    exported, plain = hierarchy.exported, tmp_path / "plain.key"
    opened = run(
        *("openssl", "pkcs8", "-in", exported.encrypted_key, "-passin", f"file:{exported.passphrase}", "-out", plain)
    )
    assert opened.returncode == 0, opened.stdout
    checked = run("openssl", "pkey", "-in", plain, "-check", "-noout")
    assert checked.returncode == 0, checked.stdout
    of_key = run("openssl", "pkey", "-in", plain, "-pubout")
    of_certificate = run("openssl", "x509", "-in", exported.certificate, "-noout", "-pubkey")
    assert of_key.stdout == of_certificate.stdout
    assert "BEGIN PUBLIC KEY" in of_key.stdout


def test_openssl_sees_strong_protection_of_the_exported_key(hierarchy: Hierarchy) -> None:
    parsed = run("openssl", "asn1parse", "-in", hierarchy.exported.encrypted_key).stdout
    objects = re.findall(r"OBJECT\s+:(\S+)", parsed)
    assert objects == ["PBES2", "PBKDF2", "hmacWithSHA256", "aes-256-cbc"]
    rounds = re.search(r"INTEGER\s+:([0-9A-F]+)", parsed)
    assert rounds is not None
    assert int(rounds.group(1), 16) >= 600_000


def test_openssl_refuses_a_wrong_passphrase(hierarchy: Hierarchy) -> None:
    ended = run("openssl", "pkcs8", "-in", hierarchy.exported.encrypted_key, "-passin", f"pass:{PASSPHRASE}!")
    assert ended.returncode != 0
    assert "PRIVATE KEY" not in ended.stdout
