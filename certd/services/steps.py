"""The step hook: fault tests stop the world between two numbered steps through it."""

from collections.abc import Callable

StepHook = Callable[[str], None]
"""Called with the name of a step, for example `issue.3.intended`, when it is done."""


def no_step(_name: str) -> None:
    """The hook of life: does nothing."""
