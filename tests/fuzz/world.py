"""What the callers know of the server: names, tokens and tags that answers held, and requests that were sent."""

import random
import threading
from collections import deque
from dataclasses import dataclass, field

from google.protobuf.message import Message

from certd.v1 import authority_pb2, certificate_pb2, certificate_service_pb2, profile_pb2

TENANT = "tenants/default"
ISSUERS = ("fuzz-root", "fuzz-ec", "fuzz-rsa", "fuzz-ed", "fuzz-bound")
"""Authorities that issue all the time."""
AWAITING = ("fuzz-awaiting-1", "fuzz-awaiting-2", "fuzz-awaiting-3", "fuzz-awaiting-4")
"""Several: each can be activated once, and now and then one is."""
SPARE = "fuzz-spare"
"""An authority that may be disabled."""
BUILT_IN = ("server", "server", "client", "blank", "blank", "email", "code-signing", "subordinate-ca", "ocsp-signing")
_REMEMBERED = 400


def authority_name(authority_id: str) -> str:
    return f"{TENANT}/authorities/{authority_id}"


def profile_name(profile_id: str) -> str:
    return f"{TENANT}/profiles/{profile_id}"


def _queue() -> deque[str]:
    return deque(maxlen=_REMEMBERED)


@dataclass(slots=True)
class World:
    """Shared by all callers."""

    awaiting_csrs: dict[str, bytes]
    """DER of what the authorities that wait ask for, by their ids."""
    certificates: deque[str] = field(default_factory=_queue)
    """Names of certificates that may be revoked for any reason."""
    profiles: deque[str] = field(default_factory=_queue)
    etags: deque[str] = field(default_factory=_queue)
    page_tokens: deque[str] = field(default_factory=_queue)
    request_ids: deque[str] = field(default_factory=_queue)
    sent: deque[tuple[str, bytes]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """Requests with a request id, as they were sent: method and message."""
    answered: dict[str, bytes] = field(default_factory=dict)
    """Certificates that were answered, by name."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def learn(self, answer: Message, *, revocable: bool) -> None:
        """Takes from an answer what later requests may name."""
        token = str(getattr(answer, "next_page_token", ""))
        if token:
            self.page_tokens.append(token)
        match answer:
            case certificate_pb2.Certificate():
                self._certificate(answer, revocable=revocable)
            case certificate_service_pb2.BatchIssueCertificatesResponse():
                for result in answer.results:
                    if result.HasField("certificate"):
                        self._certificate(result.certificate, revocable=False)
            case profile_pb2.Profile():
                self.etags.append(answer.etag)
                if answer.name and not answer.built_in:
                    self.profiles.append(answer.name)
            case authority_pb2.Authority():
                self.etags.append(answer.etag)

    def forget(self, profile: str) -> None:
        """Takes a profile that was deleted out of what is known."""
        with self.lock:
            self.profiles = deque((one for one in list(self.profiles) if one != profile), maxlen=_REMEMBERED)

    def _certificate(self, certificate: certificate_pb2.Certificate, *, revocable: bool) -> None:
        if not certificate.name or not certificate.certificate.der:
            return
        with self.lock:
            self.answered[certificate.name] = certificate.certificate.der
        if revocable:
            self.certificates.append(certificate.name)

    @staticmethod
    def pick(draw: random.Random, known: "deque[str]", otherwise: str) -> str:
        """Returns one of what is known."""
        # Others append meanwhile, and put shorter queues in place of this one; an index into it stays good.
        return known[draw.randrange(len(known))] if known else otherwise
