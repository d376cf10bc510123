"""The unix socket at which Envoys get private keys: nobody comes to it who is not to, not for a moment."""

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from certd.agent import folders
from certd.agent.config import Sds
from certd.agent.deployment import group_id, user_id
from certd.agent.errors import AgentError

_LONGEST_PATH: Final = 103 if sys.platform == "darwin" else 107
"""Bytes that the address of a unix socket holds."""


def bind(add_port: Callable[[str], object], listen: Sds) -> None:
    """Has a server of gRPC listen, by its `add_insecure_port`; raises AgentError."""
    path = listen.socket.absolute()
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise AgentError(f"{path}: the path of a socket has at most {_LONGEST_PATH} bytes; name a shorter one")
    user = -1 if listen.owner is None else user_id(listen.owner)
    group = -1 if listen.group is None else group_id(listen.group)
    _check_free(path)
    with (
        contextlib.suppress(OSError, AgentError),
        folders.opened(path.parent.parent) as above,
        # Often one in /run, which is gone with every start of the machine.
        folders.opened_below(above, path.parent.name, make=folders.PUBLIC),
    ):
        pass
    # For all threads, but never less strict than before.
    mask = os.umask(0o177)
    try:
        add_port(f"unix://{quote(str(path))}")
    except RuntimeError as error:
        raise AgentError(f"{path} cannot be made; see that its folder is there and may be written to") from error
    finally:
        os.umask(mask)
    try:
        _give(path, user=user, group=group, mode=listen.mode)
    except OSError as error:
        raise AgentError(f"{path} cannot be given to its owner: {(error.strerror or str(error)).lower()}") from error


def _give(path: Path, *, user: int, group: int, mode: int) -> None:
    """Gives a socket to its owner; who owns a folder on the way cannot have something else given."""
    if sys.platform != "linux":
        os.chown(path, user, group, follow_symlinks=False)
        path.lchmod(mode)
        return
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode) or (found.st_uid, found.st_nlink) != (os.geteuid(), 1):
            raise AgentError(f"{path} is something else than the socket that was made; see who else writes there")
        itself = Path(f"/proc/self/fd/{descriptor}")
        os.chown(itself, user, group)
        itself.chmod(mode)
    finally:
        os.close(descriptor)


def _check_free(path: Path) -> None:
    """Raises AgentError where something else is, or somebody listens. What a killed agent left is taken over."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise AgentError(f"{path} is there already, and no socket; remove it, or name another path")
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.settimeout(1.0)
        probe.connect(str(path))
        raise AgentError(f"somebody listens on {path} already: is another agent running?")
