"""What an operation hands on to another thread when it has done its own part."""

from collections.abc import Callable
from dataclasses import dataclass

from certd.internal import token_pb2 as messages


@dataclass(frozen=True, slots=True)
class InModule:
    """The rest of an operation, for the thread of the module."""

    work: Callable[[], messages.TokenResponse]


@dataclass(frozen=True, slots=True)
class InHelper:
    """The rest of an operation, for a thread that never touches the module."""

    work: Callable[[], messages.TokenResponse | InModule]
