"""Users that have no name on the machine, and a server whose files belong to two of them.

Their files lie outside of pytest's folder, which only its own user may enter.
"""

import contextlib
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon import Installation

TOKEN_USER, DAEMON_USER, STRANGER = 61001, 61002, 61003
START_SECONDS = 60.0

as_other_users = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0,
    reason="becoming other users takes root, and reading /proc takes Linux",
)
REPOSITORY = Path(__file__).parent.parent.parent


def _open_to_all(path: Path) -> bool:
    """Whether every user may enter a folder."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter with everything that certd needs, for every user."""

    executable: Path
    libraries: Path
    """An interpreter that was built as a library finds that there, not where it once lay."""

    def run(self, user: int, program: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """Runs a program as a user, to its end."""
        return subprocess.run(
            [str(self.executable), "-c", program, *map(str, arguments)],
            env=self.environment(),
            user=user,
            group=user,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, user: int, log: Path, *arguments: str | Path) -> "subprocess.Popen[str]":
        """Starts `certd` as a user."""
        program = "import sys; sys.argv[0] = 'certd'; from certd.cli.server import main; main()"
        with log.open("a") as errors:
            return subprocess.Popen(
                [str(self.executable), "-c", program, *map(str, arguments)],
                env=self.environment(),
                user=user,
                group=user,
                extra_groups=[],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "HOME": "/nonexistent",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LD_LIBRARY_PATH": str(self.libraries),
        }


@pytest.fixture(scope="module")
def public_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="certd-users-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        # Never through a mount that would not go away.
        assert str(folder) not in Path("/proc/self/mounts").read_text()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def python(public_folder: Path) -> Iterator[Python]:
    """Shows interpreter, packages and repository where every user may enter, when they lie where only root may."""
    with contextlib.ExitStack() as mounted:

        def shown(path: Path, name: str) -> Path:
            if _open_to_all(path):
                return path
            place = public_folder / name
            place.mkdir()
            bound = subprocess.run(
                ["mount", "--bind", "-o", "ro", str(path), str(place)], capture_output=True, text=True, check=False
            )
            if bound.returncode != 0:
                pytest.skip(f"{path} is closed to other users and cannot be mounted elsewhere: {bound.stderr.strip()}")
            mounted.callback(subprocess.run, ["umount", "--lazy", str(place)], check=True)
            return place

        base = Path(sys.base_prefix)
        binary = Path(os.path.realpath(sys.executable)).relative_to(base)
        packages = [shown(Path(path), f"packages-{n}") for n, path in enumerate(site.getsitepackages())]
        search_path = [shown(REPOSITORY, "repository"), *packages]
        shown_base = shown(base, "python")
        yield Python(_environment(public_folder / "environment", shown_base / binary, search_path), shown_base / "lib")


def _environment(folder: Path, interpreter: Path, search_path: list[Path]) -> Path:
    """Makes a virtual environment of what is elsewhere, and returns its interpreter.

    The environment's variables would not do: children of certd run isolated from them.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (packages / "shown.pth").write_text("".join(f"{path}\n" for path in search_path))
    (folder / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\n")
    executable = folder / "bin" / "python"
    executable.parent.mkdir()
    executable.symlink_to(interpreter)
    return executable


def give(folder: Path, user: int) -> None:
    """Makes a user the owner of a folder and of all in it, and closes it to everybody else."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)
        path.chmod(0o700 if path.is_dir() else 0o600)


def separate(made: Installation, keys: Path, socket: Path) -> None:
    """Does what an operator does: what holds keys goes to a folder of the token process's user."""
    data = made.data
    keys.mkdir()
    for name in ("token", "token-pin", "token-so-pin", "token-journal"):
        shutil.move(data / name, keys / name)
    configuration = keys / "token" / "softhsm2.conf"
    configuration.write_text(configuration.read_text().replace(str(data), str(keys)))
    text = made.config.read_text()
    for name in ("token/softhsm2.conf", "token-pin"):
        text = text.replace(str(data / name), str(keys / name))
    text = text.replace('# socket = "/run/certd/token.sock"', f'socket = "{socket}"')
    text = text.replace('# allowed_users = ["certd"]', f'allowed_users = ["{DAEMON_USER}"]')
    made.config.write_text(text)
    shutil.copy(made.config, keys / "certd.toml")
    give(keys, TOKEN_USER)
    give(data, DAEMON_USER)
