"""Logging to standard error, one line for each event, as certd has it, without what an agent does not need."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

_FIELDS: Final = "certd_fields"


def fields(**values: str) -> dict[str, dict[str, str]]:
    """Returns what goes with an event, for `extra` of a logger."""
    return {_FIELDS: values}


def configure(*, level: str, style: str) -> None:
    """Routes every logger of the process to one handler. A second call replaces the first."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def printable(text: str) -> str:
    """Returns a text, which may be a stranger's, as one line that does nothing to a terminal."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


class _Text(logging.Formatter):
    """For people."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        values = "".join(f" {name}={printable(value)}" for name, value in _fields_of(record).items())
        return f"{_time(record)} [{record.levelname.lower()}] {_one_line(self, record)}{values}"


class _Json(logging.Formatter):
    """For machines."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        event = {
            **_fields_of(record),
            "event": _one_line(self, record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": _time(record),
        }
        return json.dumps(event, sort_keys=True)


def _fields_of(record: logging.LogRecord) -> dict[str, str]:
    found: dict[str, str] = getattr(record, _FIELDS, {})
    return found


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text = f"{text}: {formatter.formatException(record.exc_info)}"
    return " | ".join(printable(line) for line in text.splitlines() if line.strip())
