"""Ways to ask prepare processes, and to wait for what they answer."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from cryptography.x509 import DNSName

from certd.errors import CertdError
from certd.pki.certificate_request import Validity
from certd.pki.profiles import END_ENTITY, Profile
from certd.prepare.client import Preparer
from certd.prepare.messages import Answer, Described, Wanted
from certd.prepare.order import Csr, Item, Terms
from tests.unit.memory_authority import NOW, SERIAL, MemoryAuthority, csr, der_of

EVERYTHING = Wanted(lint_certificates=True, descriptions=True)
START_SECONDS = 60.0


class Heard:
    """Remembers what becomes of a call."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._answers: Sequence[Answer] = ()
        self.times = 0

    def __call__(self, answers: Sequence[Answer]) -> None:
        self.times += 1
        self._answers = answers
        self._done.set()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def answers(self, timeout: float = 30) -> list[Answer]:
        """Waits for the answers."""
        assert self._done.wait(timeout), "nothing was answered"
        return list(self._answers)


def ask(preparer: Preparer, terms: Terms, items: Sequence[Item], *, wanted: Wanted = EVERYTHING) -> list[Answer]:
    heard = Heard()
    preparer.submit(terms, items, heard, wanted=wanted)
    return heard.answers()


def terms_of(authority: MemoryAuthority, profile: Profile = END_ENTITY) -> Terms:
    return Terms(issuer=authority.issuer, profile=profile)


def item(data: bytes | None = None, *, serial: int = SERIAL, lifetime: timedelta | None = None) -> Item:
    """Returns an item of a CSR; one of a new key that may have a certificate unless told otherwise."""
    if data is None:
        data = good_csr()
    return Item(serial=serial, source=Csr(data=data), validity=Validity(lifetime=lifetime), now=NOW)


def good_csr(name: str = "www.example.internal") -> bytes:
    return der_of(csr(san=[DNSName(name)]))


def told(answer: Answer) -> CertdError:
    assert isinstance(answer, CertdError), answer
    return answer


def made(answer: Answer) -> Described:
    assert isinstance(answer, Described), answer
    return answer


@contextmanager
def running_preparer(processes: int = 1, *arguments: str) -> Iterator[Preparer]:
    preparer = Preparer(processes, ("--log-level=info", *arguments))
    preparer.start()
    try:
        assert preparer.wait_settled(START_SECONDS), preparer.state
        yield preparer
    finally:
        preparer.stop()
