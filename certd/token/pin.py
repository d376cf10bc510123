"""The PIN file: how it must lie there, and the memory of one that the token refused.

Tokens lock after a few wrong PINs, some for ever. So a PIN that was refused is never tried a second time, also not by
the next start of the process, until its file changes. What is remembered is the identity of the file, never its
content: a hash of a PIN is as good as the PIN.
"""

import contextlib
import json
import logging
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from certd.errors import CertdError, Reason

_logger = logging.getLogger(__name__)

_LONGEST_PIN = 256


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The identity of a file at a moment."""

    inode: int
    mtime_ns: int
    size: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A PIN file whose PIN the token refused."""

    inode: int
    mtime_ns: int
    size: int
    code: str
    """CKR name of the answer."""

    def is_of(self, fingerprint: Fingerprint) -> bool:
        """Returns whether the file is still the same."""
        return fingerprint == Fingerprint(self.inode, self.mtime_ns, self.size)


@dataclass(frozen=True, slots=True)
class Pin:
    """A PIN and the file it came from."""

    value: bytearray
    fingerprint: Fingerprint

    def text(self) -> str:
        """Returns the PIN as the module's binding wants it."""
        return self.value.decode()

    def __repr__(self) -> str:
        return "Pin(…)"


def wipe(secret: bytearray) -> None:
    """Overwrites a secret. Copies that libraries made on the way are out of reach."""
    secret[:] = bytes(len(secret))


def read_pin(path: Path) -> Pin:
    """Reads a PIN; one trailing newline is dropped.

    TOKEN_UNAVAILABLE, with the remedy, when there is no such file, when others than its owner can read it, when it is
    not ours, or when it holds no PIN.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _refuse(path, f"cannot be opened: {error.strerror}", "Write the token's PIN to it, mode 0600") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _refuse(path, "is not a regular file", "Write the token's PIN to a file, mode 0600")
        if status.st_uid != os.geteuid():
            raise _refuse(path, "belongs to another user", f"Run chown {os.geteuid()} on it")
        if stat.S_IMODE(status.st_mode) not in {0o600, 0o400}:
            raise _refuse(path, f"has mode {stat.S_IMODE(status.st_mode):04o}", "Run chmod 600 on it")
        value = bytearray(os.read(descriptor, _LONGEST_PIN + 1))
    finally:
        os.close(descriptor)
    if value.endswith(b"\n"):
        del value[-1:]
    if not 0 < len(value) < _LONGEST_PIN:
        raise _refuse(path, f"must hold 1 to {_LONGEST_PIN - 1} bytes", "Write the token's PIN to it, and nothing else")
    try:
        value.decode()
    except UnicodeDecodeError:
        raise _refuse(path, "is not UTF-8", "Write the token's PIN to it, and nothing else") from None
    return Pin(value, _fingerprint(status))


def recall_refusal(marker: Path) -> Refusal | None:
    """Returns which PIN file the token refused last, if any."""
    try:
        return Refusal(**json.loads(marker.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def remember_refusal(marker: Path, refusal: Refusal) -> None:
    """Remembers a refusal across restarts; raises OSError when it cannot be written."""
    unfinished = marker.with_name(f"{marker.name}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump(asdict(refusal), file)
        file.flush()
        os.fsync(descriptor)
    unfinished.replace(marker)


def forget_refusal(marker: Path) -> None:
    """Forgets a refusal, after a login that succeeded."""
    with contextlib.suppress(OSError):
        marker.unlink(missing_ok=True)


class RefusedPins:
    """Which PIN file the token refused last: across restarts, and in memory where the marker cannot be written."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker
        self._last: Refusal | None = None

    def code_of(self, pin: Pin) -> str | None:
        """Returns the CKR name of the answer when it was this file, as it is now; else None."""
        for refusal in (self._last, recall_refusal(self._marker)):
            if refusal is not None and refusal.is_of(pin.fingerprint):
                return refusal.code
        return None

    def remember(self, pin: Pin, code: str) -> None:
        """Remembers it."""
        self._last = Refusal(**asdict(pin.fingerprint), code=code)
        try:
            remember_refusal(self._marker, self._last)
        except OSError:
            _logger.exception("%s cannot be written", self._marker)

    def forget(self) -> None:
        """Forgets it, after a login that succeeded."""
        forget_refusal(self._marker)


def _fingerprint(status: os.stat_result) -> Fingerprint:
    return Fingerprint(status.st_ino, status.st_mtime_ns, status.st_size)


def _refuse(path: Path, finding: str, remedy: str) -> CertdError:
    return CertdError(Reason.TOKEN_UNAVAILABLE, f"The PIN file {path} {finding}. {remedy}.")
