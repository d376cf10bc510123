"""Lints: what RFC 5280 wants of a certificate, checked on the bytes that will be signed.

Each lint is a function named by the section whose rule it checks; it returns the problem, or None. They repeat on
purpose what the builder and admission ensure: they judge the result and trust neither.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from certd.errors import CertdError, Reason, Violation
from certd.pki import distinguished_name, names
from certd.pki.csr import key_problem
from certd.pki.extensions import KeyUsage, key_usages_of
from certd.pki.key_spec import SignatureAlgorithm
from certd.pki.names import SubjectAlternativeNames
from certd.pki.tbs import ToBeSignedCertificate, parse_tbs_certificate

LONGEST_SERIAL_NUMBER = 20
"""Octets (RFC 5280, section 4.1.2.2)."""

_SIGNING = frozenset({KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN})
_ExtensionType = TypeVar("_ExtensionType", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class LintCopy:
    """The certificate to judge, and what its issuer is known to be."""

    certificate: x509.Certificate
    tbs: ToBeSignedCertificate
    extensions: Mapping[type[x509.ExtensionType], x509.Extension[x509.ExtensionType]]
    issuer_name: bytes
    issuer_key_identifier: bytes
    public_key: bytes
    """DER of the SubjectPublicKeyInfo that was to be certified."""
    signature_algorithm: SignatureAlgorithm

    def find(self, extension: type[_ExtensionType]) -> x509.Extension[_ExtensionType] | None:
        """Returns an extension, or None."""
        return cast("x509.Extension[_ExtensionType] | None", self.extensions.get(extension))


Lint: TypeAlias = Callable[[LintCopy], str | None]


def rfc5280_4_1_2_2_serial_number(copy: LintCopy) -> str | None:
    """Serial numbers are positive and have at most 20 octets."""
    return _serial_number_problem(copy.tbs.serial)


def _serial_number_problem(serial: int) -> str | None:
    if serial <= 0:
        return "the serial number is not positive"
    # DER writes a leading zero octet where the first bit is set, and it counts.
    if serial.bit_length() // 8 + 1 > LONGEST_SERIAL_NUMBER:
        return f"the serial number has more than {LONGEST_SERIAL_NUMBER} octets"
    return None


def rfc5280_4_1_2_3_signature(copy: LintCopy) -> str | None:
    """The algorithm inside and outside is the issuer's; none of those in use has SHA-1."""
    inside_is_outside = copy.certificate.signature_algorithm_oid == _inner_algorithm(copy)
    if not inside_is_outside or copy.tbs.signature_algorithm is not copy.signature_algorithm:
        return "the signature algorithm is not the issuer's, or not the same inside and outside"
    return None


def _inner_algorithm(copy: LintCopy) -> x509.ObjectIdentifier:
    return _ALGORITHM_OIDS[copy.tbs.signature_algorithm]


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
    """The validity begins before it ends."""
    return None if copy.tbs.not_before < copy.tbs.not_after else "the validity does not begin before it ends"


def rfc5280_4_1_2_6_subject(copy: LintCopy) -> str | None:
    """Attributes keep the upper bounds of appendix A.1; an authority has a subject."""
    if copy.tbs.subject == distinguished_name.EMPTY:
        return "the subject of an authority is empty" if copy.tbs.authority else None
    problems = distinguished_name.violations(copy.tbs.subject, "subject")
    return f"the subject's {problems[0].description}" if problems else None


def rfc5280_4_1_2_7_subject_public_key(copy: LintCopy) -> str | None:
    """The key is the one that was to be certified, byte for byte, and is accepted."""
    if copy.tbs.public_key != copy.public_key:
        return "the public key is not the one that was to be certified, byte for byte"
    problem = key_problem(copy.certificate.public_key())
    return f"the public key {problem}" if problem else None


