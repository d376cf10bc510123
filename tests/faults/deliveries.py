"""Deliveries under fire: daemon, token process, receiver and mail server die while managed certificates change.

Two subscriptions, a webhook and mail, want every change. After each round both have everything: each event once at
least, and those of one managed certificate in their order, by what the receivers wrote down before they answered.
"""

import base64
import json
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import grpc

from certd.client.managed_import import import_sealed
from certd.v1.event_service_pb2 import CreateSubscriptionRequest, TestSubscriptionRequest
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    ImportManagedCertificateRequest,
    UpdateManagedCertificateRequest,
)
from certd.v1.subscription_pb2 import Mail, Subscription, Webhook
from tests.coverage import uncovered_children
from tests.daemon import Installation
from tests.faults.asking import stable_id
from tests.faults.receiver import MAIL, WEBHOOK, log_file
from tests.faults.served import DAEMON, TENANT, TOKEN, Served
from tests.imports import pair
from tests.mail_server import Mailed
from tests.outside_parent import outside_authority
from tests.waiting import eventually
from tests.webhooks import Received

STEPS: Final = ("deliver.1.answered", "deliver.2.recorded", "deliver.3.settled")
"""Of deliveries."""
VICTIMS: Final = (DAEMON, TOKEN, WEBHOOK, MAIL)
_RESOURCES: Final = 4
_CHANGES: Final = 8
"""Of each managed certificate in a round."""
_EVERYTHING_SECONDS: Final = 90.0
_NAMES: Final = {WEBHOOK: "hook", MAIL: "people"}


@dataclass(slots=True)
class Tally:
    """What happened over all rounds."""

    rounds: int = 0
    deaths: Counter[str] = field(default_factory=Counter)
    events: int = 0
    delivered: Counter[str] = field(default_factory=Counter)
    """What the receivers took, repetitions with it."""
    repeated: Counter[str] = field(default_factory=Counter)


