"""The short way of the requests that come by the thousand: whole in one piece, plain, and with an answer in memory.

Everything else, and everything that is not certainly a request as most clients write it, goes the long way through the
parser of HTTP and the application; the answers are the same.
"""

import binascii
import re
from datetime import datetime
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from certd.clock import Clock
from certd.metrics import OCSP_ANSWERS
from certd.pki.ocsp_request import LONGEST_REQUEST
from certd.services.ocsp_memory import Answer, AnswerMemory
from certd.web.ocsp import REQUEST_TYPE, RESPONSE_TYPE, asked_of, headers_of, holds, http_date
from certd.web.server import Shortcut

_REMEMBERED: Final = OCSP_ANSWERS.labels("memory")
_LONGEST_HEAD: Final = 1024
_END: Final = b"\r\n\r\n"
_POST: Final = re.compile(rb"POST (/ocsp/[0-9a-z-]{1,64}/[1-9][0-9]{0,8}) HTTP/1\.1")
_GET: Final = re.compile(rb"GET (/ocsp/[0-9a-z-]{1,64}/[1-9][0-9]{0,8})/([A-Za-z0-9+/=%]{1,1024}) HTTP/1\.1")
_HEADER: Final = re.compile(rb"([A-Za-z-]{1,32}):[ \t]*([\x21-\x7e][\x20-\x7e]*)?")
# What changes nothing of the answer; each once.
_OF_NO_MEANING: Final = frozenset({b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language",
                                   b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"via",
                                   b"forwarded"})  # fmt: skip
_ALWAYS: Final = (
    f"HTTP/1.1 200 OK\r\ncontent-type: {RESPONSE_TYPE}\r\nx-content-type-options: nosniff\r\ncontent-length: "
)


def shortcut(memory: AnswerMemory, clock: Clock) -> Shortcut:
    """Returns the short way to the answers in memory."""

    def answered(data: bytes) -> bytes | None:
        if data.startswith(b"POST /ocsp/"):
            asked = _posted(data)
        elif data.startswith(b"GET /ocsp/"):
            asked = _got(data)
        else:
            return None
        answer = None if asked is None else memory.get(asked)
        if answer is None:
            return None
        now = clock.now()
        if not holds(answer, now):
            return None
        _REMEMBERED.inc()
        return _response(answer, now)

    return answered


def _posted(data: bytes) -> bytes | None:
    head, end, body = data.partition(_END)
    if not end or len(head) > _LONGEST_HEAD:
        return None
    known = _head_of_post(head)
    return None if known is None or known[1] != len(body) else asked_of(known[0], body)


def _got(data: bytes) -> bytes | None:
    line, end, rest = data.partition(b"\r\n")
    found = _GET.fullmatch(line)
    if not end or found is None or not rest.endswith(_END) or len(rest) > _LONGEST_HEAD or not _head_of_get(rest):
        return None
    path, text = found.groups()
    try:
        content = binascii.a2b_base64(unquote_to_bytes(text) if b"%" in text else text, strict_mode=True)
    except ValueError:
        return None
    return asked_of(path, content)


@lru_cache(maxsize=2048)
def _head_of_post(head: bytes) -> tuple[bytes, int] | None:
    """Returns path and length of the body; None for a head that has to go the long way."""
    line, _, rest = head.partition(b"\r\n")
    found = _POST.fullmatch(line)
    headers = _headers(rest.split(b"\r\n"))
    if found is None or headers is None:
        return None
    length = headers.get(b"content-length", b"")
    if headers.get(b"content-type") != REQUEST_TYPE.encode("ascii") or not length.isdigit() or len(length) > 4:
        return None
    return (found.group(1), int(length)) if 0 < int(length) <= LONGEST_REQUEST else None


@lru_cache(maxsize=2048)
def _head_of_get(rest: bytes) -> bool:
    if rest.count(_END) != 1:
        return False
    headers = _headers(rest.removesuffix(_END).split(b"\r\n"))
    return headers is not None and b"content-length" not in headers and b"content-type" not in headers


def _headers(lines: list[bytes]) -> dict[bytes, bytes] | None:
    """Returns the headers; None when one is not certainly of no meaning."""
    headers: dict[bytes, bytes] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            return None
        name, value = found.group(1).lower(), (found.group(2) or b"").rstrip(b" ")
        if name in headers:
            return None
        if name == b"connection":
            if value.lower() != b"keep-alive":
                return None
        elif name not in _OF_NO_MEANING and name not in {b"content-type", b"content-length"}:
            return None
        headers[name] = value
    return headers if headers.get(b"host") else None


def _response(answer: Answer, now: datetime) -> bytes:
    headers = [f"{len(answer.front) + len(answer.back)}\r\ndate: {http_date(now.replace(microsecond=0))}"]
    headers += [f"{name.lower()}: {value}" for name, value in headers_of(answer, now).items()]
    return b"".join(((_ALWAYS + "\r\n".join(headers)).encode("ascii"), _END, answer.front, answer.back))
