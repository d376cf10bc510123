"""The pinned roots of the system: which authorities may say who a consumer is.

The file belongs to the token process, not to the daemon: where each has a user of its own, code in the daemon cannot
add a root. So it is refused when anybody else could have written it.
"""

import os
import stat
from pathlib import Path

from certd.errors import CertdError, Reason
from certd.pki.consumer_certificate import PinnedRoot, parse_roots
from certd.pki.encoding import LONGEST_CHAIN

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class SystemRoots:
    """Reads the file when it is needed, and again when it has changed. For one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known_as: tuple[int, ...] = ()
        self._roots: tuple[PinnedRoot, ...] = ()

    def get(self) -> tuple[PinnedRoot, ...]:
        """Returns the roots; LEASE_REFUSED, with the remedy, when the file is not there or not as it must be."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                self._check_written_by(status)
                # Its size and times do not tell one file from another that was put in its place.
                known_as = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                if known_as != self._known_as:
                    self._roots = parse_roots(file.read(LONGEST_CHAIN + 1), field="token.system_roots")
                    self._known_as = known_as
        except FileNotFoundError as error:
            remedy = "write the root of the system to it with: certd token trust-root ROOT.pem"
            raise self._refuse("does not exist", remedy) from error
        except OSError as error:
            remedy = "make it a file that the token process's user may read"
            raise self._refuse(f"cannot be read ({error.strerror})", remedy) from error
        except CertdError as error:
            if error.reason is Reason.LEASE_REFUSED:
                raise
            raise self._refuse(error.violations[0].description, "remove what is no root of the system") from error
        return self._roots

    def _check_written_by(self, status: os.stat_result) -> None:
        """Refuses what somebody else than the token process's user and root could have written, or put there."""
        if not stat.S_ISREG(status.st_mode):
            raise self._refuse("is not a regular file", "write the root of the system to a file")
        folder = self._path.parent
        for found, path, what in ((status, self._path, ""), (folder.stat(), folder, "lies in a folder that ")):
            if found.st_uid not in {0, os.geteuid()}:
                raise self._refuse(f"{what}belongs to another user", f"run chown {os.geteuid()} {path}")
            if found.st_mode & _WRITABLE_BY_OTHERS:
                raise self._refuse(f"{what}may be written by others than its owner", f"run chmod go-w {path}")

    def _refuse(self, finding: str, remedy: str) -> CertdError:
        message = f"The token process refuses the lease: the file of pinned roots {self._path} {finding}; {remedy}."
        return CertdError(Reason.LEASE_REFUSED, message)
