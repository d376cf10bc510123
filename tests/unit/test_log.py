"""Logging: one line per event from structlog and the standard library alike, and no secrets in it."""

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from certd import log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def _lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_both_kinds_of_logger_write_the_same_lines() -> None:
    stream = io.StringIO()
    log.configure(style="json", stream=stream)
    structlog.stdlib.get_logger("certd.one").info("issued", serial="01")
    logging.getLogger("certd.two").warning("%s is slow", "the store", extra={"seconds": 3})
    first, second = _lines(stream)
    assert {key: first[key] for key in ("event", "level", "logger", "serial")} == {
        "event": "issued",
        "level": "info",
        "logger": "certd.one",
        "serial": "01",
    }
    assert (second["event"], second["level"], second["seconds"]) == ("the store is slow", "warning", 3)
    assert str(first["timestamp"]).endswith("Z")


def test_a_traceback_stays_in_its_line() -> None:
    stream = io.StringIO()
    log.configure(style="json", stream=stream)
    try:
        int("broken")
    except ValueError:
        logging.getLogger("certd").exception("unexpected")
    (line,) = _lines(stream)
    assert "ValueError: invalid literal" in str(line["exception"])


def test_what_may_be_a_secret_is_not_written() -> None:
    stream = io.StringIO()
    log.configure(style="json", stream=stream)
    structlog.stdlib.get_logger("certd").info("opened", user_pin="123456", passphrase="hunter2", blob=b"hunter2")
    logging.getLogger("certd").info(
        "opened", extra={"private_key": "hunter2", "pin_file": "/etc/certd/pin", "mapping": 1}
    )
    first, second = _lines(stream)
    assert (first["user_pin"], first["passphrase"], first["blob"]) == ("[redacted]", "[redacted]", "[7 bytes]")
    assert (second["private_key"], second["pin_file"], second["mapping"]) == ("[redacted]", "/etc/certd/pin", 1)
    assert "hunter2" not in stream.getvalue()


def test_the_level_changes_while_running() -> None:
    stream = io.StringIO()
    log.configure(level="warning", style="json", stream=stream)
    logger = structlog.stdlib.get_logger("certd")
    logger.info("dropped")
    log.set_level("debug")
    logger.debug("kept")
    assert [line["event"] for line in _lines(stream)] == ["kept"]


def test_a_second_call_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.configure(style="json", stream=first)
    log.configure(style="json", stream=second)
    logging.getLogger("certd").warning("once")
    assert not first.getvalue()
    assert len(_lines(second)) == 1


def test_text_has_no_colours_away_from_a_terminal() -> None:
    stream = io.StringIO()
    log.configure(style="text", stream=stream)
    structlog.stdlib.get_logger("certd").error("broken", serial="01")
    assert "\033" not in stream.getvalue()
    assert "broken" in stream.getvalue()
    assert "serial=01" in stream.getvalue()


def test_no_value_begins_a_line_of_text() -> None:
    stream = io.StringIO()
    log.configure(style="text", stream=stream)
    logger = structlog.stdlib.get_logger("certd")
    logger.info("refused", path="/web\n2026-11-30\x1b[2J\x00é")
    logger.error("defect\r\nforged\x1b", reason="a\n b")
    first, second, third = stream.getvalue().splitlines()
    assert first.endswith(r"path=/web\n2026-11-30\x1b[2J\x00é")
    assert second.endswith("defect")
    assert third.startswith(r"    forged\x1b ")


def test_what_is_no_request_is_not_logged() -> None:
    stream = io.StringIO()
    log.configure(style="text", stream=stream)
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert not stream.getvalue()
    logging.getLogger("uvicorn.error").error("Exception in ASGI application")
    assert "Exception in ASGI application" in stream.getvalue()


def test_warnings_of_libraries_are_logged() -> None:
    stream = io.StringIO()
    log.configure(style="json", stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old call", stacklevel=1)
        logging.captureWarnings(False)
    assert "old call" in stream.getvalue()
