"""Vocabulary of extensions (RFC 5280, section 4.2): key usages, and what extended ones and extensions are called."""

import enum
import re
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Final

from cryptography import x509

from certd.pki import der

# Extended key usages (RFC 5280, section 4.2.1.12).
SERVER_AUTHENTICATION = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTHENTICATION = "1.3.6.1.5.5.7.3.2"
CODE_SIGNING = "1.3.6.1.5.5.7.3.3"
EMAIL_PROTECTION = "1.3.6.1.5.5.7.3.4"
TIME_STAMPING = "1.3.6.1.5.5.7.3.8"
OCSP_SIGNING = "1.3.6.1.5.5.7.3.9"
ANY_EXTENDED_KEY_USAGE = "2.5.29.37.0"

# Extensions that certd gives a meaning to.
SUBJECT_KEY_IDENTIFIER = "2.5.29.14"
KEY_USAGE = "2.5.29.15"
AUTHORITY_KEY_IDENTIFIER = "2.5.29.35"
SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"
BASIC_CONSTRAINTS = "2.5.29.19"
NAME_CONSTRAINTS = "2.5.29.30"
CERTIFICATE_POLICIES = "2.5.29.32"
EXTENDED_KEY_USAGE = "2.5.29.37"
TLS_FEATURE = "1.3.6.1.5.5.7.1.24"
OCSP_NO_CHECK = "1.3.6.1.5.5.7.48.1.5"
AUTHORITY_INFORMATION_ACCESS = "1.3.6.1.5.5.7.1.1"
CRL_DISTRIBUTION_POINTS = "2.5.29.31"
NO_REVOCATION_AVAILABLE = "2.5.29.56"

APPLICATION_POLICIES = "1.3.6.1.4.1.311.21.10"
"""Microsoft's extended key usages by another name."""

ANY_POLICY = "2.5.29.32.0"
NULL_VALUE = b"\x05\x00"
"""DER of NULL, the value of extensions that say all by being there."""

# What the drafts of X.509 called the extensions of today. Windows looks for the basic constraints of then before those
# of now, and for the alternative names of then where there are none of now.
_PREDECESSORS: Final = frozenset(f"2.5.29.{number}" for number in (*range(1, 9), *range(10, 14), 25, 26, 34))

# Nobody but certd writes these: they say who issued, from when to when, for whom, and where to ask about it.
_WRITTEN_BY_CERTD: Final = _PREDECESSORS | frozenset(
    {
        "2.5.29.14",
        KEY_USAGE,
        SUBJECT_ALTERNATIVE_NAME,
        BASIC_CONSTRAINTS,
        NAME_CONSTRAINTS,
        CRL_DISTRIBUTION_POINTS,
        CERTIFICATE_POLICIES,
        "2.5.29.35",
        EXTENDED_KEY_USAGE,
        "2.5.29.46",
        AUTHORITY_INFORMATION_ACCESS,
        TLS_FEATURE,
        "1.3.6.1.4.1.11129.2.4.2",
        "1.3.6.1.4.1.11129.2.4.3",
        # OpenSSL takes it for basic constraints where those are missing, and the token process for an authority.
        "2.16.840.1.113730.1.1",
    }
)
AUTHORITY_EXTENSIONS: Final = frozenset({"2.5.29.33", "2.5.29.36", "2.5.29.54"})
"""Policy mappings, policy constraints, inhibitAnyPolicy: in certificates of authorities alone (RFC 5280, 4.2.1)."""
_DECIDED_BY_PROFILES: Final = frozenset({KEY_USAGE, EXTENDED_KEY_USAGE, CERTIFICATE_POLICIES, TLS_FEATURE})
"""Written by certd, and yet left to the CSR by a profile that does not decide them."""
_NEVER_PASSED: Final = (
    (_WRITTEN_BY_CERTD - _DECIDED_BY_PROFILES)
    | AUTHORITY_EXTENSIONS
    | {
        # What the issuer says about itself, or promises about revocation (RFC 6960, RFC 9608).
        "2.5.29.18",
        OCSP_NO_CHECK,
        NO_REVOCATION_AVAILABLE,
        # RFC 3820: who holds the key would issue in its own name.
        "1.3.6.1.5.5.7.1.14",
        APPLICATION_POLICIES,
        # What belongs to these, and the account that a domain controller logs on.
        "1.3.6.1.4.1.311.21.11",
        "1.3.6.1.4.1.311.21.12",
        "1.3.6.1.4.1.311.25.2",
    }
)

