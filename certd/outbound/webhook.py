"""Webhooks: an event is posted as JSON, signed by the convention of Standard Webhooks."""

import base64
import email.utils
import hashlib
import hmac
import http.client
import json
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from certd import __version__
from certd.errors import CertdError, Reason
from certd.model.delivery import Answer, Outcome, event_document
from certd.model.subscription import WebhookTarget
from certd.outbound.addresses import Reach
from certd.outbound.deadline import Deadline
from certd.outbound.https import Connection, Request, client_context, split_url
from certd.outbound.message import Message, shown

LONGEST: Final = 10.0
"""Seconds from the look at the name to the answer."""
MOST_READ: Final = 4096
"""Octets of an answer that are read."""
_LONGEST_CHECK: Final = 3.0
"""Seconds that the look at a new target's name may take."""
_CHECKS_AT_ONCE: Final = 4
"""Each holds a thread that answers calls, for as long as a resolver likes that callers choose."""
_TRUST_SECONDS: Final = 300
"""After which roots of the machine are read again."""
_SUCCESS, _REDIRECTION, _CLIENT_ERROR = 2, 3, 4
_TRY_AGAIN: Final = frozenset({408, 425, 429})
"""Of the client errors those that say nothing against the event."""
_DEFECTS: Final = frozenset({500, 501})
"""What a receiver answers that fails over what it was sent; the other server errors say that it is not there."""
_LONGEST_RETRY_AFTER: Final = 86_400
_checks = threading.BoundedSemaphore(_CHECKS_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Posts events."""

    reach: Reach

    def check(self, url: str) -> None:
        """Raises TARGET_NOT_ALLOWED for a URL whose host is, for now, not one that is delivered to.

        A name that has no address is none of that: it may have one when something is delivered, and is looked at again
        then. So is one that takes long, or that comes while several others take long.
        """
        if not _checks.acquire(blocking=False):
            return
        try:
            host, port, _ = split_url(url)
            self.reach.addresses(host, port, Deadline(_LONGEST_CHECK))
        except (OSError, ValueError):
            return
        finally:
            _checks.release()

    @contextmanager
    def session(self) -> Iterator["Session"]:
        """Yields what posts one event after the other."""
        with closing(Session(self.reach)) as session:
            yield session


class Session:
    """Posts events of one run: to one target over one connection, as long as that is kept open there."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._kept: Connection | None = None
        self._kept_for: WebhookTarget | None = None

    def close(self) -> None:
        """Ends the connection."""
        if self._kept is not None:
            self._kept.close()
        self._kept = None

    def post(self, target: WebhookTarget, message: Message, now: datetime) -> Answer:
        """Posts an event; returns what became of it."""
        try:
            return self._post(target, message, now)
        except CertdError as error:
            if error.reason is not Reason.TARGET_NOT_ALLOWED:
                raise
            return Answer(outcome=Outcome.AWAY, error=f"{error.reason}: {error.message}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            return Answer(outcome=Outcome.AWAY, error=_why(error))

    def _post(self, target: WebhookTarget, message: Message, now: datetime) -> Answer:
        deadline = Deadline(LONGEST)
        body = json.dumps(event_document(message.event), separators=(",", ":"), ensure_ascii=False).encode()
        request = Request(
            url=target.url,
            method="POST",
            headers={
                "Content-Type": "application/json",
                "User-Agent": f"certd/{__version__}",
                **signature_headers(message, body, now),
            },
            body=body,
        )
        if self._kept is not None and self._kept_for == target:
            try:
                return self._ask(self._kept, request, deadline, now)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                # It was ended there since the last answer, most likely. Twice is allowed, and never is not.
                pass
        self.close()
        trust = _trust(target.trusted_roots, int(time.monotonic() // _TRUST_SECONDS))
        self._kept = Connection(target.url, reach=self._reach, trust=trust, deadline=deadline)
        self._kept_for = target
        return self._ask(self._kept, request, deadline, now)

    def _ask(self, connection: Connection, request: Request, deadline: Deadline, now: datetime) -> Answer:
        reusable = False
        try:
            with closing(connection.ask(request, deadline)) as response:
                excerpt = _beginning(response)
                reusable = response.isclosed() and not response.will_close
                if response.status // 100 == _SUCCESS:
                    return Answer(outcome=Outcome.TAKEN)
                return _refusal(response, excerpt, now)
        finally:
            if not reusable:
                self.close()


def signature_headers(message: Message, body: bytes, now: datetime) -> dict[str, str]:
    """Returns the headers by which the receiver knows that a message is ours, fresh and whole."""
    timestamp = str(int(now.timestamp()))
    signed = b".".join((message.message_id.encode(), timestamp.encode(), body))
    signatures = (hmac.digest(secret, signed, hashlib.sha256) for secret in message.secrets)
    return {
        "webhook-id": message.message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(signature).decode()}" for signature in signatures),
    }


@lru_cache(maxsize=128)
def _trust(roots: str, _when: int) -> ssl.SSLContext:
    return client_context(roots=roots)


def _beginning(response: http.client.HTTPResponse) -> bytes:
    """Returns the beginning of an answer; what it said before that counts, whatever comes of the rest."""
    try:
        return response.read(MOST_READ)
    except http.client.IncompleteRead as error:
        return error.partial
    except (OSError, ValueError, http.client.HTTPException):
        return b""


def _refusal(response: http.client.HTTPResponse, excerpt: bytes, now: datetime) -> Answer:
    status = response.status
    words = shown(excerpt.decode(errors="replace"))
    said = f"the target answers {status} {shown(response.reason)[:64]}".rstrip()
    if status // 100 == _REDIRECTION:
        said = f"{said}: redirections are not followed, so give the URL to which it leads"
    elif words:
        said = f"{said}: {words}"
    refused = status // 100 <= _CLIENT_ERROR and status not in _TRY_AGAIN
    retry_after = None if refused else _retry_after(response.getheader("Retry-After", ""), now)
    return Answer(
        outcome=Outcome.REFUSED if refused else Outcome.AWAY,
        error=said,
        retry_after=retry_after,
        perhaps_the_event=status in _DEFECTS and retry_after is None,
    )


def _retry_after(text: str, now: datetime) -> timedelta | None:
    """Returns what a Retry-After header says: seconds, or a time."""
    if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        return timedelta(seconds=min(int(text), _LONGEST_RETRY_AFTER))
    try:
        seconds = (email.utils.parsedate_to_datetime(text) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return timedelta(seconds=min(math.ceil(seconds), _LONGEST_RETRY_AFTER)) if seconds > 0 else None


def _why(error: BaseException) -> str:
    """Returns what may be told of a target that is away."""
    match error:
        case ssl.SSLCertVerificationError():
            why = (
                f"the target's certificate is not trusted: {shown(error.verify_message)}; name the roots that vouch"
                " for it as the subscription's trusted_roots"
            )
        case ssl.SSLError():
            why = f"TLS with the target fails: {shown(error.reason or 'no reason is given')}"
        case TimeoutError():
            why = "the target does not answer in time"
        case socket.gaierror():
            why = "the target's name has no address"
        case OSError():
            why = f"the target cannot be reached: {shown(error.strerror or str(error))}"
        case http.client.HTTPException():
            why = "the target does not speak HTTP/1.1, or ends the connection before it has answered"
        case _:
            why = "the target's URL or its trusted_roots are not what they must be"
    return why
