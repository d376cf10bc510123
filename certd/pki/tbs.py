"""Reads what is to be signed: TBSCertificate (RFC 5280, 4.1) and CertificationRequestInfo (RFC 2986, 4.1).

The token process judges these bytes before it signs them, so the reader accepts DER alone and refuses whatever another
parser might understand differently. Names and keys are returned as the bytes that stand there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from certd.errors import field_invalid
from certd.pki import der
from certd.pki.key_spec import SignatureAlgorithm, algorithm_of_identifier

_FIELD = "to_be_signed"
_BASIC_CONSTRAINTS = "2.5.29.19"
_KEY_USAGE = "2.5.29.15"
_OTHER_SIGNS = frozenset({"2.16.840.1.113730.1.1", "2.5.29.10"})
"""Netscape's certificate type, which OpenSSL falls back on, and the basic constraints of X.509's drafts, which Windows
looks at first."""
_SIGNS_CERTIFICATES_OR_CRLS = 0x06
"""Bits 5 and 6 of KeyUsage in its first octet: keyCertSign, cRLSign."""
_FIRST_GENERALIZED_YEAR = 2050


class EncodedExtension(NamedTuple):
    """An extension (RFC 5280, section 4.1) as it stands there."""

    critical: bool
    value: bytes
    """What the OCTET STRING holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToBeSignedCertificate:
    """What a policy needs to know of a TBSCertificate."""

    issuer: bytes
    """DER of the Name, as it stands there."""
    subject: bytes
    """DER of the Name, as it stands there."""
    serial: int
    not_before: datetime
    not_after: datetime
    authority: bool
    """Whether any reader could take its key for an authority's: cA of basic constraints, keyCertSign or cRLSign of key
    usage, a Netscape certificate type, or the basic constraints of X.509's drafts."""
    path_length: int | None
    public_key: bytes
    """DER of the SubjectPublicKeyInfo, as it stands there."""
    signature_algorithm: SignatureAlgorithm
    extensions: Mapping[str, EncodedExtension]
    """By dotted identifier, in the order of the encoding."""


def parse_tbs_certificate(tbs: bytes) -> ToBeSignedCertificate:
    """Parses the DER of one TBSCertificate of version 3, with nothing after it.

    FIELD_INVALID when it is anything else: not DER, another version, an algorithm that certd does not use, an extension
    that stands twice, unique identifiers (RFC 5280, section 4.1.2.8, forbids them).
    """
    try:
        return _parse(tbs)
    except der.MalformedError as error:
        message = f"is not the DER of a TBSCertificate that certd signs: it {error}"
        raise field_invalid(_FIELD, message) from error


def parse_certification_request_info(info: bytes) -> tuple[bytes, bytes]:
    """Returns subject and SubjectPublicKeyInfo, both as DER, of one CertificationRequestInfo with nothing after it.

    FIELD_INVALID when it is anything else.
    """
    try:
        return _parse_request(info)
    except der.MalformedError as error:
        raise field_invalid(_FIELD, f"is not the DER of a CertificationRequestInfo: it {error}") from error


def _parse_request(info: bytes) -> tuple[bytes, bytes]:
    outer = der.Reader(info)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    if reader.read_integer() != 0:
        raise der.MalformedError("has another version than 1")
    subject = reader.read_whole(der.SEQUENCE)
    public_key = reader.read_whole(der.SEQUENCE)
    reader.read(der.context(0))
    reader.finish()
    return subject, public_key


