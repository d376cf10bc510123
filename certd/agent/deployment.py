"""The files that programs read: a folder for each version, whole before anything points to it, and a link to one.

    directory/
      current -> versions/12        what programs read: current/fullchain.pem
      versions/11  versions/12      the one before stays, for the way back

In order: the new folder is written under another name, put on the disk, and renamed; then the link is replaced. A crash
in between leaves the old version or the new one, and what else it leaves is removed by the next `prune`.
"""

import grp
import hashlib
import json
import os
import pwd
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from certd.agent import folders, formats
from certd.agent.bundle import Bundle
from certd.agent.config import File
from certd.agent.errors import AgentError

CURRENT: Final = "current"
VERSIONS: Final = "versions"
_MANIFEST: Final = ".certd.json"
_UNFINISHED: Final = ".new-"
_OWN: Final = re.compile(r"[0-9]+(-[0-9]+)?")
_NEW_LINK: Final = ".current.new"

Step = Callable[[str], None]
"""Told between steps; tests stop the world there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file as it was written."""

    sha256: str
    format: str
    mode: int
    user: int
    group: int
    passphrase: str
    """Which state of the passphrase file it was made with; empty without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What stands in a version's folder, for the agent itself."""

    version: int
    certificate_sha256: str
    files: dict[str, Written]


class Deployment:
    """The folder of one certificate.

    Args:
        directory: the folder; made when it is not there.
        files: what is to stand in it.
        step: told between steps.
    """

    def __init__(self, directory: Path, files: tuple[File, ...], *, step: Step = lambda _: None) -> None:
        self._directory = directory
        self._files = files
        self._step = step

    def current(self) -> str | None:
        """Returns which folder of `versions` is current; None for none, or a link to somewhere else."""
        try:
            with folders.opened(self._directory) as top:
                return _current(top)
        except FileNotFoundError:
            return None

    def version(self, name: str) -> int:
        """Returns which version a folder of `versions` is of; 0 when it is none."""
        try:
            with folders.opened(self._directory) as top, folders.opened_below(top, VERSIONS) as versions:
                found = _manifest_below(versions, name)
        except FileNotFoundError:
            return 0
        return 0 if found is None else found.version

    def is_intact(self, name: str, bundle: Bundle) -> bool:
        """Returns whether a folder has just what is to stand in it for a bundle, untouched."""
        try:
            with (
                folders.opened(self._directory) as top,
                folders.opened_below(top, VERSIONS) as versions,
                folders.opened_below(versions, name) as folder,
            ):
                return self._is_intact(folder, bundle)
        except FileNotFoundError:
            return False

    def write(self, bundle: Bundle) -> str:
        """Writes a folder for a bundle, unless there is one, untouched; returns its name. Raises AgentError."""
        contents = {file.path: formats.content(bundle, file) for file in self._files}
        with (
            folders.opened(self._directory, make=folders.PUBLIC) as top,
            folders.opened_below(top, VERSIONS, make=folders.PUBLIC) as versions,
        ):
            intact = self._intact_name(versions, bundle)
            if intact:
                return intact
            name = _free_name(versions, bundle.version)
            unfinished = f"{_UNFINISHED}{name}"
            folders.remove(versions, unfinished)
            self._step("write.1.begun")
            with folders.opened_below(versions, unfinished, make=folders.PRIVATE) as folder:
                for file in self._files:
                    user, group = _ids(file)
                    folders.write_new(folder, file.path, contents[file.path], mode=file.mode, user=user, group=group)
                    self._step("write.2.file")
                manifest = self._manifest(folder, bundle)
                folders.write_new(folder, _MANIFEST, json.dumps(asdict(manifest), sort_keys=True).encode())
                os.fchmod(folder, folders.PUBLIC)
                os.fsync(folder)
            self._step("write.3.whole")
            os.rename(unfinished, name, src_dir_fd=versions, dst_dir_fd=versions)
            os.fsync(versions)
        self._step("write.4.named")
        return name

    def flip(self, name: str | None) -> None:
        """Makes a folder of `versions` the current one, in one step. Raises AgentError, also when it is None."""
        if name is None:
            raise AgentError(f"{self._directory} has no files of the version any more")
        with folders.opened(self._directory) as top:
            _refuse_folder(top)
            with suppress(FileNotFoundError):
                os.unlink(_NEW_LINK, dir_fd=top)
            try:
                os.symlink(f"{VERSIONS}/{name}", _NEW_LINK, dir_fd=top)
                self._step("flip.1.made")
                os.rename(_NEW_LINK, CURRENT, src_dir_fd=top, dst_dir_fd=top)
                os.fsync(top)
            except OSError as error:
                raise AgentError(f"{self._directory / CURRENT} cannot be replaced: {error.strerror}") from error
        self._step("flip.2.current")

    def prune(self, *, keep: tuple[str | None, ...]) -> None:
        """Removes the folders of all versions but some, and what crashes left. Never the current one."""
        try:
            with folders.opened(self._directory) as top, folders.opened_below(top, VERSIONS) as versions:
                kept = {*keep, _current(top)}
                for name in folders.names(versions):
                    if name not in kept and (name.startswith(_UNFINISHED) or _OWN.fullmatch(name)):
                        folders.remove(versions, name)
                folders.remove(top, _NEW_LINK)
        except FileNotFoundError:
            return

    def folder_of(self, version: int, certificate_sha256: str = "") -> str | None:
        """Returns the newest folder of a version, with a certificate, or any; None when there is none."""
        try:
            with folders.opened(self._directory) as top, folders.opened_below(top, VERSIONS) as versions:
                found = [name for name in folders.names(versions) if _is_of(name, version)]
                manifests = {name: _manifest_below(versions, name) for name in found}
        except FileNotFoundError:
            return None
        wanted = (
            name
            for name, manifest in manifests.items()
            if manifest is not None and certificate_sha256 in {"", manifest.certificate_sha256}
        )
        return max(wanted, key=_number, default=None)

    def _intact_name(self, versions: int, bundle: Bundle) -> str:
        """Returns the newest folder that is as it must be for a bundle; empty when none is."""
        names = sorted((name for name in folders.names(versions) if _is_of(name, bundle.version)), key=_number)
        for name in reversed(names):
            with folders.opened_below(versions, name) as folder:
                if self._is_intact(folder, bundle):
                    return name
        return ""

    def _is_intact(self, folder: int, bundle: Bundle) -> bool:
        found = _manifest(folder)
        wanted = (bundle.version, bundle.certificate_sha256.hex(), {file.path for file in self._files})
        if found is None or (found.version, found.certificate_sha256, set(found.files)) != wanted:
            return False
        for file in self._files:
            written, there = found.files[file.path], folders.read(folder, file.path)
            user, group = _ids(file)
            if there is None:
                return False
            content, state = there
            actual = Written(
                sha256=hashlib.sha256(content).hexdigest(),
                format=file.format,
                mode=stat.S_IMODE(state.st_mode),
                user=state.st_uid,
                group=state.st_gid,
                passphrase=_passphrase_state(file),
            )
            if actual != written or actual.mode != file.mode:
                return False
            if (user is not None and user != actual.user) or (group is not None and group != actual.group):
                return False
        return True

    def _manifest(self, folder: int, bundle: Bundle) -> Manifest:
        files = {}
        for file in self._files:
            there = folders.read(folder, file.path)
            if there is None:
                raise AgentError(f"{file.path} is gone as soon as it was written; see who else writes there")
            content, state = there
            files[file.path] = Written(
                sha256=hashlib.sha256(content).hexdigest(),
                format=file.format,
                mode=stat.S_IMODE(state.st_mode),
                user=state.st_uid,
                group=state.st_gid,
                passphrase=_passphrase_state(file),
            )
        return Manifest(version=bundle.version, certificate_sha256=bundle.certificate_sha256.hex(), files=files)


