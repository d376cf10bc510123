"""What a daemon leans on goes away under it: the token, its PIN, its module, its process, and the disk.

Callers get one precise error that says what to do, nothing is half-written, and it heals without a restart.
"""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
import pytest
from google.protobuf.message import Message  # noqa: TC002  # Types stand beside what they are of, in tests too.

from certd.client.failure import CallFailed, decode
from certd.clock import SystemClock
from certd.config import load
from certd.errors import Reason
from certd.store import events
from certd.store.store import Store
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import CreateAuthorityRequest
from certd.v1.certificate_service_pb2 import IssueCertificateRequest
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    ExportManagedCertificateRequest,
    GetManagedCertificateRequest,
    PassphraseProtection,
    RequestManagedCertificateRequest,
)
from certd.v1.server_service_pb2 import GetServerInfoRequest
from certd.v1.x509_pb2 import (
    AttributeTypeAndValue,
    DistinguishedName,
    RelativeDistinguishedName,
    SubjectAlternativeNames,
)
from tests.daemon import Installation, RunningDaemon, initialise, installed, run_program, running
from tests.system.books import database_of, defects, rows, unchanged
from tests.system.calls import NAME, Caller, administrator, calling, make_csr, must, refused
from tests.waiting import eventually

CA = "tenants/default/authorities/outage-ca"
MANAGED = "tenants/default/managedCertificates/outage-web"
CALL_SECONDS = 30.0


ISSUE = IssueCertificateRequest(parent=CA, csr=make_csr())
EXPORT = ExportManagedCertificateRequest(
    name=MANAGED, passphrase=PassphraseProtection(passphrase=b"correct horse battery staple")
)
REQUEST = RequestManagedCertificateRequest(
    parent="tenants/default",
    managed_certificate_id="outage-later",
    managed_certificate=ManagedCertificate(
        authority=CA, subject_alternative_names=SubjectAlternativeNames(dns_names=[NAME])
    ),
)
CREATE = CreateAuthorityRequest(
    parent="tenants/default",
    authority_id="outage-later",
    authority=Authority(
        type=Authority.ROOT,
        subject=DistinguishedName(
            relative_distinguished_names=[
                RelativeDistinguishedName(attributes=[AttributeTypeAndValue(type="CN", value="Later")])
            ]
        ),
    ),
)


def begin(daemon: RunningDaemon) -> None:
    must(daemon, "authority", "create", "outage-ca", "--type", "root", "--subject", "CN=Outage CA")
    must(daemon, "managed", "request", "outage-web", "--authority", "outage-ca", "--dns", NAME)


