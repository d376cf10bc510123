"""What a prepare process can reach: nothing. What it leaves behind: nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from certd.ipc.channel import Channel, SpawnedChild
from certd.prepare.client import Preparer
from tests.prepare.asking import START_SECONDS, running_preparer
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS has neither prctl nor /proc")
_NONE_LEFT = {"Too many open files", "Invalid argument"}
"""EMFILE, and what dup says where no descriptor may be had."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a probe inside of a process that is ready was told."""
    output = tmp_path_factory.mktemp("probe") / "told"
    program = Path(__file__).with_name("probe.py")
    channel = Channel(SpawnedChild((sys.executable, str(program), str(output))), name="prepare process")
    os.environ["PYTHONPATH"], before = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")
    channel.start()
    try:
        assert channel.wait_ready(START_SECONDS), channel.problem
        eventually(lambda: output.exists() and output.read_text().endswith("\n"))
    finally:
        channel.stop()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    found: dict[str, object] = json.loads(output.read_text())
    return found


@pytest.mark.parametrize(
    "attempt",
    [
        "read a file",
        "read its own program",
        "write a file",
        "list a folder",
        "connect by TCP",
        "send by UDP",
        "open a unix socket",
        "make a pipe",
        "copy a descriptor",
        "start a program",
        "become another's memory",
    ],
)
def test_once_it_is_ready_it_can_open_nothing(told: dict[str, object], attempt: str) -> None:
    assert told[attempt] in _NONE_LEFT


def test_it_leaves_no_core_and_is_not_dumpable(told: dict[str, object]) -> None:
    assert told["dumpable"] == 0
    assert told["core"] == [0, 0]
    assert told["files"] == [0, 0]


def test_it_holds_its_socket_and_the_log_and_no_other_file(preparer: Preparer) -> None:
    (process_id,) = preparer.process_ids
    process = psutil.Process(process_id)
    assert process.rlimit(psutil.RLIMIT_NOFILE) == (0, 0)
    open_ones = {int(path.name): os.fspath(path.readlink()) for path in Path(f"/proc/{process_id}/fd").iterdir()}
    (descriptor,) = set(open_ones) - {0, 1, 2}
    assert open_ones[descriptor].startswith("socket:")
    assert open_ones[0] == os.devnull
    assert open_ones[1] == open_ones[2] == os.fspath(Path("/proc/self/fd/2").readlink())
    assert process.net_connections("inet") == []


def test_neither_folder_nor_environment_chooses_what_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take another `certd` from where the daemon was started, or from PYTHONPATH."""
    (tmp_path / "certd").mkdir()
    (tmp_path / "certd" / "__init__.py").write_text("raise SystemExit('another certd')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with running_preparer() as running:
        assert running.state.ready == 1


_PARENT = """
import os, sys, threading
from certd.prepare.client import Preparer
preparer = Preparer(2)
preparer.start()
assert preparer.wait_settled(60)
print(*preparer.process_ids, flush=True)
threading.Event().wait()
"""


def test_it_dies_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(text)) for text in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
        parent.wait(20)
        eventually(lambda: all(_gone(child) for child in children))


def _gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_ends_when_it_is_stopped() -> None:
    with running_preparer(2) as running:
        children = [psutil.Process(process_id) for process_id in running.process_ids]
        assert len(children) == 2
    assert all(_gone(child) for child in children)
