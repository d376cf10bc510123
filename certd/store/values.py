"""How values of the model stand in columns."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    """Returns an aware time as microseconds since 1970."""
    return (time - EPOCH) // _MICROSECOND


def optional_microseconds(time: datetime | None) -> int | None:
    """Returns what `microseconds` does, and None for None."""
    return None if time is None else (time - EPOCH) // _MICROSECOND


def time_of(value: int) -> datetime:
    """Returns the aware UTC time of microseconds since 1970."""
    return EPOCH + timedelta(microseconds=value)


def optional_time_of(value: int | None) -> datetime | None:
    """Returns what `time_of` does, and None for None."""
    return None if value is None else EPOCH + timedelta(microseconds=value)


def duration_microseconds(duration: timedelta) -> int:
    """Returns a duration in microseconds."""
    return duration // _MICROSECOND


def duration_of(value: int) -> timedelta:
    """Returns the duration of so many microseconds."""
    return timedelta(microseconds=value)


def json_text(value: Mapping[str, object] | Sequence[object]) -> str:
    """Returns canonical JSON: sorted keys, no spaces, one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def labels_text(labels: Mapping[str, str]) -> str:
    """Returns labels or details as canonical JSON; most have none, so that one is not computed."""
    return json_text(dict(labels)) if labels else "{}"


def labels_of(text: str) -> dict[str, str]:
    """Returns the labels of their JSON."""
    return {} if text == "{}" else {str(key): str(value) for key, value in json.loads(text).items()}


def joined(parts: Sequence[bytes]) -> bytes:
    """Returns byte strings as one, each preceded by its length in four bytes."""
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def split(data: bytes) -> tuple[bytes, ...]:
    """Returns what was `joined`."""
    parts = []
    start = 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4])
        parts.append(data[start + 4 : end])
        start = end
    return tuple(parts)
