"""The lock that every program of certd on a host takes around login and key generation.

Modules whose processes initialise and log in at the same moment fail now and then (SoftHSM: about one in three), and
two processes that look for a key before they make it would make it twice.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from certd.errors import CertdError, Reason

_PATIENCE = 30.0
_PAUSE = 0.005


@contextmanager
def held(path: Path, *, patience: float = _PATIENCE) -> Iterator[None]:
    """Holds the lock for the length of a `with`, waiting at most `patience` seconds for it.

    TOKEN_UNAVAILABLE when it cannot be opened, or another program holds it for too long.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        message = f"The lock file {path} cannot be opened: {error.strerror}. Make its directory writable for this user."
        raise CertdError(Reason.TOKEN_UNAVAILABLE, message) from error
    try:
        _wait(descriptor, path, patience)
        yield
    finally:
        # Closing releases the lock. The file stays: removing it would let a third program lock another one.
        os.close(descriptor)


def _wait(descriptor: int, path: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < end:
                time.sleep(_PAUSE)
                continue
            message = f"Another program has held {path} for {patience:.0f} s. End it (fuser shows it)."
            raise CertdError(Reason.TOKEN_UNAVAILABLE, message) from None
        return
