"""The commands that doctor names exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import certd.doctor
from certd.cli import certctl, server

_COMMAND = re.compile(r"certctl ((?:[a-z][a-z-]* ?){1,2})")
_CERTD = re.compile(r"certd ((?:backup|doctor|init|migrate|restore|serve|audit [a-z]+|[a-z]+(?:-[a-z]+)+))\b")


def _named() -> Iterator[tuple[click.Command, str]]:
    for path in sorted(Path(certd.doctor.__file__).parent.glob("*.py")):
        # Text that is broken over lines is one text.
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        yield from ((certctl.cli, found.strip()) for found in _COMMAND.findall(text))
        yield from ((server.main, found) for found in _CERTD.findall(text))


NAMED = sorted(set(_named()), key=lambda one: (one[0].name or "", one[1]))


def test_there_are_some() -> None:
    assert len(NAMED) > 10


@pytest.mark.parametrize(("program", "words"), NAMED, ids=[f"{program.name} {words}" for program, words in NAMED])
def test_a_command_that_doctor_names_exists(program: click.Command, words: str) -> None:
    command: click.Command | None = program
    for word in words.split():
        # What comes after the command is no part of it.
        if not isinstance(command, click.Group):
            return
        command = command.get_command(click.Context(command), word)
        assert command is not None, f"{words}: there is no {word}"
