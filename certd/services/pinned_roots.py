"""The roots by which the token process knows consumers, in its file: kept by the daemon while both are one user's.

With a user of its own for the token process, the daemon must not be able to add a root, so the operator does.
"""

import logging
import threading
from pathlib import Path

from certd.errors import CertdError, Reason
from certd.services.system import SystemAuthority
from certd.token.client import Isolation, TokenClient
from certd.token.pinning import pin_roots

_log = logging.getLogger("certd.pinned-roots")


class PinnedRoots:
    """Writes the roots of the system that are trusted, no others.

    It looks after the file from `begin` on: a core without listeners pins when it is told to.
    """

    def __init__(self, file: Path, *, token: TokenClient, system_authority: SystemAuthority) -> None:
        self._file = file
        self._token = token
        self._system_authority = system_authority
        self._lock = threading.Lock()
        self._seen: tuple[bytes, ...] = ()
        self._problem = ""
        self._begun = False

    def begin(self) -> None:
        """Begins to look after the file, at once."""
        self._begun = True
        self.look()

    def pin(self) -> bool | None:
        """Writes what is missing; returns whether that was anything, and None when the file is another user's to write.

        Raises STATE_FORBIDS before `certd init`, TOKEN_UNAVAILABLE while nobody knows whose the token process is, and
        FIELD_INVALID when the file cannot be written.
        """
        roots = self._system_authority.roots()
        isolation = self._token.isolation()
        if isolation is None:
            raise CertdError(Reason.TOKEN_UNAVAILABLE, f"the token process does not answer: {self._token.problem}")
        if isolation is Isolation.SEPARATE_USER:
            return None
        try:
            with self._lock:
                return pin_roots(self._file, roots)
        except OSError as error:
            raise CertdError(
                Reason.FIELD_INVALID,
                f"token.system_roots: {self._file} cannot be written ({error.strerror}), and whom another root vouches "
                "for leases nothing: let the daemon's user write its folder",
            ) from error

    def look(self) -> None:
        """Looks whether anything is missing; to be called every few seconds."""
        if not self._begun or self._system_authority.find() is None or self._token.isolation() is None:
            return
        try:
            pinned = self.pin()
        except CertdError as error:
            if error.message != self._problem:
                _log.error("the file of pinned roots is not as it should be: %s", error)
            self._problem = error.message
            return
        self._problem = ""
        if pinned:
            _log.warning("wrote the roots of the system to %s", self._file)
        roots = self._system_authority.roots()
        if pinned is None and len(roots) > 1 and roots != self._seen:
            _log.warning(
                "a system authority follows another: unless it is done, let the token process trust its root too, "
                "as its user or as root: certd token trust-root"
            )
        self._seen = roots
