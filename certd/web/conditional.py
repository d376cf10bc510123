"""What all have in common that is served under a URL of an authority: its parts, and conditional requests."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

UID: Final = re.compile(r"[0-9a-z-]{1,64}")
KEY_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")
_ENTITY_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')

Endpoint = Callable[[Request], Response]


def is_fresh(request: Request, entity_tag: str, modified: datetime) -> bool:
    """Returns whether the client has what is asked for (RFC 9110, section 13)."""
    none_match = request.headers.get("if-none-match")
    if none_match is not None:
        # The tags win over the date.
        return none_match.strip() == "*" or entity_tag in _ENTITY_TAG.findall(none_match)
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        moment = parsedate_to_datetime(since)
    except (ValueError, OverflowError):
        return False
    return modified <= (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
