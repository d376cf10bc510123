"""What a server may answer to an agent, and what its words may do: nothing ends the agent, and nobody is fooled."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus

from certd.agent import log, status
from certd.agent.agent import Agent
from certd.agent.config import Certificate, Config, Sds
from certd.agent.identity import Identity, IdentityFiles, renew
from certd.agent.loop import Loop
from certd.agent.notify import notify
from certd.agent.program import main
from certd.agent.server import ApiServer
from certd.agent.slots import Slots
from certd.agent.uplink import Uplink
from certd.agent.watching import Watcher, pause
from certd.client.connection import Client
from certd.client.failure import CallFailed, decode
from certd.clock import SystemClock
from certd.errors import CertdError
from certd.pki.enrollment_code import key_sha256, new_code
from certd.v1.access_service_pb2 import RenewIdentityRequest
from certd.v1.association_pb2 import Association
from certd.v1.identity_pb2 import IdentityCredential
from certd.v1.managed_certificate_service_pb2 import WatchManagedCertificatesResponse as Told
from certd.v1.x509_pb2 import EncodedCertificate
from tests.agent.machine import ASSOCIATION
from tests.fakes import FakeClock
from tests.waiting import eventually

_FORM = PublicFormat.SubjectPublicKeyInfo
ESCAPE = "\x1b]0;owned\x07\x1b[2J"


class Issuer:
    """The server, as far as it issues identities."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "System Root")])
        self.root = self._builder(self._name, self._key.public_key()).sign(self._key, hashes.SHA256())
        self.root_pem = self.root.public_bytes(Encoding.PEM)

    def certificate(self, key: ec.EllipticCurvePublicKey, *, age: timedelta = timedelta()) -> x509.Certificate:
        name = x509.UniformResourceIdentifier("spiffe://certd.internal/tenants/default/identities/web-1")
        names = x509.SubjectAlternativeName([name])
        builder = self._builder(x509.Name([]), key, age=age).add_extension(names, critical=True)
        return builder.sign(self._key, hashes.SHA256())

    def answer(self, request: RenewIdentityRequest) -> IdentityCredential:
        key = x509.load_der_x509_csr(request.csr).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        made = self.certificate(key)
        answer = IdentityCredential()
        answer.certificate.der = made.public_bytes(Encoding.DER)
        answer.certificate.pem = made.public_bytes(Encoding.PEM).decode()
        return answer

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, age: timedelta = timedelta()
    ) -> x509.CertificateBuilder:
        begin = datetime.now(UTC) - age
        return x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=begin,
            not_valid_after=begin + timedelta(days=3),
        )


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def enrolled(tmp_path: Path, issuer: Issuer) -> IdentityFiles:
    """An identity that is to be renewed."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    found = IdentityFiles(state)
    key = ec.generate_private_key(ec.SECP256R1())
    made = issuer.certificate(key.public_key(), age=timedelta(days=2.5))
    found.files.certificate.write_bytes(made.public_bytes(Encoding.PEM))
    found.files.private_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    found.trust_bundle.write_bytes(issuer.root_pem)
    return found


def _is_good(found: IdentityFiles) -> bool:
    credentials = found.read()
    return credentials is not None and Identity(credentials).spiffe_id.endswith("/web-1")


def test_what_is_installed_is_what_was_checked(enrolled: IdentityFiles, issuer: Issuer) -> None:
    def call(request: RenewIdentityRequest) -> IdentityCredential:
        answer = issuer.answer(request)
        answer.certificate.pem = "nothing that could be read"
        return answer

    assert renew(enrolled, call, now=datetime.now(UTC))
    assert _is_good(enrolled)


def test_roots_are_known_before_anything_that_only_they_vouch_for(enrolled: IdentityFiles, issuer: Issuer) -> None:
    other = Issuer().root_pem

    def call(request: RenewIdentityRequest) -> IdentityCredential:
        answer = issuer.answer(request)
        answer.system_roots.append(EncodedCertificate(pem=other.decode()))
        # Where the roots are cannot be written: nothing else is replaced.
        enrolled.trust_bundle.unlink()
        enrolled.trust_bundle.mkdir()
        return answer

    before = enrolled.files.certificate.read_bytes()
    with pytest.raises(Exception, match=r"written|directory"):
        renew(enrolled, call, now=datetime.now(UTC))
    assert enrolled.files.certificate.read_bytes() == before


@pytest.mark.parametrize("lost", [True, False], ids=["the answer is lost", "what came cannot be written"])
def test_a_renewal_that_fails_again_and_again_costs_one_certificate(
    enrolled: IdentityFiles, issuer: Issuer, *, lost: bool
) -> None:
    keys: list[bytes] = []

    def call(request: RenewIdentityRequest) -> IdentityCredential:
        answer = issuer.answer(request)
        keys.append(x509.load_der_x509_csr(request.csr).public_key().public_bytes(Encoding.DER, _FORM))
        if len(keys) > 3:
            return answer
        if lost:
            raise CallFailed("UNAVAILABLE", "away", code="UNAVAILABLE")
        answer.system_roots.append(EncodedCertificate(pem="nothing"))
        return answer

    before = enrolled.files.certificate.read_bytes(), enrolled.files.private_key.read_bytes()
    for _ in range(3):
        with pytest.raises((CallFailed, CertdError)):
            renew(enrolled, call, now=datetime.now(UTC))
        assert (enrolled.files.certificate.read_bytes(), enrolled.files.private_key.read_bytes()) == before
        assert _is_good(enrolled)
    assert renew(enrolled, call, now=datetime.now(UTC))
    assert _is_good(enrolled)
    # For the same key the server has the same certificate; a hundred others would be all that it may have.
    assert len(set(keys)) == 1
    assert not enrolled.files.staged_key.exists()


class Desk:
    """An uplink with its loop, which the test turns."""

    def __init__(self, found: IdentityFiles) -> None:
        self.loop = Loop()
        self.config = Config(server="127.0.0.1:1", state_directory=found.folder)
        self.slots = Slots(self.loop, poll_interval=300, stop=threading.Event(), refused=lambda _: None)
        self.clock = FakeClock(datetime.now(UTC))
        self.uplink = Uplink(self.config, loop=self.loop, clock=self.clock, watch=None, slots=self.slots)

    def turn(self, until: Callable[[], object]) -> None:
        def reached() -> bool:
            self.uplink.look()
            self.loop.wait(0.005)
            return bool(until())

        eventually(reached)


@pytest.fixture
def desk(enrolled: IdentityFiles) -> Iterator[Desk]:
    made = Desk(enrolled)
    yield made
    made.uplink.close()
    made.loop.close()


@pytest.mark.parametrize("root", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None])
def test_a_renewal_that_ends_in_a_way_that_nobody_foresaw_is_not_the_last(
    desk: Desk, enrolled: IdentityFiles, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, root: str | None
) -> None:
    calls = 0

    def call(_client: Client, _method: object, request: RenewIdentityRequest) -> IdentityCredential:
        nonlocal calls
        calls += 1
        if root is None:
            raise ArithmeticError
        answer = issuer.answer(request)
        answer.system_roots.append(EncodedCertificate(pem=root))
        return answer

    monkeypatch.setattr(Client, "call", call)
    desk.uplink.connect(desk.config)
    desk.turn(lambda: calls and not desk.uplink.busy)
    assert _is_good(enrolled)


def test_a_clock_that_is_ahead_makes_no_storm_of_renewals(
    desk: Desk, enrolled: IdentityFiles, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bytes] = []

    def call(_client: Client, _method: object, request: RenewIdentityRequest) -> IdentityCredential:
        calls.append(request.csr)
        return issuer.answer(request)

    monkeypatch.setattr(Client, "call", call)
    key = load_pem_private_key(enrolled.files.private_key.read_bytes(), None).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    before = issuer.certificate(key, age=timedelta(hours=12)).public_bytes(Encoding.PEM)
    enrolled.files.certificate.write_bytes(before)
    # Also what is new is due by it.
    desk.clock.advance(timedelta(days=2.2))
    desk.uplink.connect(desk.config)
    desk.turn(lambda: enrolled.files.certificate.read_bytes() != before and not desk.uplink.busy)
    looks = iter(range(20))
    desk.turn(lambda: next(looks) == 19)
    assert len(calls) == 1


def test_a_server_that_takes_nobody_is_not_called_each_second(enrolled: IdentityFiles) -> None:
    calls: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        loop = Loop()
        config = Config(server=f"127.0.0.1:{listener.getsockname()[1]}", state_directory=enrolled.folder)
        slots = Slots(loop, poll_interval=300, stop=threading.Event(), refused=lambda _: None)
        uplink = Uplink(config, loop=loop, clock=FakeClock(datetime.now(UTC)), watch=None, slots=slots)
        uplink.connect(config)
        server = uplink.server
        assert server is not None
        # The connection is tried on behind the first call, whether there are others or not.

        def ask() -> None:
            # Closed meanwhile, it fails in a way of its own.
            with suppress(CallFailed, ValueError):
                server.association(ASSOCIATION)

        call = threading.Thread(target=ask)
        call.start()
        try:
            while len(calls) < 3 or max(b - a for a, b in pairwise(calls)) < 1.3:
                listener.accept()[0].close()
                calls.append(time.monotonic())
                assert len(calls) < 20
        finally:
            uplink.close()
            call.join(20)
            loop.close()


def test_a_key_that_comes_after_its_certificate_is_noticed(desk: Desk, enrolled: IdentityFiles) -> None:
    key = enrolled.files.private_key
    content = key.read_bytes()
    key.unlink()
    desk.uplink.connect(desk.config)
    assert desk.uplink.problem
    key.write_bytes(content)
    desk.uplink.look()
    assert desk.uplink.identity is not None
    assert desk.uplink.problem == ""


def test_an_association_that_was_not_asked_for_is_refused() -> None:
    other = Association(name=ASSOCIATION.replace("web", "other"), current_version=1)
    client = SimpleNamespace(call=lambda *_: other, stubs=SimpleNamespace(get_association=None))
    with pytest.raises(CallFailed, match="other"):
        ApiServer(cast("Client", client)).association(ASSOCIATION)


@pytest.mark.parametrize("asked", [1e9, 3e11])
def test_no_server_has_an_agent_wait_for_ever(asked: float) -> None:
    later = CallFailed("RATE_LIMITED", "later", code="RESOURCE_EXHAUSTED", retry_after=asked)
    assert pause(later, 1, longest=30) < 7200


class Rejected(grpc.RpcError):
    """A failure with a delay that no calendar has."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self) -> str:
        return "later"

    def trailing_metadata(self) -> Any:
        retry, info = RetryInfo(), ErrorInfo(reason="RATE_LIMITED")
        retry.retry_delay.seconds = 1 << 62
        details = []
        for each in (retry, info):
            packed = AnyMessage()
            packed.Pack(each)
            details.append(packed)
        value = RpcStatus(details=details).SerializeToString()
        return (SimpleNamespace(key="grpc-status-details-bin", value=value),)