def user_id(name: str) -> int:
    """Returns the number of a user; raises AgentError when there is none."""
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise AgentError(f"there is no user {name}") from error


def group_id(name: str) -> int:
    """Returns the number of a group; raises AgentError when there is none."""
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise AgentError(f"there is no group {name}") from error


def _ids(file: File) -> tuple[int | None, int | None]:
    user = None if file.owner is None else user_id(file.owner)
    return user, None if file.group is None else group_id(file.group)


def _passphrase_state(file: File) -> str:
    """Returns what changes with the passphrase, without telling anything of it."""
    if file.passphrase_file is None:
        return ""
    try:
        found = file.passphrase_file.stat()
    except OSError:
        return "gone"
    return f"{found.st_mtime_ns} {found.st_size}"


def _current(top: int) -> str | None:
    try:
        folder, _, name = os.readlink(CURRENT, dir_fd=top).partition("/")
    except OSError:
        return None
    return name if folder == VERSIONS and name and "/" not in name else None


def _refuse_folder(top: int) -> None:
    """Raises AgentError when something else than a link is in the place of the link."""
    with suppress(FileNotFoundError):
        if not stat.S_ISLNK(os.stat(CURRENT, dir_fd=top, follow_symlinks=False).st_mode):
            raise AgentError(f"{CURRENT} is no symbolic link, which the agent makes of it; move it away")


def _is_of(name: str, version: int) -> bool:
    return name == str(version) or name.startswith(f"{version}-")


def _number(name: str) -> int:
    number = name.partition("-")[2]
    return int(number) if number.isdecimal() else 0


def _free_name(versions: int, version: int) -> str:
    """Returns a name that no folder has."""
    names = {name for name in folders.names(versions) if _is_of(name, version)}
    if not names:
        return str(version)
    return f"{version}-{max(map(_number, names)) + 1}"


def _manifest_below(versions: int, name: str) -> Manifest | None:
    try:
        with folders.opened_below(versions, name) as folder:
            return _manifest(folder)
    except (FileNotFoundError, AgentError):
        return None


def _manifest(folder: int) -> Manifest | None:
    found = folders.read(folder, _MANIFEST)
    if found is None:
        return None
    try:
        values: dict[str, Any] = json.loads(found[0])
        files = {name: Written(**written) for name, written in values["files"].items()}
        return Manifest(version=values["version"], certificate_sha256=values["certificate_sha256"], files=files)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