def token_process(daemon: RunningDaemon) -> psutil.Process | None:
    """Returns the token process that runs now."""
    for child in psutil.Process(daemon.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "certd.token" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                return child
    return None


def kill_token_process(daemon: RunningDaemon) -> None:
    """Kills the token process and returns when the next one runs."""
    process = eventually(lambda: token_process(daemon))
    process.kill()
    eventually(lambda: (token_process(daemon) or process).pid != process.pid)


def token_problem(server: "Server") -> str:
    """Asks the API what is wrong with the token; empty when nothing is."""
    info = server.caller.stubs.get_server_info(GetServerInfoRequest(), timeout=CALL_SECONDS)
    return str(info.token.problem)


def readiness(daemon: RunningDaemon) -> tuple[int, list[str]]:
    """Asks /readyz; returns status and problems."""
    try:
        with urllib.request.urlopen(f"http://{daemon.http}/readyz", timeout=10) as answer:
            return answer.status, json.load(answer)["problems"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["problems"]


@dataclass(frozen=True, slots=True)
class Server:
    """A daemon whose token can be taken from it."""

    daemon: RunningDaemon
    caller: Caller

    @property
    def data(self) -> Path:
        return self.daemon.installation.data

    @property
    def database(self) -> Path:
        return database_of(self.daemon.installation)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = installed(tmp_path_factory.mktemp("outages"))
    # The module by a name that can be taken away.
    module = load(made.config).token.module
    (made.data / "module.so").symlink_to(module)
    made.config.write_text(made.config.read_text().replace(str(module), str(made.data / "module.so")))
    with running(made) as daemon:
        begin(daemon)
        with calling(administrator(daemon)) as caller:
            yield Server(daemon, caller)
    assert not defects(made.log.read_text())


@contextmanager
def wrong_pin(data: Path) -> Iterator[None]:
    file = data / "token-pin"
    right = file.read_text()
    file.write_text("0" * len(right))
    try:
        yield
    finally:
        file.write_text(right)


@contextmanager
def pin_open_to_others(data: Path) -> Iterator[None]:
    (data / "token-pin").chmod(0o644)
    try:
        yield
    finally:
        (data / "token-pin").chmod(0o600)


@contextmanager
def moved_away(path: Path) -> Iterator[None]:
    away = path.with_name(f"{path.name}.away")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


@contextmanager
def no_token(data: Path) -> Iterator[None]:
    (token,) = (data / "token" / "tokens").iterdir()
    away = data / "token-away"
    token.rename(away)
    try:
        yield
    finally:
        away.rename(token)


OUTAGES: dict[str, tuple[Callable[[Path], AbstractContextManager[None]], str]] = {
    "wrong PIN": (wrong_pin, "CKR_PIN_INCORRECT: The PIN is wrong; write the right one to the PIN file."),
    "PIN file open to others": (pin_open_to_others, "has mode 0644. Run chmod 600 on it."),
    "no PIN file": (lambda data: moved_away(data / "token-pin"), "Write the token's PIN to it, mode 0600."),
    "no module": (lambda data: moved_away(data / "module.so"), "Install it or correct token.module."),
    "no token": (no_token, "has no token labelled certd. Connect or initialise it"),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_without_its_token_the_daemon_says_what_to_do_and_heals(server: Server, outage: str) -> None:
    away, advice = OUTAGES[outage]
    stubs = server.caller.stubs
    with away(server.data):
        kill_token_process(server.daemon)
        eventually(lambda: advice in token_problem(server))
        # Anybody may ask this page, so it says no more.
        assert readiness(server.daemon) == (503, ["the token does not answer"])
        assert not server.caller.serving()
        assert not server.caller.serving("certd.v1.CertificateService")
        calls: tuple[tuple[Callable[..., object], Message], ...] = (
            (stubs.issue_certificate, ISSUE),
            (stubs.create_authority, CREATE),
            (stubs.export_managed_certificate, EXPORT),
        )
        with unchanged(server.database):
            for method, request in calls:
                failure = refused(method, request)
                assert (failure.code, failure.reason) == ("UNAVAILABLE", Reason.TOKEN_UNAVAILABLE)
                assert advice in failure.message
                assert failure.retry_after
        # What needs no key is served, and tells as well.
        info = stubs.get_server_info(GetServerInfoRequest(), timeout=CALL_SECONDS)
        assert (info.token.ready, advice in info.token.problem) == (False, True)
        # What is only declared is accepted, and waits.
        later = f"outage-{outage.lower().replace(' ', '-')}"
        declared = RequestManagedCertificateRequest()
        declared.CopyFrom(REQUEST)
        declared.managed_certificate_id = later
        waiting = stubs.request_managed_certificate(declared, timeout=CALL_SECONDS)
        assert waiting.state == ManagedCertificate.PENDING
    eventually(server.caller.serving)
    assert readiness(server.daemon) == (200, [])
    assert stubs.issue_certificate(ISSUE, timeout=CALL_SECONDS).certificate.der
    eventually(
        lambda: (
            stubs.get_managed_certificate(GetManagedCertificateRequest(name=waiting.name), timeout=CALL_SECONDS).state
            == ManagedCertificate.ACTIVE
        )
    )


def test_a_wrong_pin_is_tried_once_however_often_the_token_process_starts(server: Server) -> None:
    marker = server.data / "token-pin.refused"

    def stamp() -> tuple[int, int]:
        status = marker.stat()
        return status.st_ino, status.st_mtime_ns

    with wrong_pin(server.data):
        kill_token_process(server.daemon)
        eventually(lambda: marker.exists() and "CKR_PIN_INCORRECT" in token_problem(server))
        first = stamp()
        for _ in range(2):
            kill_token_process(server.daemon)
            eventually(lambda: "CKR_PIN_INCORRECT" in token_problem(server))
            refused(server.caller.stubs.issue_certificate, ISSUE)
        # Each attempt that the token refuses writes the marker anew.
        assert stamp() == first
    eventually(server.caller.serving)
    assert not marker.exists()


def test_a_daemon_that_starts_without_its_token_serves_what_needs_none_and_heals(installation: Installation) -> None:
    with contextlib.ExitStack() as outage:
        outage.enter_context(wrong_pin(installation.data))
        with running(installation) as daemon, calling(administrator(daemon)) as caller:
            assert not caller.serving()
            info = caller.stubs.get_server_info(GetServerInfoRequest(), timeout=CALL_SECONDS)
            assert (info.token.ready, "CKR_PIN_INCORRECT" in info.token.problem) == (False, True)
            with unchanged(database_of(installation)):
                failure = refused(caller.stubs.create_authority, CREATE)
            assert (failure.code, failure.reason) == ("UNAVAILABLE", Reason.TOKEN_UNAVAILABLE)
            outage.close()
            eventually(caller.serving)
            assert caller.stubs.create_authority(CREATE, timeout=CALL_SECONDS).name.endswith("/outage-later")
    assert not defects(installation.log.read_text())


@dataclass(slots=True)
class Load:
    """Sixteen callers who issue without a pause, and what became of it."""

    caller: Caller
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    names: list[str] = field(default_factory=list)
    failures: list[CallFailed] = field(default_factory=list)

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                issued = self.caller.stubs.issue_certificate(ISSUE, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                failure = decode(error)
                with self.lock:
                    self.failures.append(failure)
                # As every client of ours does.
                self.stop.wait(failure.retry_after)
            else:
                with self.lock:
                    self.names.append(issued.name)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.run) for _ in range(16)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join(CALL_SECONDS)
        assert not any(thread.is_alive() for thread in threads)


def test_a_token_process_that_dies_under_load_is_back_at_once(server: Server) -> None:
    load = Load(server.caller)
    absences = []
    with load.running():
        for _ in range(3):
            issued = len(load.names)
            eventually(lambda many=issued + 32: len(load.names) >= many)  # type: ignore[misc]
            failed = len(load.failures)
            process = eventually(lambda: token_process(server.daemon))
            os.kill(process.pid, signal.SIGKILL)
            killed = time.monotonic()
            eventually(lambda before=failed: len(load.failures) > before)  # type: ignore[misc]
            issued = len(load.names)
            eventually(lambda before=issued: len(load.names) > before)  # type: ignore[misc]
            absences.append(time.monotonic() - killed)
    # Within a second on a quiet machine; the bound leaves room for others on it.
    assert max(absences) < 8, absences
    assert {(failure.code, failure.reason) for failure in load.failures} == {("UNAVAILABLE", Reason.TOKEN_UNAVAILABLE)}
    assert all(failure.retry_after for failure in load.failures)
    # Every certificate that was answered is in the books, once; what was interrupted counts as lost, and nothing waits.
    serials = [name.rsplit("/", 1)[-1] for name in load.names]
    assert len(set(serials)) == len(serials)
    eventually(lambda: not states(server.database).get("PENDING"))
    issued_rows = {
        serial for (serial,) in rows(server.database, "SELECT serial FROM certificates WHERE state = 'ISSUED'")
    }
    assert set(serials) <= issued_rows
    lost = states(server.database).get("LOST", 0)
    assert lost <= len(load.failures)


def states(database: Path) -> dict[str, int]:
    return dict(rows(database, "SELECT state, count(*) FROM certificates GROUP BY state"))


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A file system of a few megabytes that holds a database."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "certd.db"

    @contextmanager
    def full(self) -> Iterator[None]:
        ballast = self.folder / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file:
                for size in (1 << 16, 1 << 12, 1):
                    with contextlib.suppress(OSError):
                        while file.write(b"\0" * size):
                            pass
            with pytest.raises(OSError, match="No space left") as caught:
                (self.folder / "more").write_bytes(b"1")
            assert caught.value.errno == errno.ENOSPC
            yield
        finally:
            ballast.unlink(missing_ok=True)
            (self.folder / "more").unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "certd-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_changes_nothing_and_heals(disk: SmallDisk, tmp_path: Path) -> None:
    made = initialise(tmp_path, "--database-url", f"sqlite:///{disk.database}")
    names = []
    with running(made) as daemon, calling(administrator(daemon)) as caller:
        begin(daemon)
        stubs = caller.stubs
        with disk.full():
            first = None
            while first is None:
                # What the write-ahead log has room for is still written.
                try:
                    names.append(stubs.issue_certificate(ISSUE, timeout=CALL_SECONDS).name)
                except grpc.RpcError as error:
                    first = decode(error)
            assert_full(first)
            calls: tuple[tuple[Callable[..., object], Message], ...] = (
                (stubs.issue_certificate, ISSUE),
                (stubs.create_authority, CREATE),
                (stubs.request_managed_certificate, REQUEST),
                (stubs.export_managed_certificate, EXPORT),
            )
            with unchanged(disk.database):
                for method, request in calls:
                    assert_full(refused(method, request))
            # What needs no writing is served.
            assert stubs.get_server_info(GetServerInfoRequest(), timeout=CALL_SECONDS).token.ready
            must(daemon, "certificate", "list", "--limit", "1")
        # It heals by itself, and forgets nothing: a signature that could not be recorded counts as lost.
        eventually(lambda: not states(disk.database).get("PENDING"))
        for method, request in calls:
            method(request, timeout=CALL_SECONDS)
        names.append(stubs.issue_certificate(ISSUE, timeout=CALL_SECONDS).name)
        # Also a daemon that is told to stop on a full disk ends well.
        with disk.full():
            assert daemon.stop() == 0
            ended = run_program("certd", "serve", "--config", made.config)
            if ended.returncode:
                assert_refused_start(ended.stderr)
    assert rows(disk.database, "PRAGMA integrity_check") == [("ok",)]
    serials = {serial for (serial,) in rows(disk.database, "SELECT serial FROM certificates WHERE state = 'ISSUED'")}
    assert {name.rsplit("/", 1)[-1] for name in names} <= serials
    assert_chain_whole(made)
    assert not defects(made.log.read_text())


def assert_full(failure: CallFailed) -> None:
    assert (failure.code, failure.reason) == ("UNAVAILABLE", Reason.STORE_UNAVAILABLE)
    assert "the disk that holds the database is full. Free space there" in failure.message
    assert failure.retry_after


def assert_refused_start(stderr: str) -> None:
    (line,) = [line for line in stderr.splitlines() if line.startswith("certd: ")]
    assert line.startswith("certd: STORE_UNAVAILABLE: ")
    assert "Traceback" not in stderr


def assert_chain_whole(made: Installation) -> None:
    store = Store.open(load(made.config).database.url, clock=SystemClock())
    try:
        with store.read("test.chain") as tx:
            assert events.verify_all(tx) == []
    finally:
        store.close()