# As RFC 5280, RFC 6962, RFC 6960 and RFC 7633 call them, and those of Netscape and Microsoft that requests still carry.
_EXTENSION_NAMES: Final = {
    "1.3.6.1.4.1.311.20.2": "Microsoft certificate template name",
    "1.3.6.1.4.1.311.21.7": "Microsoft certificate template",
    "1.3.6.1.4.1.311.21.10": "Microsoft application policies",
    "1.3.6.1.4.1.311.25.2": "Microsoft security identifier",
    "1.3.6.1.4.1.11129.2.4.2": "signed certificate timestamps",
    "1.3.6.1.4.1.11129.2.4.3": "certificate transparency poison",
    "1.3.6.1.5.5.7.1.1": "authorityInfoAccess",
    "1.3.6.1.5.5.7.1.3": "qcStatements",
    "1.3.6.1.5.5.7.1.11": "subjectInfoAccess",
    "1.3.6.1.5.5.7.1.24": "TLS feature",
    "1.3.6.1.5.5.7.48.1.5": "OCSP no check",
    "2.5.29.7": "subjectAltName of the drafts",
    "2.5.29.9": "subjectDirectoryAttributes",
    "2.5.29.10": "basicConstraints of the drafts",
    "2.5.29.14": "subjectKeyIdentifier",
    "2.5.29.15": "keyUsage",
    "2.5.29.16": "privateKeyUsagePeriod",
    "2.5.29.17": "subjectAltName",
    "2.5.29.18": "issuerAltName",
    "2.5.29.19": "basicConstraints",
    "2.5.29.30": "nameConstraints",
    "2.5.29.31": "cRLDistributionPoints",
    "2.5.29.32": "certificatePolicies",
    "2.5.29.33": "policyMappings",
    "2.5.29.35": "authorityKeyIdentifier",
    "2.5.29.36": "policyConstraints",
    "2.5.29.37": "extKeyUsage",
    "2.5.29.46": "freshestCRL",
    "2.5.29.54": "inhibitAnyPolicy",
    "2.5.29.56": "noRevAvail",
    "2.16.840.1.113730.1.1": "Netscape certificate type",
    "2.16.840.1.113730.1.13": "Netscape comment",
}

_DOTTED = re.compile(r"([01]\.[1-3]?[0-9]|2\.(0|[1-9][0-9]{0,38}))(\.(0|[1-9][0-9]{0,38})){1,30}")
_ALGORITHM = der.sequence(der.object_identifier("1.2.840.10045.4.3.2"))
_TIME = der.encode(der.UTC_TIME, b"260101000000Z")
_ANYTHING = (
    der.encode(der.context(0), der.integer(2)),
    der.integer(1),
    _ALGORITHM,
    der.sequence(),
    der.sequence(_TIME, _TIME),
    der.sequence(),
    der.sequence(der.sequence(der.object_identifier("1.3.101.112")), der.bit_string(b"")),
)
"""What stands before the extensions of a certificate."""


def extension_text(oid: str) -> str:
    """Returns the dotted OID of an extension with its name, where it has a well-known one."""
    name = _EXTENSION_NAMES.get(oid)
    return oid if name is None else f"{oid} ({name})"


def is_written_by_certd(oid: str) -> bool:
    """Returns whether certd itself writes the extension, so that no profile sets its value."""
    return oid in _WRITTEN_BY_CERTD


def may_pass(oid: str) -> bool:
    """Returns whether a profile may let the extension pass from a CSR: no subject knows what only an issuer can say."""
    return oid not in _NEVER_PASSED


def is_extended_key_usage_critical(usages: tuple[str, ...]) -> bool:
    """Returns whether the extension is critical: for a time-stamping authority alone (RFC 3161, section 2.3)."""
    return usages == (TIME_STAMPING,)


def is_object_identifier(text: str) -> bool:
    """Returns whether `text` is a dotted object identifier that fits a certificate."""
    if not _DOTTED.fullmatch(text):
        return False
    try:
        x509.ObjectIdentifier(text)
    except ValueError:
        return False
    return True


