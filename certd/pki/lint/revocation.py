"""Lints of where a certificate's status and issuer are found, and of who need not ask."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from certd.pki.extensions import (
    AUTHORITY_INFORMATION_ACCESS,
    CRL_DISTRIBUTION_POINTS,
    NO_REVOCATION_AVAILABLE,
    NULL_VALUE,
    OCSP_NO_CHECK,
    OCSP_SIGNING,
    SERVER_AUTHENTICATION,
    TLS_FEATURE,
)
from certd.pki.lint.judged import Lint, LintCopy

SUBJECT_INFORMATION_ACCESS = "1.3.6.1.5.5.7.1.11"
FRESHEST_CRL = "2.5.29.46"


def rfc5280_4_2_2_1_authority_information_access(copy: LintCopy) -> str | None:
    """Authority information access has issuers and responders, each as a URL, and is not empty or critical."""
    extension = copy.find(x509.AuthorityInformationAccess)
    if extension is None or extension.critical or not tuple(extension.value):
        return "authority information access is critical or empty"
    for description in extension.value:
        if description.access_method not in _ACCESS_METHODS or not _is_url(description.access_location):
            return "authority information access has something else than caIssuers or OCSP with an http URL"
    return None


_ACCESS_METHODS = frozenset({AuthorityInformationAccessOID.CA_ISSUERS, AuthorityInformationAccessOID.OCSP})


def _is_url(location: x509.GeneralName) -> bool:
    """Returns whether a location can be fetched without trust in anything else (RFC 5280, section 8)."""
    return isinstance(location, x509.UniformResourceIdentifier) and location.value.startswith(("http://", "ldap://"))


def rfc5280_4_2_2_2_subject_information_access(copy: LintCopy) -> str | None:
    """Subject information access is not empty, nor critical; an authority alone has a repository of certificates."""
    extension = copy.find(x509.SubjectInformationAccess)
    if extension is None or extension.critical or not tuple(extension.value):
        return "subject information access is critical or empty"
    methods = {description.access_method.dotted_string for description in extension.value}
    misplaced = _REPOSITORY in methods and not copy.authority
    return "there is a repository of what is issued and the certificate is no authority's" if misplaced else None


_REPOSITORY = "1.3.6.1.5.5.7.48.5"


def rfc5280_4_2_1_13_crl_distribution_points(copy: LintCopy) -> str | None:
    """CRL distribution points are not empty or critical, and lead to URLs; the library reads none that lead nowhere."""
    extension = copy.find(x509.CRLDistributionPoints)
    if extension is None or extension.critical or not tuple(extension.value):
        return "the CRL distribution points are critical or empty"
    return _points_problem(extension.value)


def rfc5280_4_2_1_15_freshest_crl(copy: LintCopy) -> str | None:
    """The freshest CRL is not critical, not empty, and in the form of distribution points."""
    extension = copy.find(x509.FreshestCRL)
    if extension is None or extension.critical or not tuple(extension.value):
        return "the freshest CRL is critical or empty"
    return _points_problem(extension.value)


def _points_problem(points: Iterable[x509.DistributionPoint]) -> str | None:
    for point in points:
        locations = point.full_name or []
        if not all(_is_url(location) or isinstance(location, x509.DirectoryName) for location in locations):
            return "a CRL distribution point has something else than http URLs and directory names"
    return None


def rfc6960_4_2_2_2_1_no_check(copy: LintCopy) -> str | None:
    """OCSP no check is NULL, not critical, and stands in certificates of responders alone."""
    extension = copy.tbs.extensions[OCSP_NO_CHECK]
    if extension.value != NULL_VALUE or extension.critical:
        return "OCSP no check is critical, or not NULL"
    return None if OCSP_SIGNING in copy.purposes else "OCSP no check without the purpose OCSPSigning"


def rfc6960_4_2_2_2_1_responder_status(copy: LintCopy) -> str | None:
    """A responder's certificate says how its own status is found, or that nobody need look."""
    if OCSP_SIGNING not in copy.purposes or not copy.tbs.extensions.keys().isdisjoint(_STATUS):
        return None
    return "a responder's certificate has neither OCSP no check nor a CRL: clients cannot know whether it is revoked"


_STATUS = frozenset({OCSP_NO_CHECK, CRL_DISTRIBUTION_POINTS, NO_REVOCATION_AVAILABLE})


def rfc9608_2_no_revocation_available(copy: LintCopy) -> str | None:
    """NoRevAvail is NULL, not critical, and never an authority's."""
    extension = copy.tbs.extensions[NO_REVOCATION_AVAILABLE]
    if extension.value != NULL_VALUE or extension.critical:
        return "noRevAvail is critical, or not NULL"
    return "noRevAvail stands in the certificate of an authority" if copy.authority else None


def rfc9608_3_other_extensions(copy: LintCopy) -> str | None:
    """NoRevAvail stands beside nothing that says where revocations are found."""
    access = copy.find(x509.AuthorityInformationAccess)
    responder = access is not None and any(
        description.access_method == AuthorityInformationAccessOID.OCSP for description in access.value
    )
    if responder or CRL_DISTRIBUTION_POINTS in copy.tbs.extensions or FRESHEST_CRL in copy.tbs.extensions:
        return "noRevAvail stands beside a CRL or a responder"
    return None


def rfc7633_4_tls_feature(copy: LintCopy) -> str | None:
    """No TLS feature stands there twice. The library does not read empty ones."""
    extension = copy.find(x509.TLSFeature)
    features = () if extension is None else tuple(extension.value)
    return "a TLS feature stands there twice" if len(set(features)) < len(features) else None


def rfc7633_4_servers(copy: LintCopy) -> str | None:
    """TLS features ask something of servers; elsewhere they do nothing, save that an authority's bind those below."""
    if copy.authority or not copy.purposes or SERVER_AUTHENTICATION in copy.purposes:
        return None
    return "TLS features stand in a certificate that no server has"


LINTS = (
    Lint(rfc5280_4_2_2_1_authority_information_access, AUTHORITY_INFORMATION_ACCESS),
    Lint(rfc5280_4_2_2_2_subject_information_access, SUBJECT_INFORMATION_ACCESS),
    Lint(rfc5280_4_2_1_13_crl_distribution_points, CRL_DISTRIBUTION_POINTS),
    Lint(rfc5280_4_2_1_15_freshest_crl, FRESHEST_CRL),
    Lint(rfc6960_4_2_2_2_1_no_check, OCSP_NO_CHECK),
    Lint(rfc6960_4_2_2_2_1_responder_status, is_warning=True),
    Lint(rfc9608_2_no_revocation_available, NO_REVOCATION_AVAILABLE),
    Lint(rfc9608_3_other_extensions, NO_REVOCATION_AVAILABLE),
    Lint(rfc7633_4_tls_feature, TLS_FEATURE),
    Lint(rfc7633_4_servers, TLS_FEATURE, is_warning=True),
)
