"""The help of every command of certctl, whose examples are lines that one may type."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from certd.cli.certctl import cli
from certd.cli.certctl.invocation import Invocation


def _commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name)


def _command(words: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


def _calls(line: str) -> Iterator[list[str]]:
    """Yields the arguments of every certctl in a line of a shell."""
    parsed = shlex.shlex(line.partition("    (")[0], posix=True, punctuation_chars="|;>()")
    parsed.whitespace_split = True
    words: list[str] = []
    for word in [*parsed, ";"]:
        if word in {"|", ";", ">", ">>", "(", ")"}:
            if words[:1] == ["certctl"]:
                yield words[1:]
            words = []
        else:
            words.append(word)


@pytest.mark.parametrize("words", list(_commands(cli)), ids=" ".join)
def test_the_examples_of_a_command_can_be_typed(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requests").mkdir()
    command = _command(words)
    epilog = command.epilog or ""
    assert epilog.startswith("\b\nExamples:\n")
    calls = [call for line in epilog.splitlines()[2:] for call in _calls(line.replace('"$(', "").replace(')"', ""))]
    own = [call for call in calls if tuple(call[: len(words)]) == words or "eval" in epilog]
    assert own, "an example of the command itself"
    for call in own:
        # Parses as a run does, and runs nothing.
        context = command.make_context(words[-1], call[len(words) :], obj=Invocation(), resilient_parsing=False)
        assert not context.args


def test_the_help_of_every_command_says_what_it_does() -> None:
    for words in _commands(cli):
        command = _command(words)
        assert (command.help or "").strip().endswith("."), words
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (words, parameter.name)
