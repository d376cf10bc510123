"""Writes what is to be signed: a TBSCertificate (RFC 5280, section 4.1), most of whose parts are always the same.

The library's builder takes an object for every part and a private key, and a third of the time that a certificate
takes to prepare. A test has the builder write the same certificates, byte for byte, and the lints judge every one.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address

from certd.pki import der
from certd.pki.key_spec import KeyFamily, SignatureAlgorithm, algorithm_identifier, family_of
from certd.pki.names import SubjectAlternativeNames

_VERSION_3 = bytes.fromhex("a003020102")
_FIRST_GENERALIZED_YEAR = 2050
# GeneralName (RFC 5280, section 4.2.1.6), context-specific and primitive.
_RFC822_NAME, _DNS_NAME, _URI, _IP_ADDRESS = 0x81, 0x82, 0x86, 0x87


def tbs_certificate(
    *,
    serial: int,
    algorithm: SignatureAlgorithm,
    issuer: bytes,
    not_before: datetime,
    not_after: datetime,
    subject: bytes,
    public_key: bytes,
    extensions: Sequence[bytes],
) -> bytes:
    """Returns the DER of a TBSCertificate of version 3.

    Args:
        serial: the serial number.
        algorithm: of the issuer's signature.
        issuer: DER of the issuer's name, copied.
        not_before: start of the validity, aware, to the second.
        not_after: its end.
        subject: DER of the subject's name, copied.
        public_key: DER of the SubjectPublicKeyInfo, copied.
        extensions: each as `extension` returns it, at least one.
    """
    return der.sequence(
        _VERSION_3,
        der.integer(serial),
        algorithm_identifier(algorithm),
        issuer,
        der.sequence(_time(not_before), _time(not_after)),
        subject,
        public_key,
        der.encode(der.context(3), der.sequence(*extensions)),
    )


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """Returns the DER of an Extension with this value."""
    criticality = _TRUE if critical else b""
    return der.sequence(der.object_identifier(oid), criticality, der.octet_string(value))


_TRUE = bytes.fromhex("0101ff")


def subject_alternative_names(names: SubjectAlternativeNames) -> bytes:
    """Returns the DER of GeneralNames, for names in their normal form."""
    return der.sequence(
        *(der.encode(_DNS_NAME, name.encode("ascii")) for name in names.dns_names),
        *(der.encode(_IP_ADDRESS, ip_address(address).packed) for address in names.ip_addresses),
        *(der.encode(_URI, uri.encode("ascii")) for uri in names.uris),
        *(der.encode(_RFC822_NAME, address.encode("ascii")) for address in names.email_addresses),
    )


@lru_cache(maxsize=64)
def _time(moment: datetime) -> bytes:
    """Returns the DER of a Time (RFC 5280, section 4.1.2.5): UTCTime until 2049, GeneralizedTime after."""
    text = f"{moment.astimezone(UTC):%Y%m%d%H%M%SZ}".rjust(15, "0")
    if moment.year >= _FIRST_GENERALIZED_YEAR:
        return der.encode(der.GENERALIZED_TIME, text.encode("ascii"))
    return der.encode(der.UTC_TIME, text[2:].encode("ascii"))


def assemble(tbs: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """Returns the DER of the certificate (RFC 5280, section 4.1) made of stored bytes and their signature."""
    return der.sequence(tbs, algorithm_identifier(algorithm), der.bit_string(signature))


_FORMS = {
    KeyFamily.RSA: bytes(256),
    KeyFamily.EC: der.sequence(der.integer(1), der.integer(1)),
    KeyFamily.ED25519: bytes(64),
}


def unsigned(tbs: bytes, algorithm: SignatureAlgorithm) -> bytes:
    """Returns a certificate for readers of certificates, with a signature of the right form that no key made."""
    return assemble(tbs, algorithm, _FORMS[family_of(algorithm)])
