"""CRLs (RFC 5280, section 5): what is to be signed is written, and read again by who signs it.

The library's builder takes an object for every entry, minutes and gigabytes for a million. Here an entry is some fifty
bytes of text from its row, and a list is one joining of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from certd.errors import field_invalid
from certd.pki import der
from certd.pki.assembly import extension
from certd.pki.key_spec import SignatureAlgorithm, algorithm_identifier, algorithm_of_identifier
from certd.pki.tbs import EncodedExtension, read_extensions, read_time

AUTHORITY_KEY_IDENTIFIER: Final = "2.5.29.35"
CRL_NUMBER: Final = "2.5.29.20"
ISSUING_DISTRIBUTION_POINT: Final = "2.5.29.28"
EXPIRED_CERTIFICATES_ON_CRL: Final = "2.5.29.60"
"""ITU-T X.509 (10/2019), section 9.5.2.8: since when a CRL has what has expired, too."""
HIGHEST_NUMBER_BYTES: Final = 20
"""Of a CRL number (RFC 5280, section 5.2.3)."""

# CRLReason (RFC 5280, section 5.3.1).
_REASON_CODES: Final = {
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
    "aACompromise": 10,
}
_REASON_CODE = "2.5.29.21"
_INVALIDITY_DATE = "2.5.29.24"
_ENUMERATED = 0x0A
_URI = 0x86
_KEY_IDENTIFIER = 0x80
_VERSION_2 = bytes.fromhex("020101")
_FIRST_GENERALIZED_YEAR = 2050
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELD = "to_be_signed"
_KNOWN_CRITICAL = frozenset({ISSUING_DISTRIBUTION_POINT})


@dataclass(frozen=True, slots=True, kw_only=True)
class ToBeSignedRevocationList:
    """What a policy needs to know of a TBSCertList."""

    issuer: bytes
    """DER of the Name, as it stands there."""
    this_update: datetime
    next_update: datetime
    number: int
    signature_algorithm: SignatureAlgorithm
    extensions: Mapping[str, EncodedExtension]
    """By dotted identifier."""


def entry(serial: str, *, revoke_time: int, reason: str | None, invalidity_time: int | None) -> bytes:
    """Returns the DER of an entry.

    Args:
        serial: in hexadecimal, of even length.
        revoke_time: in seconds since 1970.
        reason: name of a CRLReason; None or `unspecified` is left out (RFC 5280, section 5.3.1).
        invalidity_time: since when the key is known or thought to be compromised, in seconds since 1970; None: unknown.
    """
    content = _serial(serial) + _time_of(revoke_time) + _entry_extensions(reason, invalidity_time)
    return der.encode(der.SEQUENCE, content)


def _serial(serial: str) -> bytes:
    # What certd draws has its highest bit unset and its highest octet set, which is DER as it stands.
    value = bytes.fromhex(serial)
    if 0 < value[0] < 0x80:
        return bytes((der.INTEGER, len(value))) + value
    return der.integer(int.from_bytes(value))


def _time_of(seconds: int) -> bytes:
    """Returns the DER of a Time; put together, because a million of them are wanted and few are the same."""
    day, second = divmod(seconds, _SECONDS_OF_DAY)
    minute, second = divmod(second, 60)
    return _day(day) + _HOURS_AND_MINUTES[minute] + _SECONDS[second]


_SECONDS_OF_DAY = 86_400
_HOURS_AND_MINUTES = [f"{hour:02}{minute:02}".encode("ascii") for hour in range(24) for minute in range(60)]
_SECONDS = [f"{second:02}Z".encode("ascii") for second in range(60)]


@lru_cache(maxsize=4096)
def _day(day: int) -> bytes:
    """Returns the DER of a Time as far as a day goes."""
    return _time(_EPOCH + timedelta(days=day))[: -len("000000Z")]


@lru_cache(maxsize=4096)
def _entry_extensions(reason: str | None, invalidity_time: int | None) -> bytes:
    """Returns crlEntryExtensions (RFC 5280, section 5.3); nothing when there is none."""
    extensions = []
    if reason in _REASON_CODES:
        extensions.append(extension(_REASON_CODE, der.encode(_ENUMERATED, bytes((_REASON_CODES[reason],)))))
    if invalidity_time is not None:
        extensions.append(extension(_INVALIDITY_DATE, _generalized(_EPOCH + timedelta(seconds=invalidity_time))))
    return der.sequence(*extensions) if extensions else b""


def tbs_revocation_list(
    *,
    algorithm: SignatureAlgorithm,
    issuer: bytes,
    this_update: datetime,
    next_update: datetime,
    entries: Sequence[bytes],
    extensions: Sequence[bytes],
) -> bytes:
    """Returns the DER of a TBSCertList of version 2.

    Args:
        algorithm: of the signature.
        issuer: DER of the issuer's name, copied.
        this_update: when it is made, aware, to the second.
        next_update: when the next one will have been made.
        entries: any number of entries in each, as `entry` returns them; no two of one serial.
        extensions: as the functions below return them, at least one.
    """
    before = b"".join((_VERSION_2, algorithm_identifier(algorithm), issuer, _time(this_update), _time(next_update)))
    after = der.encode(der.context(0), der.sequence(*extensions))
    length = sum(map(len, entries))
    # Without entries the list of them must be absent (RFC 5280, section 5.1.2.6).
    head = der.header(der.SEQUENCE, length) if length else b""
    whole = der.header(der.SEQUENCE, len(before) + len(head) + length + len(after))
    return b"".join((whole, before, head, *entries, after))


def authority_key_identifier(identifier: bytes) -> bytes:
    """Returns the extension that names the key of the issuer (RFC 5280, section 5.2.1)."""
    return extension(AUTHORITY_KEY_IDENTIFIER, der.sequence(der.encode(_KEY_IDENTIFIER, identifier)))


def crl_number(number: int) -> bytes:
    """Returns the extension with the CRL number (RFC 5280, section 5.2.3)."""
    return extension(CRL_NUMBER, der.integer(number))


def issuing_distribution_point(urls: Sequence[str]) -> bytes:
    """Returns the extension of a CRL that has the certificates alone which name one of these URLs, at least one.

    RFC 5280, section 5.2.5: readers compare them with those of the certificate's distribution point, and accept the CRL
    when one is the same.
    """
    names = b"".join(der.encode(_URI, url.encode("ascii")) for url in urls)
    full_name = der.encode(der.context(0), names)
    return extension(ISSUING_DISTRIBUTION_POINT, der.sequence(der.encode(der.context(0), full_name)), critical=True)


def expired_certificates_on_crl(since: datetime) -> bytes:
    """Returns the extension which says that what expired at `since` or later is on the CRL when it was revoked."""
    return extension(EXPIRED_CERTIFICATES_ON_CRL, _generalized(since))


def parse_tbs_revocation_list(tbs: bytes) -> ToBeSignedRevocationList:
    """Parses the DER of one TBSCertList of version 2, with nothing after it; what its entries hold is not looked at.

    FIELD_INVALID when it is anything else: not DER, another version, an algorithm that certd does not use, without
    nextUpdate or CRL number, or with a critical extension that certd does not write.
    """
    try:
        return _parse(tbs)
    except der.MalformedError as error:
        raise field_invalid(_FIELD, f"is not the DER of a TBSCertList that certd signs: it {error}") from error


def _parse(tbs: bytes) -> ToBeSignedRevocationList:
    outer = der.Reader(tbs)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    if reader.read_integer() != 1:
        raise der.MalformedError("has another version than 2")
    algorithm = algorithm_of_identifier(reader.read_whole(der.SEQUENCE))
    if algorithm is None:
        raise der.MalformedError("has a signature algorithm that is not known")
    issuer = reader.read_whole(der.SEQUENCE)
    this_update = read_time(reader)
    next_update = read_time(reader)
    if reader.peek() == der.SEQUENCE and not reader.enter(der.SEQUENCE).more:
        raise der.MalformedError("has an empty list of entries")
    explicit = reader.enter(der.context(0))
    reader.finish()
    extensions = read_extensions(explicit)
    unknown = [oid for oid, one in extensions.items() if one.critical and oid not in _KNOWN_CRITICAL]
    if unknown:
        raise der.MalformedError(f"has the critical extension {unknown[0]}")
    if CRL_NUMBER not in extensions:
        raise der.MalformedError("has no CRL number")
    number_reader = der.Reader(extensions[CRL_NUMBER].value)
    number = number_reader.read_integer()
    number_reader.finish()
    if number < 0 or number.bit_length() >= 8 * HIGHEST_NUMBER_BYTES:
        raise der.MalformedError("has a CRL number that is negative or too high")
    return ToBeSignedRevocationList(
        issuer=issuer,
        this_update=this_update,
        next_update=next_update,
        number=number,
        signature_algorithm=algorithm,
        extensions=extensions,
    )


def _digits(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y%m%d%H%M%SZ}".rjust(15, "0")


def _time(moment: datetime) -> bytes:
    """Returns the DER of a Time (RFC 5280, section 5.1.2.4): UTCTime until 2049, GeneralizedTime after."""
    if moment.year >= _FIRST_GENERALIZED_YEAR:
        return _generalized(moment)
    return der.encode(der.UTC_TIME, _digits(moment)[2:].encode("ascii"))


def _generalized(moment: datetime) -> bytes:
    return der.encode(der.GENERALIZED_TIME, _digits(moment).encode("ascii"))
