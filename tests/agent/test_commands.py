"""Programs that the agent runs: for a limited time, with what they say kept short, and ended with what they started."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from certd.agent.bundle import Bundle
from certd.agent.commands import KEPT_OUTPUT, StoppedError, run
from certd.agent.config import Command, Probe
from certd.agent.errors import AgentError
from certd.agent.probe import probe
from tests.agent.bundles import HOST, Minter
from tests.waiting import eventually


def told(script: str, *, timeout: float = 20.0, stop: threading.Event | None = None, **environment: str) -> str:
    """Runs a script that fails, and returns what is told of it."""
    command = Command(arguments=("sh", "-c", script), timeout=timeout)
    with pytest.raises(AgentError) as caught:
        run(command, environment=environment, stop=stop or threading.Event())
    return caught.value.message


def test_a_program_that_succeeds_says_nothing() -> None:
    run(Command(arguments=("sh", "-c", "echo fine"), timeout=20), environment={}, stop=threading.Event())


def test_a_program_that_fails_is_told_with_the_last_that_it_said() -> None:
    message = told("echo begin; yes out | head -c 100000; printf '\\033[1mlast\\n' >&2; exit 3")
    assert message.startswith("sh ended with exit code 3: ")
    assert message.endswith("out out [1mlast")
    assert len(message) < KEPT_OUTPUT + 100
    assert "\033" not in message


def test_a_program_ended_by_a_signal() -> None:
    assert told("kill -9 $$") == "sh was ended by signal 9"


def test_a_program_that_does_not_exist() -> None:
    with pytest.raises(AgentError, match="no-such cannot be run: no such file"):
        run(Command(arguments=("no-such",), timeout=1), environment={}, stop=threading.Event())


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_a_program_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    message = told(f"echo $$ > {pids}; sleep 600 & echo $! >> {pids}; echo waiting; wait", timeout=0.5)
    assert message == "sh did not end within 0.5 seconds: waiting"
    for pid in pids.read_text().split():
        assert eventually(lambda pid=int(pid): gone(pid))  # type: ignore[misc]  # mypy infers no type for a default.


def test_a_program_that_does_not_hear_is_ended_all_the_same() -> None:
    began = time.monotonic()
    message = told("trap '' TERM; while :; do sleep 0.1; done", timeout=0.2)
    assert "did not end" in message
    assert time.monotonic() - began < 10


def test_what_a_program_leaves_behind_holds_nobody_up() -> None:
    began = time.monotonic()
    # It keeps the output open, as a daemon does that was started by hand.
    run(Command(arguments=("sh", "-c", "sleep 5 & exit 0"), timeout=20), environment={}, stop=threading.Event())
    assert time.monotonic() - began < 4


def test_a_program_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    done = tmp_path / "done"
    script = f"exec >&- 2>&-; sleep 0.3; : > {done}"
    run(Command(arguments=("sh", "-c", script), timeout=20), environment={}, stop=threading.Event())
    assert done.exists()


def test_the_end_of_the_agent_ends_a_program(tmp_path: Path) -> None:
    stop, begun = threading.Event(), tmp_path / "begun"

    def end() -> None:
        eventually(begun.exists)
        stop.set()

    threading.Thread(target=end).start()
    with pytest.raises(StoppedError):
        run(Command(arguments=("sh", "-c", f": > {begun}; sleep 60"), timeout=60), environment={}, stop=stop)


def test_a_program_gets_what_it_needs_and_no_socket_of_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    assert told('echo "[$NOTIFY_SOCKET] $CERTD_NAME"; exit 1', CERTD_NAME="web").endswith("[] web")


class Served:
    """A server of TLS whose certificate is replaced while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str | None] = []
        self.postgresql = False
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self._context: ssl.SSLContext | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def show(self, bundle: Bundle) -> None:
        path = self.folder / f"{bundle.version}.pem"
        key = load_der_private_key(bundle.private_key_info, None)
        path.write_bytes(
            bundle.parsed().public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self._context = context

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                try:
                    if self.postgresql and connection.recv(8) == b"\0\0\0\x08\x04\xd2\x16\x2f":
                        connection.sendall(b"S")
                    if self._context is None:
                        # What is not read would have the end come as a reset.
                        connection.recv(65_536)
                    else:
                        with self._context.wrap_socket(connection, server_side=True) as wrapped:
                            wrapped.recv(1)
                except OSError:
                    continue


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.close()


def looked(port: int, bundle: Bundle, *, timeout: float = 10, protocol: str = "tls") -> None:
    target = Probe(address=f"127.0.0.1:{port}", server_name=HOST, protocol=protocol, timeout=timeout)
    probe(target, bundle.certificate, stop=threading.Event())


@pytest.mark.parametrize("protocol", ["tls", "postgresql"])
def test_a_probe_sees_the_certificate_that_a_program_shows(served: Served, protocol: str) -> None:
    bundle = Minter().bundle()
    served.postgresql = protocol == "postgresql"
    served.show(bundle)
    looked(served.port, bundle, protocol=protocol)
    assert served.names == [HOST]


def test_a_probe_waits_until_the_new_one_shows(served: Served) -> None:
    minter = Minter()
    old, new = minter.bundle(version=1), minter.bundle(version=2)
    served.show(old)
    with changed_after(served, new):
        looked(served.port, new)
    assert len(served.names) > 1


@contextmanager
def changed_after(served: Served, bundle: Bundle) -> Iterator[None]:
    """Has another certificate shown once somebody saw the old one."""

    def change() -> None:
        eventually(lambda: served.names)
        served.show(bundle)

    thread = threading.Thread(target=change)
    thread.start()
    yield
    thread.join(10)


def test_a_probe_that_sees_another_one_says_which(served: Served) -> None:
    minter = Minter()
    old, new = minter.bundle(version=1), minter.bundle(version=2)
    served.show(old)
    with pytest.raises(AgentError, match=f"shows serial {old.parsed().serial_number:x}, and not the new"):
        looked(served.port, new, timeout=0.3)


def test_a_probe_of_what_is_no_tls_or_nothing_at_all(served: Served) -> None:
    with pytest.raises(AgentError, match="shows no certificate"):
        looked(served.port, Minter().bundle(), timeout=0.3)
    with pytest.raises(AgentError, match="refuses TLS"):
        looked(served.port, Minter().bundle(), timeout=0.3, protocol="postgresql")
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(AgentError, match="connection refused"):
        looked(port, Minter().bundle(), timeout=0.3)


def test_a_probe_ends_with_the_agent(served: Served) -> None:
    stop = threading.Event()
    stop.set()
    target = Probe(address=f"127.0.0.1:{served.port}", server_name=None, protocol="tls", timeout=60)
    with pytest.raises(StoppedError):
        probe(target, b"", stop=stop)
