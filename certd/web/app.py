"""The HTTP application: routes, and what happens to errors."""

import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.web import authority_certificates, ocsp, revocation_lists, status
from certd.web.authority_certificates import AuthorityChains
from certd.web.conditional import Endpoint
from certd.web.ocsp import Answers
from certd.web.revocation_lists import Lists

LONGEST_PATH: Final = 2048
LARGEST_HEADERS: Final = 16 * 1024
"""Bytes of names and values together."""
MOST_HEADERS: Final = 100

_log = structlog.get_logger("certd.web")


class Healthy(Protocol):
    """Tells how the daemon is: `services.server.Health`."""

    def problems(self) -> list[str]:
        """Returns a sentence for everything that keeps the daemon from its work."""

    def complaints(self) -> list[str]:
        """Returns a sentence for everything else that somebody should look at, and that another daemon has too."""


def application(*, chains: AuthorityChains, lists: Lists, answers: Answers, health: Healthy, clock: Clock) -> Starlette:
    """Returns the application: `/ca/…`, `/crl/…`, `/ocsp/…`, `/healthz` and `/readyz`."""
    endpoints: dict[str, Endpoint] = {
        **authority_certificates.endpoints(chains),
        **revocation_lists.endpoints(lists, clock),
        "/healthz": _alive,
        "/readyz": _ready(health),
    }
    app = Starlette(
        # Starlette adds HEAD to GET, and answers every other method with 405.
        routes=[
            *(Route(path, guarded(endpoint), methods=["GET"]) for path, endpoint in endpoints.items()),
            *ocsp.routes(answers, clock, out_of_bounds),
        ],
        exception_handlers={HTTPException: refused},
    )
    # A redirect would repeat the Host that the client made up.
    app.router.redirect_slashes = False
    return app


def _alive(_request: Request) -> Response:
    """The process answers."""
    return JSONResponse({"status": "alive"}, headers={"Cache-Control": "no-store"})


def _ready(health: Healthy) -> Endpoint:
    def ready(_request: Request) -> Response:
        problems = health.problems()
        return JSONResponse(
            {"status": "not ready" if problems else "ready", "problems": [*problems, *health.complaints()]},
            status_code=HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK,
            headers={"Cache-Control": "no-store"},
        )

    return ready


def guarded(endpoint: Endpoint) -> Callable[[Request], Response]:
    """Returns the endpoint with the error family turned into responses; what is unexpected shows an id only."""

    def guarded(request: Request) -> Response:
        try:
            return out_of_bounds(request) or endpoint(request)
        except CertdError as error:
            if error.reason is Reason.INTERNAL:
                return _defect(request, error)
            return status.to_response(error)
        except Exception as error:  # noqa: BLE001  # The last resort: whatever it is, the caller learns an id only.
            return _defect(request, error)

    return guarded


def out_of_bounds(request: Request) -> Response | None:
    """Returns the refusal of a request whose head is larger than any that means well; None for any other."""
    if len(request.url.path) > LONGEST_PATH:
        return status.problem(HTTPStatus.REQUEST_URI_TOO_LONG, f"a path has at most {LONGEST_PATH} characters")
    headers = request.headers.raw
    if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > LARGEST_HEADERS:
        # The parser of HTTP limits only what it waits for, not what comes in one piece.
        return status.problem(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"a request has at most {MOST_HEADERS} headers, of at most {LARGEST_HEADERS} bytes",
        )
    return None


def _defect(request: Request, error: Exception) -> Response:
    error_id = uuid.uuid4().hex
    _log.error("defect", error_id=error_id, path=request.url.path, exc_info=error)
    return status.internal(error_id)


def refused(_request: Request, error: Exception) -> Response:
    """404 and 405 of the router, in the form of every other failure."""
    if not isinstance(error, HTTPException):
        raise error
    code = HTTPStatus(error.status_code)
    detail = {
        HTTPStatus.NOT_FOUND: "there is nothing under this path",
        HTTPStatus.METHOD_NOT_ALLOWED: "only GET and HEAD are served here, and POST for OCSP",
    }.get(code, code.phrase)
    return status.problem(code, detail, headers=error.headers)
