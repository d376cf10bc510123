"""The call in progress: who calls, and how long they will wait."""

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from certd.api.streams import OpenStream
from certd.errors import CertdError, Reason
from certd.model.access import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that passed the interceptor."""

    caller: Caller
    timeout: float
    """Seconds that are left for the answer; of a stream for nothing, which ends with its deadline by itself."""
    stream: OpenStream | None = None
    """What a method that streams its answers needs to know of its call."""

    @property
    def open_stream(self) -> OpenStream:
        """The stream of a method that has one."""
        if self.stream is None:
            raise TypeError("the method has one answer, and no stream")
        return self.stream


Methods = Mapping[str, Callable[[Any, Call], Message | Iterator[Message]]]
"""The functions that answer the methods of a service, by the name of the method in the proto."""

_CURRENT: ContextVar[Call | None] = ContextVar("certd-api-call", default=None)


def current_call() -> Call:
    """Returns the call of this thread; raises PERMISSION_MISSING when nobody was told to make one."""
    call = _CURRENT.get()
    if call is None:
        raise CertdError(Reason.PERMISSION_MISSING, "the method does not know its caller, so it answers nobody")
    return call


class making:  # noqa: N801  # Reads as a function.
    """Makes `call` the one of this thread; None for a method that is open to all."""

    __slots__ = ("_call", "_token")

    def __init__(self, call: Call | None) -> None:
        self._call = call
        self._token: Token[Call | None] | None = None

    def __enter__(self) -> None:
        self._token = _CURRENT.set(self._call)

    def __exit__(self, *_raised: object) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)