def test_a_delay_that_is_none_is_as_good_as_not_said() -> None:
    failure = decode(Rejected())
    assert (failure.reason, failure.retry_after) == ("RATE_LIMITED", None)


def test_a_server_that_ends_each_stream_at_once_is_asked_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []
    ended = threading.Event()

    def note(_failure: CallFailed | None, number: int, *, longest: float) -> float:
        tries.append(number)
        if len(tries) < 3:
            return 0
        ended.set()
        return longest

    def opened(_: Client, _cursor: str) -> Iterator[Told]:
        yield Told(kind=Told.SYNCED)

    monkeypatch.setattr("certd.agent.watching.pause", note)
    nobody = SimpleNamespace(connected=lambda: None, lost=lambda _: None)
    watcher = Watcher(cast("Client", None), opened, nobody)
    assert ended.wait(20)
    watcher.end()
    watcher.join(20)
    assert tries == [1, 2, 3]


def test_systemd_is_told_nothing_that_a_server_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        notify("READY=1", "STATUS=away\nMAINPID=1\r\nERRNO=2\udcff")
        told = manager.recv(4096).decode().split("\n")
    assert [line.partition("=")[0] for line in told] == ["READY", "STATUS"]


def test_what_a_server_says_is_shown_and_logged_without_what_moves_a_terminal(
    enrolled: IdentityFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    state = enrolled.folder
    (state / "agent.toml").write_text(f'server = "127.0.0.1:1"\nstate_directory = "{state}"\n')
    made = status.Status(
        version="1",
        pid=os.getpid(),
        start_time="",
        server="127.0.0.1:1",
        identity="",
        identity_not_after="",
        connected=False,
        problem=f"away {ESCAPE}\u202e",
    )
    status.write(state, made)
    shown = CliRunner().invoke(main, ["status", "--config", str(state / "agent.toml")]).output
    assert "away" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    try:
        log.configure(level="info", style="text")
        logging.getLogger("certd.agent").warning("away %s", f"{ESCAPE}\n2026 forged", extra=log.fields(name="a\nb"))
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].isprintable()


