"""Rotations of a wrapping key under fire: whatever dies at whichever step, every key opens, and the old one goes.

A round arms the daemon, rotates the wrapping key of a tenant whose managed certificates have their keys sealed under it
and destroys the old one, each call repeated with its request id until it is answered. After each of them every key is
exported and held against its certificate, which `export_to_one_time_key` does.
"""

import signal
import sqlite3
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

import grpc

from certd.client.connection import Client
from certd.client.credentials import read_credentials
from certd.client.export import export_to_one_time_key
from certd.client.failure import CallFailed, decode
from certd.clock import SystemClock
from certd.store import events
from certd.store.store import Store
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import ListManagedCertificatesRequest
from certd.v1.wrapping_key_pb2 import WrappingKey
from certd.v1.wrapping_key_service_pb2 import (
    DestroyWrappingKeyRequest,
    GetWrappingKeyRequest,
    RotateWrappingKeyRequest,
)
from tests.daemon import Installation
from tests.faults import armed
from tests.faults.asking import authority_request, managed_request
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = (
    "rotation.1.rotated",
    "rotation.2.resealed",
    "rotation.3.written",
    "rotation.4.retired",
    "destroy.1.recorded",
    "destroy.2.destroyed",
)
"""Every numbered step of a rotation and of the destruction after it."""
DAEMON, TOKEN = "daemon", "token"
_TENANT = "tenants/default"
_HONEST = {"UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED"}
"""What a caller may be told while something is dead."""


class Rotations:
    """An installation whose wrapping key is rotated again and again."""

    def __init__(self, installation: Installation, *, certificates: int) -> None:
        self._installation = installation
        self._credentials = read_credentials(
            certificate=installation.certificate,
            private_key=installation.private_key,
            trust_bundle=installation.trust_bundle,
        )
        self._daemon: armed.ArmedDaemon | None = None
        self._certificates = certificates
        self.number = 1
        """Of the key that is primary."""

    def __enter__(self) -> Self:
        self._daemon = armed.start(self._installation)
        try:
            with self._client() as client:
                for authority_id, issuer in (("root", ""), ("ca", f"{_TENANT}/authorities/root")):
                    client.call(client.stubs.create_authority, authority_request(authority_id, issuer))
                for number in range(self._certificates):
                    client.call(client.stubs.request_managed_certificate, managed_request(f"m{number}"))
                eventually(lambda: len(self._active(client)) == self._certificates, within=60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._daemon is not None:
            self._daemon.end()

    def round(self, victim: str, step: str) -> None:
        """Rotates and destroys, and lets the victim die at a step of that."""
        before = self._pid_of(victim)
        self._running.arm(step, 1, victim)
        old, new = self._name(self.number), self._name(self.number + 1)
        rotation = RotateWrappingKeyRequest(parent=_TENANT, request_id=str(uuid.uuid4()))
        answered = self._insist(lambda client: client.stubs.rotate_wrapping_key(rotation, timeout=20))
        assert answered.name == new
        retired = self._becomes(old, WrappingKey.RETIRED)
        assert retired.resealed_count == retired.reseal_count == self._certificates
        self._check_everything_opens()
        destruction = DestroyWrappingKeyRequest(name=old, etag=retired.etag, request_id=str(uuid.uuid4()))
        gone = self._insist(lambda client: client.stubs.destroy_wrapping_key(destruction, timeout=20))
        assert gone.state == WrappingKey.DESTROYED
        # The job ends when the token has done it.
        eventually(self._is_settled, within=60)
        eventually(lambda: self._pid_of(victim) not in {before, None}, within=60)
        self._check_everything_opens()
        self.number += 1

    def stop(self) -> None:
        """Stops the daemon as an operator does, and looks at the books."""
        process = self._running.process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, self._installation.log.read_text()[-4000:]
        states = self._read("SELECT state, count(*) FROM wrapping_keys GROUP BY state ORDER BY state")
        assert states == [("DESTROYED", self.number - 1), ("PRIMARY", 1)]
        assert self._read("SELECT DISTINCT wrapping_key_number FROM sealed_keys") == [(self.number,)]
        assert self._read("SELECT DISTINCT wrapping_key_number FROM managed_certificate_versions") == [(self.number,)]
        kinds = [kind for kind, resource in self._events() if resource.startswith(f"{_TENANT}/wrappingKeys/")]
        for kind in ("rotated", "retired", "destroyed"):
            assert kinds.count(f"wrapping-key.{kind}") == self.number - 1, kind

    def _events(self) -> list[tuple[str, str]]:
        store = Store.open(f"sqlite:///{self._file}", clock=SystemClock())
        try:
            with store.read("audit") as tx:
                assert events.verify_all(tx) == []
                rows = events.page(tx, after_seq=0, limit=10_000)
        finally:
            store.close()
        return [(row.event.type.value, row.event.resource) for row in rows]

    @property
    def _file(self) -> Path:
        return self._installation.data / "certd.db"

    @property
    def _running(self) -> armed.ArmedDaemon:
        """A daemon that lives: after a death the next one."""
        assert self._daemon is not None
        if self._daemon.process.poll() is not None:
            self._daemon.close_input()
            self._daemon = armed.start(self._installation)
        return self._daemon

    def _pid_of(self, victim: str) -> int | None:
        """Process id of a daemon or token process that lives; None while there is none."""
        process = self._running.process
        if victim == DAEMON:
            return process.pid
        return next((child.pid for child in armed.children(process.pid, f"certd.{victim}")), None)

    def _client(self) -> Client:
        return Client(self._running.address, self._credentials)

    def _active(self, client: Client) -> list[ManagedCertificate]:
        request = ListManagedCertificatesRequest(parent=_TENANT, page_size=1000)
        found = client.call(client.stubs.list_managed_certificates, request).managed_certificates
        return [one for one in found if one.state == ManagedCertificate.ACTIVE]

    def _insist(self, call: "Callable[[Client], WrappingKey]") -> WrappingKey:
        """Repeats a call until it is answered."""
        answers: list[WrappingKey] = []

        def answered() -> bool:
            try:
                with self._client() as client:
                    answers.append(call(client))
            except grpc.RpcError as error:
                failure = decode(error)
                assert failure.code in _HONEST, failure
            return bool(answers)

        eventually(answered, within=60)
        return answers[0]

    def _becomes(self, name: str, state: "WrappingKey.State.ValueType") -> WrappingKey:
        request = GetWrappingKeyRequest(name=name)

        def found() -> WrappingKey | None:
            key = self._insist(lambda client: client.stubs.get_wrapping_key(request, timeout=20))
            return key if key.state == state else None

        key = eventually(found, within=60)
        assert key is not None
        return key

    def _check_everything_opens(self) -> None:
        for number in range(self._certificates):
            name = f"{_TENANT}/managedCertificates/m{number}"

            def opened(name: str = name) -> bool:
                try:
                    with self._client() as client:
                        return export_to_one_time_key(client, name).response.version == 1
                except CallFailed as failure:
                    assert failure.code in _HONEST, failure  # noqa: PT017  # The code is what counts.
                    return False

            eventually(opened, within=60)

    def _is_settled(self) -> bool:
        lives = self._running.process.poll() is None
        return lives and self._read("SELECT count(*) FROM jobs WHERE kind = 'reseal-keys'") == [(0,)]

    def _name(self, number: int) -> str:
        return f"{_TENANT}/wrappingKeys/{number}"

    def _read(self, query: str) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()
