"""Rounds of load, death and recovery on one installation, and the audit of its books.

A round arms the daemon, lets callers issue, request and export until the victim is dead, brings the daemon back if it
was the victim, and repeats every call whose answer did not come, with its request id, until it has one. Then the books
must hold every certificate that was answered, byte for byte, and nothing pending; at the end the whole chain of events
must be whole, each certificate with its event, each request with one certificate.
"""

import contextlib
import hashlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.duration_pb2 import Duration

from certd.client.connection import Client
from certd.client.credentials import Credentials, read_credentials
from certd.client.export import export_to_one_time_key
from certd.client.failure import CallFailed, decode
from certd.clock import SystemClock
from certd.store import events
from certd.store.store import Store
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import CreateAuthorityRequest
from certd.v1.certificate_service_pb2 import IssueCertificateRequest
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import GetManagedCertificateRequest, RequestManagedCertificateRequest
from certd.v1.x509_pb2 import (
    AttributeTypeAndValue,
    DistinguishedName,
    RelativeDistinguishedName,
    SubjectAlternativeNames,
)
from tests.daemon import Installation
from tests.faults.outside import OutsideParent
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

DAEMON, TOKEN = "daemon", "token"
STEPS = (
    "issue.1.read",
    "issue.2.prepared",
    "issue.3.intended",
    "issue.4.signed",
    "issue.5.completed",
    "managed.1.requested",
    "managed.2.wrapping-key",
    "managed.3.key-sealed",
    "managed.4.issued",
    "export.1.recorded",
    "authority.1.requested",
    "authority.2.key-made",
    "authority.3.key-recorded",
    "csr.1.signed",
    "csr.2.kept",
    "activation.2.checked",
    "activation.3.installed",
)
"""Every numbered step of the use cases."""
CALLERS = 6
CERTIFICATES_PER_CALLER = 5
CA = "tenants/default/authorities/ca"
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
    victim = source.choice((DAEMON, TOKEN))
    if source.random() < 0.5:
        return Death(victim, after_answers=source.randrange(CALLERS * CERTIFICATES_PER_CALLER))
    step = source.choice(STEPS)
    return Death(victim, step, source.randrange(1, 5) if step.startswith("issue") else 1)


@dataclass(eq=False, slots=True)
class Ask:
    """One certificate that a caller wants."""

    request: IssueCertificateRequest
    public_key_sha256: bytes
    der: bytes = b""


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


