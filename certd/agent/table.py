"""Reading a configuration strictly: all that is wrong is noted with its key path, and so is what nobody reads."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from certd.errors import CertdError, Reason, Violation

_LONGEST_TEXT: Final = 4096

T = TypeVar("T")


@dataclass(slots=True)
class Problems:
    """What was found wrong, in the order of the file."""

    violations: list[Violation] = field(default_factory=list)

    def note(self, key: str, description: str) -> None:
        """Notes one."""
        self.violations.append(Violation(key, description))

    def raise_any(self, path: Path) -> None:
        """Raises FIELD_INVALID with all of them, when there is one."""
        if self.violations:
            summary = "; ".join(f"{each.field}: {each.description}" for each in self.violations)
            raise CertdError(Reason.FIELD_INVALID, f"{path}: {summary}", violations=tuple(self.violations))


class Table:
    """A table of a TOML file.

    Each method reads one key and returns its value; after a mistake, which it notes, a value that fits the type, so
    that reading goes on to the next. A key is required unless a default is given.

    Args:
        values: as `tomllib` read them.
        path: key path of the table itself; empty at the top.
        folder: where relative paths begin.
        problems: where mistakes are noted.
    """

    def __init__(self, values: Mapping[str, object], *, path: str, folder: Path, problems: Problems) -> None:
        self._values = values
        self._path = path
        self._folder = folder
        self._problems = problems
        self._read: set[str] = set()

    def key(self, name: str) -> str:
        """Returns the path of a key."""
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        """Returns whether a key is there."""
        return name in self._values

    def refuse(self, name: str, description: str) -> None:
        """Notes that a key's value is wrong."""
        self._problems.note(self.key(name), description)

    def text(self, name: str, default: str | None = None, *, check: Callable[[str], str | None] | None = None) -> str:
        """Reads a text; `check` returns the rule that it breaks."""
        value = self._value(name, default)
        if value is None:
            return ""
        if not isinstance(value, str) or not value or len(value) > _LONGEST_TEXT or "\0" in value:
            self.refuse(name, "write a text in quotes")
            return ""
        broken = None if check is None else check(value)
        if broken is not None:
            self.refuse(name, broken)
        return value

    def optional_text(self, name: str, *, check: Callable[[str], str | None] | None = None) -> str | None:
        """Reads a text that may be missing."""
        return self.text(name, check=check) if self.has(name) else None

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        """Reads one of some words."""
        return self.text(
            name,
            default,
            check=lambda value: None if value in choices else f"write one of {', '.join(choices)}",
        )

    def file(self, name: str, default: Path | None = None) -> Path:
        """Reads the path of a file or folder: relative ones begin at the folder of the configuration."""
        return self._folder / Path(self.text(name, None if default is None else str(default))).expanduser()

    def optional_file(self, name: str) -> Path | None:
        """Reads a path that may be missing."""
        return self.file(name) if self.has(name) else None

    def seconds(self, name: str, default: float, *, least: float, most: float) -> float:
        """Reads a time in seconds."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.refuse(name, "write a number of seconds")
            return default
        if not least <= value <= most:
            self.refuse(name, f"write {least:g} to {most:g} seconds")
        return float(value)

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        """Reads a whole number."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(name, "write a whole number")
            return default
        if not least <= value <= most:
            self.refuse(name, f"write {least} to {most}")
        return value

    def boolean(self, name: str, *, default: bool) -> bool:
        """Reads true or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            self.refuse(name, "write true or false")
            return default
        return value

    def words(self, name: str) -> tuple[str, ...]:
        """Reads a list of texts; the empty tuple when it is missing."""
        if not self.has(name):
            return ()
        value = self._value(name, None)
        if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
            self.refuse(name, 'write a list of texts, for example ["systemctl", "reload", "nginx"]; there is no shell')
            return ()
        if any("\0" in each or len(each) > _LONGEST_TEXT for each in value):
            self.refuse(name, "has a text that no command takes")
            return ()
        return tuple(value)

    def table(self, name: str, read: Callable[["Table"], T]) -> T | None:
        """Reads a table by `read`; None when it is missing."""
        if not self.has(name):
            return None
        value = self._value(name, None)
        if not isinstance(value, dict):
            self.refuse(name, f"write a table: [{self.key(name)}]")
            return None
        return self._read_table(value, self.key(name), read)

    def tables(self, name: str, read: Callable[["Table"], T], *, most: int) -> tuple[T, ...]:
        """Reads a list of tables by `read`, each; the empty tuple when it is missing."""
        if not self.has(name):
            return ()
        value = self._value(name, None)
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            self.refuse(name, f"write tables: [[{self.key(name)}]]")
            return ()
        if len(value) > most:
            self.refuse(name, f"write at most {most}, not {len(value)}")
            return ()
        return tuple(self._read_table(each, f"{self.key(name)}.{place}", read) for place, each in enumerate(value))

    def finish(self) -> None:
        """Notes the keys that nobody read."""
        for name in self._values:
            if name not in self._read:
                self.refuse(name, "there is no such key; remove it, or see its spelling")

    def _read_table(self, values: Mapping[str, object], path: str, read: Callable[["Table"], T]) -> T:
        table = Table(values, path=path, folder=self._folder, problems=self._problems)
        made = read(table)
        table.finish()
        return made

    def _value(self, name: str, default: object) -> object:
        self._read.add(name)
        if name in self._values:
            return self._values[name]
        if default is None:
            self.refuse(name, "this key is required")
        return default
