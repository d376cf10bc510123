"""The call in progress: who calls, and how long they will wait."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from certd.errors import CertdError, Reason
from certd.model.access import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that passed the interceptor."""

    caller: Caller
    timeout: float
    """Seconds that are left for the answer."""


Methods = Mapping[str, Callable[[Any, Call], Message]]
"""The functions that answer the methods of a service, by the name of the method in the proto."""

_CURRENT: ContextVar[Call | None] = ContextVar("certd-api-call", default=None)


def current_call() -> Call:
    """Returns the call of this thread; raises PERMISSION_MISSING when nobody was told to make one."""
    call = _CURRENT.get()
    if call is None:
        raise CertdError(Reason.PERMISSION_MISSING, "the method does not know its caller, so it answers nobody")
    return call


@contextlib.contextmanager
def making(call: Call | None) -> Iterator[None]:
    """Makes `call` the one of this thread; None for a method that is open to all."""
    token = _CURRENT.set(call)
    try:
        yield
    finally:
        _CURRENT.reset(token)
