"""What is to be prepared, and the pure step itself, which runs in a prepare process or, with none, in the daemon."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime

from certd.errors import CertdError
from certd.pki import csr
from certd.pki.certificate_request import CertificateRequest, Issuer, Validity, request_of
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared, prepare
from certd.pki.profiles import Profile
from certd.pki.status_locations import LOCATION_EXTENSIONS, location_values, locations_under
from certd.pki.tbs import parse_tbs_certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What items share that go together."""

    issuer: Issuer
    profile: Profile


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
    now: datetime
    """The moment of issue."""


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
        now=item.now,
    )


def is_as_told(prepared: Prepared, terms: Terms) -> bool:
    """Returns whether the bytes to be signed are what the books would say of them, and no more than was asked for.

    For the daemon, which signs what a prepare process answers: one that a stranger's bytes took over may choose names,
    but neither a serial number that the books do not know, nor an authority where the profile yields none, nor places
    of its own where the certificate is said to be revoked.
    """
    try:
        tbs = parse_tbs_certificate(prepared.tbs)
    except CertdError:
        return False
    issuer = terms.issuer
    locations = locations_under(issuer.locations, terms.profile)
    told = {
        **location_values(locations, prepared.crl_partition),
        **{one.oid: one.value for one in terms.profile.custom_extensions if one.oid in LOCATION_EXTENSIONS},
    }
    return (
        tbs.serial == prepared.serial
        and tbs.issuer == issuer.name
        and tbs.signature_algorithm is issuer.signature_algorithm
        and tbs.authority is terms.profile.authority
        and (tbs.not_before, tbs.not_after) == (prepared.not_before, prepared.not_after)
        and (issuer.not_after is None or tbs.not_after <= issuer.not_after)
        and told == {oid: tbs.extensions[oid].value for oid in LOCATION_EXTENSIONS if oid in tbs.extensions}
        and hashlib.sha256(tbs.public_key).digest() == prepared.public_key_sha256
    )
