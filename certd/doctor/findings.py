"""What doctor finds."""

import enum
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How bad a finding is."""

    ERROR = "ERROR"
    """Something does not work, or is about to stop, or is open to others."""
    WARNING = "WARNING"
    """Something will not work some day, or is less safe than it could be."""
    INFO = "INFO"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that somebody should know."""

    severity: Severity
    check: str
    """Name of what was looked at, in lower case with hyphens; the same from release to release."""
    what: str
    why: str
    """What follows from it."""
    remedy: str


def error(check: str, what: str, *, why: str, remedy: str) -> Finding:
    """Returns a finding of severity ERROR."""
    return Finding(severity=Severity.ERROR, check=check, what=what, why=why, remedy=remedy)


def warning(check: str, what: str, *, why: str, remedy: str) -> Finding:
    """Returns a finding of severity WARNING."""
    return Finding(severity=Severity.WARNING, check=check, what=what, why=why, remedy=remedy)


def info(check: str, what: str, *, why: str, remedy: str) -> Finding:
    """Returns a finding of severity INFO."""
    return Finding(severity=Severity.INFO, check=check, what=what, why=why, remedy=remedy)
