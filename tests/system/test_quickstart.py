"""scripts/quickstart, run as a person runs it, in a home of its own."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import eventually

_TOP = Path(__file__).parents[2]
_QUICKSTART = _TOP / "scripts/quickstart"

pytestmark = pytest.mark.skipif(
    not (_TOP / ".venv/bin/certctl").exists(), reason="scripts/dev makes the .venv that the script uses"
)


class _Quickstart:
    """The script and what it left in a home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / ".local/share/certd"
        self.agent = self.data / "agent"
        self.credentials = home / ".config/certd"

    def run(self, *arguments: str, expected: int = 0) -> str:
        finished = subprocess.run(
            [_QUICKSTART, *arguments],
            env={**_environment(), "HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert finished.returncode == expected, finished.stdout
        return finished.stdout

    def certctl(self, *arguments: str) -> str:
        finished = subprocess.run(
            [str(_TOP / ".venv/bin/certctl"), *arguments],
            env={**_environment(), "HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return finished.stdout

    def daemon_pid(self) -> int:
        return int((self.data / "certd.pid").read_text())

    def agent_pid(self) -> int:
        return int((self.agent / "agent.pid").read_text())

    def web_pid(self) -> int:
        return int((self.agent / "server.pid").read_text())

    def probe(self) -> str:
        """Returns where the agent looks at what is served."""
        address: str = tomllib.loads((self.agent / "agent.toml").read_text())["certificate"][0]["probe"]
        return address

    def counts(self) -> tuple[int, ...]:
        """Returns how many authorities, certificates and managed certificates there are.

        But those of OCSP responders, which come by themselves a minute after their authority.
        """
        lists = (("authority", "list"), ("certificate", "list", "--authority", "web-ca"), ("managed", "list"))
        listed = [self.certctl(*arguments, "-o", "json").splitlines() for arguments in lists]
        return tuple(sum("/profiles/ocsp-signing" not in line for line in lines) for lines in listed)


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CERTCTL_", "CERTD_"))}
    # As in a narrow terminal whose width is exported, to which ps cuts its lines.
    return {**kept, "COLUMNS": "80"}


@pytest.fixture
def quickstart(tmp_path: Path) -> Iterator[_Quickstart]:
    made = _Quickstart(tmp_path / "home of somebody")
    made.home.mkdir()
    yield made
    made.run("--purge")


def _alive(process_id: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, 0)
        return True
    return False


@pytest.mark.timeout(600)
def test_from_nothing_to_a_renewed_certificate_that_is_served_and_back_to_nothing(quickstart: _Quickstart) -> None:
    with contextlib.ExitStack() as taken:
        # Whoever has the port, this test or another program, the quickstart must do without it.
        with contextlib.suppress(OSError):
            taken.enter_context(socket.create_server(("127.0.0.1", 8443)))
        output = quickstart.run("--no-install")
    _check_output(output)
    assert _shown(quickstart) == _serials(output)[-1]
    _check_files(quickstart)

    # Again: nothing is made twice, and what runs is kept.
    before, first, root = (
        quickstart.counts(),
        quickstart.daemon_pid(),
        (quickstart.data / "quickstart/root.pem").read_text(),
    )
    assert before == (2, before[1], 2)
    agent, web, address = quickstart.agent_pid(), quickstart.web_pid(), quickstart.probe()
    output = quickstart.run("--no-install")
    for process_id in (first, agent, web):
        assert f"runs already (process {process_id})" in output
    _check_nothing_was_made(output)
    assert quickstart.counts() == before

    # Again after all of them died: they come back with everything, the machine's server beside whoever took its port.
    for process_id in (first, agent, web):
        os.kill(process_id, signal.SIGKILL)
    eventually(lambda: not any(map(_alive, (first, agent, web))))
    host, _, port = address.rpartition(":")
    with _another(host, int(port)):
        output = quickstart.run("--no-install")
    second = quickstart.daemon_pid()
    assert second != first
    assert "Verification: OK" in output
    assert quickstart.probe() != address
    assert _shown(quickstart) == _serials(output)[-1]
    assert "serving version 2 at " in output
    assert "$ certd-agent enroll " not in output
    assert quickstart.counts() == before
    assert (quickstart.data / "quickstart/root.pem").read_text() == root

    token = json.loads((quickstart.data / "certd.ready").read_text().removeprefix("READY "))["token_pid"]
    beside = (quickstart.agent_pid(), quickstart.web_pid())
    assert "The server is stopped." in quickstart.run("--stop")
    eventually(lambda: not any(map(_alive, (second, token, *beside))))
    assert "The server is not running." in quickstart.run("--stop")
    assert (quickstart.data / "certd.db").exists()

    quickstart.run("--no-install")
    third = quickstart.daemon_pid()
    assert quickstart.counts() == before
    # As if it had been started by hand: nothing may be deleted under a daemon that runs.
    beside = (quickstart.agent_pid(), quickstart.web_pid())
    for pid_file in (quickstart.data / "certd.pid", quickstart.agent / "agent.pid", quickstart.agent / "server.pid"):
        pid_file.unlink()
    quickstart.run("--purge")
    eventually(lambda: not any(map(_alive, (third, *beside))))
    assert [path for path in quickstart.home.rglob("*") if not path.is_dir()] == []
    assert not quickstart.data.exists()
    assert not quickstart.credentials.exists()


def _check_output(output: str) -> None:
    assert "\033" not in output
    for part in (
        "$ certd init",
        "$ certd serve --config ",
        "$ certctl authority create web-root --type root",
        "$ certctl authority create web-ca --type subordinate --issuer web-root",
        "$ certctl certificate issue --authority web-ca --csr csr.pem",
        "leaf.pem: OK",
        "$ certctl profile create internal --longest-lifetime 30d",
        "$ certctl certificate issue --authority web-ca --csr csr.pem --profile internal",
        "certctl: NAME_NOT_ALLOWED: ",
        "$ certctl certificate revoke ",
        "(SUPERSEDED)",
        "$ certctl managed request web --authority web-ca",
        "$ certctl managed export web --passphrase-file pass.txt --format pkcs8",
        "$ openssl pkcs8 -in out/key.pem -passin file:pass.txt",
        "Verification: OK",
        "Verified peername: www.example.internal",
        "$ certctl managed import shop --certificate shop.pem --private-key shop.key",
        "$ certctl managed search --expires-within 30d",
        "$ certctl grant create this-machine consumer --scope managedCertificates/web",
        "$ certctl enrollment create-code this-machine --code-file this-machine.code",
        "$ certctl association create web this-machine",
        "$ certd-agent enroll --config agent.toml --code-file this-machine.code",
        "$ certd-agent run --config ",
        "$ certctl managed renew web",
        "$ certctl managed versions web",
        "SUPERSEDED",
        "serving version 2 at ",
        "$ certd-agent status --config agent.toml",
        "scripts/quickstart --stop",
    ):
        assert part in output
    assert re.search(r"^web +SERVING +2 +2 ", output, re.MULTILINE)
    assert len(set(_serials(output))) == 2
    found = output.rpartition("$ certctl managed search --expires-within 30d")[2].partition("\n\n")[0]
    assert "shop " in found
    assert "web " not in found


def _check_nothing_was_made(output: str) -> None:
    assert "$ certd-agent enroll " not in output
    assert "serving version 2 at " in output
    assert "$ certctl managed renew web" not in output
    assert "$ certctl managed import shop" not in output
    assert "Verification: OK" in output
    assert "certctl: NAME_NOT_ALLOWED: " in output
    assert "$ certctl certificate revoke " not in output
    assert "(SUPERSEDED)" in output


def _another(host: str, port: int) -> socket.socket:
    """Returns another program's listener."""
    return socket.create_server((host, port))


def _serials(output: str) -> list[str]:
    """Returns what handshakes with the machine's server showed, one after the other."""
    return re.findall(r"^serial=([0-9A-F]+)$", output, re.MULTILINE)


def _shown(quickstart: _Quickstart) -> str:
    """Returns the serial number that the machine's server shows, which must be good under the root that was made."""
    host, _, port = quickstart.probe().rpartition(":")
    context = ssl.create_default_context(cafile=quickstart.data / "quickstart/root.pem")
    with (
        socket.create_connection((host, int(port)), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="www.example.internal") as wrapped,
    ):
        return str((wrapped.getpeercert() or {})["serialNumber"])


def _check_files(quickstart: _Quickstart) -> None:
    walk = quickstart.data / "quickstart"
    for path in (
        walk / "pass.txt",
        walk / "web.key",
        walk / "own.key",
        walk / "shop.key",
        quickstart.credentials / "admin.key",
        quickstart.agent / "state/identity.key",
        quickstart.agent / "tls/current/key.pem",
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert not (quickstart.agent / "this-machine.code").exists()
    assert (walk / "out/key.pem").read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    # The port that was taken is not used, and what is used instead is on record, also for certctl.
    address = tomllib.loads((quickstart.data / "certd.toml").read_text())["listen"]["grpc"]
    assert address != "127.0.0.1:8443"
    assert tomllib.loads((quickstart.credentials / "certctl.toml").read_text())["address"] == address


def test_a_server_that_cannot_be_made_is_explained(quickstart: _Quickstart) -> None:
    quickstart.data.mkdir(mode=0o700, parents=True)
    (quickstart.data / "certd.toml").write_text("colour = 1\n")
    output = quickstart.run("--no-install", expected=1)
    assert "colour: there is no such key" in output
    assert "certd init failed" in output


def test_help_and_wrong_usage(tmp_path: Path) -> None:
    quickstart = _Quickstart(tmp_path)
    assert quickstart.run("--help").startswith("Usage: scripts/quickstart")
    assert "Usage: scripts/quickstart" in quickstart.run("--start", expected=2)
    assert "Usage: scripts/quickstart" in quickstart.run("--stop", "now", expected=2)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named_when_nothing_may_be_installed(tmp_path: Path) -> None:
    # A clone without .venv.
    clone = tmp_path / "clone"
    shutil.copytree(_TOP / "scripts", clone / "scripts")
    finished = subprocess.run(
        [clone / "scripts/quickstart", "--no-install"],
        env={**_environment(), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 1
    assert "certd is not installed in .venv" in finished.stderr
    assert "remedy: " in finished.stderr
