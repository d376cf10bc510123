"""The lives of managed certificates under fire: renewals, imports, associations and leases while something dies.

A round arms the daemon and, under a little load, has every managed certificate renewed, updates it, imports, imports
again, rolls back, associates and leases, deletes what was imported before, and now and then rotates the wrapping key,
each call repeated with its request id until it is answered. All the while the books must hold every change whole or not
at all (`life_audit.py`); after it each renewal has made one version, and what came of everything opens and fits its
certificate.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Self

from certd.client.connection import Client
from certd.client.export import export_to_one_time_key
from certd.client.lease import lease
from certd.client.managed_import import import_sealed
from certd.v1.access_service_pb2 import CreateEnrollmentCodeRequest
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    CreateAssociationRequest,
    DeleteAssociationRequest,
    DeleteManagedCertificateRequest,
    GetAssociationRequest,
    GetManagedCertificateRequest,
    ImportManagedCertificateRequest,
    RenewManagedCertificateRequest,
    RollBackManagedCertificateRequest,
    UpdateManagedCertificateRequest,
)
from certd.v1.wrapping_key_pb2 import WrappingKey
from certd.v1.wrapping_key_service_pb2 import GetWrappingKeyRequest, RotateWrappingKeyRequest
from tests.daemon import Installation
from tests.faults.asking import Ask, ask, authority_request, managed_request, stable_id
from tests.faults.audit import Books
from tests.faults.life_audit import Expected, LifeBooks
from tests.faults.served import TENANT, Served
from tests.imports import Pair, pair
from tests.outside_parent import outside_authority
from tests.system.jobs import finished
from tests.waiting import eventually

ISSUING_STEPS = ("issue.2.prepared", "issue.3.intended", "issue.4.signed", "issue.5.completed")
"""Those that any certificate takes. Nothing else is issued while a round waits for one."""
STEPS = (
    "renew.1.committed",
    "renewal.1.wrapping-key",
    "renewal.2.key-sealed",
    "renewal.3.planned",
    *ISSUING_STEPS,
    "renewal.4.issued",
    "job.advance-managed-certificate.done",
    "import.1.sealed",
    "import.2.committed",
    "roll-back.1.committed",
    "update.1.committed",
    "delete.1.committed",
    "association.1.sealed",
    "association.2.committed",
    "lease.1.recorded",
    "lease.2.noted",
)
"""Every numbered step of renewals, imports, changes, associations and leases."""
_ROTATED = 5
"""In every so many rounds the wrapping key is rotated."""
_PAUSE = 0.05
"""Seconds between two calls of the load."""


@dataclass(slots=True)
class Tally:
    """What happened over all rounds."""

    rounds: int = 0
    deaths: Counter[str] = field(default_factory=Counter)
    issued: int = 0
    """Certificates of the load."""
    exported: int = 0
    lost: int = 0
    """Certificates of renewals that were interrupted."""


class Lives:
    """An installation whose managed certificates live on."""

    def __init__(self, installation: Installation, *, certificates: int) -> None:
        self._served = Served(installation)
        self._books = LifeBooks(self._served.file)
        self._all_books = Books(self._served.file)
        self._managed = [f"m{number}" for number in range(certificates)]
        self._issuer = outside_authority("Fault test importer", now=_now())
        self._associations: dict[str, str] = {}
        """The managed certificate of each association that is there."""
        self._lock = threading.Lock()
        self.expected = Expected(managed=self._managed, current=dict.fromkeys(self._managed, 1))
        self.tally = Tally()

    def __enter__(self) -> Self:
        self._served.__enter__()
        try:
            with self._served.client() as client:
                self._prepare(client)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._served.__exit__()

    @property
    def failures(self) -> Counter[str]:
        """Reasons that callers were told."""
        return self._served.failures

    def round(self, victim: str, step: str, occurrence: int = 1) -> None:
        """Has everything done once, and lets the victim die at a step of that."""
        number = self.tally.rounds
        consumer = self._identity(f"c{number}")
        before = self._served.pid_of(victim)
        with self._load(issues=step not in ISSUING_STEPS):
            self._served.running.arm(step, occurrence, victim)
            self._do_all(number, consumer)
            eventually(lambda: self._served.pid_of(victim) not in {before, None}, within=60)
        self._check(number)
        self.tally.rounds += 1
        self.tally.deaths[f"{victim} at {step}"] += 1

    def stop(self) -> None:
        """Opens everything once more, stops the daemon as an operator does, and audits the books."""
        for managed, version in self.expected.versions():
            self._export(managed, version)
        finished(self._served.file)
        self._served.stop()
        self.tally.lost = self._books.audit(self.expected)

    def _prepare(self, client: Client) -> None:
        for authority_id, issuer in (("root", ""), ("ca", f"{TENANT}/authorities/root")):
            client.call(client.stubs.create_authority, authority_request(authority_id, issuer))
        for managed in self._managed:
            client.call(client.stubs.request_managed_certificate, managed_request(managed))
            eventually(partial(self._at, managed, 1), within=60)
            self._associate(managed, "admin", "identities/admin")
        self._associate(self._managed[0], "ended", self._identity("ended"))
        for managed, times in (("again", 1), ("rolled", 2), ("deleted", 1)):
            for version in range(1, times + 1):
                self._import(managed, version)

    def _do_all(self, number: int, consumer: str) -> None:
        """Does everything that a round does, each thing in a thread of its own, until it is done."""
        turn = self._managed[number % len(self._managed)]
        deeds: list[Callable[[], object]] = [
            *(partial(self._renew, managed, number) for managed in self._managed),
            *(partial(self._update, managed, number) for managed in self._managed),
            partial(self._import, f"i{number}", 1),
            partial(self._import, "again", number + 2),
            partial(self._roll_back, number),
            partial(self._associate, turn, f"c{number}", consumer),
            partial(self._lease, turn),
            # In the first round nothing was made in an earlier one.
            partial(self._delete, f"i{number - 1}" if number else "deleted"),
            partial(self._end, f"c{number - 1}" if number else "ended"),
        ]
        if number % _ROTATED == _ROTATED - 1:
            deeds.append(partial(self._rotate, number))
        with ThreadPoolExecutor(len(deeds)) as threads:
            works = [threads.submit(deed) for deed in deeds]
            while wait(works, timeout=_PAUSE).not_done:
                self._books.check()
            for work in works:
                work.result()

    def _check(self, number: int) -> None:
        """Waits for the renewals of a round; then each has made one version, and all that is current opens."""
        version = number + 2
        for managed in self._managed:
            found = eventually(partial(self._at, managed, version), within=60)
            assert found is not None
            assert (found.current_version, found.state) == (version, ManagedCertificate.ACTIVE), managed
            assert found.labels == {"round": str(number)}, managed
            self.expected.current[managed] = version
            self._export(managed, version)
            self._export(managed, version - 1)
            self._lease(managed)
        self.expected.renewals += 1
        for managed in ("again", "rolled", f"i{number}"):
            assert self._get(managed).current_version == self.expected.current[managed]
            self._export(managed, self.expected.current[managed])
        self._books.check()

    def _at(self, managed: str, version: int) -> ManagedCertificate | None:
        found = self._get(managed)
        return found if found.current_version >= version else None

    def _get(self, managed: str) -> ManagedCertificate:
        request = GetManagedCertificateRequest(name=_name(managed))
        return self._served.insist(lambda client: client.stubs.get_managed_certificate(request, timeout=20))

    def _identity(self, identity_id: str) -> str:
        """Makes an identity, which never enrolls, and returns its name."""
        identity = f"{TENANT}/identities/{identity_id}"
        request = CreateEnrollmentCodeRequest(identity=identity)
        self._served.insist(lambda client: client.stubs.create_enrollment_code(request, timeout=20))
        return identity

    def _renew(self, managed: str, number: int) -> None:
        request = RenewManagedCertificateRequest(
            name=_name(managed), reason=f"round {number}", request_id=stable_id(f"renew {managed} {number}")
        )
        self._served.insist(lambda client: client.stubs.renew_managed_certificate(request, timeout=20))

    def _update(self, managed: str, number: int) -> None:
        changed = ManagedCertificate(name=_name(managed), labels={"round": str(number)})
        request = UpdateManagedCertificateRequest(
            managed_certificate=changed, request_id=stable_id(f"update {managed} {number}")
        )
        self._served.insist(lambda client: client.stubs.update_managed_certificate(request, timeout=20))

    def _delete(self, managed: str) -> None:
        request = DeleteManagedCertificateRequest(name=_name(managed), request_id=stable_id(f"delete {managed}"))
        self._served.insist(lambda client: client.stubs.delete_managed_certificate(request, timeout=20))
        with self._lock:
            del self.expected.imported[managed]
            self.expected.deleted.append(managed)

    def _import(self, managed: str, version: int) -> None:
        """Imports the version of a managed certificate, sealed to the import key."""
        made: Pair = pair(self._issuer, f"{managed}.example.internal", now=_now())
        request = ImportManagedCertificateRequest(
            parent=TENANT,
            managed_certificate_id=managed,
            certificate=made.pem,
            certificate_chain=made.chain_pem,
            export_policy=ManagedCertificate.EXPORTABLE,
            replace=version > 1,
            request_id=stable_id(f"import {managed} {version}"),
        )
        answer = self._served.insist(lambda client: import_sealed(client, request, made.key_der))
        assert (answer.current_version, answer.certificate.der) == (version, made.der)
        with self._lock:
            self.expected.imported[managed] = [*self.expected.imported.get(managed, []), made.der]
            self.expected.current[managed] = version

    def _roll_back(self, number: int) -> None:
        version = number % 2 + 1
        request = RollBackManagedCertificateRequest(
            name=_name("rolled"), version=version, request_id=stable_id(f"roll back {number}")
        )
        answer = self._served.insist(lambda client: client.stubs.roll_back_managed_certificate(request, timeout=20))
        assert answer.current_version == version
        self.expected.current["rolled"] = version
        self.expected.roll_backs += 1

    def _associate(self, managed: str, association: str, consumer: str) -> None:
        request = CreateAssociationRequest(
            parent=_name(managed),
            association_id=association,
            association=Association(consumer=consumer),
            request_id=stable_id(f"associate {managed} {association}"),
        )
        answer = self._served.insist(lambda client: client.stubs.create_association(request, timeout=20))
        assert (answer.name, answer.consumer) == (f"{_name(managed)}/associations/{association}", consumer)
        self.expected.associations[answer.name] = True
        if association != "admin":
            self._associations[association] = managed

    def _end(self, association: str) -> None:
        name = f"{_name(self._associations.pop(association))}/associations/{association}"
        request = DeleteAssociationRequest(name=name, request_id=stable_id(f"end {name}"))
        self._served.insist(lambda client: client.stubs.delete_association(request, timeout=20))
        self.expected.associations[name] = False

    def _rotate(self, number: int) -> None:
        """Rotates the wrapping key, and waits until all is sealed under the new one."""
        request = RotateWrappingKeyRequest(parent=TENANT, request_id=stable_id(f"rotate {number}"))
        new = self._served.insist(lambda client: client.stubs.rotate_wrapping_key(request, timeout=20))
        self.expected.rotations += 1
        assert new.name == f"{TENANT}/wrappingKeys/{self.expected.rotations + 1}"
        old = GetWrappingKeyRequest(name=f"{TENANT}/wrappingKeys/{self.expected.rotations}")

        def retired() -> bool:
            found = self._served.insist(lambda client: client.stubs.get_wrapping_key(old, timeout=20))
            return found.state == WrappingKey.RETIRED

        eventually(retired, within=60)

    def _lease(self, managed: str) -> None:
        """Leases the current version, whichever that is, and compares the key with what is exported."""
        request = GetAssociationRequest(name=f"{_name(managed)}/associations/admin")

        def leased(client: Client) -> tuple[int, bytes]:
            association = client.stubs.get_association(request, timeout=20)
            opened = lease(client, association, 0, self._served.credentials)
            return opened.response.version, opened.private_key_info

        version, key = self._served.insist(leased)
        with self._lock:
            self.expected.leases += 1
        assert self._export(managed, version) == key

    def _export(self, managed: str, version: int) -> bytes:
        """Exports a version, which must belong to its certificate; the first key of a version is its key for ever."""
        opened = self._served.insist(lambda client: export_to_one_time_key(client, _name(managed), version=version))
        with self._lock:
            self.tally.exported += 1
            return self.expected.opened(managed, version, opened.response.certificate.der, opened.private_key_info)

    @contextmanager
    def _load(self, *, issues: bool) -> Iterator[None]:
        """Has callers who issue from CSRs and who export, without end, until what happens inside is over."""
        stopped = threading.Event()
        asks: list[Ask] = []
        callers = [partial(self._export_on, stopped), *([partial(self._issue_on, stopped, asks)] if issues else [])]
        with ThreadPoolExecutor(len(callers)) as threads:
            works = [threads.submit(caller) for caller in callers]
            try:
                yield
            finally:
                stopped.set()
            for work in works:
                work.result()
        self._all_books.check_round(asks)
        self.tally.issued += len(asks)

    def _issue_on(self, stopped: threading.Event, asks: list[Ask]) -> None:
        while not stopped.wait(_PAUSE):
            one = ask(f"load{self.tally.rounds}-{len(asks)}.example.internal")
            asks.append(one)
            self._issue(one)

    def _issue(self, one: Ask) -> None:
        answer = self._served.insist(lambda client: client.stubs.issue_certificate(one.request, timeout=20))
        one.name, one.der = answer.name, answer.certificate.der

    def _export_on(self, stopped: threading.Event) -> None:
        for managed in itertools.cycle(self._managed):
            if stopped.wait(_PAUSE * 5):
                return
            self._export(managed, self.expected.current[managed])


def _name(managed: str) -> str:
    return f"{TENANT}/managedCertificates/{managed}"


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
