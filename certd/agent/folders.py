"""Files and folders, handled so that nobody else can lead a write elsewhere, and no crash leaves half of one.

Folders are opened step by step and held by descriptors; below them nothing is followed. A symbolic link on the way to a
folder is followed only when it belongs to root or to who runs the agent.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from certd.agent.errors import AgentError

PRIVATE: Final = 0o700
PUBLIC: Final = 0o755
_MOST_LINKS: Final = 16
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_LONGEST: Final = 16 << 20


@contextmanager
def opened(path: Path, *, make: int | None = None) -> Iterator[int]:
    """Yields the descriptor of a folder; makes what is missing of it when `make` is a mode.

    Raises AgentError, also for a symbolic link of somebody else on the way, and FileNotFoundError when it is not there.
    """
    descriptor = _walk(path.absolute(), make)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_below(folder: int, name: str, *, make: int | None = None) -> Iterator[int]:
    """Yields the descriptor of a folder in a folder, which is no symbolic link; raises AgentError as `opened`."""
    descriptor = _step(folder, name, make)
    if descriptor is None:
        raise AgentError(f"{name} is a symbolic link where a folder of the agent must be; remove it")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_new(
    folder: int, name: str, content: bytes, *, mode: int = 0o600, user: int | None = None, group: int | None = None
) -> None:
    """Writes a file that must not exist, onto the disk.

    It is its owner's alone until it has the group that its mode is for. Raises AgentError.
    """
    try:
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if user is not None or group is not None:
                os.fchown(descriptor, -1 if user is None else user, -1 if group is None else group)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
    except OSError as error:
        raise _failed(name, "cannot be written", error) from error


def replace(folder: int, name: str, content: bytes, *, mode: int = 0o600) -> None:
    """Replaces a file in one step, onto the disk: whoever reads it gets the old one or the new one. AgentError."""
    partial = f".{name}.{secrets.token_hex(4)}"
    try:
        write_new(folder, partial, content, mode=mode)
        os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except OSError as error:
        raise _failed(name, "cannot be written", error) from error
    finally:
        with suppress(OSError):
            os.unlink(partial, dir_fd=folder)


def read(folder: int, name: str) -> tuple[bytes, os.stat_result] | None:
    """Returns the content of a file with its state; None when there is none, or something else has the name."""
    try:
        descriptor = os.open(name, _OLD_FILE, dir_fd=folder)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:
            return None
        raise _failed(name, "cannot be read", error) from error
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_size > _LONGEST:
            return None
        return file.read(_LONGEST), state


def names(folder: int) -> list[str]:
    """Returns what a folder has, in order."""
    return sorted(os.listdir(folder))


def remove(folder: int, name: str) -> None:
    """Removes what has the name, a folder with all that is in it; nothing is followed. Raises AgentError."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError as error:
        # Linux says EISDIR, POSIX says EPERM.
        if error.errno not in {errno.EISDIR, errno.EPERM}:
            raise _failed(name, "cannot be removed", error) from error
        with opened_below(folder, name) as below:
            for each in names(below):
                remove(below, each)
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as again:
            raise _failed(name, "cannot be removed", again) from again


def _walk(path: Path, make: int | None) -> int:
    names = list(reversed(path.parts[1:]))
    folder, links = os.open("/", _FOLDER), 0
    try:
        while names:
            name = names.pop()
            following = _step(folder, name, make)
            if following is None:
                links += 1
                target = Path(_own_link(folder, name, path, links))
                names.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))
                if not target.is_absolute():
                    continue
                following = os.open("/", _FOLDER)
            os.close(folder)
            folder = following
    except BaseException:
        os.close(folder)
        raise
    return folder


def _step(folder: int, name: str, make: int | None) -> int | None:
    """Returns the descriptor of a folder in a folder; None for a symbolic link."""
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if make is None:
            raise
    except OSError as error:
        # What O_DIRECTORY and O_NOFOLLOW say together of a symbolic link.
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                return None
            raise AgentError(f"{name} is no folder; remove it, or name another") from error
        raise _failed(name, "cannot be opened", error) from error
    try:
        return _made(folder, name, make)
    except OSError as error:
        raise _failed(name, "cannot be made", error) from error


def _made(folder: int, name: str, mode: int) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        return os.open(name, _FOLDER, dir_fd=folder)
    descriptor = os.open(name, _FOLDER, dir_fd=folder)
    try:
        # Not at once, for the mask of the process would take bits away; not by its name, which may be another's by now.
        if os.fstat(descriptor).st_uid == os.geteuid():
            os.fchmod(descriptor, mode)
        os.fsync(folder)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _own_link(folder: int, name: str, path: Path, links: int) -> str:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if found.st_uid not in {0, os.geteuid()}:
        raise AgentError(
            f"{path}: {name} on the way is a symbolic link of another user, who could lead it anywhere; name the folder"
            " itself"
        )
    if links > _MOST_LINKS:
        raise AgentError(f"{path}: there are too many symbolic links on the way")
    return os.readlink(name, dir_fd=folder)


def _failed(name: str, what: str, error: OSError) -> AgentError:
    return AgentError(f"{name} {what}: {(error.strerror or str(error)).lower()}")
