"""Streams that go on: after an end they are opened again, from where they ended."""

import random
import time
from collections.abc import Callable, Generator, Iterator
from typing import Final, Protocol, TypeVar

from certd.client.connection import Client, Waiting
from certd.client.failure import CallFailed
from certd.errors import Reason
from certd.v1.event_service_pb2 import WatchEventsRequest, WatchEventsResponse
from certd.v1.managed_certificate_service_pb2 import (
    WatchManagedCertificatesRequest,
    WatchManagedCertificatesResponse,
)

FIRST_PATIENCE: Final = 10.0
"""Seconds in which a stream must have told something for the first time."""
_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 15.0
_TRANSPORT: Final = frozenset({"UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN", "ABORTED"})
"""Codes of connections that broke, when the server itself said nothing."""


class _Answer(Protocol):
    """What a stream tells."""

    @property
    def cursor(self) -> str:
        """Where to go on after it; empty to go on from where one was."""


AnswerT = TypeVar("AnswerT", bound=_Answer)


def watch_associations(client: Client, cursor: str = "") -> Iterator[WatchManagedCertificatesResponse]:
    """Yields what the caller is associated with and its changes, on one stream that is not opened again.

    Raises CallFailed when it ends; CURSOR_INVALID wants to be opened without one.
    """
    return client.stream(client.stubs.watch_managed_certificates, WatchManagedCertificatesRequest(cursor=cursor))


def watch_managed_certificates(
    client: Client, request: WatchManagedCertificatesRequest, *, on_wait: Callable[[Waiting], None]
) -> Iterator[WatchManagedCertificatesResponse]:
    """Yields managed certificates and their changes for ever; raises CallFailed for what waiting does not help with."""

    def opened(cursor: str) -> Generator[WatchManagedCertificatesResponse, None, None]:
        again = WatchManagedCertificatesRequest()
        again.CopyFrom(request)
        again.cursor = cursor
        return client.stream(client.stubs.watch_managed_certificates, again)

    return followed(opened, cursor=request.cursor, on_wait=on_wait)


def watch_events(
    client: Client, request: WatchEventsRequest, *, on_wait: Callable[[Waiting], None]
) -> Iterator[WatchEventsResponse]:
    """Yields events for ever, each once; raises CallFailed for what waiting does not help with."""

    def opened(cursor: str) -> Generator[WatchEventsResponse, None, None]:
        again = WatchEventsRequest()
        again.CopyFrom(request)
        again.cursor = cursor
        again.from_beginning = request.from_beginning and not cursor
        return client.stream(client.stubs.watch_events, again)

    return followed(opened, cursor=request.cursor, on_wait=on_wait)


def followed(
    opened: Callable[[str], Generator[AnswerT, None, None]],
    *,
    cursor: str,
    on_wait: Callable[[Waiting], None],
    patience: float = FIRST_PATIENCE,
) -> Iterator[AnswerT]:
    """Yields what streams tell, one after the other, each from the cursor of the one before.

    A cursor that is no longer taken, because the books were restored from before it, has the next one begin anew.

    Args:
        opened: opens a stream from a cursor on.
        cursor: of the first.
        on_wait: told before each wait.
        patience: seconds in which the first answer must have come.
    """
    began, answered, tries = time.monotonic(), False, 0
    while True:
        try:
            for answer in opened(cursor):
                answered, tries = True, 0
                cursor = answer.cursor or cursor
                yield answer
            failure = CallFailed("UNAVAILABLE", "the server ended the stream", code="UNAVAILABLE")
        except CallFailed as ended:
            failure = ended
        if answered and failure.reason == Reason.CURSOR_INVALID:
            cursor = ""
        elif not _passing(failure) or not (answered or time.monotonic() - began < patience):
            raise failure
        tries += 1
        delay = _delay(failure, tries)
        on_wait(Waiting(failure, delay))
        time.sleep(delay)


def _passing(failure: CallFailed) -> bool:
    """Whether the failure may pass by waiting."""
    if failure.reason == Reason.CREDENTIAL_INVALID:
        return False
    if failure.reason == Reason.WATCHER_TOO_SLOW or failure.retry_after is not None:
        return True
    return failure.code == "UNAVAILABLE" or (failure.code in _TRANSPORT and not failure.answered)


def _delay(failure: CallFailed, tries: int) -> float:
    """Returns the seconds to wait: by chance, for others were thrown out at the same moment."""
    own = min(_FIRST_DELAY * 2.0 ** min(tries - 1, 16), _LONGEST_DELAY) * random.uniform(0.5, 1.5)  # noqa: S311  # It spreads callers in time.
    return own if failure.retry_after is None else max(own, failure.retry_after + own / 4)
