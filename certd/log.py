"""Logging, configured once: structlog and the standard library's loggers end in one line per event on standard error.

Nobody passes secrets to a logger; as a second line of defence, values under names that sound like secrets and all
bytes are replaced here.
"""

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Final, Literal, TextIO

import structlog

_SECRET_WORDS: Final = frozenset({"pin", "pins", "passphrase", "password", "private", "secret", "authorization"})

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]


def configure(*, level: Level = "info", style: Format = "text", stream: TextIO | None = None) -> None:
    """Routes every logger of the process to one handler. A second call replaces the first.

    Args:
        level: events below it are dropped.
        style: `json` for machines, one object per line; `text` for people.
        stream: where lines go; standard error by default.
    """
    target = sys.stderr if stream is None else stream
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    renderer: list[structlog.types.Processor]
    if style == "json":
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(sort_keys=True)]
    else:
        renderer = [
            _on_their_lines,
            structlog.dev.ConsoleRenderer(
                colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            ),
        ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.captureWarnings(True)
    # It tells of its own plug-ins at every start, which would hide the one line that matters when a start is refused.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    # One line for each thing that is no request, without saying whose, would let any stranger fill the disk.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    set_level(level)


def set_level(level: Level) -> None:
    """Changes the level of a running process."""
    logging.getLogger().setLevel(level.upper())


def redact(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Replaces what may be a secret: values under telling names, and bytes."""
    for key, value in event.items():
        words = key.lower().split("_")
        # The path of a file is no secret.
        if not _SECRET_WORDS.isdisjoint(words) and words[-1] not in {"file", "path"}:
            event[key] = "[redacted]"
        elif isinstance(value, bytes | bytearray | memoryview):
            event[key] = f"[{len(value)} bytes]"
    return event


def _on_their_lines(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Lets no value begin a line or steer a terminal: a path, for example, is what a stranger wrote."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            lines = value.splitlines() if key == "event" else [value]
            event[key] = "\n    ".join(map(_printable, lines))
    return event


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def traceback_of(error: BaseException) -> str:
    """Returns where an error was raised, with the errors behind it, as text.

    Without the errors' own texts: those may quote what a request held, a passphrase for example.
    """
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None:
        frames = "".join(traceback.format_tb(current.__traceback__))
        parts.append(f"{type(current).__qualname__}\n{frames}")
        current = current.__cause__ or current.__context__
    return "\ncaused by ".join(parts)
