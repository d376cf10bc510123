"""GnuTLS accepts every chain at the level of security that its weakest key has, and at no higher one."""

import shutil
from pathlib import Path

import pytest

from certd.pki.key_spec import KeySpec
from tests.interop.hierarchy import HOST, PASSPHRASE, Hierarchy, run

# Homebrew has it under another name, for macOS has a certtool of its own.
CERTTOOL = shutil.which("gnutls-certtool") or shutil.which("certtool") or "certtool"
PROFILES = ("medium", "high", "ultra", "future")
"""Levels of GnuTLS, ascending: 112, 128, 192 and 256 bits."""
STRENGTH = {
    KeySpec.RSA_2048: "medium",
    KeySpec.RSA_3072: "high",
    KeySpec.RSA_4096: "high",
    KeySpec.EC_P256: "high",
    KeySpec.EC_P384: "ultra",
    KeySpec.EC_P521: "future",
    KeySpec.ED25519: "high",
}


def verify(hierarchy: Hierarchy, bundle: Path, *, profile: str, host: str = HOST) -> tuple[int, str]:
    ended = run(
        *(CERTTOOL, "--verify", f"--verify-profile={profile}", f"--load-ca-certificate={hierarchy.root}"),
        *(f"--infile={bundle}", f"--verify-hostname={host}", "--verify-purpose=1.3.6.1.5.5.7.3.1"),
    )
    return ended.returncode, ended.stdout


@pytest.mark.parametrize("leaf", KeySpec)
def test_gnutls_verifies_every_chain(hierarchy: Hierarchy, leaf: KeySpec) -> None:
    level = min(PROFILES.index(STRENGTH[leaf]), PROFILES.index(STRENGTH[hierarchy.key_spec]))
    bundle = hierarchy.bundles[leaf]
    code, output = verify(hierarchy, bundle, profile=PROFILES[level])
    assert code == 0, output
    assert "The certificate is trusted" in output
    for higher in PROFILES[level + 1 :]:
        assert verify(hierarchy, bundle, profile=higher)[0] != 0


def test_gnutls_refuses_another_name(hierarchy: Hierarchy) -> None:
    code, output = verify(hierarchy, hierarchy.bundles[KeySpec.EC_P256], profile="medium", host="example.internal")
    assert code != 0
    assert "does not match" in output


def test_gnutls_opens_the_exported_key(hierarchy: Hierarchy) -> None:
    exported = hierarchy.exported
    options = ("--pkcs8", f"--password={PASSPHRASE}", f"--load-privkey={exported.encrypted_key}")
    of_key = run(CERTTOOL, "--pubkey-info", *options)
    assert of_key.returncode == 0, of_key.stdout
    of_certificate = run("openssl", "x509", "-in", exported.certificate, "-noout", "-pubkey").stdout.strip()
    assert of_certificate.startswith("-----BEGIN PUBLIC KEY-----")
    assert of_certificate in of_key.stdout
