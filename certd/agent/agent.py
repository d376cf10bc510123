"""The running agent: one thread decides, on what time, signals, the server and working threads tell."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from signal import SIGHUP
from typing import Final

from certd import __version__
from certd.agent import identity as identities
from certd.agent import status
from certd.agent.config import Certificate, Config
from certd.agent.deployment import Deployment, Step
from certd.agent.errors import AgentError
from certd.agent.keeper import Keeper
from certd.agent.kept import Kept
from certd.agent.loop import Loop
from certd.agent.notify import notify
from certd.agent.slots import Slot, Slots
from certd.agent.standing import time_text
from certd.agent.status import CertificateStatus, Status
from certd.agent.targets import Targets
from certd.agent.uplink import Uplink
from certd.agent.watching import Watch
from certd.clock import Clock, rfc3339
from certd.errors import CertdError

_WAKE: Final = 30.0
"""Seconds after which the clock is looked at, for it may have been set."""
_WAKE_WITH_PROBLEM: Final = 2.0
"""The same while somebody may be about to bring an identity."""
_STOP: Final = 3.0

_log = logging.getLogger(__name__)


class Agent:
    """Runs in the thread that calls `run`.

    Args:
        config: the configuration.
        read_again: reads it again, for SIGHUP.
        clock: tells the time.
        watch: opens the stream of changes; None: the server is polled alone.
        step: told between the steps of each certificate.
    """

    def __init__(
        self,
        config: Config,
        *,
        read_again: Callable[[], Config],
        clock: Clock,
        watch: Watch | None,
        step: Step = lambda _: None,
    ) -> None:
        self.loop = Loop()
        self._config = config
        self._read_again = read_again
        self._clock = clock
        self._step = step
        self._stop = threading.Event()
        self._reload = False
        self._start_time = clock.now()
        self._written: Status | None = None
        self._targets = self._made_targets(config)
        self._deaf = ""
        """Why programs cannot come to fetch; empty when they can."""
        self._slots = Slots(
            self.loop,
            poll_interval=config.poll_interval,
            stop=self._stop,
            refused=lambda failure: self._uplink.refused(failure),  # noqa: PLW0108  # It is not there yet.
        )
        self._uplink = Uplink(config, loop=self.loop, clock=clock, watch=watch, slots=self._slots)

    def run(self, ready: Callable[[Mapping[str, object]], None]) -> None:
        """Runs until a signal ends it; `ready` is called once, when what was deployed before was seen to.

        Raises AgentError when the state directory or a target cannot be used.
        """
        try:
            identities.prepare(self._config.state_directory)
            with identities.alone(self._config.state_directory):
                self._run(ready)
        finally:
            self.loop.close()

    def stop(self) -> None:
        """Ends `run`, soon; from any thread."""
        self.loop.post(self._stop.set)

    def _run(self, ready: Callable[[Mapping[str, object]], None]) -> None:
        self._targets.start()
        try:
            self._slots.fill(map(self._keeper, self._config.certificates))
            self._uplink.connect(self._config)
            self._decide(ready)
        finally:
            self._end()

    def _decide(self, ready: Callable[[Mapping[str, object]], None]) -> None:
        told = False
        while not self._stop.is_set():
            if self._reload and not self._slots.busy and not self._uplink.busy:
                self._reload = False
                self._read_configuration()
            if self._deaf:
                self._listen()
            if not self._reload:
                self._uplink.look()
                self._slots.start_due(self._uplink.server)
            self._write_status()
            if not told and self._slots.restored:
                told = True
                ready({"pid": os.getpid(), "serving": self._serving()})
                notify("READY=1", f"STATUS={self._summary()}")
            for number in self.loop.wait(self._patience()):
                if number == SIGHUP:
                    self._reload = True
                else:
                    self._stop.set()

    def _end(self) -> None:
        self._stop.set()
        notify("STOPPING=1")
        self._uplink.close()
        self._targets.stop()
        deadline = time.monotonic() + _STOP
        while self._slots.busy and time.monotonic() < deadline:
            self.loop.wait(deadline - time.monotonic())
        with suppress(AgentError):
            self._write_status(running=False)

    def _keeper(self, certificate: Certificate) -> Keeper:
        return Keeper(
            certificate,
            kept=Kept(self._config.state_directory, certificate.name),
            deployment=Deployment(certificate.directory, certificate.files, step=self._step),
            targets=self._targets.of(certificate),
            clock=self._clock,
            stop=self._stop,
            step=self._step,
        )

    def _made_targets(self, config: Config) -> Targets:
        return Targets(config, wake=lambda name: self.loop.post(lambda: self._slots.wake(name)))

    def _read_configuration(self) -> None:
        """Takes a new configuration while nothing works by the old one; tries again what failed."""
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        config = self._config
        try:
            config = self._read_again()
        except CertdError as error:
            _log.error("the configuration stays as it was: %s", error.message)
        if config.state_directory != self._config.state_directory:
            _log.error("the configuration stays as it was: state_directory changes with a restart alone")
            config = self._config
        if config != self._config:
            self._targets.stop()
            self._config, self._targets = config, self._made_targets(config)
            self._listen()
        self._slots.poll_interval = config.poll_interval
        self._slots.fill(map(self._keeper, config.certificates))
        self._uplink.connect(config)
        _log.info("the configuration was read again")
        notify("READY=1", f"STATUS={self._summary()}")

    def _listen(self) -> None:
        """Begins to listen where programs come to fetch; what is in the way now may be gone later."""
        problem = ""
        try:
            self._targets.start()
        except AgentError as error:
            problem = error.message
        if problem and problem != self._deaf:
            _log.error("%s", problem)
        self._deaf = problem

    @property
    def _problem(self) -> str:
        return "; ".join(filter(None, (self._uplink.problem, self._deaf)))

    def _patience(self) -> float:
        longest = _WAKE_WITH_PROBLEM if self._problem else _WAKE
        return longest if self._reload else min(longest, self._slots.patience(online=self._uplink.server is not None))

    def _serving(self) -> dict[str, int]:
        return {slot.certificate.name: slot.standing.version for slot in self._slots}

    def _summary(self) -> str:
        served = sum(1 for version in self._serving().values() if version)
        return self._problem[:200] or f"{served} of {len(self._slots)} certificates deployed"

    def _write_status(self, *, running: bool = True) -> None:
        identity = self._uplink.identity
        made = Status(
            version=__version__,
            pid=os.getpid(),
            start_time=rfc3339(self._start_time),
            server=self._config.server,
            identity="" if identity is None else identity.spiffe_id,
            identity_not_after="" if identity is None else rfc3339(identity.credentials.not_after),
            connected=self._uplink.connected,
            problem=self._problem,
            certificates=tuple(map(_status_of, self._slots)),
            running=running,
        )
        if made != self._written:
            self._written = made
            try:
                status.write(self._config.state_directory, made)
            except AgentError as error:
                _log.warning("%s", error.message)


def _status_of(slot: Slot) -> CertificateStatus:
    standing = slot.standing
    failure = standing.failure
    error = slot.error if failure is None else failure.message
    return CertificateStatus(
        name=slot.certificate.name,
        association=slot.certificate.association,
        state=standing.state,
        version=standing.version,
        certificate_sha256=standing.certificate_sha256,
        not_after="" if standing.not_after is None else rfc3339(standing.not_after),
        current_version=standing.current_version,
        error="; ".join(filter(None, (standing.finding, error))),
        retry_time="" if failure is None else time_text(failure.retry_time),
    )
