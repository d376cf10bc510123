"""Rounds of load, death and recovery on one installation, and the audit of its books.

A round arms the daemon, lets callers issue one by one and in a batch, request, export, revoke and change a profile
until the victim is dead, brings the daemon back if it was the victim, and repeats every call whose answer did not come,
with its request id, until it has one. Then the books must hold every certificate that was answered, byte for byte, and
nothing pending; at the end the whole chain of events must be whole, each change with its event, each request with one
certificate (`audit.py`).
"""

import random
import signal
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import grpc

from certd.client.connection import Client
from certd.client.credentials import Credentials, read_credentials
from certd.client.export import export_to_one_time_key
from certd.client.failure import CallFailed, decode
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import GetManagedCertificateRequest
from tests.daemon import Installation
from tests.faults import armed
from tests.faults.asking import Ask, ask, authority_request, managed_request, outside_request
from tests.faults.audit import Books
from tests.faults.changes import Batch, Changes, batch
from tests.faults.outside import OutsideParent
from tests.faults.served import DAEMON, PREPARE, TOKEN
from tests.system.jobs import finished
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = (
    "issue.1.read",
    "issue.2.prepared",
    "issue.3.intended",
    "issue.4.signed",
    "issue.5.completed",
    "managed.1.requested",
    "managed.2.wrapping-key",
    "managed.3.key-sealed",
    "managed.3.planned",
    "managed.4.issued",
    "export.1.recorded",
    "authority.1.requested",
    "authority.2.key-made",
    "authority.3.key-recorded",
    "csr.1.signed",
    "csr.2.kept",
    "activation.2.checked",
    "activation.3.installed",
    "revoke.1.committed",
)
"""Every numbered step of the use cases."""
CALLERS = 6
CERTIFICATES_PER_CALLER = 5
BATCH_ITEMS = 25
_HONEST = {"UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"}
"""What a caller may be told while something is dead; never INTERNAL."""


@dataclass(frozen=True, slots=True)
class Death:
    """When who dies: at a step, or under load when so many certificates of the round are answered."""

    victim: str
    step: str = ""
    occurrence: int = 1
    after_answers: int = 0

    def __str__(self) -> str:
        return f"{self.victim} at {f'{self.step} x {self.occurrence}' if self.step else f'answer {self.after_answers}'}"


def random_death(source: random.Random) -> Death:
    """Returns a death that `source` chose."""
    victim = source.choice((DAEMON, TOKEN, PREPARE))
    if source.random() < 0.5:
        return Death(victim, after_answers=source.randrange(CALLERS * CERTIFICATES_PER_CALLER))
    step = source.choice(STEPS)
    return Death(victim, step, source.randrange(1, 5) if step.startswith("issue") else 1)


@dataclass(slots=True)
class Tally:
    """What happened over all rounds."""

    rounds: int = 0
    deaths: Counter[str] = field(default_factory=Counter)
    answers: dict[str, bytes] = field(default_factory=dict)
    """DER by certificate name."""
    asks: list[Ask] = field(default_factory=list)
    managed: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    """Ids of the authorities whose parent is an outside one."""
    exports: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """Reasons that callers were told."""
    lost: int = 0
    revoked: int = 0


