"""EventService, of events: convert, call `services.event_streams`, convert back."""

from typing import Any

from certd.api.call import Call, Methods


def methods() -> Methods:
    """Returns the functions that answer these methods."""
    return {"ListEvents": list_events, "WatchEvents": watch_events}


def list_events(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """ListEvents."""
    raise NotImplementedError


def watch_events(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """WatchEvents."""
    raise NotImplementedError