def _parse(tbs: bytes) -> ToBeSignedCertificate:
    outer = der.Reader(tbs)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    if reader.read(der.context(0)) != b"\x02\x01\x02":
        raise der.MalformedError("has another version than 3")
    serial = reader.read_integer()
    algorithm = algorithm_of_identifier(reader.read_whole(der.SEQUENCE))
    if algorithm is None:
        raise der.MalformedError("has a signature algorithm that is not known")
    issuer = reader.read_whole(der.SEQUENCE)
    validity = reader.enter(der.SEQUENCE)
    not_before = read_time(validity)
    not_after = read_time(validity)
    validity.finish()
    subject = reader.read_whole(der.SEQUENCE)
    public_key = reader.read_whole(der.SEQUENCE)
    explicit = reader.enter(der.context(3))
    reader.finish()
    extensions = read_extensions(explicit)
    authority, path_length = False, None
    if (constraints := extensions.get(_BASIC_CONSTRAINTS)) is not None:
        authority, path_length = _read_basic_constraints(constraints.value)
    if (usages := extensions.get(_KEY_USAGE)) is not None:
        authority |= _signs_certificates(usages.value)
    authority |= not _OTHER_SIGNS.isdisjoint(extensions)
    return ToBeSignedCertificate(
        issuer=issuer,
        subject=subject,
        serial=serial,
        not_before=not_before,
        not_after=not_after,
        authority=authority,
        path_length=path_length,
        public_key=public_key,
        signature_algorithm=algorithm,
        extensions=extensions,
    )


def read_time(reader: der.Reader) -> datetime:
    """Reads a Time (RFC 5280, section 4.1.2.5): UTCTime until 2049, GeneralizedTime after, to the second, in UTC."""
    tag, content = reader.read_any()
    digits = content[:-1]
    if (
        content[-1:] != b"Z"
        or not digits.isdigit()
        or len(digits) != {der.UTC_TIME: 12, der.GENERALIZED_TIME: 14}.get(tag)
    ):
        raise der.MalformedError("has a time that is neither UTCTime nor GeneralizedTime to the second")
    if tag == der.UTC_TIME:
        digits = (b"20" if digits < b"50" else b"19") + digits
    year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:8])
    if tag == der.GENERALIZED_TIME and year < _FIRST_GENERALIZED_YEAR:
        raise der.MalformedError("has a GeneralizedTime before 2050")
    try:
        return datetime(year, month, day, int(digits[8:10]), int(digits[10:12]), int(digits[12:]), tzinfo=UTC)
    except ValueError as error:
        raise der.MalformedError("has a time that does not exist") from error


def read_extensions(explicit: der.Reader) -> dict[str, EncodedExtension]:
    """Reads Extensions and returns them by dotted identifier."""
    reader = explicit.enter(der.SEQUENCE)
    explicit.finish()
    extensions: dict[str, EncodedExtension] = {}
    while reader.more:
        extension = reader.enter(der.SEQUENCE)
        oid = der.dotted(extension.read_object_identifier())
        critical = extension.read_true()
        value = extension.read(der.OCTET_STRING)
        extension.finish()
        if oid in extensions:
            raise der.MalformedError(f"has the extension {oid} twice")
        extensions[oid] = EncodedExtension(critical, value)
    if not extensions:
        raise der.MalformedError("has no extensions")
    return extensions


@lru_cache(maxsize=256)
def _read_basic_constraints(value: bytes) -> tuple[bool, int | None]:
    """Returns cA and pathLenConstraint (RFC 5280, section 4.2.1.9)."""
    outer = der.Reader(value)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    authority = reader.read_true()
    path_length = reader.read_integer() if reader.more else None
    reader.finish()
    if path_length is not None and (path_length < 0 or not authority):
        raise der.MalformedError("has a path length that is negative or not an authority's")
    return authority, path_length


@lru_cache(maxsize=256)
def _signs_certificates(value: bytes) -> bool:
    """Returns whether KeyUsage (RFC 5280, section 4.2.1.3) has keyCertSign or cRLSign."""
    outer = der.Reader(value)
    bits = outer.read(der.BIT_STRING)
    outer.finish()
    if not 2 <= len(bits) <= 3 or bits[0] > 7 or bits[-1] & ((1 << bits[0]) - 1):
        raise der.MalformedError("has a key usage that is no BIT STRING of named bits")
    return bool(bits[1] & _SIGNS_CERTIFICATES_OR_CRLS)
