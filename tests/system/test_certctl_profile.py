"""certctl profile against a daemon with a real token: a profile made, tried, used, changed and deleted."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.daemon import RunningDaemon


def must(daemon: RunningDaemon, *arguments: str | Path, stdin: bytes = b"") -> str:
    ended = daemon.certctl(*arguments, stdin=stdin)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="session")
def authority(daemon: RunningDaemon) -> str:
    must(daemon, "authority", "create", "profile-root", "--type", "root", "--subject", "CN=Profile Root")
    return "profile-root"


def csr_for(folder: Path, *names: str) -> Path:
    path = folder / "req.pem"
    ended = subprocess.run(
        [
            *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-subj", "/"),
            *("-keyout", folder / "req.key", "-out", path),
            *("-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)),
        ],
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return path


def test_the_life_of_a_profile(daemon: RunningDaemon, authority: str, tmp_path: Path) -> None:
    made = must(
        daemon,
        *("profile", "create", "life", "--longest-lifetime", "60d", "--default-lifetime", "30d"),
        *("--extended-usage", "serverAuth", "--dns-suffix", "example.internal", "--key", "EC_P256"),
    )
    assert "tenants/default/profiles/life" in made
    listed = must(daemon, "profile", "list")
    assert [line.split()[0] for line in listed.splitlines()[1:]] == sorted(
        line.split()[0] for line in listed.splitlines()[1:]
    )
    assert {"life", "end-entity", "blank"} <= {line.split()[0] for line in listed.splitlines()}

    csr = csr_for(tmp_path, "a.example.internal", "b.example.test")
    checked = daemon.certctl("profile", "check", "life", "--csr", csr, "--authority", authority, "--lifetime", "90d")
    assert checked.returncode == 1
    reasons = [line.split()[:2] for line in checked.stdout.splitlines()[1:]]
    assert reasons == [
        ["NAME_NOT_ALLOWED", "csr.subject_alternative_names.dns_names[1]"],
        ["PROFILE_FORBIDS", "lifetime"],
    ]
    refused = daemon.certctl("certificate", "issue", "--authority", authority, "--csr", csr, "--profile", "life")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "NAME_NOT_ALLOWED" in refused.stderr

    must(daemon, "profile", "update", "life", "--dns-suffix", "example.internal", "--dns-suffix", "example.test")
    assert "b.example.test" in must(daemon, "profile", "check", "life", "--csr", csr, "--authority", authority)
    issued = json.loads(
        must(
            daemon,
            *("certificate", "issue", "--authority", authority, "--csr", csr, "--profile", "life", "-o", "json"),
        )
    )
    assert issued["profile"] == "tenants/default/profiles/life"
    assert issued["description"]["extendedKeyUsages"] == ["1.3.6.1.5.5.7.3.1"]

    must(
        daemon,
        "managed",
        "request",
        "of-life",
        "--authority",
        authority,
        "--dns",
        "c.example.test",
        "--profile",
        "life",
    )
    refused = daemon.certctl("profile", "delete", "life")
    assert refused.returncode == 1
    assert "PROFILE_IN_USE" in refused.stderr
    assert "managed certificates of-life" in refused.stderr


def test_a_profile_goes_round_through_a_file(daemon: RunningDaemon, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(must(daemon, "profile", "get", "server", "-o", "json"))
    must(daemon, "profile", "create", "round", "--file", file, "--description", "as server")
    before = json.loads(must(daemon, "profile", "get", "round", "-o", "json"))
    file.write_text(json.dumps(before))
    # Nothing is changed, so there is no new version; and then there is one.
    assert json.loads(must(daemon, "profile", "update", "round", "--file", file, "-o", "json")) == before
    changed = json.loads(must(daemon, "profile", "update", "round", "--clear", "description", "-o", "json"))
    assert (changed["version"], "description" in changed) == (2, False)
    stale = daemon.certctl("profile", "update", "round", "--file", file)
    assert stale.returncode == 1
    assert "ETAG_MISMATCH" in stale.stderr
    assert json.loads(must(daemon, "profile", "get", "round", "--version", "1", "-o", "json"))["description"]
    must(daemon, "profile", "delete", "round", "--etag", changed["etag"])
    gone = daemon.certctl("profile", "get", "round")
    assert gone.returncode == 1
    assert "PROFILE_NOT_FOUND" in gone.stderr


def test_a_built_in_profile_is_left_alone(daemon: RunningDaemon) -> None:
    for arguments in (("update", "server", "--description", "x"), ("delete", "server")):
        ended = daemon.certctl("profile", *arguments)
        assert ended.returncode == 1
        assert "STATE_FORBIDS" in ended.stderr
        assert "create another one" in ended.stderr
