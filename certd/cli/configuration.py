"""What the commands of `certd` share: where certd.toml lies, and the server's composition."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Final

import click

from certd.cli import initialisation

DATA_FOLDER: Final = "~/.local/share/certd"
CONFIG_NAME: Final = "certd.toml"


def _config_file(_context: click.Context, _parameter: click.Parameter, given: Path | None) -> Path:
    return found_config(given)


def found_config(given: Path | None) -> Path:
    """Returns the file that is named, else the one of `certd init`; a usage error when that is not there."""
    if given is not None:
        return given
    file = initialisation.absolute(Path(DATA_FOLDER)) / CONFIG_NAME
    if not file.exists():
        raise click.UsageError(
            f"name certd.toml with --config or CERTD_CONFIG; there is none at {file}, where certd init makes it"
        )
    return file


def config_option(function: Callable[..., None]) -> Callable[..., None]:
    """Adds --config, which becomes the parameter `config_file`."""

    @click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="CERTD_CONFIG",
        show_envvar=True,
        callback=_config_file,
        help=f"Path of certd.toml.  [default: {DATA_FOLDER}/{CONFIG_NAME}]",
    )
    @functools.wraps(function)
    def wrapped(*args: object, **kwargs: object) -> None:
        function(*args, **kwargs)

    return wrapped


def daemon() -> ModuleType:
    """Imports what `certd serve` runs, which the commands that run no server do without."""
    # grpc reads this at import. Its fork handlers may hang a child; children are started by exec only.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    from certd import daemon as found

    return found


def administration() -> ModuleType:
    """Imports what the commands do that work on the machine itself, without listeners."""
    daemon()
    from certd import administration as found

    return found
