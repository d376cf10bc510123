"""Readers of streams: each takes what comes on a thread of its own, as a client does."""

import threading
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

from certd.errors import CertdError
from certd.services.access import Access
from tests.waiting import eventually

T = TypeVar("T")


class CallBehind:
    """The call behind a stream: its caller is good until the test says otherwise, and there until it goes."""

    def __init__(self, access: Access | None = None, certificate: bytes = b"") -> None:
        self._access = access
        self._certificate = certificate
        self._told: list[Callable[[], None]] = []
        self._is_over = False

    def authenticate(self) -> None:
        if self._access is not None:
            self._access.authenticate(self._certificate)

    def is_open(self) -> bool:
        return not self._is_over

    def when_over(self, told: Callable[[], None]) -> None:
        self._told.append(told)
        if self._is_over:
            told()

    def go(self) -> None:
        """The client is gone."""
        self._is_over = True
        for told in self._told:
            told()


class Reader(Generic[T]):
    """Reads a stream to its end."""

    def __init__(self, answers: Iterator[T], behind: CallBehind) -> None:
        self._answers = answers
        self._behind = behind
        self._may_read = threading.Event()
        self._may_read.set()
        self.told: list[T] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def until(self, count: int) -> list[T]:
        """Waits for so many answers, and returns all there are."""
        eventually(lambda: len(self.told) >= count or not self._thread.is_alive())
        assert len(self.told) >= count, (self.told, self.error)
        return list(self.told)

    def hold(self) -> None:
        """Takes one more answer, and then none until `go_on`."""
        self._may_read.clear()

    def go_on(self) -> None:
        self._may_read.set()

    def ended(self, within: float = 20.0) -> BaseException | None:
        """Waits for the end, and returns what it was."""
        self.go_on()
        self._thread.join(within)
        assert not self._thread.is_alive(), self.told
        return self.error

    def refusal(self, within: float = 20.0) -> CertdError:
        error = self.ended(within)
        assert isinstance(error, CertdError), error
        return error

    def go(self) -> None:
        """Goes away, as a client does whose connection breaks."""
        self._behind.go()
        assert self.ended() is None

    def _read(self) -> None:
        try:
            for answer in self._answers:
                self.told.append(answer)
                self._may_read.wait()
        except BaseException as error:  # noqa: BLE001  # The test looks at it.
            self.error = error
        finally:
            # As grpc does with the generator of a stream that has ended.
            if isinstance(self._answers, Generator):
                self._answers.close()
