"""The way to the server: the connection, the stream on it, and the identity that both are made with."""

import logging
import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from certd.agent import identity as identities
from certd.agent.config import Config
from certd.agent.errors import AgentError
from certd.agent.identity import Identity, IdentityFiles
from certd.agent.loop import Loop
from certd.agent.notify import notify
from certd.agent.server import ApiServer
from certd.agent.slots import Slots
from certd.agent.watching import LONGEST, Watch, Watcher, is_refusal
from certd.client.connection import Client
from certd.client.failure import CallFailed
from certd.clock import Clock
from certd.errors import CertdError
from certd.v1.association_pb2 import Association

_RENEWAL_RETRY: Final = (60.0, 300.0)
_PART_BETWEEN_RENEWALS: Final = 1 / 6
"""Part of the lifetime of an identity's certificate in which it is not renewed again."""
_SHORTEST_PAUSE: Final = 1.0
_PART_OF_WHAT_IS_LEFT: Final = 0.1
"""Of what a certificate has still to live: so much of it may pass without a try to reach the server."""
_LONGEST_PAUSE: Final = 30.0
"""Seconds between tries to make a connection."""
_NOT_ENROLLED: Final = "this machine has no identity yet: run certd-agent enroll --code-file FILE"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Line:
    """A connection, and the stream on it."""

    client: Client
    identity: Identity
    server: ApiServer
    watcher: Watcher | None = None