def test_a_damaged_identity_does_not_keep_a_machine_from_enrolling_anew(
    enrolled: IdentityFiles, issuer: Issuer
) -> None:
    state = enrolled.folder
    lines = ('server = "127.0.0.1:1"', 'enrollment = "127.0.0.1:1"', f'state_directory = "{state}"')
    (state / "agent.toml").write_text("\n".join(lines))
    enrolled.files.private_key.write_text("nothing")
    code = new_code(key_sha256(issuer.root.public_bytes(Encoding.DER))).text()
    ended = CliRunner().invoke(main, ["enroll", "--config", str(state / "agent.toml")], input=code)
    assert "no connection" in ended.output


def test_a_state_directory_that_goes_away_is_a_problem_of_the_file_alone(tmp_path: Path) -> None:
    from certd.agent.errors import AgentError

    made = status.Status(
        version="1",
        pid=1,
        start_time="",
        server="",
        identity="",
        identity_not_after="",
        connected=False,
        problem="",
    )
    with pytest.raises(AgentError):
        status.write(tmp_path / "gone", made)


def test_a_socket_that_could_not_be_had_is_tried_again_with_the_next_reload(tmp_path: Path) -> None:
    listen = tmp_path / "sds.sock"
    certificate = Certificate(name="web", association=ASSOCIATION, directory=tmp_path / "web", sds=True)
    before = Config(server="127.0.0.1:1", state_directory=tmp_path / "state")
    after = replace(before, sds=Sds(socket=listen), certificates=(certificate,))
    listen.touch()
    agent = Agent(before, read_again=lambda: after, clock=SystemClock(), watch=None)
    told: list[object] = []
    thread = threading.Thread(target=lambda: agent.run(told.append))
    thread.start()

    def problem() -> str:
        found = status.read(before.state_directory, datetime.now(UTC))
        return "" if found is None else found.problem

    def reload() -> None:
        agent._reload = True

    try:
        eventually(lambda: told)
        agent.loop.post(reload)
        eventually(lambda: "no socket" in problem())
        listen.unlink()
        agent.loop.post(reload)
        eventually(listen.is_socket)
        eventually(lambda: "no socket" not in problem())
    finally:
        agent.stop()
        thread.join(20)
    assert not thread.is_alive()