def rfc5280_4_2_1_1_authority_key_identifier(copy: LintCopy) -> str | None:
    """The authority key identifier is the issuer's key identifier alone, and not critical."""
    extension = copy.find(x509.AuthorityKeyIdentifier)
    if extension is None or extension.critical:
        return "the authority key identifier is missing or critical"
    value = extension.value
    if value.authority_cert_issuer is not None or value.authority_cert_serial_number is not None:
        return "the authority key identifier has an issuer and serial number, which a new certificate breaks"
    fits = value.key_identifier == copy.issuer_key_identifier
    return None if fits else "the authority key identifier is not the issuer's subject key identifier"


def rfc5280_4_2_1_2_subject_key_identifier(copy: LintCopy) -> str | None:
    """The subject key identifier is there, not critical, and the issuer's own in a self-signed certificate alone."""
    extension = copy.find(x509.SubjectKeyIdentifier)
    if extension is None or extension.critical or not extension.value.digest:
        return "the subject key identifier is missing, empty or critical"
    is_own = extension.value.digest == copy.issuer_key_identifier
    self_signed = copy.tbs.subject == copy.tbs.issuer
    return None if is_own is self_signed else "the subject key identifier belongs to another key"


def rfc5280_4_2_1_3_key_usage(copy: LintCopy) -> str | None:
    """Key usage is there, critical, and fits: authorities alone sign certificates, and keys do what they can."""
    extension = copy.find(x509.KeyUsage)
    if extension is None or not extension.critical:
        return "key usage is missing or not critical"
    usages = key_usages_of(extension.value)
    if _is_authority(copy):
        return None if usages >= _SIGNING else "key usage of an authority lacks keyCertSign or cRLSign"
    if usages & _SIGNING:
        return "key usage has keyCertSign or cRLSign and the certificate is no authority's"
    if KeyUsage.KEY_ENCIPHERMENT in usages and not isinstance(copy.certificate.public_key(), rsa.RSAPublicKey):
        return "key usage has keyEncipherment, which the key cannot do (RFC 5480, section 3; RFC 8410, section 5)"
    return None


def _is_authority(copy: LintCopy) -> bool:
    extension = copy.find(x509.BasicConstraints)
    return extension is not None and extension.value.ca


def rfc5280_4_2_1_6_subject_alternative_name(copy: LintCopy) -> str | None:
    """Alternative names are there, and critical, when the subject is empty; each is in its normal form."""
    extension = copy.find(x509.SubjectAlternativeName)
    empty_subject = copy.tbs.subject == distinguished_name.EMPTY
    if extension is None:
        return "there is neither a subject nor an alternative name" if empty_subject else None
    if extension.critical is not empty_subject:
        return "alternative names are critical exactly when the subject is empty, and here they are not"
    found = names_of(extension.value)
    if len(found) != len(extension.value):
        return "there is an alternative name of an unknown kind"
    try:
        normal = names.normalise(found, field="subject_alternative_names")
    except CertdError as error:
        return error.message
    return None if normal == found else "an alternative name is not in its normal form, or stands twice"


def names_of(extension: x509.SubjectAlternativeName) -> SubjectAlternativeNames:
    """Returns the names of the kinds that certd knows, as they stand there."""
    return SubjectAlternativeNames(
        dns_names=tuple(extension.get_values_for_type(x509.DNSName)),
        ip_addresses=tuple(map(str, extension.get_values_for_type(x509.IPAddress))),
        uris=tuple(extension.get_values_for_type(x509.UniformResourceIdentifier)),
        email_addresses=tuple(extension.get_values_for_type(x509.RFC822Name)),
    )


def rfc5280_4_2_1_9_basic_constraints(copy: LintCopy) -> str | None:
    """Basic constraints are there and critical; an authority has a path length."""
    extension = copy.find(x509.BasicConstraints)
    if extension is None or not extension.critical:
        return "basic constraints are missing or not critical"
    if extension.value.ca is not copy.tbs.authority:
        return "basic constraints and key usage disagree on whether this is an authority"
    if extension.value.ca and extension.value.path_length is None:
        return "basic constraints of an authority have no path length"
    return None


