"""What a child does to itself before it holds anything worth stealing, or reads what a stranger sent."""

import ctypes
import os
import resource
import signal
import sys

from certd.errors import CertdError, Reason

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def harden(*, parent_process_id: int | None) -> None:
    """Makes the process leave no core dumps, files of its own alone, and die with its parent if it has one.

    Not dumpable also means that no other process of the same user may attach to it or read its memory. On macOS, which
    has neither, the end of file on the inherited socket is what tells of the parent's death.

    Args:
        parent_process_id: the process that spawned this one; None when it stands alone.

    Raises:
        CertdError: TOKEN_UNAVAILABLE when the parent is gone already, or the kernel refuses.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return
    _prctl(_PR_SET_DUMPABLE, 0)
    if parent_process_id is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The signal is not sent for a parent that died before it was asked for.
        if os.getppid() != parent_process_id:
            raise CertdError(Reason.TOKEN_UNAVAILABLE, "The process that started this one is gone already.")


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise CertdError(Reason.TOKEN_UNAVAILABLE, f"prctl option {option} was refused by the kernel: {reason}.")
