"""What the sections of certd.toml are made of."""

import stat
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo
from pydantic_core import PydanticCustomError

_SECRET_FILE_MODES: Final = (0o600, 0o400)


def invalid(description: str) -> PydanticCustomError:
    """Returns the error of a value: the rule that it breaks, in a sentence."""
    # The text may hold braces, which pydantic would take for its own.
    return PydanticCustomError("invalid", "{description}", {"description": description})


def _path(value: object, info: ValidationInfo) -> Path:
    """Makes a path absolute: relative ones start at the file's folder, `~` is the home of the user."""
    if isinstance(value, Path):
        return folder_of(info) / value
    if not isinstance(value, str) or not value or "\0" in value:
        raise invalid("write the path of a file as a string")
    return folder_of(info) / Path(value).expanduser()


def folder_of(info: ValidationInfo) -> Path:
    """Returns the folder of the file that is read."""
    context: dict[str, Path] = info.context or {}
    return context.get("folder", Path.cwd())


def _private_path(value: object, info: ValidationInfo) -> Path:
    """As `_path`, for a file with a secret: readable by its owner alone, where it exists and may be looked at."""
    path = _path(value, info)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        # Not there yet (`certd init` writes it), or another user's, as for the token process. Whoever opens it tells.
        return path
    if mode not in _SECRET_FILE_MODES:
        raise invalid(f"{path} has mode {mode:04o} but must be readable by its owner alone: run chmod 600 {path}")
    return path


def listed(value: object) -> object:
    """Returns a list as a tuple, anything else as it is."""
    # TOML has lists, and what is frozen has tuples.
    return tuple(value) if isinstance(value, list) else value


File = Annotated[Path, BeforeValidator(_path)]
SecretFile = Annotated[Path, BeforeValidator(_private_path)]


class Section(BaseModel):
    """A section: strict, and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)