def rfc5280_4_2_1_12_extended_key_usage(copy: LintCopy) -> str | None:
    """A leaf says what its key is for, and never everything; an authority does not constrain what is below it."""
    extension = copy.find(x509.ExtendedKeyUsage)
    if _is_authority(copy):
        return None if extension is None else "an authority has extended key usages"
    if extension is None or extension.critical:
        return "extended key usage is missing or critical"
    anything = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in extension.value
    return "extended key usage has anyExtendedKeyUsage" if anything else None


def rfc5280_4_2_2_1_authority_information_access(copy: LintCopy) -> str | None:
    """Where the issuer's certificate is fetched is an http URL, for its reader has nothing yet to trust https with."""
    extension = copy.find(x509.AuthorityInformationAccess)
    if extension is None:
        return None
    if extension.critical:
        return "authority information access is critical"
    for description in extension.value:
        location = description.access_location
        is_url = isinstance(location, x509.UniformResourceIdentifier) and location.value.startswith("http://")
        if description.access_method != AuthorityInformationAccessOID.CA_ISSUERS or not is_url:
            return "authority information access has something else than caIssuers with an http URL"
    return None


def rfc5280_6_1_self_issued(copy: LintCopy) -> str | None:
    """A certificate with its issuer's name is the issuer's own: self-signed, with its key."""
    if distinguished_name.comparable(copy.tbs.subject) != distinguished_name.comparable(copy.tbs.issuer):
        return None
    own = copy.tbs.subject == copy.tbs.issuer and _is_authority(copy)
    return None if own else "the certificate has its issuer's name and is not the issuer's own"


LINTS: tuple[Lint, ...] = (
    rfc5280_4_1_2_2_serial_number,
    rfc5280_4_1_2_3_signature,
    rfc5280_4_1_2_4_issuer,
    rfc5280_4_1_2_5_validity,
    rfc5280_4_1_2_6_subject,
    rfc5280_4_1_2_7_subject_public_key,
    rfc5280_4_2_1_1_authority_key_identifier,
    rfc5280_4_2_1_2_subject_key_identifier,
    rfc5280_4_2_1_3_key_usage,
    rfc5280_4_2_1_6_subject_alternative_name,
    rfc5280_4_2_1_9_basic_constraints,
    rfc5280_4_2_1_12_extended_key_usage,
    rfc5280_4_2_2_1_authority_information_access,
    rfc5280_6_1_self_issued,
)


def check_serial_number(serial: int) -> None:
    """Checks a serial number before anything is built with it; LINT_FAILED."""
    problem = _serial_number_problem(serial)
    if problem is not None:
        raise _failed(((rfc5280_4_1_2_2_serial_number.__name__, problem),))


def check(
    certificate: x509.Certificate,
    *,
    issuer_name: bytes,
    issuer_key_identifier: bytes,
    public_key: bytes,
    signature_algorithm: SignatureAlgorithm,
) -> None:
    """Runs every lint. LINT_FAILED with the names of those that failed, separated by commas, in the metadata `lint`.

    What the token process would not even read fails as `rfc5280_4_1_encoding`.
    """
    try:
        tbs = parse_tbs_certificate(certificate.tbs_certificate_bytes)
    except CertdError as error:
        raise _failed((("rfc5280_4_1_encoding", error.message),)) from error
    copy = LintCopy(
        certificate=certificate,
        tbs=tbs,
        extensions={type(extension.value): extension for extension in certificate.extensions},
        issuer_name=issuer_name,
        issuer_key_identifier=issuer_key_identifier,
        public_key=public_key,
        signature_algorithm=signature_algorithm,
    )
    found = tuple((lint.__name__, problem) for lint in LINTS if (problem := lint(copy)) is not None)
    if found:
        raise _failed(found)


def _failed(found: tuple[tuple[str, str], ...]) -> CertdError:
    identifiers = [identifier for identifier, _ in found]
    return CertdError(
        Reason.LINT_FAILED,
        f"the certificate would break a rule: {found[0][1]} ({', '.join(identifiers)}); change the request",
        metadata={"lint": ",".join(identifiers)},
        violations=tuple(Violation("certificate", f"{identifier}: {problem}") for identifier, problem in found),
    )
