"""Certificates that another CA issued under a key which is an authority's here now."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from certd.errors import CertdError, field_invalid
from certd.pki import names
from certd.pki.certificate_chain import parse, parse_bundle
from certd.pki.cross_certificate import is_signed_by
from certd.pki.description import describe
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames

LONGEST_CERTIFICATE = 64 << 10
"""Bytes, of PEM or DER."""
_MOST_SERIAL_BITS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """What the books want to know of it."""

    der: bytes
    readable: bool
    """Whether certd can show it; one that it cannot is known by its serial number alone."""
    serial: int
    subject_text: str
    not_before: datetime
    not_after: datetime
    public_key_sha256: bytes
    key_spec: KeySpec | None
    names: SubjectAlternativeNames
    """In their normal form; none when one has none."""


def issued_certificate(certificate: bytes, *, field: str, issuer: bytes, public_key: bytes) -> IssuedCertificate:
    """Reads a certificate, PEM or DER, that this key signed under this name.

    Args:
        certificate: PEM or DER of one.
        field: its path in the request.
        issuer: DER of the name of the authority.
        public_key: DER of the SubjectPublicKeyInfo of the authority's key.

    Raises:
        CertdError: FIELD_INVALID and IMPORT_NOT_PEM.
    """
    found = parse_bundle(certificate, field=field, longest=LONGEST_CERTIFICATE)
    if len(found) != 1:
        raise field_invalid(field, f"has {len(found)} certificates; send one in each entry")
    element = parse(found[0], field=field)
    serial = element.parsed.serial_number
    if not 0 < serial < 1 << _MOST_SERIAL_BITS:
        raise field_invalid(field, "has a serial number that is not positive, or longer than 20 bytes; leave it out")
    if element.issuer != issuer:
        raise field_invalid(field, "has another issuer than the name of the authority, byte for byte; leave it out")
    if not is_signed_by(element.der, public_key):
        raise field_invalid(field, "was not signed with the key of the authority; name its key_number, or leave it out")
    try:
        described = describe(element.der)
    except CertdError:
        described = None
    return IssuedCertificate(
        der=element.der,
        readable=described is not None,
        serial=serial,
        subject_text=element.text if described is None else described.subject_text,
        not_before=element.parsed.not_valid_before_utc,
        not_after=element.parsed.not_valid_after_utc,
        public_key_sha256=hashlib.sha256(element.public_key).digest(),
        key_spec=None if described is None else described.key_spec,
        names=SubjectAlternativeNames() if described is None else _normal(described.subject_alternative_names),
    )


def _normal(found: SubjectAlternativeNames) -> SubjectAlternativeNames:
    try:
        return names.normalise(found, field="subject_alternative_names")
    except CertdError:
        return SubjectAlternativeNames()
