"""The token process behind a unix socket: who may connect, and what another user cannot reach."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.ipc.child import Child, UnixListener
from certd.token.client import Isolation, TokenClient, connect
from certd.token.settings import TokenSettings
from tests.softhsm import make_token
from tests.token.material import make_authority, make_certificate, run_python, verifies
from tests.waiting import eventually

_PROGRAM = Path(__file__).with_name("served.py")
_TOKEN_USER = 65_533
_DAEMON_USER = 65_532
_OWN_USER = os.geteuid()


@contextmanager
def serving(settings: TokenSettings, path: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    values = {
        "module": str(settings.module),
        "label": settings.label,
        "pin_file": str(settings.pin_file),
        "softhsm_conf": str(settings.softhsm_conf),
        "socket": str(path),
        "allowed": [_OWN_USER],
        "mode": 0o660,
        **options,
    }
    with subprocess.Popen([sys.executable, str(_PROGRAM), json.dumps(values)]) as process:
        try:
            eventually(path.exists)
            yield process
        finally:
            process.terminate()
            process.wait(20)


@contextmanager
def connected(path: Path) -> Iterator[TokenClient]:
    client = connect(path)
    try:
        yield client
    finally:
        client.stop()


def test_it_serves_several_connections(settings: TokenSettings, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(settings, path) as process, connected(path) as first, connected(path) as second:
        assert first.wait_ready(20)
        assert second.wait_ready(20)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        authority = make_authority(first)
        for client in (first, second):
            item = authority.item(make_certificate())
            assert verifies(authority, item, client.sign([item], timeout=20)[0])
            assert client.isolation() is Isolation.SAME_USER
            # Whoever runs it watches it; it is no child of ours.
            assert client.process_id is None
        first.stop()
        assert second.describe().label == settings.label
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not path.exists()
        eventually(lambda: not second.ready)


def test_a_client_finds_it_again_after_a_kill(settings: TokenSettings, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with connected(path) as client:
        with serving(settings, path) as process:
            assert client.wait_ready(20)
            process.kill()
            process.wait(20)
            eventually(lambda: not client.ready)
            with pytest.raises(CertdError) as caught:
                client.describe()
            assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
            assert caught.value.retry_after
        # The file of the one that was killed is still there, and in nobody's way.
        assert path.exists()
        with serving(settings, path):
            assert client.wait_ready(20)


def test_a_second_process_on_a_path_is_refused(settings: TokenSettings, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(settings, path), connected(path) as client:
        assert client.wait_ready(20)
        second = Child(UnixListener(path=path, allowed_user_ids=frozenset({_OWN_USER})))
        with pytest.raises(CertdError, match="in use by another process"):
            second.start()
        assert client.describe().label == settings.label


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("precious")
    with pytest.raises(CertdError, match="not a socket"):
        Child(UnixListener(path=path, allowed_user_ids=frozenset({_OWN_USER}))).start()
    assert path.read_text() == "precious"


def test_a_user_who_may_not_is_refused_and_told(settings: TokenSettings, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(settings, path, allowed=[_OWN_USER + 1]), connected(path) as client:
        eventually(lambda: "does not serve the user" in client.problem)
        with pytest.raises(CertdError, match=f"user with id {_OWN_USER}") as caught:
            client.describe()
        assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
        assert not client.ready


def test_connections_are_bounded(settings: TokenSettings, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(settings, path, connections=1), connected(path) as first:
        assert first.wait_ready(20)
        with connected(path) as second:
            eventually(lambda: "connections already" in second.problem)
            assert first.describe().label == settings.label
        first.stop()
        with connected(path) as third:
            assert third.wait_ready(20)


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xff\xff\xff", b"\x00\x00\x00\x03\xff\xff\xff", b"\x00\x00\x00\x00", b"GET / HTTP/1.1\r\n\r\n"],
    ids=["too large", "no message", "empty", "another protocol"],
)
def test_a_caller_that_breaks_the_framing_loses_its_connection_and_nobody_else(
    settings: TokenSettings, tmp_path: Path, garbage: bytes
) -> None:
    path = tmp_path / "socket"
    with serving(settings, path), connected(path) as client:
        assert client.wait_ready(20)
        with socket.socket(socket.AF_UNIX) as rude:
            rude.settimeout(20)
            rude.connect(str(path))
            rude.sendall(garbage)
            while rude.recv(4096):
                pass
        assert client.describe().label == settings.label


_LOOK = """
import json, os, sys
from pathlib import Path
import certd.token.client as client
options = json.loads(sys.argv[1])
os.setgroups([])
os.setgid(options["user_id"])
os.setuid(options["user_id"])
found = {}
for name in ("pin_file", "softhsm_conf", "tokens"):
    try:
        list(Path(options[name]).iterdir()) if name == "tokens" else Path(options[name]).read_bytes()
        found[name] = "readable"
    except PermissionError:
        found[name] = "refused"
try:
    open(f"/proc/{options['process']}/mem", "rb")
    found["memory"] = "readable"
except PermissionError:
    found["memory"] = "refused"
token = client.connect(Path(options["socket"]))
assert token.wait_ready(20), token.problem
found["isolation"] = token.isolation().value
found["label"] = token.describe().label
token.stop()
print(json.dumps(found))
"""


@pytest.mark.skipif(_OWN_USER != 0, reason="only root can run processes of two other users")
def test_with_separate_users_the_daemon_reaches_no_secret() -> None:
    # Not under tmp_path, whose parents only their owner may enter.
    directory = Path(tempfile.mkdtemp(prefix="certd-separate-"))
    try:
        directory.chmod(0o755)
        settings = make_token(directory)
        token = settings.pin_file.parent
        for found in [token, *token.rglob("*")]:
            os.chown(found, _TOKEN_USER, _TOKEN_USER)
        token.chmod(0o700)
        run_directory = directory / "run"
        run_directory.mkdir(mode=0o755)
        os.chown(run_directory, _TOKEN_USER, _TOKEN_USER)
        path = run_directory / "socket"
        options = {"user_id": _TOKEN_USER, "allowed": [_DAEMON_USER], "mode": 0o666}
        with serving(settings, path, **options) as process:
            look = {
                "user_id": _DAEMON_USER,
                "pin_file": str(settings.pin_file),
                "softhsm_conf": str(settings.softhsm_conf),
                "tokens": str(token / "tokens"),
                "socket": str(path),
                "process": process.pid,
            }
            found = json.loads(run_python(_LOOK, json.dumps(look), configuration=None))
            assert found == {
                "pin_file": "refused",
                "softhsm_conf": "refused",
                "tokens": "refused",
                "memory": "refused",
                "isolation": "SEPARATE_USER",
                "label": settings.label,
            }
            # Files of a process that is not dumpable belong to root, even to its own user.
            assert Path(f"/proc/{process.pid}/environ").stat().st_uid == 0
            assert path.stat().st_uid == _TOKEN_USER
    finally:
        shutil.rmtree(directory)
