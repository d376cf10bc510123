"""Certificates of authorities under URLs that stand in certificates for decades: `/ca/{uid}/{key}.cer` and `.pem`.

Plain, cacheable, without authentication; the uid and the number of the key are never used again for another authority.
"""

import functools
import hashlib
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response

from certd.errors import CertdError, Reason
from certd.pki.description import describe
from certd.pki.encoding import certificate_pem
from certd.web.conditional import KEY_NUMBER, UID, Endpoint, is_fresh

# An authority may get a new certificate for the same key, which should not take a day to be seen.
_CACHE_CONTROL: Final = "public, max-age=3600"


class AuthorityChains(Protocol):
    """Where chains come from: `services.public.PublicCertificates`."""

    def authority_chain(self, uid: str, key_number: int) -> tuple[bytes, ...]:
        """Returns DER of the authority's certificate and those above it; raises AUTHORITY_NOT_FOUND."""


@dataclass(frozen=True, slots=True)
class _Document:
    body: bytes
    media_type: str
    entity_tag: str
    modified: datetime


def endpoints(chains: AuthorityChains) -> dict[str, Endpoint]:
    """Returns the endpoints by path."""

    def certificate(request: Request) -> Response:
        chain = _chain(chains, request)
        # RFC 2585, section 4.1: one certificate in DER.
        return _conditional(request, _document(chain[:1], "application/pkix-cert"))

    def pem(request: Request) -> Response:
        # RFC 8555, section 9.1: the certificate first, each next one certifies the one before.
        return _conditional(request, _document(_chain(chains, request), "application/pem-certificate-chain"))

    return {"/ca/{uid}/{key}.cer": certificate, "/ca/{uid}/{key}.pem": pem}


def _chain(chains: AuthorityChains, request: Request) -> tuple[bytes, ...]:
    uid, key_number = request.path_params["uid"], request.path_params["key"]
    if not UID.fullmatch(uid) or not KEY_NUMBER.fullmatch(key_number):
        raise CertdError(Reason.AUTHORITY_NOT_FOUND, "no authority has this uid and key number")
    return chains.authority_chain(uid, int(key_number))


@functools.lru_cache(maxsize=256)
def _document(certificates: tuple[bytes, ...], media_type: str) -> _Document:
    if media_type == "application/pkix-cert":
        body = certificates[0]
    else:
        body = "".join(certificate_pem(der) for der in certificates).encode("ascii")
    return _Document(
        body=body,
        media_type=media_type,
        entity_tag=f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        modified=describe(certificates[0]).not_before_time,
    )


def _conditional(request: Request, document: _Document) -> Response:
    """Returns the document, or 304 when the client has it (RFC 9110, section 13)."""
    headers = {
        "Cache-Control": _CACHE_CONTROL,
        "ETag": document.entity_tag,
        "Last-Modified": format_datetime(document.modified, usegmt=True),
        "X-Content-Type-Options": "nosniff",
    }
    if is_fresh(request, document.entity_tag, document.modified):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(document.body, media_type=document.media_type, headers=headers)
