"""CRLs under URLs that stand in certificates: `/crl/{uid}/{key}.crl` and `/crl/{uid}/{key}/{partition}.crl`.

Plain, cacheable, without authentication. Bytes are those that were signed; none is signed because somebody asks.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.revocation_list import RevocationList
from certd.web.conditional import KEY_NUMBER, UID, Endpoint, is_fresh

# RFC 2585, section 4.2.
_MEDIA_TYPE: Final = "application/pkix-crl"
_PARTITION: Final = re.compile(r"[1-9][0-9]{0,4}")
_LONGEST_AGE: Final = 300
"""Seconds that a cache keeps a CRL: what is revoked meanwhile is not seen behind it."""
_PIECE: Final = 64 << 10
"""Bytes that are handed on at once: more of a slow reader's CRL than this is held once for all."""


class Lists(Protocol):
    """Where CRLs come from: `services.revocation_lists.PublishedLists`."""

    def find(self, uid: str, key_number: int, partition: int) -> RevocationList:
        """Returns what is known of the CRL that is published; raises REVOCATION_LIST_NOT_FOUND."""

    def content(self, found: RevocationList) -> bytes:
        """Returns its DER; raises REVOCATION_LIST_NOT_FOUND when another took its place."""


def endpoints(lists: Lists, clock: Clock) -> dict[str, Endpoint]:
    """Returns the endpoints by path."""

    def complete(request: Request) -> Response:
        return _answer(lists, request, 0, clock.now())

    def partition(request: Request) -> Response:
        number = request.path_params["partition"]
        if not _PARTITION.fullmatch(number):
            raise _no_such_list()
        return _answer(lists, request, int(number), clock.now())

    return {"/crl/{uid}/{key}.crl": complete, "/crl/{uid}/{key}/{partition}.crl": partition}


def _answer(lists: Lists, request: Request, partition: int, now: datetime) -> Response:
    uid, key_number = request.path_params["uid"], request.path_params["key"]
    if not UID.fullmatch(uid) or not KEY_NUMBER.fullmatch(key_number):
        raise _no_such_list()
    found = lists.find(uid, int(key_number), partition)
    if found.sha256 is None or found.this_update is None or found.next_update is None:
        raise _no_such_list()
    entity_tag = f'"{found.sha256.hex()[:32]}"'
    age = max(0, min(_LONGEST_AGE, int((found.next_update - now).total_seconds())))
    headers = {
        "Cache-Control": f"public, max-age={age}",
        "ETag": entity_tag,
        "Last-Modified": format_datetime(found.this_update.astimezone(UTC), usegmt=True),
        "X-Content-Type-Options": "nosniff",
    }
    if is_fresh(request, entity_tag, found.this_update):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers["Content-Length"] = str(found.size_bytes)
    if request.method == "HEAD":
        return Response(media_type=_MEDIA_TYPE, headers=headers)
    return StreamingResponse(_pieces(_content(lists, found)), media_type=_MEDIA_TYPE, headers=headers)


def _content(lists: Lists, found: RevocationList) -> bytes:
    """Returns the DER of exactly what the head of the answer tells."""
    try:
        return lists.content(found)
    except CertdError as error:
        # Another took its place since it was found; its reader comes again.
        raise CertdError(Reason.STORE_UNAVAILABLE, "the CRL is being replaced; ask again", retry_after=1.0) from error


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]


def _no_such_list() -> CertdError:
    return CertdError(Reason.REVOCATION_LIST_NOT_FOUND, "there is no CRL under this path")
