"""A daemon under fire: started again when it has died, and asked again until it answers."""

import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import Self, TypeVar

import grpc
import psutil

from certd.client.connection import Client
from certd.client.credentials import read_credentials
from certd.client.failure import CallFailed, decode
from tests.daemon import Installation
from tests.faults import armed
from tests.waiting import eventually

T = TypeVar("T")

DAEMON, TOKEN, PREPARE = "daemon", "token", "prepare"
TENANT = "tenants/default"
_TRY_SECONDS = 3.0
_ANSWER_SECONDS = 60.0
_HONEST = {"UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED"}
"""What a caller may be told while something is dead."""


class Served:
    """An installation whose daemon lives, whoever has killed it. Threads may share it."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self.credentials = read_credentials(
            certificate=installation.certificate,
            private_key=installation.private_key,
            trust_bundle=installation.trust_bundle,
        )
        """Of the first administrator."""
        self.file = installation.data / "certd.db"
        self.failures: Counter[str] = Counter()
        """Reasons that callers were told."""
        self._lock = threading.RLock()
        self._daemon: armed.ArmedDaemon | None = None

    def __enter__(self) -> Self:
        self._daemon = armed.start(self._installation)
        return self

    def __exit__(self, *_: object) -> None:
        if self._daemon is not None:
            self._daemon.end()

    @property
    def running(self) -> armed.ArmedDaemon:
        """The daemon; after a death the next one."""
        with self._lock:
            assert self._daemon is not None
            if self._daemon.process.poll() is not None:
                self._daemon.close_input()
                self._daemon = armed.start(self._installation)
            return self._daemon

    def client(self) -> Client:
        return Client(self.running.address, self.credentials, timeout=_TRY_SECONDS)

    def attempt(self, call: Callable[[Client], T]) -> T | CallFailed:
        """Makes a call once; what it is told while something is dead must be honest."""
        try:
            with self.client() as client:
                return call(client)
        except (grpc.RpcError, CallFailed) as error:
            failure = error if isinstance(error, CallFailed) else decode(error)
            assert failure.code in _HONEST, failure
            with self._lock:
                self.failures[str(failure.reason or failure.code)] += 1
            return failure

    def insist(self, call: Callable[[Client], T]) -> T:
        """Repeats a call until it is answered."""
        answers: list[T] = []

        def answered() -> bool:
            told = self.attempt(call)
            if not isinstance(told, CallFailed):
                answers.append(told)
            return bool(answers)

        eventually(answered, within=_ANSWER_SECONDS)
        return answers[0]

    def pid_of(self, victim: str) -> int | None:
        """Process id of the daemon or of its token process that lives; None while there is none."""
        pid = self.running.process.pid
        if victim == DAEMON:
            return pid
        try:
            return next((child.pid for child in armed.children(pid, f"certd.{victim}")), None)
        except psutil.NoSuchProcess:
            return None

    def stop(self) -> None:
        """Stops the daemon as an operator does."""
        process = self.running.process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, self._installation.log.read_text()[-4000:]
