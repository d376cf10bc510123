"""The stream on which the server tells of changes, kept open: after an end it is opened again, from where it ended."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from certd.client.connection import Client
from certd.client.failure import CallFailed
from certd.errors import CertdError, Reason
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_service_pb2 import WatchManagedCertificatesResponse

REFUSED: Final = frozenset({"CREDENTIAL_MISSING", "CREDENTIAL_INVALID", "CREDENTIAL_REVOKED"})
"""Reasons that waiting does not help with: somebody has to do something about the identity."""
SELDOM: Final = (600.0, 1200.0)
"""Seconds between tries that hardly help."""
LONGEST: Final = 30.0
"""Seconds between tries to open the stream."""
_LONGEST_ASKED: Final = 3600.0
"""Seconds that a server can have an agent wait."""
_LASTED: Final = 10.0
"""Seconds after which a stream counts as one that was well."""
_FIRST: Final = 0.5
_LONGEST_WHEN_LASTING: Final = 300.0
_LASTING: Final = frozenset({"PERMISSION_DENIED", "UNIMPLEMENTED"})
"""What passes only when somebody does something; the agent polls meanwhile."""
_CURSOR_INVALID: Final = "CURSOR_INVALID"

Watch = Callable[[Client, str], Iterator[WatchManagedCertificatesResponse]]
"""Opens the stream, from a cursor on; raises CallFailed, when it is opened or later."""

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Gets to know what a stream told; called by the stream's thread."""

    def changed(self, association: Association) -> None:
        """There is a new state of an association."""

    def removed(self, name: str) -> None:
        """A managed certificate, or the association with it, is no more."""

    def connected(self) -> None:
        """The stream is open."""

    def lost(self, failure: CallFailed | None) -> None:
        """It ended; by a failure, or as the server ended it."""


class Watcher:
    """The stream of one connection, on a thread of its own until `end`.

    Args:
        client: the connection.
        watch: opens the stream.
        listener: gets to know.
        cursor: of the stream before.
        longest: tells the seconds up to which the wait between two tries doubles; called by the stream's thread.
    """

    def __init__(
        self,
        client: Client,
        watch: Watch,
        listener: Listener,
        *,
        cursor: str = "",
        longest: Callable[[], float] = lambda: LONGEST,
    ) -> None:
        self._client = client
        self._watch = watch
        self._listener = listener
        self.cursor = cursor
        """Where a stream after this one goes on."""
        self._longest = longest
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Tells nothing any more. The stream itself ends with its connection."""
        self._ended.set()

    def join(self, seconds: float) -> None:
        """Waits for the thread."""
        self._thread.join(seconds)

    def _run(self) -> None:
        tries = 0
        while not self._ended.is_set():
            began = time.monotonic()
            failure, told = self._follow()
            if self._ended.is_set():
                return
            self._listener.lost(failure)
            # Who tells something and hangs up, each time, is no server to come back to at once.
            tries = 1 if told and time.monotonic() - began > _LASTED else tries + 1
            if failure is not None and failure.reason == _CURSOR_INVALID:
                self.cursor = ""
            lasting = failure is not None and failure.code in _LASTING
            self._ended.wait(pause(failure, tries, longest=_LONGEST_WHEN_LASTING if lasting else self._longest()))

    def _follow(self) -> tuple[CallFailed | None, bool]:
        """Returns how the stream ended, and whether it told anything."""
        told = False
        try:
            for response in self._watch(self._client, self.cursor):
                if self._ended.is_set():
                    return None, told
                if not told:
                    told = True
                    self._listener.connected()
                self._tell(response)
                self.cursor = response.cursor or self.cursor
        except CallFailed as failure:
            return failure, told
        except CertdError as error:
            return CallFailed(error.reason, error.message), told
        except Exception as error:  # noqa: BLE001  # Whatever it is, the agent polls meanwhile.
            if not self._ended.is_set():
                _log.warning("the stream of changes ended: %r", error)
            return None, told
        return None, told

    def _tell(self, response: WatchManagedCertificatesResponse) -> None:
        if response.kind == response.REMOVED:
            self._listener.removed(response.name)
        elif response.kind in {response.PRESENT, response.CHANGED} and response.HasField("association"):
            self._listener.changed(response.association)


def is_refusal(failure: CallFailed) -> bool:
    """Returns whether the server does not take the identity, and not something on the way, which may pass, is wrong."""
    return failure.reason in REFUSED and (failure.answered or failure.reason != Reason.CREDENTIAL_INVALID)


def pause(failure: CallFailed | None, tries: int, *, longest: float) -> float:
    """Returns the seconds to wait after a failure, or after the server ended a stream: by chance, for many agents wait.

    Args:
        failure: what happened; None: an end in order.
        tries: how many in a row, from 1.
        longest: up to which the wait doubles.
    """
    if failure is not None and is_refusal(failure):
        return random.uniform(*SELDOM)  # noqa: S311  # It spreads agents in time.
    own = min(_FIRST * 2.0 ** min(tries - 1, 16), longest) * random.uniform(0.5, 1.5)  # noqa: S311  # As above.
    asked = 0.0 if failure is None or failure.retry_after is None else min(failure.retry_after, _LONGEST_ASKED)
    return max(own, asked + own / 4)
