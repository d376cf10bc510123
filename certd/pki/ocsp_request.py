"""OCSP requests (RFC 6960, section 4.1), read as strictly as everything that strangers send.

A signature of a request is passed over, as is the name of who asks: nobody is answered otherwise for them.
"""

from dataclasses import dataclass
from typing import Final

from certd.pki import der
from certd.pki.ocsp_identifiers import NONCE, CertId, HashAlgorithm, hash_of_identifier

LONGEST_REQUEST: Final = 4096
"""Bytes; one of the most certificates with the longest nonce takes half of it."""
MOST_CERTIFICATES: Final = 16
"""That one request may ask about."""
LONGEST_NONCE: Final = 128
"""RFC 9654, section 2.1."""
_LONGEST_SERIAL: Final = 32
"""Bytes; certificates have 20 at most (RFC 5280, section 4.1.2.2)."""
_SIGNATURE: Final = der.context(0)
_VERSION: Final = der.context(0)
_REQUESTOR: Final = der.context(1)
_REQUEST_EXTENSIONS: Final = der.context(2)
_SINGLE_EXTENSIONS: Final = der.context(0)
_HASH_BYTES: Final = {HashAlgorithm.SHA1: 20, HashAlgorithm.SHA256: 32}


class MalformedRequestError(ValueError):
    """The answer is malformedRequest; the message says why, for tests and traces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OcspRequest:
    """What is asked."""

    certificates: tuple[CertId, ...]
    """At least one."""
    nonce: bytes | None
    """1 to 128 octets; None: there was none, and an answer that was signed ahead will do."""
    plain: bool
    """Whether neither name nor signature nor extension stands in it: it may be remembered by its bytes."""


def parse_request(request: bytes) -> OcspRequest:
    """Parses the DER of an OCSPRequest.

    MalformedRequestError for what is none, has something after its end, a version that does not exist, a nonce of no
    octets or more than 128, a critical extension, more certificates than MOST_CERTIFICATES, or a hash other than
    SHA-1 and SHA-256.
    """
    if len(request) > LONGEST_REQUEST:
        raise MalformedRequestError(f"is longer than {LONGEST_REQUEST} bytes")
    try:
        return _parse(request)
    except der.MalformedError as error:
        raise MalformedRequestError(str(error)) from error


def _parse(request: bytes) -> OcspRequest:
    whole = der.Reader(request)
    outer = whole.enter(der.SEQUENCE)
    whole.finish()
    body = outer.enter(der.SEQUENCE)
    plain = not outer.more
    if outer.peek() == _SIGNATURE:
        outer.read(_SIGNATURE)
    outer.finish()
    if body.peek() == _VERSION:
        # Version 1 is the default, which some write all the same.
        version = body.enter(_VERSION)
        if version.read_integer() != 0:
            raise der.MalformedError("has another version than 1")
        version.finish()
    if body.peek() == _REQUESTOR:
        body.read(_REQUESTOR)
        plain = False
    several = body.enter(der.SEQUENCE)
    certificates: list[CertId] = []
    while several.more:
        if len(certificates) == MOST_CERTIFICATES:
            raise der.MalformedError(f"asks about more than {MOST_CERTIFICATES} certificates")
        one = several.enter(der.SEQUENCE)
        certificates.append(_cert_id(one.enter(der.SEQUENCE)))
        if one.peek() == _SINGLE_EXTENSIONS:
            _extensions(one.enter(_SINGLE_EXTENSIONS))
            plain = False
        one.finish()
    if not certificates:
        raise der.MalformedError("asks about no certificate")
    nonce = None
    if body.peek() == _REQUEST_EXTENSIONS:
        nonce = _extensions(body.enter(_REQUEST_EXTENSIONS))
        plain = False
    body.finish()
    return OcspRequest(certificates=tuple(certificates), nonce=nonce, plain=plain)


def _cert_id(reader: der.Reader) -> CertId:
    algorithm = hash_of_identifier(reader.read_whole(der.SEQUENCE))
    if algorithm is None:
        raise der.MalformedError("names a certificate by another hash than SHA-1 or SHA-256")
    name_hash, key_hash = reader.read(der.OCTET_STRING), reader.read(der.OCTET_STRING)
    if not len(name_hash) == len(key_hash) == _HASH_BYTES[algorithm]:
        raise der.MalformedError("has a hash of another length than its algorithm makes")
    serial = reader.read_integer()
    reader.finish()
    if serial.bit_length() > 8 * _LONGEST_SERIAL:
        raise der.MalformedError("has a serial number that is too long")
    return CertId(algorithm=algorithm, issuer_name_hash=name_hash, issuer_key_hash=key_hash, serial=serial)


def _extensions(explicit: der.Reader) -> bytes | None:
    """Reads Extensions; returns the nonce, if there is one."""
    reader = explicit.enter(der.SEQUENCE)
    explicit.finish()
    seen: set[bytes] = set()
    nonce = None
    while reader.more:
        extension = reader.enter(der.SEQUENCE)
        oid = extension.read_object_identifier()
        critical = extension.read_true()
        value = extension.read(der.OCTET_STRING)
        extension.finish()
        if oid in seen:
            raise der.MalformedError("has an extension twice")
        seen.add(oid)
        if der.dotted(oid) == NONCE:
            nonce = _nonce(value)
        elif critical:
            # RFC 6960, section 4.4: what is critical and not known is not ignored.
            raise der.MalformedError("has a critical extension that is not known")
    return nonce


def _nonce(value: bytes) -> bytes:
    reader = der.Reader(value)
    nonce = reader.read(der.OCTET_STRING)
    reader.finish()
    if not 1 <= len(nonce) <= LONGEST_NONCE:
        raise der.MalformedError(f"has a nonce that is not of 1 to {LONGEST_NONCE} octets")
    return nonce