class Rounds:
    """An installation under fire."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._credentials: Credentials = read_credentials(
            certificate=installation.certificate,
            private_key=installation.private_key,
            trust_bundle=installation.trust_bundle,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ""
        self._token_pid = 0
        self._lock = threading.Lock()
        self._answered = 0
        self._at_answer: Callable[[], None] | None = None
        self._parent = OutsideParent()
        self.tally = Tally()

    def __enter__(self) -> Self:
        self._start()
        with self._client() as client:
            for authority_id, issuer in (("root", ""), ("ca", "tenants/default/authorities/root")):
                client.call(client.stubs.create_authority, _authority_request(authority_id, issuer))
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._close_input()

    def round(self, death: Death) -> None:
        """Lets the victim die under load and brings everything to its end."""
        number = self.tally.rounds
        self._answered = 0
        self._arm(death)
        asks = [_ask(f"r{number}-{index}.example.internal") for index in range(CALLERS * CERTIFICATES_PER_CALLER)]
        self.tally.asks += asks
        managed = f"m{number}"
        authority = f"a{number}"
        threads = [threading.Thread(target=self._issue, args=(asks[caller::CALLERS],)) for caller in range(CALLERS)]
        threads.append(threading.Thread(target=self._others, args=(managed, authority)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._raise_dead(death)
        for ask in asks:
            if not ask.der:
                self._insist(ask)
        self._finish_others(managed, authority)
        self.tally.rounds += 1
        self.tally.deaths[f"{death.victim} at {death.step or 'under load'}"] += 1
        self._check_books(asks)

    def stop(self) -> None:
        """Stops the daemon as an operator does, and audits everything."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(60) == 0, self._installation.log.read_text()[-4000:]
        self._audit()

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def _client(self) -> Client:
        return Client(self._address, self._credentials)

    def _start(self) -> None:
        ready_file = self._installation.data / "ready"
        with ready_file.open("wb") as output, self._installation.log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.daemon", str(self._installation.config)],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
            )
        process = self._process

        def ready() -> dict[str, str] | None:
            assert process.poll() is None, self._installation.log.read_text()[-4000:]
            text = ready_file.read_text()
            return dict(json.loads(text.removeprefix("READY "))) if text.endswith("\n") else None

        found = eventually(ready, within=60)
        self._address, self._token_pid = found["grpc"], int(found["token_pid"])

    def _arm(self, death: Death) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._at_answer = None
        if death.step:
            self._process.stdin.write(f"{death.step} {death.occurrence} {death.victim}\n".encode())
            self._process.stdin.flush()
            return
        process = self._process

        def kill() -> None:
            if death.victim == DAEMON:
                process.kill()
            else:
                # The token process may be a later one than the daemon began with.
                (child,) = _children(process.pid)
                _kill(child)

        if death.after_answers:
            self._at_answer = lambda: kill() if self._answered == death.after_answers else None
        else:
            kill()

    def _issue(self, asks: list[Ask]) -> None:
        with self._client() as client:
            for ask in asks:
                self._try(client, ask)

    def _try(self, client: Client, ask: Ask) -> None:
        try:
            answer = client.stubs.issue_certificate(ask.request, timeout=20)
        except grpc.RpcError as error:
            self._note(decode(error))
            return
        ask.der = answer.certificate.der
        with self._lock:
            self.tally.answers[answer.name] = ask.der
            self._answered += 1
            at_answer = self._at_answer
        if at_answer is not None:
            at_answer()

    def _note(self, failure: CallFailed) -> None:
        assert failure.code in _HONEST, failure
        with self._lock:
            self.tally.failures[str(failure.reason or failure.code)] += 1

    def _others(self, managed: str, authority: str) -> None:
        """Makes the calls beside issuing once; whether they succeed is seen to afterwards."""
        # Without retries: what fails here is repeated when the dead are back.
        with Client(self._address, self._credentials, timeout=2) as client:
            for call in (
                lambda: client.stubs.request_managed_certificate(_managed_request(managed), timeout=20),
                lambda: client.stubs.create_authority(
                    _authority_request(authority, "tenants/default/authorities/root"), timeout=20
                ),
                lambda: self._parent.establish(client, _outside_request(authority)),
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
        process = self._process
        assert process is not None
        if death.victim == DAEMON:
            try:
                # What the scheduler does is done when the callers have long had their answers.
                process.wait(10)
            except subprocess.TimeoutExpired:
                assert death.step in {"export.1.recorded", "issue.5.completed"}, f"{death} did not happen"
                process.kill()
                process.wait()
            self._close_input()
            self._start()

    def _insist(self, ask: Ask) -> None:
        with self._client() as client:

            def answered() -> bool:
                self._try(client, ask)
                return bool(ask.der)

            eventually(answered, within=30)

    def _finish_others(self, managed: str, authority: str) -> None:
        name = f"tenants/default/managedCertificates/{managed}"
        with self._client() as client:
            client.call(client.stubs.request_managed_certificate, _managed_request(managed))

            def active() -> bool:
                found = client.call(client.stubs.get_managed_certificate, GetManagedCertificateRequest(name=name))
                return found.state == ManagedCertificate.ACTIVE

            eventually(active, within=60)
            request = _authority_request(authority, "tenants/default/authorities/root")

            def made() -> bool:
                try:
                    client.call(client.stubs.create_authority, request)
                except CallFailed as failure:
                    self._note(failure)
                    return False
                return True

            eventually(made, within=90)

            def established() -> bool:
                try:
                    self._parent.establish(client, _outside_request(authority))
                except grpc.RpcError as error:
                    self._note(decode(error))
                    return False
                return True

            eventually(established, within=90)
            self.tally.outside.append(_outside_request(authority).authority_id)
            assert self._export(client, name) or eventually(lambda: self._export(client, name), within=30)
        self.tally.managed.append(name)

    def _read(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with sqlite3.connect(f"file:{self._installation.data / 'certd.db'}?mode=ro", uri=True) as connection:
            rows = connection.execute(query, values).fetchall()
        connection.close()
        return rows

    def _check_books(self, asks: list[Ask]) -> None:
        eventually(lambda: self._read("SELECT count(*) FROM certificates WHERE state = 'PENDING'") == [(0,)], within=60)
        for ask in asks:
            issued = self._read(
                "SELECT der FROM certificates WHERE public_key_sha256 = ? AND state = 'ISSUED'", ask.public_key_sha256
            )
            assert issued == [(ask.der,)], f"{len(issued)} certificates for one request"

    def _audit(self) -> None:
        rows = self._read("SELECT serial, state, der, revoke_time, authority_uid FROM certificates")
        by_serial = {str(row[0]): row for row in rows}
        assert len(by_serial) == len(rows), "a serial number stands twice"
        assert {row[1] for row in rows} <= {"ISSUED", "LOST"}
        for name, der in self.tally.answers.items():
            assert by_serial[name.rsplit("/", 1)[1]][1:3] == ("ISSUED", der), name
        for row in rows:
            assert (row[2] is None) == (row[3] is not None) == (row[1] == "LOST"), "a lost certificate is revoked"
        self.tally.lost = sum(row[1] == "LOST" for row in rows)
        store = Store.open(f"sqlite:///{self._installation.data / 'certd.db'}", clock=SystemClock())
        try:
            with store.read("audit") as tx:
                assert events.verify_all(tx) == []
                found: Counter[tuple[str, str]] = Counter()
                after = 0
                while page := events.page(tx, after_seq=after, limit=1000):
                    found.update((row.event.type.value, row.event.resource.rsplit("/", 1)[1]) for row in page)
                    after = page[-1].seq
                assert after == sum(found.values())
        finally:
            store.close()
        for serial, row in by_serial.items():
            issued, lost = found["certificate.issued", serial], found["certificate.lost", serial]
            assert (issued, lost) == ((1, 0) if row[1] == "ISSUED" else (0, 1)), (serial, row[1], issued, lost)
        for name in self.tally.managed:
            managed = name.rsplit("/", 1)[1]
            assert found["managed-certificate.requested", managed] == 1
        for outside in self.tally.outside:
            for kind in ("authority.created", "authority.csr-signed", "authority.activated"):
                assert found[kind, outside] == 1, (kind, outside)
        exported = sum(count for (kind, _), count in found.items() if kind == "managed-certificate.exported")
        assert exported >= sum(self.tally.exports.values()), "an export without its event"
        assert self._read("SELECT count(*) FROM jobs") == [(0,)]
        assert self._read("SELECT count(*) FROM wrapping_keys") == [(1,)]


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] or [
        int(text) for task in Path(f"/proc/{pid}/task").iterdir() for text in (task / "children").read_text().split()
    ]


def _kill(pid: int) -> None:
    signal.pidfd_send_signal(_pidfd(pid), signal.SIGKILL)


def _pidfd(pid: int) -> int:
    import os

    return os.pidfd_open(pid)


def _ask(dns_name: str) -> Ask:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(dns_name)])
    csr = (
        x509.CertificateSigningRequestBuilder(x509.Name([]))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    request = IssueCertificateRequest(parent=CA, csr=csr.public_bytes(Encoding.DER), request_id=str(uuid.uuid4()))
    public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Ask(request, hashlib.sha256(public_key).digest())


def _stable_id(text: str) -> str:
    """Returns a request id that is the same for the same thing, so that a call can be repeated."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def _authority_request(authority_id: str, issuer: str) -> CreateAuthorityRequest:
    name = AttributeTypeAndValue(type="CN", value=f"Fault test {authority_id}")
    return CreateAuthorityRequest(
        parent="tenants/default",
        authority_id=authority_id,
        authority=Authority(
            type=Authority.SUBORDINATE if issuer else Authority.ROOT,
            issuer=issuer,
            subject=DistinguishedName(relative_distinguished_names=[RelativeDistinguishedName(attributes=[name])]),
        ),
        request_id=_stable_id(f"authority {authority_id}"),
    )


def _outside_request(authority_id: str) -> CreateAuthorityRequest:
    """Returns the request for an authority beside another one, whose parent is an outside one."""
    request = _authority_request(f"{authority_id}-outside", "")
    request.authority.type = Authority.SUBORDINATE
    return request


def _managed_request(managed_id: str) -> RequestManagedCertificateRequest:
    return RequestManagedCertificateRequest(
        parent="tenants/default",
        managed_certificate_id=managed_id,
        managed_certificate=ManagedCertificate(
            authority=CA,
            subject_alternative_names=SubjectAlternativeNames(dns_names=[f"{managed_id}.example.internal"]),
            lifetime=Duration(seconds=86_400),
        ),
        request_id=_stable_id(f"managed {managed_id}"),
    )
