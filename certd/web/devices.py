"""`GET /v1/tenants/{tenant}/managedCertificates/{id}?format=FORMAT`: what a device that only speaks HTTPS needs.

Who asks shows a client certificate, or a download code as bearer token. The passphrase comes in the header
`Certd-Passphrase`, as it is: printable ASCII. `Certd-Reason` stands in the event. An `If-None-Match` with the entity
tag of the last download is answered with 304 before anything is exported or used.
"""

import hashlib
import re
from email.utils import format_datetime
from http import HTTPStatus
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from certd.errors import CertdError, Reason, field_invalid
from certd.metrics import DOWNLOADS
from certd.model.names import ManagedCertificateName
from certd.pki.export_form import ExportForm
from certd.services.downloads import Downloads, Holder, Offer
from certd.services.managed_export import LONGEST_REASON, PassphraseExport
from certd.web import status
from certd.web.app import guarded, refused
from certd.web.device_formats import DeviceFormat, chosen_format, form_of, headers_of, with_key, without_key
from certd.web.device_server import PEER_CERTIFICATE

_PATH: Final = "/v1/tenants/{tenant}/managedCertificates/{managed_certificate}"
_ENTITY_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')
_PASSPHRASE: Final = "certd-passphrase"  # noqa: S105  # The name of a header.

_log = structlog.get_logger("certd.web")


def device_application(downloads: Downloads) -> Starlette:
    """Returns the application of the port for devices."""
    endpoint = _Download(downloads)
    app = Starlette(
        routes=[Route(_PATH, guarded(endpoint), methods=["GET"])],
        middleware=[Middleware(_BareRequests)],
        exception_handlers={HTTPException: refused},
    )
    # A redirect would repeat the Host that the client made up.
    app.router.redirect_slashes = False
    return app


class _BareRequests:
    """Refuses what a download never has: another version of HTTP, and a body, behind which a request could hide."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        refusal = _refusal(scope)
        await (refusal or self._app)(scope, receive, send)


def _refusal(scope: Scope) -> Response | None:
    headers = dict(scope["headers"])
    close = {"Connection": "close"}
    if scope["http_version"] != "1.1":
        return status.problem(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 is served here", headers=close)
    if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
        return status.problem(HTTPStatus.BAD_REQUEST, "a request has no body here", headers=close)
    return None


class _Download:
    """The endpoint."""

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads

    def __call__(self, request: Request) -> Response:
        """Answers GET and HEAD."""
        try:
            response = self._answer(request)
        except CertdError as error:
            if error.reason is Reason.INTERNAL:
                raise
            address = _address(request)
            _log.info("download refused", path=request.url.path, address=address, reason=error.reason.value)
            response = status.to_response(error)
            if response.status_code == HTTPStatus.UNAUTHORIZED:
                response.headers["WWW-Authenticate"] = 'Bearer realm="certd"'
        DOWNLOADS.labels(str(response.status_code)).inc()
        return response

    def _answer(self, request: Request) -> Response:
        chosen = _format(request)
        words = request.path_params
        name = ManagedCertificateName.parse(
            "path", f"tenants/{words['tenant']}/managedCertificates/{words['managed_certificate']}"
        )
        reason = _reason(request)
        form = form_of(chosen)
        offer = self._downloads.offer(self._holder(request, name), name, with_key=form is not None)
        headers = {**headers_of(chosen, name.managed_certificate), **_validators(offer, chosen)}
        if _is_fresh(request, headers["ETag"]):
            # It says nothing of a content that is not sent.
            kept = ("ETag", "Last-Modified", "Cache-Control")
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={key: headers[key] for key in kept})
        headers["X-Content-Type-Options"] = "nosniff"
        if form is None:
            return Response(without_key(chosen, offer.material), headers=headers)
        if request.method == "HEAD":
            response = Response(headers=headers)
            # It is known only when the key is encrypted.
            del response.headers["Content-Length"]
            return response
        return Response(self._with_key(request, offer, chosen, form, reason=reason), headers=headers)

    def _holder(self, request: Request, name: ManagedCertificateName) -> Holder:
        address = _address(request)
        authorizations = request.headers.getlist("authorization")
        if not authorizations:
            certificate = getattr(request.state, PEER_CERTIFICATE, None)
            return self._downloads.of_identity(certificate, name, address=address)
        # A code is what is looked at where there is one, whatever certificate the connection has.
        scheme, _, code = authorizations[0].partition(" ")
        clear = len(authorizations) == 1 and scheme.lower() == "bearer"
        return self._downloads.of_code(code if clear else "", name, address=address)

    def _with_key(
        self, request: Request, offer: Offer, chosen: DeviceFormat, form: ExportForm, *, reason: str
    ) -> bytes:
        protection = PassphraseExport(_passphrase(request), form)
        return with_key(chosen, self._downloads.take(offer, protection, reason=reason))


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _format(request: Request) -> DeviceFormat:
    """Returns the format; raises FIELD_INVALID also for whatever else the query has, which is not repeated."""
    given = request.query_params.multi_items()
    if any(key != "format" for key, _ in given) or len(given) > 1:
        raise field_invalid("query", "must be nothing but one format; a passphrase goes into a header")
    return chosen_format(given[0][1] if given else None, request.headers.get("accept", ""))


def _reason(request: Request) -> str:
    try:
        text = request.headers.get("certd-reason", "").encode("latin-1").decode()
    except UnicodeDecodeError:
        raise field_invalid("Certd-Reason", "must be UTF-8") from None
    if len(text) > LONGEST_REASON or not text.isprintable():
        raise field_invalid("Certd-Reason", f"must be printable and have at most {LONGEST_REASON} characters")
    return text


def _passphrase(request: Request) -> bytes:
    given = request.headers.getlist(_PASSPHRASE)
    if not given:
        raise field_invalid(
            "Certd-Passphrase", "is required: the private key never leaves unprotected; or ask for format=pem"
        )
    if len(given) > 1 or not given[0].isascii() or not given[0].isprintable():
        raise field_invalid("Certd-Passphrase", "must be there once, of printable ASCII characters")
    return given[0].encode("ascii")


def _validators(offer: Offer, chosen: DeviceFormat) -> dict[str, str]:
    """Returns entity tag and date: weak, because what is encrypted anew has other bytes and the same meaning."""
    managed, material = offer.managed, offer.material
    # The certificate of an authority may change under one that it signed.
    digest = hashlib.sha256(b"".join((material.certificate, *material.chain))).hexdigest()[:16]
    modified = managed.issue_time or offer.version.create_time
    return {
        "ETag": f'W/"{managed.uid}.{offer.version.number}.{chosen}.{digest}"',
        "Last-Modified": format_datetime(modified, usegmt=True),
    }


def _is_fresh(request: Request, entity_tag: str) -> bool:
    """Whether the client has it already. Dates are not looked at: a version may be rolled back to an older one."""
    given = ", ".join(request.headers.getlist("if-none-match")).strip()
    return given == "*" or entity_tag.removeprefix("W/") in _ENTITY_TAG.findall(given)
