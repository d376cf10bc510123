"""Wrapping keys and searches of managed certificates, as a person types them, against a daemon with a real token."""

import json
from pathlib import Path

import pytest

from tests.daemon import RunningDaemon
from tests.system.calls import must

TENANT = ("--tenant", "rotated")


@pytest.fixture(scope="session")
def tenant(daemon: RunningDaemon) -> RunningDaemon:
    """A daemon with a tenant of its own for this, which has three managed certificates."""
    must(daemon, "tenant", "create", "rotated")
    must(daemon, "authority", "create", "ca", "--type", "root", "--subject", "CN=Rotated", "--lifetime", "1y", *TENANT)
    for number in range(3):
        name, label = f"web-{number}.example.internal", f"number={number}"
        must(
            daemon,
            *("managed", "request", f"web-{number}", "--authority", "ca", "--dns", name, "--lifetime", "10d"),
            *("--label", label, *TENANT),
        )
    return daemon


def exported(daemon: RunningDaemon, folder: Path) -> list[bytes]:
    """The private keys of all three, under their passphrase."""
    folder.mkdir()
    passphrase = folder / "pass.txt"
    passphrase.write_text("correct horse\n")
    passphrase.chmod(0o600)
    keys = []
    for number in range(3):
        out = folder / str(number)
        # certctl holds each key against its certificate.
        must(daemon, "managed", "export", f"web-{number}", "--passphrase-file", passphrase, "--out-dir", out, *TENANT)
        keys.append((out / "key.pem").read_bytes())
    return keys


def test_a_key_is_rotated_and_the_old_one_destroyed(tenant: RunningDaemon, tmp_path: Path) -> None:
    (first,) = must(tenant, "wrapping-key", "list", *TENANT).splitlines()[1:]
    assert first.split()[:2] == ["1", "PRIMARY"]
    ended = tenant.certctl("wrapping-key", "rotate", "--wait", *TENANT)
    assert ended.returncode == 0, ended.stderr
    assert "3 of 3 keys under wrapping key 1 are sealed anew, it is RETIRED" in ended.stderr
    assert "tenants/rotated/wrappingKeys/2" in ended.stdout
    assert len(set(exported(tenant, tmp_path / "after"))) == 3
    ended = tenant.certctl("wrapping-key", "destroy", "2", "--confirm", "2", *TENANT)
    assert ended.returncode == 1
    assert ended.stderr.startswith("certctl: STATE_FORBIDS: tenants/rotated/wrappingKeys/2 is PRIMARY: ")
    assert tenant.certctl("wrapping-key", "destroy", "1", *TENANT).returncode == 2
    ended = tenant.certctl("wrapping-key", "destroy", "1", "--confirm", "1", *TENANT)
    assert ended.returncode == 0, ended.stderr
    assert "one made right before the rotation 3 of them" in ended.stderr
    assert json.loads(must(tenant, "wrapping-key", "show", "1", "-o", "json", *TENANT))["state"] == "DESTROYED"
    assert len(set(exported(tenant, tmp_path / "later"))) == 3


def test_managed_certificates_are_found_by_what_they_have(tenant: RunningDaemon) -> None:
    def found(*options: str) -> list[str]:
        lines = must(tenant, "managed", "search", *options, "-o", "json", *TENANT).splitlines()
        return [json.loads(line)["name"].rpartition("/")[2] for line in lines]

    everything = ["web-0", "web-1", "web-2"]
    assert found() == everything
    assert found("--expires-within", "30d", "--state", "active") == everything
    assert found("--expires-within", "1d") == []
    assert found("--name", "WEB-1.example.internal") == ["web-1"]
    assert found("--domain", "example.internal", "--label", "number=", "--limit", "2") == ["web-0", "web-1"]
    assert found("--label", "number=2", "--authority", "ca", "--not-blocked") == ["web-2"]
    ended = tenant.certctl("managed", "search", "--authority", "tenants/default/authorities/ca", *TENANT)
    assert ended.returncode == 1
    assert ended.stderr.startswith("certctl: FIELD_INVALID: filter.authority: ")