class _Program:
    """A receiver that lives, whoever has killed it."""

    def __init__(self, kind: str, folder: Path, refused: float) -> None:
        self._arguments = (kind, str(folder))
        self._refused = str(refused)
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with uncovered_children():
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.receiver", *self._arguments, str(self.port), self._refused],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
        assert process.stdout is not None
        with process.stdout as output:
            self.port = int(output.readline())
        self.process = process

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class DeliveriesUnderFire:
    """An installation with two subscriptions, and what they send to."""

    def __init__(self, installation: Installation, *, refused: float = 0.0, source: random.Random) -> None:
        self._folder = installation.data.parent
        self._receivers = {kind: _Program(kind, self._folder, refused) for kind in (WEBHOOK, MAIL)}
        self._installation = installation
        self._served = Served(installation)
        self._source = source
        self._secret = b""
        self._issuer = outside_authority("Fault test importer", now=_now())
        self.tally = Tally()

    def __enter__(self) -> Self:
        try:
            for receiver in self._receivers.values():
                receiver.start()
            self._configure()
            self._served.__enter__()
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._served.__exit__()
        for receiver in self._receivers.values():
            receiver.kill()

    def _configure(self) -> None:
        text = self._installation.config.read_text()
        text = text.replace('# allowed_networks = ["10.20.0.0/16"]', 'allowed_networks = ["127.0.0.1/32"]')
        mail = {
            "host": '"localhost"',
            "port": str(self._receivers[MAIL].port),
            "from": '"certd@example.org"',
            "ca_file": json.dumps(str(self._folder / "mail-root.pem")),
        }
        lines = [text, "[notify.smtp]", *(f"{key} = {value}" for key, value in mail.items())]
        self._installation.config.write_text("\n".join(lines) + "\n")

    def _prepare(self) -> None:
        made = pair(self._issuer, "www.example.internal", now=_now())
        for number in range(_RESOURCES):
            request = ImportManagedCertificateRequest(
                parent=TENANT,
                managed_certificate_id=f"m{number}",
                certificate=made.pem,
                certificate_chain=made.chain_pem,
                request_id=stable_id(f"import {number}"),
            )
            self._served.insist(lambda client, request=request: import_sealed(client, request, made.key_der))  # type: ignore[misc]  # Bound.
        types = ["managed-certificate.*"]
        url = f"https://127.0.0.1:{self._receivers[WEBHOOK].port}/"
        roots = (self._folder / "receiver-root.pem").read_text()
        targets = {
            WEBHOOK: Subscription(webhook=Webhook(url=url, trusted_roots=roots), event_types=types),
            MAIL: Subscription(mail=Mail(recipients=["ops@example.org"]), event_types=types),
        }
        with self._served.client() as client:
            for kind, subscription in targets.items():
                # From the first event on, so that what was imported is sent too.
                wanted = CreateSubscriptionRequest(
                    parent=TENANT, subscription_id=_NAMES[kind], subscription=subscription, after_seq=1
                )
                answer = client.stubs.create_subscription(wanted, timeout=20)
                if answer.secret:
                    self._secret = base64.b64decode(answer.secret.removeprefix("whsec_"))

    def round(self, victim: str, step: str = "") -> None:
        """Changes every managed certificate, and meanwhile kills the victim: at a step, or else at some moment."""
        number = self.tally.rounds
        with ThreadPoolExecutor(_RESOURCES) as threads:
            if step:
                before = self._served.pid_of(victim)
                # A run settles once, however many events it delivers.
                occurrence = 1 if step == STEPS[-1] else self._source.randrange(1, _CHANGES)
                self._served.running.arm(step, occurrence, victim)
            works = [threads.submit(self._change, resource, number) for resource in range(_RESOURCES)]
            if step:
                eventually(lambda: self._served.pid_of(victim) not in {before, None}, within=60)
            else:
                self._kill_at_some_moment(victim)
            for work in works:
                work.result()
        # What has died may have been away for a while; who serves again is known at once by a test.
        if victim in self._receivers:
            self._test(victim)
        self.check()
        self.tally.rounds += 1
        self.tally.deaths[f"{victim} {step}".rstrip()] += 1

    def _change(self, resource: int, number: int) -> None:
        for change in range(_CHANGES):
            text = f"{number}-{change}"
            request = UpdateManagedCertificateRequest(
                managed_certificate=ManagedCertificate(
                    name=f"{TENANT}/managedCertificates/m{resource}", labels={"change": text}
                ),
                request_id=stable_id(f"change m{resource} {text}"),
            )
            self._served.insist(
                lambda client, request=request: client.stubs.update_managed_certificate(request, timeout=20)  # type: ignore[misc]  # Bound.
            )

    def _kill_at_some_moment(self, victim: str) -> None:
        threading.Event().wait(self._source.uniform(0.0, 0.3))
        if victim in self._receivers:
            receiver = self._receivers[victim]
            receiver.kill()
            receiver.start()
            return
        pid = self._served.pid_of(victim)
        if pid is not None:
            import psutil

            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
            eventually(lambda: self._served.pid_of(victim) not in {pid, None}, within=60)

    def _test(self, kind: str) -> None:
        request = TestSubscriptionRequest(name=f"{TENANT}/subscriptions/{_NAMES[kind]}")
        # Of which there are some in a minute; else the subscription goes on by itself.
        with suppress(grpc.RpcError), self._served.client() as client:
            client.stubs.test_subscription(request, timeout=20)

    def check(self) -> None:
        """Waits until both have everything, and looks at the order."""
        expected = self._expected()
        for kind in (WEBHOOK, MAIL):
            deadline = time.monotonic() + _EVERYTHING_SECONDS
            while missing := set(expected) - set(seqs := list(self._delivered(kind))):
                assert time.monotonic() < deadline, f"{kind} did not get {sorted(missing)}"
                # A daemon that died is started again by whoever looks at it.
                assert self._served.running.address
                threading.Event().wait(0.05)
            firsts = [seq for seq in dict.fromkeys(seqs) if seq in expected]
            for resource in set(expected.values()):
                of_it = [seq for seq in firsts if expected[seq] == resource]
                assert of_it == sorted(of_it), f"{kind} got those of {resource} out of order: {of_it}"
            self.tally.delivered[kind] = len(seqs)
            self.tally.repeated[kind] = len(seqs) - len(set(seqs))
        self.tally.events = len(expected)

    def _expected(self) -> dict[int, str]:
        """Returns the resource of each event that is wanted, by number."""
        query = "SELECT seq, resource FROM events WHERE seq > 1 AND tenant = 'default' AND type LIKE 'managed-cert%'"
        with closing(sqlite3.connect(f"file:{self._served.file}?mode=ro", uri=True)) as books:
            return dict(books.execute(query).fetchall())

    def _delivered(self, kind: str) -> Iterator[int]:
        """Yields the numbers of the events that a receiver took; a webhook's signature must be right."""
        read: Callable[[dict[str, str]], int] = self._of_webhook if kind == WEBHOOK else _of_mail
        file = log_file(self._folder, kind)
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        for line in lines:
            if line.endswith(b"\n"):
                seq = read(json.loads(line))
                if seq:
                    yield seq

    def _of_webhook(self, entry: dict[str, str]) -> int:
        received = Received(headers=entry["headers"], body=base64.b64decode(entry["body"]))  # type: ignore[arg-type]  # Headers are an object.
        assert received.signed_by(self._secret), entry
        return received.seq

    def stop(self) -> None:
        """Stops the daemon as an operator does."""
        self._served.stop()


def _of_mail(entry: dict[str, str]) -> int:
    content = base64.b64decode(entry["content"])
    mailed = Mailed(sender="", recipients=(), content=content, encrypted=True)
    return mailed.seq if "Message-ID: <events." in content.decode() else 0


def random_death(source: random.Random) -> tuple[str, str]:
    """Returns who dies, and at which step, which is empty for some moment."""
    victim = source.choice(VICTIMS)
    return victim, source.choice(("", *STEPS)) if victim == DAEMON else ""


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
