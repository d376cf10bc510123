"""The lock that keeps a second daemon off a SQLite file."""

import fcntl
import os
from pathlib import Path

from certd.errors import CertdError, Reason


class FileLock:
    """Holds `FILE.lock` until it is released or the process ends.

    Raises STORE_UNAVAILABLE when another program holds it, or when the file cannot be made.
    """

    def __init__(self, database: Path) -> None:
        path = database.with_name(database.name + ".lock")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CertdError(
                Reason.STORE_UNAVAILABLE,
                f"{path} cannot be opened ({error.strerror}): make its directory and let the daemon's user write there",
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise CertdError(
                Reason.STORE_UNAVAILABLE,
                f"another certd uses {database}: a SQLite file serves one daemon. Stop that one first, or give this "
                "one a database of its own; several daemons share one PostgreSQL",
            ) from None

    def release(self) -> None:
        """Lets others have the file."""
        os.close(self._descriptor)