UNDECODABLE = (ValueError, TypeError, KeyError, UserWarning, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What the library raises at an extension that does not decode. TypeError: a name with a bit string in an attribute
that it knows as a text. KeyError: a TLS feature that it has no name for. UserWarning, where warnings are errors: a
country of other than two letters."""


@lru_cache(maxsize=256)
def decode(oid: str, value: bytes) -> x509.ExtensionType:
    """Returns the library's form of an extension's value.

    `der.MalformedError` with the problem when it is not one element of DER, or does not decode where the extension is a
    known one.
    """
    reader = der.Reader(value)
    _check_element(reader, 0)
    reader.finish()
    # A certificate around it is the one thing that the library decodes an extension in.
    extension = der.sequence(der.object_identifier(oid), der.octet_string(value))
    explicit = der.encode(der.context(3), der.sequence(extension))
    certificate = der.sequence(der.sequence(*_ANYTHING, explicit), _ALGORITHM, der.bit_string(b""))
    try:
        found: x509.ExtensionType = x509.load_der_x509_certificate(certificate).extensions[0].value
    except UNDECODABLE as error:
        raise der.MalformedError("does not decode as what its identifier stands for") from error
    return found


_DEEPEST = 32
_CONSTRUCTED = 0x20


def _check_element(reader: der.Reader, depth: int) -> None:
    tag, content = reader.read_any()
    if tag & _CONSTRUCTED:
        if depth == _DEEPEST:
            raise der.MalformedError("is nested too deeply")
        inner = der.Reader(content)
        while inner.more:
            _check_element(inner, depth + 1)
    elif tag == der.BOOLEAN and content not in {b"\x00", b"\xff"}:
        raise der.MalformedError("has a BOOLEAN that is neither TRUE nor FALSE")
    elif tag == der.INTEGER:
        der.Reader(der.encode(tag, content)).read_integer()
    elif tag == der.OBJECT_IDENTIFIER:
        der.Reader(der.encode(tag, content)).read_object_identifier()
    elif tag == der.NULL and content:
        raise der.MalformedError("has a NULL that is not empty")


class KeyUsage(enum.StrEnum):
    """A bit of the key usage extension. The same names as the proto's `KeyUsage`."""

    DIGITAL_SIGNATURE = "DIGITAL_SIGNATURE"
    CONTENT_COMMITMENT = "CONTENT_COMMITMENT"
    KEY_ENCIPHERMENT = "KEY_ENCIPHERMENT"
    DATA_ENCIPHERMENT = "DATA_ENCIPHERMENT"
    KEY_AGREEMENT = "KEY_AGREEMENT"
    KEY_CERT_SIGN = "KEY_CERT_SIGN"
    CRL_SIGN = "CRL_SIGN"
    ENCIPHER_ONLY = "ENCIPHER_ONLY"
    DECIPHER_ONLY = "DECIPHER_ONLY"


def key_usage_text(usage: KeyUsage) -> str:
    """Returns a key usage as RFC 5280, section 4.2.1.3, has it, for example `keyCertSign`."""
    if usage is KeyUsage.CRL_SIGN:
        return "cRLSign"
    first, *others = usage.lower().split("_")
    return first + "".join(other.capitalize() for other in others)


def extended_key_usage_text(oid: str) -> str:
    """Returns the dotted OID of an extended key usage with its name, where it has a well-known one."""
    name = _EXTENDED_KEY_USAGE_NAMES.get(oid)
    return oid if name is None else f"{oid} ({name})"


# As RFC 5280, section 4.2.1.12, has them.
_EXTENDED_KEY_USAGE_NAMES: Final = {
    SERVER_AUTHENTICATION: "serverAuth",
    CLIENT_AUTHENTICATION: "clientAuth",
    CODE_SIGNING: "codeSigning",
    EMAIL_PROTECTION: "emailProtection",
    TIME_STAMPING: "timeStamping",
    OCSP_SIGNING: "OCSPSigning",
    ANY_EXTENDED_KEY_USAGE: "anyExtendedKeyUsage",
}


def key_usage_extension(usages: AbstractSet[KeyUsage]) -> x509.KeyUsage:
    """Returns the extension with the bits of `usages`; ValueError when encipherOnly stands without keyAgreement."""
    return x509.KeyUsage(
        digital_signature=KeyUsage.DIGITAL_SIGNATURE in usages,
        content_commitment=KeyUsage.CONTENT_COMMITMENT in usages,
        key_encipherment=KeyUsage.KEY_ENCIPHERMENT in usages,
        data_encipherment=KeyUsage.DATA_ENCIPHERMENT in usages,
        key_agreement=KeyUsage.KEY_AGREEMENT in usages,
        key_cert_sign=KeyUsage.KEY_CERT_SIGN in usages,
        crl_sign=KeyUsage.CRL_SIGN in usages,
        encipher_only=KeyUsage.ENCIPHER_ONLY in usages,
        decipher_only=KeyUsage.DECIPHER_ONLY in usages,
    )


def key_usages_of(extension: x509.KeyUsage) -> frozenset[KeyUsage]:
    """Returns the usages whose bits are set."""
    bits = {
        KeyUsage.DIGITAL_SIGNATURE: extension.digital_signature,
        KeyUsage.CONTENT_COMMITMENT: extension.content_commitment,
        KeyUsage.KEY_ENCIPHERMENT: extension.key_encipherment,
        KeyUsage.DATA_ENCIPHERMENT: extension.data_encipherment,
        KeyUsage.KEY_AGREEMENT: extension.key_agreement,
        KeyUsage.KEY_CERT_SIGN: extension.key_cert_sign,
        KeyUsage.CRL_SIGN: extension.crl_sign,
    }
    if extension.key_agreement:
        # Without keyAgreement these two bits mean nothing, and the library refuses to tell them.
        bits[KeyUsage.ENCIPHER_ONLY] = extension.encipher_only
        bits[KeyUsage.DECIPHER_ONLY] = extension.decipher_only
    return frozenset(usage for usage, is_set in bits.items() if is_set)
