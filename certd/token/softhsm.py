"""A SoftHSM token of our own: `certd init` makes it.

SoftHSM keeps its token in files. The tool that initialises one takes its PINs as arguments, which every user of the
machine can read while it runs; so it gets throw-away ones, and the token process changes them to the real ones. The
token is finished somewhere else and moved into place by one rename, so that a crash leaves nothing half-made.
"""

import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from certd.errors import CertdError, Reason
from certd.token.client import PinUser, start_child
from certd.token.durable import make_durable
from certd.token.settings import TokenSettings

_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",  # Debian, Ubuntu
    "/usr/lib64/pkcs11/libsofthsm2.so",  # Fedora
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",  # Homebrew on Apple silicon; its name ends in .so there too
    "/opt/homebrew/opt/softhsm/lib/softhsm/libsofthsm2.so",
    "/usr/local/opt/softhsm/lib/softhsm/libsofthsm2.so",  # Homebrew on Intel
)
_TOOL = "softhsm2-util"
_TOOL_SECONDS = 60
_TOKEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class SoftHsmToken:
    """A token of SoftHSM in a directory."""

    directory: Path

    @property
    def configuration(self) -> Path:
        """The configuration that SOFTHSM2_CONF must name."""
        return self.directory / "softhsm2.conf"


def find_module(candidates: tuple[str, ...] = _MODULES, *, architectures: Path = Path("/usr/lib")) -> Path:
    """Returns the path of SoftHSM's module; TOKEN_UNAVAILABLE, with what to install, when there is none.

    Args:
        candidates: where to look first.
        architectures: parent of the directories per architecture, where Debian installs it too.
    """
    for path in [*map(Path, candidates), *sorted(architectures.glob("*/softhsm/libsofthsm2.so"))]:
        if path.is_file():
            return path
    message = (
        "SoftHSM is not installed. Install it (apt install softhsm2, dnf install softhsm, brew install softhsm), "
        "or give the module of your own token with --pkcs11-module."
    )
    raise CertdError(Reason.TOKEN_UNAVAILABLE, message)


def write_configuration(path: Path, *, tokens: Path) -> None:
    """Writes a configuration of SoftHSM that keeps its tokens under `tokens`."""
    lines = (
        f"directories.tokendir = {tokens}",
        "objectstore.backend = file",
        "log.level = ERROR",
        "slots.removable = false",
    )
    path.write_text("".join(f"{line}\n" for line in lines))


def initialise(configuration: Path, *, label: str, user_pin: str, so_pin: str) -> None:
    """Initialises a token with PINs that every user of the machine may see; TOKEN_UNAVAILABLE when it fails."""
    tool = shutil.which(_TOOL)
    if tool is None:
        message = f"{_TOOL} is not installed. It comes with SoftHSM: apt install softhsm2, or its like."
        raise CertdError(Reason.TOKEN_UNAVAILABLE, message)
    arguments = [tool, "--init-token", "--free", "--label", label, "--pin", user_pin, "--so-pin", so_pin]
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration)}
    finished = subprocess.run(  # noqa: S603  # The tool was found by its name, and there is no shell.
        arguments, env=environment, check=False, capture_output=True, timeout=_TOOL_SECONDS, text=True
    )
    if finished.returncode != 0:
        output = (finished.stderr or finished.stdout).strip()
        raise CertdError(Reason.TOKEN_UNAVAILABLE, f"{_TOOL} could not initialise a token: {output}")


def create_softhsm_token(
    directory: Path, *, label: str, user_pin: bytes, so_pin: bytes, module: Path | None = None
) -> SoftHsmToken:
    """Makes a token in `directory`, or returns the one that is there.

    Write both PINs to their files, durably, before you call this: the token is of no use without them, and a second
    call after a crash needs the same ones.

    Args:
        directory: where configuration and token lie in the end; its parent exists. There is never a half-made one.
        label: of the token, at most 32 bytes.
        user_pin: 4 to 255 bytes of UTF-8.
        so_pin: the security officer's, likewise.
        module: SoftHSM's; found by itself if None.

    Raises:
        CertdError: TOKEN_UNAVAILABLE when SoftHSM is not installed or fails; FIELD_INVALID when it refuses a PIN.
    """
    token = SoftHsmToken(directory)
    if token.configuration.exists():
        return token
    module = module or find_module()
    # Always the same name, so that what a crash left is found and removed.
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    tokens = unfinished / "tokens"
    tokens.mkdir(mode=0o700, parents=True)
    unfinished.chmod(0o700)
    work = unfinished / "work"
    work.mkdir(mode=0o700)
    write_configuration(work / "softhsm2.conf", tokens=tokens)
    throw_away = secrets.token_hex(16)
    pin_file = work / "pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text(throw_away)
    initialise(work / "softhsm2.conf", label=label, user_pin=throw_away, so_pin=throw_away)
    settings = TokenSettings(module=module, label=label, pin_file=pin_file, softhsm_conf=work / "softhsm2.conf")
    _set_pins(settings, throw_away.encode(), user_pin=user_pin, so_pin=so_pin)
    shutil.rmtree(work)
    write_configuration(unfinished / "softhsm2.conf", tokens=directory / "tokens")
    make_durable(unfinished)
    unfinished.rename(directory)
    make_durable(directory.parent, deep=False)
    return token


def _set_pins(settings: TokenSettings, throw_away: bytes, *, user_pin: bytes, so_pin: bytes) -> None:
    client = start_child(settings)
    try:
        if not client.wait_ready(_TOKEN_SECONDS):
            raise CertdError(Reason.TOKEN_UNAVAILABLE, client.problem)
        # The user's last: the token process logs in again with the throw-away one after the officer's change.
        client.set_pin(user=PinUser.SECURITY_OFFICER, old_pin=throw_away, new_pin=so_pin)
        client.set_pin(user=PinUser.NORMAL, old_pin=throw_away, new_pin=user_pin)
    finally:
        client.stop()
