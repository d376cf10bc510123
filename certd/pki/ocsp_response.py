"""OCSP responses (RFC 6960, section 4.2), written by hand: a million of them are signed ahead every other day.

The token process reads again what it is to sign, see `parse_response_data`.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from certd.errors import field_invalid
from certd.pki import der
from certd.pki.assembly import extension
from certd.pki.key_spec import SignatureAlgorithm, algorithm_identifier
from certd.pki.ocsp_identifiers import NONCE, HashAlgorithm, cert_id_head, hash_of_identifier
from certd.pki.tbs import read_extensions

MOST_ANSWERS: Final = 16
"""In one response; as many as a request may ask for."""
_FIELD: Final = "to_be_signed"
_ENUMERATED: Final = 0x0A
_BASIC: Final = der.object_identifier("1.3.6.1.5.5.7.48.1.1")
_BY_KEY: Final = der.context(2)
_GOOD: Final = b"\x80\x00"
_UNKNOWN: Final = b"\x82\x00"
_REVOKED: Final = der.context(1)
_EXPLICIT_0: Final = der.context(0)
_EXPLICIT_1: Final = der.context(1)
# RFC 5280, section 5.3.1; `unspecified` is left out.
_REASON_CODES: Final = {
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
    "aACompromise": 10,
}


class ResponseStatus(enum.IntEnum):
    """OCSPResponseStatus of an answer that is not signed."""

    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    UNAUTHORIZED = 6


class State(enum.Enum):
    """What is said of a certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Status:
    """What is said of a certificate, and since when."""

    state: State
    revoke_time: datetime | None = None
    """Of one that is revoked."""
    reason: str | None = None
    """Name of a CRLReason; None and `unspecified` are left out."""


