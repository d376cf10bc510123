"""What is to be prepared, and the pure step itself, which runs in a prepare process or, with none, in the daemon."""

from dataclasses import dataclass, replace
from datetime import datetime

from certd.pki import csr
from certd.pki.certificate_request import CertificateRequest, Issuer, Validity, request_of
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared, prepare
from certd.pki.profiles import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all items of a call share."""

    issuer: Issuer
    profile: Profile
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Csr:
    """A certification request as a stranger sent it, with what the caller puts in place of its parts."""

    data: bytes
    """PEM or DER."""
    subject: bytes | None = None
    """DER of the subject that replaces the CSR's."""
    names: SubjectAlternativeNames | None = None
    """Names that replace the CSR's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One certificate to prepare."""

    serial: int
    source: Csr | CertificateRequest
    validity: Validity


def prepare_item(terms: Terms, item: Item) -> Prepared:
    """Parses and verifies a CSR, admits it, builds what will be signed and lints it.

    Raises what `pki.csr.parse_csr`, `pki.certificate_request.request_of` and `pki.preparation.prepare` raise.
    """
    if isinstance(item.source, CertificateRequest):
        return _prepare(terms, item, item.source)
    parsed = csr.parse_csr(item.source.data)
    request, overridden = request_of(
        parsed, profile=terms.profile, subject=item.source.subject, names=item.source.names
    )
    prepared = _prepare(terms, item, request)
    return replace(prepared, warnings=(*overridden, *prepared.warnings)) if overridden else prepared


def _prepare(terms: Terms, item: Item, request: CertificateRequest) -> Prepared:
    return prepare(
        issuer=terms.issuer,
        request=request,
        profile=terms.profile,
        validity=item.validity,
        serial=item.serial,
        now=terms.now,
    )
