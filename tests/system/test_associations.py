"""A machine enrolls, is associated, leases its key and serves with it, as people do it; and loses it as they end it."""

import json
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon import RunningDaemon, run_program
from tests.system.calls import must
from tests.waiting import eventually

NAME = "leased.example.internal"
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine with an identity of its own."""

    daemon: RunningDaemon
    settings: Path

    def certctl(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        return run_program("certctl", "--config", self.settings, *arguments)

    def must(self, *arguments: str | Path) -> str:
        ended = self.certctl(*arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def reason(self, *arguments: str | Path) -> str:
        """Why a call is refused."""
        ended = self.certctl(*arguments, "-o", "json")
        assert ended.returncode == 1, ended.stdout
        return str(json.loads(ended.stderr)["reason"])


@pytest.fixture(scope="session")
def managed(daemon: RunningDaemon) -> str:
    """A managed certificate below a root of its own."""
    must(daemon, *("authority", "create", "leased-root", "--type", "root", "--subject", "CN=Leased Root"))
    must(
        daemon,
        *("authority", "create", "leased-ca", "--type", "subordinate", "--issuer", "leased-root"),
        *("--subject", "CN=Leased CA", "--lifetime", "1y"),
    )
    must(daemon, *("managed", "request", "leased", "--authority", "leased-ca", "--dns", NAME, "--not-exportable"))
    return "leased"


def enrolled(daemon: RunningDaemon, folder: Path, identity: str, *, grant: bool = True) -> Machine:
    """Enrolls a machine, and lets it play the role consumer."""
    code, place = folder / f"{identity}.code", folder / identity
    must(daemon, "enrollment", "create-code", identity, "--code-file", code)
    if grant:
        must(daemon, "grant", "create", f"tenants/default/identities/{identity}", "consumer")
    ended = run_program(
        *("certctl", "enroll", "--address", daemon.enrollment, "--code-file", code, "--credentials-dir", place),
        *("--api-address", daemon.grpc),
    )
    assert ended.returncode == 0, ended.stderr
    return Machine(daemon, place / "certctl.toml")


@pytest.fixture
def root_pem(daemon: RunningDaemon, managed: str, tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_text(must(daemon, "authority", "get", "leased-root", "-o", "pem"))
    assert managed
    return path


@pytest.fixture
def served() -> Iterator[list["subprocess.Popen[str]"]]:
    """Servers that a test starts; ended after it."""
    servers: list[subprocess.Popen[str]] = []
    yield servers
    for server in servers:
        with server:
            server.terminate()


def serve(folder: Path, servers: list["subprocess.Popen[str]"]) -> int:
    """Has openssl serve what was leased, as it was written; returns the port."""
    server = subprocess.Popen(
        [
            *("openssl", "s_server", "-accept", f"{HOST}:0", "-www"),
            *("-cert", folder / "cert.pem", "-cert_chain", folder / "chain.pem", "-key", folder / "key.pem"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    servers.append(server)
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("ACCEPT"):
            return int(line.rsplit(":", 1)[1])
    raise AssertionError("openssl does not serve")


def shown_by(port: int, root: Path) -> str:
    """Returns the certificate that a client of openssl verified by the root."""
    ended = subprocess.run(
        [
            *("openssl", "s_client", "-connect", f"{HOST}:{port}", "-CAfile", root, "-verify_return_error"),
            *("-verify_hostname", NAME, "-servername", NAME),
        ],
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Verify return code: 0 (ok)" in ended.stdout
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----\n"
    return ended.stdout[ended.stdout.index(begin) : ended.stdout.index(end) + len(end)]


def test_a_machine_leases_a_key_and_serves_with_it(
    daemon: RunningDaemon, managed: str, root_pem: Path, tmp_path: Path, served: list["subprocess.Popen[str]"]
) -> None:
    machine, out = enrolled(daemon, tmp_path, "front"), tmp_path / "out"
    lease = ("association", "lease", managed, "--out-dir", out)
    assert machine.reason(*lease) == "ASSOCIATION_NOT_FOUND"
    assert "front" in must(daemon, "association", "create", managed, "front")
    printed = machine.must(*lease)
    assert str(out / "key.pem") in printed
    assert "PRIVATE KEY" not in printed
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {
        "cert.pem": 0o644,
        "chain.pem": 0o644,
        "key.pem": 0o600,
    }
    certificate = must(daemon, "managed", "get", managed, "-o", "pem")
    assert (out / "cert.pem").read_text() == certificate
    assert shown_by(serve(out, served), root_pem) == certificate
    # What it may see: its own association, and not the managed certificate.
    (listed,) = machine.must("association", "list", "--consumer", "front", "-o", "json").splitlines()
    assert json.loads(listed)["leasedVersion"] == "1"
    assert machine.reason("association", "list") == "PERMISSION_MISSING"
    assert machine.reason("managed", "get", managed) == "PERMISSION_MISSING"
    machine.must("association", "report", managed, "--version", "1", "--state", "serving")
    shown = json.loads(must(daemon, "managed", "get", managed, "-o", "json"))
    assert shown["used"] is True
    (use,) = [each for each in shown["usedBy"] if each["association"].endswith("/front")]
    assert (use["leasedVersion"], use["deployment"]["state"]) == ("1", "SERVING")
    # Ended, it leases no more; what it has stays with it.
    must(daemon, "association", "delete", f"{managed}/front")
    assert machine.reason(*lease) == "ASSOCIATION_NOT_FOUND"
    assert (out / "cert.pem").read_text() == certificate


def test_a_machine_gets_nothing_that_is_another_s(daemon: RunningDaemon, managed: str, tmp_path: Path) -> None:
    victim, thief = enrolled(daemon, tmp_path, "victim"), enrolled(daemon, tmp_path, "thief")
    ungranted = enrolled(daemon, tmp_path, "ungranted", grant=False)
    for identity in ("victim", "ungranted"):
        must(daemon, "association", "create", managed, identity)
    out = tmp_path / "out"
    own = ("association", "lease", f"{managed}/victim", "--out-dir", out)
    assert thief.reason(*own) == "ASSOCIATION_NOT_FOUND"
    assert ungranted.reason("association", "lease", managed, "--out-dir", out) == "PERMISSION_MISSING"
    assert thief.reason("association", "show", f"{managed}/victim") == "ASSOCIATION_NOT_FOUND"
    assert not out.exists()
    victim.must(*own)
    # Revoked, it is nobody.
    must(daemon, "identity", "revoke", "victim")
    assert eventually(lambda: victim.reason(*own) == "CREDENTIAL_REVOKED")
    for identity in ("victim", "ungranted"):
        must(daemon, "association", "delete", f"{managed}/{identity}")


def test_no_key_stands_in_the_log(daemon: RunningDaemon, managed: str, tmp_path: Path) -> None:
    machine, out = enrolled(daemon, tmp_path, "quiet"), tmp_path / "out"
    must(daemon, "association", "create", managed, "quiet")
    machine.must("association", "lease", managed, "--out-dir", out)
    lines = (out / "key.pem").read_text().splitlines()[1:-1]
    journal = "".join(
        file.read_text() for file in daemon.installation.data.rglob("token-journal/**/*") if file.is_file()
    )
    assert '"lease"' in journal
    for kept in (journal, daemon.installation.log.read_text()):
        assert not [line for line in lines[1:] if line in kept]
    must(daemon, "association", "delete", f"{managed}/quiet")
