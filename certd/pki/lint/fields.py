"""Lints of a certificate's basic fields: serial number to public key."""

import re

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certd.pki import der, distinguished_name
from certd.pki.csr import key_problem
from certd.pki.key_spec import SignatureAlgorithm
from certd.pki.lint.judged import Lint, LintCopy

LONGEST_SERIAL_NUMBER = 20
"""Octets (RFC 5280, section 4.1.2.2)."""


def rfc5280_4_1_2_2_serial_number(copy: LintCopy) -> str | None:
    """Serial numbers are positive and have at most 20 octets."""
    return serial_number_problem(copy.tbs.serial)


def serial_number_problem(serial: int) -> str | None:
    """Returns what is wrong with a serial number, or None."""
    if serial <= 0:
        return "the serial number is not positive"
    # DER writes a leading zero octet where the first bit is set, and it counts.
    if serial.bit_length() // 8 + 1 > LONGEST_SERIAL_NUMBER:
        return f"the serial number has more than {LONGEST_SERIAL_NUMBER} octets"
    return None


def rfc5280_4_1_2_3_signature(copy: LintCopy) -> str | None:
    """The algorithm inside and outside is the issuer's; none of those in use has SHA-1."""
    algorithm = copy.tbs.signature_algorithm
    if algorithm is not copy.signature_algorithm or (
        copy.certificate.signature_algorithm_oid != _ALGORITHM_OIDS[algorithm]
    ):
        return "the signature algorithm is not the issuer's, or not the same inside and outside"
    return None


_ALGORITHM_OIDS = {
    SignatureAlgorithm.SHA256_WITH_RSA: x509.SignatureAlgorithmOID.RSA_WITH_SHA256,
    SignatureAlgorithm.SHA384_WITH_RSA: x509.SignatureAlgorithmOID.RSA_WITH_SHA384,
    SignatureAlgorithm.SHA512_WITH_RSA: x509.SignatureAlgorithmOID.RSA_WITH_SHA512,
    SignatureAlgorithm.ECDSA_WITH_SHA256: x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    SignatureAlgorithm.ECDSA_WITH_SHA384: x509.SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    SignatureAlgorithm.ECDSA_WITH_SHA512: x509.SignatureAlgorithmOID.ECDSA_WITH_SHA512,
    SignatureAlgorithm.PURE_ED25519: x509.SignatureAlgorithmOID.ED25519,
}


def rfc5280_4_1_2_4_issuer(copy: LintCopy) -> str | None:
    """The issuer is a non-empty name, byte for byte the authority's subject."""
    if copy.tbs.issuer == distinguished_name.EMPTY:
        return "the issuer is empty"
    return None if copy.tbs.issuer == copy.issuer_name else "the issuer is not the authority's subject, byte for byte"


def rfc5280_4_1_2_5_validity(copy: LintCopy) -> str | None:
    """The validity begins before it ends. That its times are of the right type and to the second, the reader checks."""
    return None if copy.tbs.not_before < copy.tbs.not_after else "the validity does not begin before it ends"


def rfc5280_4_1_2_6_subject(copy: LintCopy) -> str | None:
    """Attributes keep the upper bounds of appendix A.1; an authority has a subject."""
    if copy.tbs.subject == distinguished_name.EMPTY:
        return "the subject of an authority is empty" if copy.tbs.authority else None
    problems = distinguished_name.violations(copy.tbs.subject, "subject")
    return f"the subject's {problems[0].description}" if problems else None


_OLD_STRINGS = {der.TELETEX_STRING, der.BMP_STRING, der.UNIVERSAL_STRING}
_MAY_HAVE_OLD_STRINGS = re.compile(rb"[\x14\x1c\x1e]")


def rfc5280_4_1_2_6_string_types(copy: LintCopy) -> str | None:
    """Names that were not there before are written with UTF8String or PrintableString."""
    if not _MAY_HAVE_OLD_STRINGS.search(copy.tbs.subject):
        return None
    relatives = der.Reader(copy.tbs.subject).enter(der.SEQUENCE)
    while relatives.more:
        attributes = relatives.enter(der.SET)
        while attributes.more:
            attribute = attributes.enter(der.SEQUENCE)
            attribute.read_object_identifier()
            if attribute.peek() in _OLD_STRINGS:
                return "the subject has a TeletexString, BMPString or UniversalString, which are for names of old"
    return None


def rfc4512_2_3_1_relative_name(copy: LintCopy) -> str | None:
    """No two attributes of one relative distinguished name have the same type."""
    for relative in distinguished_name.comparable(copy.tbs.subject):
        if len(relative) > 1 and len({oid for oid, _ in relative}) < len(relative):
            return "the subject has two attributes of one type in one relative distinguished name"
    return None


def rfc5280_4_1_2_7_subject_public_key(copy: LintCopy) -> str | None:
    """The key is the one that was to be certified, byte for byte, and is accepted."""
    if copy.tbs.public_key != copy.public_key:
        return "the public key is not the one that was to be certified, byte for byte"
    problem = key_problem(copy.key)
    return f"the public key {problem}" if problem else None


_RSA_ALGORITHM = der.sequence(der.object_identifier("1.2.840.113549.1.1.1"), b"\x05\x00")
_EC_ALGORITHMS = tuple(
    der.sequence(der.object_identifier("1.2.840.10045.2.1"), der.object_identifier(curve))
    for curve in ("1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35")
)
_ED25519_ALGORITHM = der.sequence(der.object_identifier("1.3.101.112"))


def rfc3279_2_3_1_rsa_key(copy: LintCopy) -> str | None:
    """The parameters of rsaEncryption are NULL."""
    if not isinstance(copy.key, rsa.RSAPublicKey) or _RSA_ALGORITHM in copy.tbs.public_key[:24]:
        return None
    return "the algorithm of the RSA key has other parameters than NULL"


def rfc5480_2_1_1_ec_key(copy: LintCopy) -> str | None:
    """The parameters of an EC key name its curve, and its point is written uncompressed (section 2.2)."""
    if not isinstance(copy.key, ec.EllipticCurvePublicKey):
        return None
    for algorithm in _EC_ALGORITHMS:
        at = copy.tbs.public_key.find(algorithm, 2, 3 + len(algorithm))
        if at >= 0:
            # Tag and length of the BIT STRING, which has two octets past 127, and no unused bits.
            return (
                None
                if copy.tbs.public_key[at + len(algorithm) :][2:5].find(b"\x00\x04") >= 0
                else "the EC point is compressed"
            )
    return "the parameters of the EC key do not name one of the curves that are accepted"


def rfc8410_3_ed25519_key(copy: LintCopy) -> str | None:
    """The algorithm of an Ed25519 key has no parameters."""
    if isinstance(copy.key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return None
    return None if _ED25519_ALGORITHM in copy.tbs.public_key[:9] else "the algorithm of the Ed25519 key has parameters"


LINTS = (
    Lint(rfc5280_4_1_2_2_serial_number),
    Lint(rfc5280_4_1_2_3_signature),
    Lint(rfc5280_4_1_2_4_issuer),
    Lint(rfc5280_4_1_2_5_validity),
    Lint(rfc5280_4_1_2_6_subject),
    Lint(rfc5280_4_1_2_6_string_types, is_warning=True),
    Lint(rfc4512_2_3_1_relative_name, is_warning=True),
    Lint(rfc5280_4_1_2_7_subject_public_key),
    Lint(rfc3279_2_3_1_rsa_key),
    Lint(rfc5480_2_1_1_ec_key),
    Lint(rfc8410_3_ed25519_key),
)
