"""Answers of OCSP that are kept in memory, ready to be sent, as many as fit into a number of bytes."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from certd.store.transaction import AnswerKey

LARGEST: Final = 64 * 1024 * 1024
"""Bytes of all that is kept."""
_OVERHEAD: Final = 700
"""Bytes that Python takes for one answer and for the places where it is found."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, ready to be sent."""

    front: bytes
    """The OCSPResponse up to the certificate of the responder."""
    back: bytes = b""
    """That certificate in its headers: shared by all answers of a responder."""
    this_update: datetime | None = None
    next_update: datetime | None = None
    """Until then it may be kept and repeated; None: not at all."""
    entity_tag: str = ""
    """Of one that may be kept, as HTTP writes it: other bytes have another."""

    @property
    def body(self) -> bytes:
        """The OCSPResponse."""
        return self.front + self.back


class AnswerMemory:
    """Answers by what was asked: the bytes that a listener has received.

    Args:
        largest: bytes of all of them. Those that came first go first.
    """

    def __init__(self, largest: int = LARGEST) -> None:
        self._largest = largest
        self._lock = threading.Lock()
        self._answers: dict[bytes, Answer] = {}
        self._of_serial: dict[str, list[bytes]] = {}
        self._serials: dict[bytes, str] = {}
        self.size = 0
        """Bytes that are kept, about."""
        self.version = 0
        """Grows whenever an answer has become wrong."""

    def get(self, asked: bytes) -> Answer | None:
        """Returns the answer, which may have ended; None when none is kept."""
        return self._answers.get(asked)

    def put(self, asked: bytes, serial: str, answer: Answer, *, version: int) -> None:
        """Keeps an answer, unless any has become wrong since.

        Args:
            asked: by what it is found.
            serial: of the certificate that it is about.
            answer: the answer.
            version: as it was before the books were asked about the certificate.
        """
        with self._lock:
            if version != self.version:
                return
            self._drop([asked])
            self._answers[asked] = answer
            self._serials[asked] = serial
            self._of_serial.setdefault(serial, []).append(asked)
            self.size += _size(asked, answer)
            while self.size > self._largest:
                self._drop([next(iter(self._answers))])

    def forget(self, key: AnswerKey) -> None:
        """Drops what is kept about a certificate, whoever issued it."""
        self.forget_serials([key[2]])

    def forget_serials(self, serials: Iterable[str]) -> None:
        """Drops what is kept about certificates with these serials."""
        with self._lock:
            self.version += 1
            for serial in serials:
                self._drop(list(self._of_serial.get(serial, ())))

    def clear(self) -> None:
        """Drops everything."""
        with self._lock:
            self.version += 1
            self._drop(list(self._answers))

    def _drop(self, several: list[bytes]) -> None:
        for asked in several:
            answer = self._answers.pop(asked, None)
            if answer is None:
                continue
            serial = self._serials.pop(asked)
            others = self._of_serial[serial]
            others.remove(asked)
            if not others:
                del self._of_serial[serial]
            self.size -= _size(asked, answer)


def _size(asked: bytes, answer: Answer) -> int:
    return len(asked) + len(answer.front) + _OVERHEAD
