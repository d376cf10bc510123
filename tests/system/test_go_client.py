"""The Go client: the protos serve another language, and crypto/x509 accepts what is issued."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.daemon import RunningDaemon

SOURCES = Path(__file__).parent.parent.parent / "clients" / "go"
BUILD_SECONDS = 280.0
GO = shutil.which("go") or "/usr/local/go/bin/go"

pytestmark = pytest.mark.skipif(not Path(GO).exists(), reason="there is no Go on this machine")


@pytest.fixture(scope="module")
def issue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program `issue`, built from source with the modules that go.sum names."""
    program = tmp_path_factory.mktemp("go") / "issue"
    built = subprocess.run(
        [GO, "build", "-mod=readonly", "-o", str(program), "./cmd/issue"],
        cwd=SOURCES,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture(scope="session")
def authority(daemon: RunningDaemon) -> str:
    for arguments in (
        ("go-root", "--type", "root", "--subject", "CN=Go Root"),
        ("go-ca", "--type", "subordinate", "--issuer", "go-root", "--subject", "CN=Go Issuing CA"),
    ):
        ended = daemon.certctl("authority", "create", *arguments)
        assert ended.returncode == 0, ended.stderr
    return "go-ca"


def run(issue: Path, daemon: RunningDaemon, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    installation = daemon.installation
    connection = {
        "address": daemon.grpc,
        "cert": installation.certificate,
        "key": installation.private_key,
        "root": installation.trust_bundle,
    }
    flags = [f"-{name}={value}" for name, value in connection.items()]
    return subprocess.run(
        [str(issue), *flags, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_go_issues_and_verifies_a_certificate(
    issue: Path, daemon: RunningDaemon, authority: str, tmp_path: Path
) -> None:
    key = tmp_path / "leaf.key"
    names = "www.example.internal,example.internal"
    ended = run(issue, daemon, f"-authority={authority}", f"-dns={names}", "-lifetime=24h", f"-key-out={key}")
    assert ended.returncode == 0, ended.stderr
    assert "verified by crypto/x509" in ended.stderr
    certificate = x509.load_pem_x509_certificate(ended.stdout.encode())
    assert load_pem_private_key(key.read_bytes(), None).public_key() == certificate.public_key()
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == names.split(",")


def test_go_verifies_against_a_pinned_root_and_refuses_another(
    issue: Path, daemon: RunningDaemon, authority: str, tmp_path: Path
) -> None:
    pinned = tmp_path / "root.pem"
    pinned.write_text(daemon.certctl("authority", "get", "go-root", "-o", "pem").stdout)
    arguments = (f"-authority={authority}", "-dns=www.example.internal")
    assert run(issue, daemon, *arguments, f"-issuer-root={pinned}").returncode == 0
    refused = run(issue, daemon, *arguments, f"-issuer-root={daemon.installation.trust_bundle}")
    assert refused.returncode == 1
    assert "unknown authority" in refused.stderr


def test_go_checks_issues_a_batch_finds_it_and_revokes(issue: Path, daemon: RunningDaemon, authority: str) -> None:
    ended = run(issue, daemon, f"-authority={authority}", "-dns=fleet.example.internal", "-batch=3")
    assert ended.returncode == 0, ended.stderr
    _, checked, issued, found, revoked = ended.stderr.splitlines()
    assert checked == "issue: check: end-entity lets the first pass"
    assert issued == "issue: batch: 3 issued"
    # The first one, for the domain itself, is found as well.
    assert found == "issue: search: 4 found below fleet.example.internal"
    assert revoked.endswith("is REVOKED (SUPERSEDED)")
    name = revoked.split()[2]
    assert json.loads(daemon.certctl("certificate", "get", name, "-o", "json").stdout)["state"] == "REVOKED"


def test_go_tells_the_reason_of_a_refusal(issue: Path, daemon: RunningDaemon) -> None:
    ended = run(issue, daemon, "-authority=no-such", "-dns=www.example.internal")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("issue: AUTHORITY_NOT_FOUND: ")


def test_go_names_what_is_missing(issue: Path, daemon: RunningDaemon) -> None:
    ended = run(issue, daemon)
    assert ended.returncode == 2
    assert "is required" in ended.stderr