class Uplink:
    """Belongs to the deciding thread.

    Args:
        config: the configuration.
        loop: of the deciding thread.
        clock: tells the time.
        watch: opens the stream of changes; None: none is opened.
        slots: get to know what the stream tells.
    """

    def __init__(self, config: Config, *, loop: Loop, clock: Clock, watch: Watch | None, slots: Slots) -> None:
        self.connected = False
        """Whether the server tells of changes as they happen."""
        self.problem = ""
        """What keeps the agent as a whole from its work."""
        self._config = config
        self._loop = loop
        self._clock = clock
        self._watch = watch
        self._slots = slots
        self._files = IdentityFiles(config.state_directory)
        self._change: tuple[tuple[int, int], ...] = ()
        self._line: _Line | None = None
        self._retired: list[_Line] = []
        self._renewal_due = 0.0
        self._renewing = False

    @property
    def server(self) -> ApiServer | None:
        """The server; None while this machine has no identity."""
        return None if self._line is None else self._line.server

    @property
    def identity(self) -> Identity | None:
        """Who this machine is."""
        return None if self._line is None else self._line.identity

    @property
    def busy(self) -> bool:
        """Whether the identity is being renewed."""
        return self._renewing

    def connect(self, config: Config) -> None:
        """Opens a connection with what stands in the files; the one before ends when nobody needs it any more."""
        self._config = config
        self._change = self._files.change()
        try:
            found = self._files.read()
        except CertdError as error:
            self._tell(f"{error.message}; enroll again")
            return
        if found is None:
            self._tell(_NOT_ENROLLED)
            return
        # Thousands may be out there, some of which are let in no more.
        client = Client(config.server, found, longest_pause=_LONGEST_PAUSE)
        line = _Line(client, Identity(found), ApiServer(client))
        self._take(line, self._line)
        self.problem = ""
        self._renewal_due = 0.0
        self._slots.begin_anew()

    def _take(self, line: _Line, before: _Line | None) -> None:
        self._line = line
        if self._watch is not None:
            cursor = before.watcher.cursor if before is not None and before.watcher is not None else ""
            line.watcher = Watcher(
                line.client,
                self._watch,
                _Ear(self, self._loop, line),
                cursor=cursor,
                longest=lambda: longest_pause(self._slots.ends(), self._clock.now()),
            )
        if before is not None:
            if before.watcher is not None:
                before.watcher.end()
            self._retired.append(before)

    def look(self) -> None:
        """Takes an identity that somebody put there, and renews the one there is in time; from time to time."""
        if not self._slots.busy and not self._renewing:
            for retired in self._retired:
                retired.client.close()
            self._retired.clear()
        if self._renewing:
            return
        if self._files.change() != self._change:
            _log.info("there is a new identity")
            self.connect(self._config)
        line = self._line
        if line is not None and time.monotonic() >= self._renewal_due and line.identity.is_due(self._clock.now()):
            self._renew(line)

    def refused(self, failure: CallFailed) -> None:
        """The server does not take the identity."""
        self._tell(
            f"the server does not take this identity ({failure.reason}: {failure.message}); what is deployed stays."
            " Ask an administrator for an enrollment code and run certd-agent enroll --code-file FILE"
        )
        self._slots.put_off()

    def close(self) -> None:
        """Ends the connections; calls that run fail."""
        lines = [line for line in (self._line, *self._retired) if line is not None]
        for line in lines:
            if line.watcher is not None:
                line.watcher.end()
            line.client.close()
        for line in lines:
            if line.watcher is not None:
                line.watcher.join(1.0)
        self.connected = False

    def opened(self, line: _Line) -> None:
        """A stream tells."""
        if line is not self._line:
            return
        if not self.connected:
            _log.info("connected to %s", self._config.server)
        self.connected, self.problem = True, ""
        self._slots.hurry()

    def lost(self, line: _Line, failure: CallFailed | None) -> None:
        """A stream ended."""
        if line is not self._line:
            return
        was_connected, self.connected = self.connected, False
        has_ended = self._clock.now() >= line.identity.credentials.not_after
        if failure is not None and (has_ended or is_refusal(failure)):
            self.refused(failure)
            return
        text = "" if failure is None else f"{failure.reason}: {failure.message}"
        if was_connected or text != self.problem:
            _log.warning("not connected to %s: %s", self._config.server, text or "the server ended the stream")
        self.problem = text

    def _renew(self, line: _Line) -> None:
        self._renewing = True

        def work() -> None:
            problem = ""
            try:
                identities.renew(
                    self._files,
                    lambda request: line.client.call(line.client.stubs.renew_identity, request),
                    now=self._clock.now(),
                )
            except CallFailed as failure:
                problem = f"{failure.reason}: {failure.message}"
            except (CertdError, AgentError) as error:
                problem = error.message
            except Exception as error:  # noqa: BLE001  # Whatever it is, it must not have been the last renewal.
                _log.exception("unexpected")
                problem = f"unexpected: {type(error).__name__}"
            self._loop.post(lambda: self._renewed(problem))

        threading.Thread(target=work, name="identity", daemon=True).start()

    def _renewed(self, problem: str) -> None:
        self._renewing = False
        pause = random.uniform(*_RENEWAL_RETRY)  # noqa: S311  # It spreads agents in time.
        if problem:
            _log.warning("the identity is not renewed: %s", problem)
        if self._files.change() != self._change:
            _log.info("the identity is renewed")
            self.connect(self._config)
            if self.identity is not None and not problem:
                # By a clock that is ahead a new one is due as well, and the next, until the server gives no more.
                pause = max(pause, self.identity.lifetime.total_seconds() * _PART_BETWEEN_RENEWALS)
        self._renewal_due = time.monotonic() + pause

    def _tell(self, text: str) -> None:
        if text != self.problem:
            _log.error("%s", text)
            notify(f"STATUS={text[:200]}")
        self.problem = text


def longest_pause(ends: Iterable[datetime], now: datetime) -> float:
    """Returns the seconds between tries to open the stream: few when a certificate ends soon, or has ended just now.

    Args:
        ends: of the certificates that are served.
        now: the time.
    """
    parts = [abs((end - now).total_seconds()) * _PART_OF_WHAT_IS_LEFT for end in ends]
    return min(LONGEST, max(_SHORTEST_PAUSE, min(parts, default=LONGEST)))


class _Ear:
    """Hands what a stream tells to the deciding thread."""

    def __init__(self, uplink: Uplink, loop: Loop, line: _Line) -> None:
        self._uplink = uplink
        self._loop = loop
        self._line = line

    def changed(self, association: Association) -> None:
        self._loop.post(lambda: self._uplink._slots.changed(association))  # noqa: SLF001  # One thing in two parts.

    def removed(self, name: str) -> None:
        self._loop.post(lambda: self._uplink._slots.removed(name))  # noqa: SLF001  # As above.

    def connected(self) -> None:
        self._loop.post(lambda: self._uplink.opened(self._line))

    def lost(self, failure: CallFailed | None) -> None:
        self._loop.post(lambda: self._uplink.lost(self._line, failure))
