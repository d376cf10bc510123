"""Rotations of a wrapping key under fire: whatever dies at whichever step, every key opens, and the old one goes.

A round arms the daemon, rotates the wrapping key of a tenant whose managed certificates have their keys sealed under it
and destroys the old one, each call repeated with its request id until it is answered. After each of them every key is
exported and held against its certificate, which `export_to_one_time_key` does.
"""

import uuid
from functools import partial
from typing import Self

from certd.client.connection import Client
from certd.client.export import export_to_one_time_key
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
from tests.faults.asking import authority_request, managed_request
from tests.faults.served import TENANT, Served
from tests.system.books import rows
from tests.waiting import eventually

STEPS = (
    "rotation.1.rotated",
    "rotation.2.resealed",
    "rotation.3.written",
    "rotation.4.retired",
    "destroy.1.recorded",
    "destroy.2.destroyed",
)
"""Every numbered step of a rotation and of the destruction after it."""


class Rotations:
    """An installation whose wrapping key is rotated again and again."""

    def __init__(self, installation: Installation, *, certificates: int) -> None:
        self._served = Served(installation)
        self._certificates = certificates
        self.number = 1
        """Of the key that is primary."""

    def __enter__(self) -> Self:
        self._served.__enter__()
        try:
            with self._served.client() as client:
                for authority_id, issuer in (("root", ""), ("ca", f"{TENANT}/authorities/root")):
                    client.call(client.stubs.create_authority, authority_request(authority_id, issuer))
                for number in range(self._certificates):
                    client.call(client.stubs.request_managed_certificate, managed_request(f"m{number}"))
                eventually(lambda: len(self._active(client)) == self._certificates, within=60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._served.__exit__()

    def round(self, victim: str, step: str) -> None:
        """Rotates and destroys, and lets the victim die at a step of that."""
        before = self._served.pid_of(victim)
        self._served.running.arm(step, 1, victim)
        old, new = self._name(self.number), self._name(self.number + 1)
        rotation = RotateWrappingKeyRequest(parent=TENANT, request_id=str(uuid.uuid4()))
        answered = self._served.insist(lambda client: client.stubs.rotate_wrapping_key(rotation, timeout=20))
        assert answered.name == new
        retired = self._becomes(old, WrappingKey.RETIRED)
        assert retired.resealed_count == retired.reseal_count == self._certificates
        self._check_everything_opens()
        destruction = DestroyWrappingKeyRequest(name=old, etag=retired.etag, request_id=str(uuid.uuid4()))
        gone = self._served.insist(lambda client: client.stubs.destroy_wrapping_key(destruction, timeout=20))
        assert gone.state == WrappingKey.DESTROYED
        # The job ends when the token has done it.
        eventually(self._is_settled, within=60)
        eventually(lambda: self._served.pid_of(victim) not in {before, None}, within=60)
        self._check_everything_opens()
        self.number += 1

    def stop(self) -> None:
        """Stops the daemon as an operator does, and looks at the books."""
        self._served.stop()
        states = self._read("SELECT state, count(*) FROM wrapping_keys GROUP BY state ORDER BY state")
        assert states == [("DESTROYED", self.number - 1), ("PRIMARY", 1)]
        assert self._read("SELECT DISTINCT wrapping_key_number FROM sealed_keys") == [(self.number,)]
        assert self._read("SELECT DISTINCT wrapping_key_number FROM managed_certificate_versions") == [(self.number,)]
        kinds = [kind for kind, resource in self._events() if resource.startswith(f"{TENANT}/wrappingKeys/")]
        for kind in ("rotated", "retired", "destroyed"):
            assert kinds.count(f"wrapping-key.{kind}") == self.number - 1, kind

    def _events(self) -> list[tuple[str, str]]:
        store = Store.open(f"sqlite:///{self._served.file}", clock=SystemClock())
        try:
            with store.read("audit") as tx:
                assert events.verify_all(tx) == []
                found = events.page(tx, after_seq=0, limit=10_000)
        finally:
            store.close()
        return [(row.event.type.value, row.event.resource) for row in found]

    def _active(self, client: Client) -> list[ManagedCertificate]:
        request = ListManagedCertificatesRequest(parent=TENANT, page_size=1000)
        found = client.call(client.stubs.list_managed_certificates, request).managed_certificates
        return [one for one in found if one.state == ManagedCertificate.ACTIVE]

    def _becomes(self, name: str, state: "WrappingKey.State.ValueType") -> WrappingKey:
        request = GetWrappingKeyRequest(name=name)

        def found() -> WrappingKey | None:
            key = self._served.insist(lambda client: client.stubs.get_wrapping_key(request, timeout=20))
            return key if key.state == state else None

        key = eventually(found, within=60)
        assert key is not None
        return key

    def _check_everything_opens(self) -> None:
        for number in range(self._certificates):
            name = f"{TENANT}/managedCertificates/m{number}"
            exported = self._served.insist(partial(export_to_one_time_key, name=name))
            assert exported.response.version == 1

    def _is_settled(self) -> bool:
        lives = self._served.running.process.poll() is None
        return lives and self._read("SELECT count(*) FROM jobs WHERE kind = 'reseal-keys'") == [(0,)]

    def _name(self, number: int) -> str:
        return f"{TENANT}/wrappingKeys/{number}"

    def _read(self, query: str) -> list[tuple[object, ...]]:
        return rows(self._served.file, query)
