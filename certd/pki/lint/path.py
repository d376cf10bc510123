"""Lints of what path validation reads: key identifiers, basic constraints, and every constraint of an authority."""

from cryptography import x509

from certd.errors import CertdError
from certd.pki import distinguished_name, name_constraints
from certd.pki.extensions import NAME_CONSTRAINTS
from certd.pki.lint.judged import Lint, LintCopy

POLICY_CONSTRAINTS = "2.5.29.36"
INHIBIT_ANY_POLICY = "2.5.29.54"
_SUBJECT_KEY_IDENTIFIER = "2.5.29.14"
_KEY_IDENTIFIER_LENGTH = 20


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
    self_signed = copy.tbs.subject == copy.tbs.issuer and not copy.self_issued
    return None if is_own is self_signed else "the subject key identifier belongs to another key"


def rfc7093_2_key_identifier_length(copy: LintCopy) -> str | None:
    """The methods of RFC 5280 and RFC 7093 that certd and its peers use give 160 bits."""
    # Tag and length of the OCTET STRING stand before it.
    length = len(copy.tbs.extensions[_SUBJECT_KEY_IDENTIFIER].value) - 2
    if length == _KEY_IDENTIFIER_LENGTH:
        return None
    return f"the subject key identifier has {length} octets instead of {_KEY_IDENTIFIER_LENGTH}"


def rfc5280_4_2_1_9_basic_constraints(copy: LintCopy) -> str | None:
    """Basic constraints are there and critical; an authority has a path length."""
    extension = copy.find(x509.BasicConstraints)
    if extension is None or not extension.critical:
        return "basic constraints are missing or not critical"
    if copy.authority is not copy.tbs.authority:
        return "basic constraints and key usage disagree on whether this is an authority"
    if copy.authority and extension.value.path_length is None:
        return "basic constraints of an authority have no path length"
    return None


def rfc5280_4_2_1_10_name_constraints(copy: LintCopy) -> str | None:
    """Name constraints are an authority's, critical, not empty, and of forms that verifiers know."""
    extension = copy.tbs.extensions[NAME_CONSTRAINTS]
    if not copy.authority or not extension.critical:
        return "name constraints are not an authority's, or not critical"
    try:
        name_constraints.decode(extension.value)
    except CertdError as error:
        return f"name constraints do not decode: {error.message}"
    return None


def rfc5280_4_2_1_11_policy_constraints(copy: LintCopy) -> str | None:
    """Policy constraints are an authority's, and critical. The library does not read empty ones."""
    fits = copy.authority and copy.tbs.extensions[POLICY_CONSTRAINTS].critical
    return None if fits else "policy constraints are not an authority's, or not critical"


def rfc5280_4_2_1_14_inhibit_any_policy(copy: LintCopy) -> str | None:
    """InhibitAnyPolicy is an authority's, and critical."""
    fits = copy.authority and copy.tbs.extensions[INHIBIT_ANY_POLICY].critical
    return None if fits else "inhibitAnyPolicy is not an authority's, or not critical"


def rfc5280_6_1_self_issued(copy: LintCopy) -> str | None:
    """A certificate with its issuer's name is the issuer's own: self-signed, or of another key of its."""
    if distinguished_name.comparable(copy.tbs.subject) != distinguished_name.comparable(copy.tbs.issuer):
        return None
    own = copy.tbs.subject == copy.tbs.issuer and copy.authority
    return None if own else "the certificate has its issuer's name and is not the issuer's own"


LINTS = (
    Lint(rfc5280_4_2_1_1_authority_key_identifier),
    Lint(rfc5280_4_2_1_2_subject_key_identifier),
    Lint(rfc7093_2_key_identifier_length, _SUBJECT_KEY_IDENTIFIER, is_warning=True),
    Lint(rfc5280_4_2_1_9_basic_constraints),
    Lint(rfc5280_4_2_1_10_name_constraints, NAME_CONSTRAINTS),
    Lint(rfc5280_4_2_1_11_policy_constraints, POLICY_CONSTRAINTS),
    Lint(rfc5280_4_2_1_14_inhibit_any_policy, INHIBIT_ANY_POLICY),
    Lint(rfc5280_6_1_self_issued),
)
