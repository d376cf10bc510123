"""certctl certificate against a daemon with a real token: overrides, batches, names as people write them."""

import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.daemon import RunningDaemon
from tests.system.calls import make_csr, must

CA = "batch-ca"


@pytest.fixture(scope="session")
def authority(daemon: RunningDaemon) -> str:
    must(daemon, "authority", "create", "batch-root", "--type", "root", "--subject", "CN=Batch Root")
    must(daemon, "authority", "create", CA, "--type", "subordinate", "--issuer", "batch-root", "--subject", "CN=Batch")
    return CA


@pytest.fixture
def csr(tmp_path: Path) -> Path:
    path = tmp_path / "req.csr"
    path.write_bytes(make_csr(encoding=Encoding.PEM))
    return path


def count(daemon: RunningDaemon) -> int:
    return len(must(daemon, "certificate", "list", "--authority", CA, "-o", "json").splitlines())


def test_a_profile_lets_a_request_replace_subject_and_names(daemon: RunningDaemon, authority: str, csr: Path) -> None:
    arguments = ("certificate", "issue", "--authority", authority, "--csr", csr, "--dns", "gw1.example.internal")
    refused = daemon.certctl(*arguments)
    assert refused.returncode == 1
    assert "PROFILE_FORBIDS" in refused.stderr
    must(
        daemon,
        *("profile", "create", "gateway", "--longest-lifetime", "30d", "--extended-usage", "serverAuth"),
        *("--dns-suffix", "example.internal", "--allow-subject-override", "--allow-names-override"),
    )
    more = ("--profile", "gateway", "--subject", "CN=gw1.example.internal,O=Example")
    ended = daemon.certctl(*arguments, *more)
    assert ended.returncode == 0, ended.stderr
    assert "certctl: warning: subject_alternative_names: " in ended.stderr
    issued = json.loads(must(daemon, *arguments, *more, "-o", "json"))
    assert issued["description"]["subjectText"] == "CN=gw1.example.internal,O=Example"
    assert issued["description"]["subjectAlternativeNames"] == {"dnsNames": ["gw1.example.internal"]}
    assert "warnings" in issued


def test_names_are_shown_as_people_write_them(daemon: RunningDaemon, authority: str, csr: Path) -> None:
    names = ("xn--mnchen-3ya.example.internal", "www.example.internal", "*.xn--wgv71a.example.internal")
    csr.write_bytes(make_csr(*map(x509.DNSName, names)))
    arguments = ("certificate", "issue", "--authority", authority, "--csr", csr)
    issued = json.loads(must(daemon, *arguments, "-o", "json"))
    read = json.loads(must(daemon, "certificate", "get", issued["name"], "-o", "json"))
    for each in (issued, read):
        assert each["description"]["subjectAlternativeNames"]["dnsNames"] == list(names)
        assert each["description"]["unicodeDnsNames"] == ["münchen.example.internal", "*.日本.example.internal"]
    assert "xn--mnchen-3ya.example.internal (münchen.example.internal)" in must(daemon, *arguments)


def test_a_batch_is_issued_once_however_often_it_runs(daemon: RunningDaemon, authority: str, tmp_path: Path) -> None:
    requests, out, chain = tmp_path / "requests", tmp_path / "out", tmp_path / "chain.pem"
    requests.mkdir()
    for number in range(120):
        (requests / f"n{number:03}.csr").write_bytes(make_csr(encoding=(Encoding.PEM, Encoding.DER)[number % 2]))
    (requests / "broken.csr").write_text("no request")
    arguments = ("certificate", "issue-batch", "--authority", authority, "--csr-dir", requests, "--out-dir", out)
    before = count(daemon)
    checked = daemon.certctl(*arguments, "--validate-only")
    assert (checked.returncode, count(daemon), out.exists()) == (1, before, False)

    first = daemon.certctl(*arguments, "--lifetime", "1d", "--chain-out", chain)
    assert first.returncode == 1
    assert "120 issued, 1 failed" in first.stderr
    (failed,) = [line for line in first.stdout.splitlines() if "FAILED" in line]
    assert failed.split()[:2] == ["broken.csr", "FAILED"]
    assert "CSR_MALFORMED" in failed
    assert count(daemon) == before + 120
    ca = x509.load_pem_x509_certificates(chain.read_bytes())[0]
    kept = {path.name: path.read_bytes() for path in out.glob("*.pem")}
    assert len(kept) == 120
    for pem in kept.values():
        x509.load_pem_x509_certificate(pem).verify_directly_issued_by(ca)

    # As if the run had died before it wrote some of its files; and then the broken one is mended.
    for name in ("n003.pem", "n119.pem"):
        (out / name).unlink()
    (requests / "broken.csr").write_bytes(make_csr())
    second = daemon.certctl(*arguments, "--lifetime", "1d")
    assert second.returncode == 0, second.stderr
    assert "3 issued, 118 kept" in second.stderr
    assert count(daemon) == before + 121
    assert {name: (out / name).read_bytes() for name in kept} == kept


def test_a_revoked_certificate_is_shown_revoked(daemon: RunningDaemon, authority: str, csr: Path) -> None:
    name = json.loads(must(daemon, "certificate", "issue", "--authority", authority, "--csr", csr, "-o", "json"))[
        "name"
    ]
    must(daemon, "certificate", "revoke", name, "--reason", "superseded")
    shown = must(daemon, "certificate", "get", name)
    assert "REVOKED" in shown
    assert "(SUPERSEDED)" in shown
    assert "end-entity (version 1)" in shown
    found = must(daemon, "certificate", "search", "--authority", authority, "--state", "revoked", "-o", "json")
    assert name in {json.loads(line)["name"] for line in found.splitlines()}
