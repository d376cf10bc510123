"""OCSP over HTTP (RFC 6960, appendix A): `POST /ocsp/{uid}/{key}` and `GET /ocsp/{uid}/{key}/{base64}`.

Answers that were signed ahead may be kept by caches until they end (RFC 5019, section 6.2); no other may.
"""

import asyncio
import binascii
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Protocol

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.metrics import OCSP_ANSWERS
from certd.pki.ocsp_request import LONGEST_REQUEST, MalformedRequestError, OcspRequest, parse_request
from certd.services.ocsp import INTERNAL_ERROR, MALFORMED, TRY_LATER
from certd.services.ocsp_memory import Answer, AnswerMemory
from certd.web import status
from certd.web.conditional import KEY_NUMBER, UID, is_fresh

REQUEST_TYPE: Final = "application/ocsp-request"
RESPONSE_TYPE: Final = "application/ocsp-response"
ANSWER_SECONDS: Final = 30.0
"""After so long who asked is told to try later."""
_BODY_SECONDS: Final = 10.0
"""For a body to arrive."""

_log = structlog.get_logger("certd.web")


class Answers(Protocol):
    """Who answers: `services.ocsp.OcspAnswers`."""

    memory: AnswerMemory

    def submit(self, authority_uid: str, key_number: int, request: OcspRequest, asked: bytes) -> Future[Answer]:
        """Has a request answered; the future hears the answer, or AUTHORITY_NOT_FOUND."""


def routes(answers: Answers, clock: Clock, checked: Callable[[Request], Response | None]) -> list[Route]:
    """Returns the routes.

    Args:
        answers: who answers.
        clock: the time.
        checked: returns the refusal of a request whose head breaks a bound, None for any other.
    """
    endpoint = _Responder(answers, clock, checked)
    return [
        Route("/ocsp/{uid}/{key}", endpoint.post, methods=["POST"]),
        Route("/ocsp/{uid}/{key}/{request:path}", endpoint.get, methods=["GET"]),
    ]


class _Responder:
    def __init__(self, answers: Answers, clock: Clock, checked: Callable[[Request], Response | None]) -> None:
        self._answers = answers
        self._clock = clock
        self._checked = checked

    async def post(self, request: Request) -> Response:
        """RFC 6960, appendix A.1: the request is the body."""
        return self._checked(request) or await self._guarded(request, self._post)

    async def get(self, request: Request) -> Response:
        """RFC 6960, appendix A.1: the request stands in the path, in base64."""
        return self._checked(request) or await self._guarded(request, self._get)

    async def _guarded(self, request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            return await handle(request)
        except CertdError as error:
            if error.reason is not Reason.INTERNAL:
                return status.to_response(error)
            return self._defect(request, error)
        except ClientDisconnect:
            # Nobody reads it.
            return Response(status_code=HTTPStatus.BAD_REQUEST)
        except Exception as error:  # noqa: BLE001  # The last resort: whatever it is, the caller learns nothing of it.
            return self._defect(request, error)

    def _defect(self, request: Request, error: Exception) -> Response:
        _log.error("defect", error_id=uuid.uuid4().hex, path=request.url.path, exc_info=error)
        return self._response(request, INTERNAL_ERROR)

    async def _post(self, request: Request) -> Response:
        place = _place(request)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != REQUEST_TYPE:
            return status.problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"the body must be of the type {REQUEST_TYPE}",
                headers={"Accept-Post": REQUEST_TYPE},
            )
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _body(request)
        except TimeoutError:
            return status.problem(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive", headers=_CLOSE)
        if body is None:
            return status.problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a request has at most {LONGEST_REQUEST} bytes",
                headers=_CLOSE,
            )
        return await self._answer(request, place, body)

    async def _get(self, request: Request) -> Response:
        place = _place(request)
        try:
            decoded = binascii.a2b_base64(request.path_params["request"].encode("ascii"), strict_mode=True)
        except ValueError:
            return self._response(request, MALFORMED)
        return await self._answer(request, place, decoded)

    async def _answer(self, request: Request, place: tuple[str, int], content: bytes) -> Response:
        try:
            parsed = parse_request(content)
        except MalformedRequestError:
            return self._response(request, MALFORMED)
        asked = asked_of(f"/ocsp/{place[0]}/{place[1]}".encode("ascii"), content)
        kept = self._answers.memory.get(asked)
        if kept is not None and holds(kept, self._clock.now()):
            OCSP_ANSWERS.labels("memory").inc()
            return self._response(request, kept)
        future = asyncio.wrap_future(self._answers.submit(*place, parsed, asked))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await future
        except TimeoutError:
            answer = TRY_LATER
        return self._response(request, answer)

    def _response(self, request: Request, answer: Answer) -> Response:
        headers = {**headers_of(answer, self._clock.now()), "X-Content-Type-Options": "nosniff"}
        modified = answer.this_update
        if (
            "ETag" in headers
            and modified
            and request.method != "POST"
            and is_fresh(request, answer.entity_tag, modified)
        ):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(answer.body, media_type=RESPONSE_TYPE, headers=headers)


_CLOSE: Final = {"Connection": "close"}


def asked_of(path: bytes, content: bytes) -> bytes:
    """Returns by what the memory finds the answer to a request (DER) that came to this path."""
    return path + b"\n" + content


def holds(answer: Answer, now: datetime) -> bool:
    """Returns whether an answer may still be given."""
    return answer.next_update is not None and answer.next_update > now


def headers_of(answer: Answer, now: datetime) -> dict[str, str]:
    """Returns what caches may do with an answer (RFC 5019, section 6.2)."""
    if answer.next_update is None or answer.this_update is None or answer.next_update <= now:
        return {"Cache-Control": "no-store"}
    seconds = int((answer.next_update - now).total_seconds())
    return {
        "Cache-Control": f"max-age={seconds}, public, no-transform, must-revalidate",
        "ETag": answer.entity_tag,
        "Last-Modified": http_date(answer.this_update),
        "Expires": http_date(answer.next_update),
    }


@lru_cache(maxsize=4096)
def http_date(moment: datetime) -> str:
    """Returns a time as HTTP writes it (RFC 9110, section 5.6.7)."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def _place(request: Request) -> tuple[str, int]:
    uid, key_number = request.path_params["uid"], request.path_params["key"]
    if not UID.fullmatch(uid) or not KEY_NUMBER.fullmatch(key_number):
        raise CertdError(Reason.AUTHORITY_NOT_FOUND, "no authority has this uid and key number")
    return uid, int(key_number)


async def _body(request: Request) -> bytes | None:
    """Returns the body; None when it is too long, of which no more is read then."""
    if not request.headers.get("content-length", "0").isdigit():
        return None
    if int(request.headers.get("content-length", "0")[:12]) > LONGEST_REQUEST:
        return None
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_REQUEST:
            return None
    return body
