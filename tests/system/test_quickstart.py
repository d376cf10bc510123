"""scripts/quickstart, run as a person runs it, in a home of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
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

    def counts(self) -> tuple[int, ...]:
        """Returns how many authorities, certificates and managed certificates there are."""
        lists = (("authority", "list"), ("certificate", "list", "--authority", "web-ca"), ("managed", "list"))
        return tuple(len(self.certctl(*arguments, "-o", "json").splitlines()) for arguments in lists)


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


def test_from_nothing_to_a_handshake_and_back_to_nothing(quickstart: _Quickstart) -> None:
    with contextlib.ExitStack() as taken:
        # Whoever has the port, this test or another program, the quickstart must do without it.
        with contextlib.suppress(OSError):
            taken.enter_context(socket.create_server(("127.0.0.1", 8443)))
        output = quickstart.run("--no-install")
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
        "$ certctl managed renew web",
        "$ certctl managed versions web",
        "SUPERSEDED",
        "$ certctl managed import shop --certificate shop.pem --private-key shop.key",
        "$ certctl managed search --expires-within 30d",
        "scripts/quickstart --stop",
    ):
        assert part in output
    _check_files(quickstart)

    # Again: nothing is made twice, and the daemon that runs is kept.
    before, first, root = (
        quickstart.counts(),
        quickstart.daemon_pid(),
        (quickstart.data / "quickstart/root.pem").read_text(),
    )
    assert before == (2, before[1], 2)
    found = output.rpartition("$ certctl managed search --expires-within 30d")[2]
    assert "shop " in found
    assert "web " not in found
    output = quickstart.run("--no-install")
    assert f"runs already (process {first})" in output
    assert "$ certctl managed renew web" not in output
    assert "$ certctl managed import shop" not in output
    assert "Verification: OK" in output
    assert "certctl: NAME_NOT_ALLOWED: " in output
    assert "$ certctl certificate revoke " not in output
    assert "(SUPERSEDED)" in output
    assert quickstart.counts() == before

    # Again after the daemon died: it comes back with everything.
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not _alive(first))
    output = quickstart.run("--no-install")
    second = quickstart.daemon_pid()
    assert second != first
    assert "Verification: OK" in output
    assert quickstart.counts() == before
    assert (quickstart.data / "quickstart/root.pem").read_text() == root

    token = json.loads((quickstart.data / "certd.ready").read_text().removeprefix("READY "))["token_pid"]
    assert "The server is stopped." in quickstart.run("--stop")
    eventually(lambda: not _alive(second))
    eventually(lambda: not _alive(token))
    assert "The server is not running." in quickstart.run("--stop")
    assert (quickstart.data / "certd.db").exists()

    quickstart.run("--no-install")
    third = quickstart.daemon_pid()
    assert quickstart.counts() == before
    # As if it had been started by hand: nothing may be deleted under a daemon that runs.
    (quickstart.data / "certd.pid").unlink()
    quickstart.run("--purge")
    eventually(lambda: not _alive(third))
    assert [path for path in quickstart.home.rglob("*") if not path.is_dir()] == []
    assert not quickstart.data.exists()
    assert not quickstart.credentials.exists()


def _check_files(quickstart: _Quickstart) -> None:
    walk = quickstart.data / "quickstart"
    for path in (
        walk / "pass.txt",
        walk / "web.key",
        walk / "own.key",
        walk / "shop.key",
        quickstart.credentials / "admin.key",
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
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