class Rounds:
    """An installation under fire."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._credentials: Credentials = read_credentials(
            certificate=installation.certificate,
            private_key=installation.private_key,
            trust_bundle=installation.trust_bundle,
        )
        self._daemon: armed.ArmedDaemon | None = None
        self._lock = threading.Lock()
        self._answered = 0
        self._last_failure: CallFailed | None = None
        self._at_answer: Callable[[], None] | None = None
        self._parent = OutsideParent()
        self._changes = Changes()
        self._books = Books(installation.data / "certd.db")
        self.tally = Tally()

    def __enter__(self) -> Self:
        try:
            self._start()
            with self._client() as client:
                for authority_id, issuer in (("root", ""), ("ca", "tenants/default/authorities/root")):
                    client.call(client.stubs.create_authority, authority_request(authority_id, issuer))
                self._changes.prepare(client)
            self.tally.asks.append(ask("first.example.internal"))
            self._insist(self.tally.asks[0])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._daemon is not None:
            self._daemon.end()

    def round(self, death: Death) -> None:
        """Lets the victim die under load and brings everything to its end."""
        number = self.tally.rounds
        self._answered = 0
        self._arm(death)
        asks = [ask(f"r{number}-{index}.example.internal") for index in range(CALLERS * CERTIFICATES_PER_CALLER)]
        together = batch(number, BATCH_ITEMS)
        # The round before has settled what became of it.
        found = self.tally.asks[-1]
        self.tally.asks += [*asks, *together.asks]
        managed = f"m{number}"
        authority = f"a{number}"
        threads = [threading.Thread(target=self._issue, args=(asks[caller::CALLERS],)) for caller in range(CALLERS)]
        threads.append(threading.Thread(target=self._others, args=(managed, authority, found)))
        threads.append(threading.Thread(target=self._issue_together, args=(together,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._raise_dead(death)
        for one in asks:
            if not one.der:
                self._insist(one)
        self._insist_together(together)
        self._finish_others(managed, authority)
        self._finish_changes(found)
        self.tally.rounds += 1
        self.tally.deaths[f"{death.victim} at {death.step or 'under load'}"] += 1
        self._books.check_round([*asks, *together.asks])

    def stop(self) -> None:
        """Stops the daemon as an operator does, and audits everything."""
        with self._client() as client:
            self._changes.check_blocked(client)
        # CRLs and responders follow what was done, seconds or a minute later.
        finished(self._installation.data / "certd.db")
        process = self._running.process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, self._installation.log.read_text()[-4000:]
        self._audit()

    @property
    def _running(self) -> armed.ArmedDaemon:
        assert self._daemon is not None
        return self._daemon

    def _client(self) -> Client:
        return Client(self._running.address, self._credentials)

    def _start(self) -> None:
        self._daemon = armed.start(self._installation)

    def _arm(self, death: Death) -> None:
        self._at_answer = None
        if death.step:
            self._running.arm(death.step, death.occurrence, death.victim)
            return
        process = self._running.process

        def kill() -> None:
            if death.victim == DAEMON:
                process.kill()
            else:
                # The child may be a later one than the daemon began with.
                for child in armed.children(process.pid, f"certd.{death.victim}"):
                    child.kill()

        if death.after_answers:
            self._at_answer = lambda: kill() if self._answered == death.after_answers else None
        else:
            kill()

    def _issue(self, asks: list[Ask]) -> None:
        with self._client() as client:
            for one in asks:
                self._try(client, one)

    def _try(self, client: Client, one: Ask) -> None:
        try:
            answer = client.stubs.issue_certificate(one.request, timeout=20)
        except grpc.RpcError as error:
            self._note(decode(error))
            return
        one.name, one.der = answer.name, answer.certificate.der
        with self._lock:
            self.tally.answers[one.name] = one.der
            self._answered += 1
            at_answer = self._at_answer
        if at_answer is not None:
            at_answer()

    def _note(self, failure: CallFailed) -> None:
        assert failure.code in _HONEST, failure
        with self._lock:
            self._last_failure = failure
            self.tally.failures[str(failure.reason or failure.code)] += 1

    def _issue_together(self, together: Batch) -> None:
        with self._client() as client:
            self._try_together(client, together)

    def _try_together(self, client: Client, together: Batch) -> None:
        try:
            failures = together.send(client)
        except grpc.RpcError as error:
            self._note(decode(error))
            return
        with self._lock:
            self.tally.failures.update(failures)
            self.tally.answers.update({one.name: one.der for one in together.asks if one.der})

    def _insist_together(self, together: Batch) -> None:
        with self._client() as client:

            def answered() -> bool:
                if not all(one.der for one in together.asks):
                    self._try_together(client, together)
                return all(one.der for one in together.asks)

            eventually(answered, within=30)

    def _others(self, managed: str, authority: str, found: Ask) -> None:
        """Makes the calls beside issuing once; whether they succeed is seen to afterwards."""
        # Without retries: what fails here is repeated when the dead are back.
        with Client(self._running.address, self._credentials, timeout=2) as client:
            for call in (
                lambda: client.stubs.request_managed_certificate(managed_request(managed), timeout=20),
                lambda: client.stubs.create_authority(
                    authority_request(authority, "tenants/default/authorities/root"), timeout=20
                ),
                lambda: self._parent.establish(client, outside_request(authority)),
                lambda: self._changes.change_profile(client),
                lambda: self._changes.revoke(client, found),
            ):
                try:
                    call()
                except grpc.RpcError as error:
                    self._note(decode(error))
            if self.tally.managed:
                self._export(client, self.tally.managed[-1])

    def _export(self, client: Client, name: str) -> bool:
        try:
            exported = export_to_one_time_key(client, name)
        except CallFailed as failure:
            self._note(failure)
            return False
        assert exported.response.version == 1
        self.tally.exports[name] += 1
        return True

    def _raise_dead(self, death: Death) -> None:
        """Waits for the death of a daemon that was to die, and starts the next. A step may not have come to pass."""
        process = self._running.process
        if death.victim == DAEMON:
            may_not_come = death.step in {"export.1.recorded", "issue.5.completed"}
            try:
                # What the scheduler does is done when the callers have long had their answers.
                process.wait(10 if may_not_come else 60)
            except subprocess.TimeoutExpired:
                assert may_not_come, f"{death} did not happen; callers were told {self.tally.failures}"
                process.kill()
                process.wait()
            self._running.close_input()
            self._start()

    def _eventually(self, condition: "Callable[[], bool]", *, within: float) -> bool:
        """As `tests.waiting.eventually`; who waits in vain is shown what was told last, and the end of the log."""
        try:
            return eventually(condition, within=within)
        except AssertionError as error:
            error.add_note(f"told last: {self._last_failure}")
            error.add_note(self._installation.log.read_text()[-8000:])
            raise

    def _insist(self, one: Ask) -> None:
        with self._client() as client:

            def answered() -> bool:
                self._try(client, one)
                return bool(one.der)

            self._eventually(answered, within=30)

    def _finish_others(self, managed: str, authority: str) -> None:
        name = f"tenants/default/managedCertificates/{managed}"
        with self._client() as client:
            client.call(client.stubs.request_managed_certificate, managed_request(managed))

            def active() -> bool:
                found = client.call(client.stubs.get_managed_certificate, GetManagedCertificateRequest(name=name))
                return found.state == ManagedCertificate.ACTIVE

            self._eventually(active, within=60)
            request = authority_request(authority, "tenants/default/authorities/root")

            def made() -> bool:
                try:
                    client.call(client.stubs.create_authority, request)
                except CallFailed as failure:
                    self._note(failure)
                    return False
                return True

            self._eventually(made, within=90)

            def established() -> bool:
                try:
                    self._parent.establish(client, outside_request(authority))
                except grpc.RpcError as error:
                    self._note(decode(error))
                    return False
                return True

            self._eventually(established, within=90)
            self.tally.outside.append(outside_request(authority).authority_id)
            assert self._export(client, name) or self._eventually(lambda: self._export(client, name), within=30)
        self.tally.managed.append(name)

    def _finish_changes(self, found: Ask) -> None:
        """Makes the changes of the round, or hears again that they are made."""
        with self._client() as client:

            def changed() -> bool:
                try:
                    self._changes.change_profile(client)
                    self._changes.revoke(client, found)
                except grpc.RpcError as error:
                    self._note(decode(error))
                    return False
                return True

            self._eventually(changed, within=60)
        self._changes.rounds += 1

    def _audit(self) -> None:
        found = self._books.audit(self.tally.answers, self._changes)
        for name in self.tally.managed:
            assert found["managed-certificate.requested", name.rsplit("/", 1)[1]] == 1
        for outside in self.tally.outside:
            for kind in ("authority.created", "authority.csr-signed", "authority.activated"):
                assert found[kind, outside] == 1, (kind, outside)
        of_kind: Counter[str] = Counter()
        for (kind, _), count in found.items():
            of_kind[kind] += count
        assert of_kind["managed-certificate.exported"] >= sum(self.tally.exports.values()), (
            "an export without its event"
        )
        self.tally.lost, self.tally.revoked = of_kind["certificate.lost"], of_kind["certificate.revoked"]
