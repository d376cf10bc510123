"""Watchers of a daemon that is killed, stopped and started again: each is told every event once."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from certd.client import watch
from certd.client.connection import Client, Waiting
from certd.client.credentials import read_credentials
from certd.client.failure import CallFailed
from certd.v1.access_service_pb2 import CreateEnrollmentCodeRequest
from certd.v1.event_service_pb2 import EventFilter, ListEventsRequest, WatchEventsRequest
from tests.daemon import Installation, initialise, running, start
from tests.waiting import eventually

_MADE = "enrollment-code.created"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def installation(tmp_path: Path, address: str) -> Installation:
    return initialise(tmp_path, "--grpc-address", address)


@pytest.fixture
def clients(installation: Installation, address: str) -> Iterator["Clients"]:
    made = Clients(installation, address)
    yield made
    made.close()


class Clients:
    """Connections of the administrator, one for each reader and writer."""

    def __init__(self, installation: Installation, address: str) -> None:
        self._installation = installation
        self._address = address
        self._made: list[Client] = []

    def __call__(self) -> Client:
        credentials = read_credentials(
            certificate=self._installation.certificate,
            private_key=self._installation.private_key,
            trust_bundle=self._installation.trust_bundle,
        )
        self._made.append(Client(self._address, credentials))
        return self._made[-1]

    def close(self) -> None:
        for client in self._made:
            client.close()


class Reader:
    """Reads events for ever, on a thread of its own, and remembers their numbers."""

    def __init__(self, client: Client, request: WatchEventsRequest) -> None:
        self.seqs: list[int] = []
        self.waits: list[Waiting] = []
        self._client = client
        self._request = request
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def ended(self) -> None:
        """Waits for the end, once its connection is closed."""
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _read(self) -> None:
        # A closed connection ends it.
        with suppress(CallFailed, ValueError):
            for answer in watch.watch_events(self._client, self._request, on_wait=self.waits.append):
                if answer.HasField("event"):
                    self.seqs.append(answer.event.seq)


def test_every_event_is_told_once_whatever_becomes_of_the_daemon(
    installation: Installation, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_FIRST_DELAY", 0.02)
    monkeypatch.setattr(watch, "_LONGEST_DELAY", 0.2)
    daemon = start(installation)
    over = threading.Event()

    def write(client: Client) -> None:
        for number in count():
            if over.is_set():
                return
            # The daemon may be away, and the call not be repeatable.
            with suppress(CallFailed):
                name = f"identities/machine-{number}"
                client.call(client.stubs.create_enrollment_code, CreateEnrollmentCodeRequest(identity=name))

    writers = [threading.Thread(target=write, args=(clients(),)) for _ in range(2)]
    readers = [
        Reader(clients(), WatchEventsRequest(from_beginning=True)),
        Reader(clients(), WatchEventsRequest(from_beginning=True)),
        Reader(clients(), WatchEventsRequest(from_beginning=True, filter=EventFilter(types=["enrollment-code.*"]))),
    ]
    for writer in writers:
        writer.start()
    try:
        for dies in (True, False):
            seen = len(readers[0].seqs)
            eventually(lambda seen=seen: len(readers[0].seqs) > seen + 20)  # type: ignore[misc]  # mypy infers no type for a default.
            if dies:
                daemon.kill()
            else:
                assert daemon.stop() == 0
            daemon = start(installation)
        seen = len(readers[0].seqs)
        eventually(lambda: len(readers[0].seqs) > seen + 20)
    finally:
        over.set()
        for writer in writers:
            writer.join(60)
    client = clients()
    newest = client.call(client.stubs.list_events, ListEventsRequest(descending=True, page_size=1)).events[0].seq
    made = client.pages(client.stubs.list_events, ListEventsRequest(filter=EventFilter(types=[_MADE]), page_size=1000))
    of_codes = [event.seq for page in made for event in page.events]
    eventually(lambda: readers[0].seqs[-1] >= newest and readers[1].seqs[-1] >= newest)
    eventually(lambda: len(readers[2].seqs) >= len(of_codes))
    assert readers[0].seqs == readers[1].seqs == list(range(1, newest + 1))
    assert readers[2].seqs == of_codes
    # It said that it stops; where it was killed, the connection broke.
    reasons = {wait.failure.reason for wait in readers[0].waits}
    assert "SHUTTING_DOWN" in reasons
    assert reasons <= {"SHUTTING_DOWN", "UNAVAILABLE", "CANCELLED"}
    clients.close()
    for reader in readers:
        reader.ended()
    assert daemon.stop() == 0


def test_certctl_watches_what_another_certctl_does(installation: Installation) -> None:
    with running(installation) as daemon:
        before = daemon.certctl("event", "list", "--server", "--limit", "1", "-o", "json")
        assert before.returncode == 0, before.stderr
        made = daemon.certctl("tenant", "create", "acme")
        assert made.returncode == 0, made.stderr
        watched = daemon.certctl(
            *("event", "watch", "--server", "--from-beginning", "--type", "tenant.created", "--limit", "2")
        )
        assert watched.returncode == 0, watched.stderr
        assert [line.split()[3] for line in watched.stdout.splitlines()[1:]] == ["tenants/default", "tenants/acme"]
        nobody = daemon.certctl("managed", "watch", "--tenant", "nowhere")
        assert nobody.returncode == 1
        assert "TENANT_NOT_FOUND" in nobody.stderr
