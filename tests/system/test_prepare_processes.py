"""The prepare processes of a daemon, seen from outside: what it says of them, and that a killed one comes back."""

import contextlib
import json
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.daemon import Installation, RunningDaemon, running
from tests.system.calls import administrator, calling, make_csr, must
from tests.waiting import eventually


def prepare_processes(daemon: RunningDaemon) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(daemon.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "certd.prepare" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def problems(daemon: RunningDaemon) -> list[str]:
    try:
        with urllib.request.urlopen(f"http://{daemon.http}/readyz", timeout=10) as answer:
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            told = json.load(error)
    return list(told["problems"])


def configure(installation: Installation, processes: int) -> None:
    written = installation.config.read_text()
    changed = written.replace("# processes = 1\n", f"processes = {processes}\n")
    assert changed != written
    installation.config.write_text(changed)


def test_a_prepare_process_that_dies_is_told_and_comes_back(installation: Installation, csr: Path) -> None:
    configure(installation, 1)
    with running(installation) as daemon, calling(administrator(daemon)) as caller:
        must(daemon, "authority", "create", "root", "--type", "root", "--subject", "CN=Root")
        assert caller.serving()
        assert "1 of 1 processes ready" in must(daemon, "server", "info")
        assert problems(daemon) == []
        (process,) = prepare_processes(daemon)
        process.kill()
        eventually(lambda: not caller.serving())
        assert problems(daemon) == ["no prepare process works"]
        eventually(lambda: not problems(daemon))
        eventually(caller.serving)
        (another,) = prepare_processes(daemon)
        assert another.pid != process.pid
        must(daemon, "certificate", "issue", "--authority", "root", "--csr", csr)


def test_one_of_two_prepare_processes_is_enough(installation: Installation, csr: Path) -> None:
    configure(installation, 2)
    with running(installation) as daemon:
        must(daemon, "authority", "create", "root", "--type", "root", "--subject", "CN=Root")
        first, _ = prepare_processes(daemon)
        first.kill()
        assert problems(daemon) == []
        must(daemon, "certificate", "issue", "--authority", "root", "--csr", csr)
        eventually(lambda: "2 of 2 processes ready" in must(daemon, "server", "info"))


def test_without_prepare_processes_the_daemon_does_it_itself(installation: Installation, csr: Path) -> None:
    configure(installation, 0)
    with running(installation) as daemon:
        assert prepare_processes(daemon) == []
        must(daemon, "authority", "create", "root", "--type", "root", "--subject", "CN=Root")
        assert "in the daemon" in must(daemon, "server", "info")
        assert problems(daemon) == []
        must(daemon, "certificate", "issue", "--authority", "root", "--csr", csr)


@pytest.fixture
def csr(tmp_path: Path) -> Path:
    path = tmp_path / "req.pem"
    path.write_bytes(make_csr())
    return path
