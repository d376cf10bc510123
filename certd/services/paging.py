"""Pages by key (AIP-158): no offsets, no counts."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from certd.errors import field_invalid

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a caller asks of a list."""

    size: int
    """1 to 1,000."""
    token: str
    """Empty for the first page."""

    def after(self, query: str) -> list[str] | None:
        """Returns the key after which the page begins; raises FIELD_INVALID when the token is not of `query`."""
        if not self.token:
            return None
        try:
            digest, *key = json.loads(base64.urlsafe_b64decode(self.token.encode()))
        except (ValueError, TypeError, binascii.Error) as error:
            raise field_invalid("page_token", "is not a token that this server gave") from error
        if digest != _digest(query) or not key:
            raise field_invalid("page_token", "belongs to another query; repeat the call without it")
        # Ids, times and serials are plain text; what else a forger writes may have no encoding in the database.
        if not all(isinstance(part, str) and part.isascii() and part.isprintable() for part in key):
            raise field_invalid("page_token", "is not a token that this server gave")
        return [str(part) for part in key]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list."""

    items: tuple[T, ...]
    next_page_token: str
    """Empty on the last page."""


def page_of(rows: Sequence[S], request: PageRequest, query: str, *, key: Callable[[S], Sequence[str]]) -> Page[S]:
    """Makes a page of `rows`, of which there is one more than the page may hold when another page follows."""
    items = tuple(rows[: request.size])
    token = _token(query, key(items[-1])) if len(rows) > request.size else ""
    return Page(items, token)


def page_until(items: Sequence[T], query: str, *, after: Sequence[str] | None) -> Page[T]:
    """Makes a page behind which another follows, after the key `after`, however few `items` this one has."""
    return Page(tuple(items), "" if after is None else _token(query, after))


def _digest(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:16]


def _token(query: str, key: Sequence[str]) -> str:
    return base64.urlsafe_b64encode(json.dumps([_digest(query), *key]).encode()).decode()