class SingleAnswer(NamedTuple):
    """An answer about one certificate."""

    cert_id: bytes
    """DER."""
    status: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class ToBeSignedResponse:
    """What a policy needs to know of a ResponseData."""

    responder_key_hash: bytes
    produced_at: datetime
    answers: tuple["ToBeSignedAnswer", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToBeSignedAnswer:
    """What a policy needs to know of a SingleResponse."""

    algorithm: HashAlgorithm
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int
    state: State
    this_update: datetime
    next_update: datetime


@lru_cache(maxsize=16)
def error_response(status: ResponseStatus) -> bytes:
    """Returns the DER of an OCSPResponse that is not signed and has nothing but its status."""
    return der.sequence(der.encode(_ENUMERATED, bytes((status,))))


def cert_id(algorithm: HashAlgorithm, *, issuer_name: bytes, issuer_key: bytes, serial: int) -> bytes:
    """Returns the DER of a CertID.

    Args:
        algorithm: of the hashes.
        issuer_name: DER of the issuer's name.
        issuer_key: DER of its SubjectPublicKeyInfo.
        serial: of the certificate.
    """
    return der.encode(der.SEQUENCE, cert_id_head(algorithm, issuer_name, issuer_key) + der.integer(serial))


def response_data(
    *,
    responder_key_hash: bytes,
    produced_at: datetime,
    next_update: datetime,
    answers: Sequence[SingleAnswer],
    nonce: bytes | None = None,
) -> bytes:
    """Returns the DER of a ResponseData; all of its answers hold from `produced_at` to `next_update`.

    Args:
        responder_key_hash: SHA-1 of the key that will sign it (`ocsp_identifiers.key_hash`).
        produced_at: aware; fractions of a second are cut off.
        next_update: when a newer answer will be there, at the latest; cut off as well.
        answers: at least one.
        nonce: of the request; None: none.
    """
    produced = _time(produced_at)
    until = der.encode(_EXPLICIT_0, _time(next_update))
    singles = b"".join(
        der.encode(der.SEQUENCE, b"".join((one.cert_id, _status(one.status), produced, until))) for one in answers
    )
    extensions = b""
    if nonce is not None:
        extensions = der.encode(_EXPLICIT_1, der.sequence(extension(NONCE, der.octet_string(nonce))))
    return der.sequence(
        der.encode(_BY_KEY, der.octet_string(responder_key_hash)),
        produced,
        der.encode(der.SEQUENCE, singles),
        extensions,
    )


def _status(status: Status) -> bytes:
    if status.state is State.GOOD:
        return _GOOD
    if status.state is State.UNKNOWN or status.revoke_time is None:
        return _UNKNOWN
    content = _time(status.revoke_time)
    code = _REASON_CODES.get(status.reason or "")
    if code is not None:
        content += der.encode(_EXPLICIT_0, der.encode(_ENUMERATED, bytes((code,))))
    return der.encode(_REVOKED, content)


def signed_response(tbs: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """Returns the content of a BasicOCSPResponse without certificates, of ResponseData, algorithm and signature."""
    return b"".join((tbs, algorithm_identifier(algorithm), der.bit_string(signature)))


def successful_response(signed: bytes, certificates: Sequence[bytes] = ()) -> bytes:
    """Returns the DER of an OCSPResponse.

    Args:
        signed: as `signed_response` returns it.
        certificates: DER of the responder's; none when the authority's own key signed.
    """
    certs = der.encode(_EXPLICIT_0, der.sequence(*certificates)) if certificates else b""
    basic = der.octet_string(der.sequence(signed, certs))
    return der.sequence(b"\x0a\x01\x00", der.encode(_EXPLICIT_0, der.sequence(_BASIC, basic)))


@lru_cache(maxsize=1024)
def _time(moment: datetime) -> bytes:
    """Returns the DER of a GeneralizedTime to the second (RFC 6960, section 4.2.2.1); many answers have the same."""
    digits = f"{moment.astimezone(UTC):%Y%m%d%H%M%SZ}".rjust(15, "0")
    return der.encode(der.GENERALIZED_TIME, digits.encode("ascii"))


def parse_response_data(tbs: bytes) -> ToBeSignedResponse:
    """Parses the DER of one ResponseData, with nothing after it.

    FIELD_INVALID when it is anything else than certd writes: not DER, another version, a responder by name, an answer
    without nextUpdate, more than MOST_ANSWERS, or an extension other than a nonce.
    """
    try:
        return _parse(tbs)
    except der.MalformedError as error:
        raise field_invalid(_FIELD, f"is not the DER of a ResponseData that certd signs: it {error}") from error


def _parse(tbs: bytes) -> ToBeSignedResponse:
    outer = der.Reader(tbs)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    by_key = reader.enter(_BY_KEY)
    responder = by_key.read(der.OCTET_STRING)
    by_key.finish()
    produced_at = _read_time(reader)
    several = reader.enter(der.SEQUENCE)
    answers: list[ToBeSignedAnswer] = []
    while several.more:
        if len(answers) == MOST_ANSWERS:
            raise der.MalformedError(f"answers about more than {MOST_ANSWERS} certificates")
        answers.append(_answer(several.enter(der.SEQUENCE)))
    if not answers:
        raise der.MalformedError("answers about no certificate")
    if reader.more:
        extensions = read_extensions(reader.enter(_EXPLICIT_1))
        if set(extensions) != {NONCE} or extensions[NONCE].critical:
            raise der.MalformedError("has an extension other than a nonce")
    reader.finish()
    return ToBeSignedResponse(responder_key_hash=responder, produced_at=produced_at, answers=tuple(answers))


def _answer(reader: der.Reader) -> ToBeSignedAnswer:
    named = reader.enter(der.SEQUENCE)
    algorithm = hash_of_identifier(named.read_whole(der.SEQUENCE))
    if algorithm is None:
        raise der.MalformedError("names a certificate by another hash than SHA-1 or SHA-256")
    name_hash, key_hash = named.read(der.OCTET_STRING), named.read(der.OCTET_STRING)
    serial = named.read_integer()
    named.finish()
    state = _read_status(reader)
    this_update = _read_time(reader)
    explicit = reader.enter(_EXPLICIT_0)
    next_update = _read_time(explicit)
    explicit.finish()
    reader.finish()
    return ToBeSignedAnswer(
        algorithm=algorithm,
        issuer_name_hash=name_hash,
        issuer_key_hash=key_hash,
        serial=serial,
        state=state,
        this_update=this_update,
        next_update=next_update,
    )


def _read_status(reader: der.Reader) -> State:
    tag = reader.peek()
    if tag == _REVOKED:
        revoked = reader.enter(_REVOKED)
        _read_time(revoked)
        if revoked.more:
            reason = revoked.enter(_EXPLICIT_0)
            code = reason.read(_ENUMERATED)
            reason.finish()
            if len(code) != 1 or code[0] not in _REASON_CODES.values():
                raise der.MalformedError("has a reason that certd does not write")
        revoked.finish()
        return State.REVOKED
    if tag not in (_GOOD[0], _UNKNOWN[0]) or reader.read(tag):
        raise der.MalformedError("has no status of a certificate")
    return State.GOOD if tag == _GOOD[0] else State.UNKNOWN


def _read_time(reader: der.Reader) -> datetime:
    digits = reader.read(der.GENERALIZED_TIME)
    if len(digits) != 15 or digits[-1:] != b"Z" or not digits[:-1].isdigit():
        raise der.MalformedError("has a time that is no GeneralizedTime to the second")
    parts = (digits[:4], digits[4:6], digits[6:8], digits[8:10], digits[10:12], digits[12:14])
    try:
        year, month, day, hour, minute, second = map(int, parts)
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise der.MalformedError("has a time that does not exist") from error
