"""Step 2 of issuing, pure: admits a request, builds what will be signed, and lints a copy of it.

The copy holds the very bytes that will be signed, and a signature that no key made. A prepared certificate comes from
`prepare` alone.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import TypeVar

from cryptography import x509

from certd.errors import CertdError, Reason, Violation
from certd.pki import admission, der, distinguished_name, lint, name_constraints
from certd.pki.assembly import assemble, extension, subject_alternative_names, tbs_certificate, unsigned
from certd.pki.certificate_request import CertificateRequest, Issuer, Validity, Warning  # noqa: A004  # The API's word.
from certd.pki.csr import key_problem
from certd.pki.description import Description, describe_copy
from certd.pki.extensions import (
    NAME_CONSTRAINTS,
    SUBJECT_ALTERNATIVE_NAME,
    SUBJECT_KEY_IDENTIFIER,
    TLS_FEATURE,
    KeyUsage,
    is_extended_key_usage_critical,
    key_usage_extension,
)
from certd.pki.key_spec import (
    KeyFamily,
    KeySpec,
    default_signature_algorithm,
    family_of,
    key_identifier,
    key_spec_of,
    load_public_key_der,
)
from certd.pki.name_constraints import NameConstraints
from certd.pki.names import SubjectAlternativeNames
from certd.pki.passed_extensions import admit_extensions
from certd.pki.profile import CustomExtension, Profile
from certd.pki.status_locations import crl_partition, location_extensions, locations_under

__all__ = [
    "CertificateRequest",
    "Findings",
    "Issuer",
    "Prepared",
    "Validity",
    "Warning",
    "assemble",
    "findings",
    "key_identifier",
    "prepare",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What will be signed, admitted and linted."""

    tbs: bytes
    """DER of the TBSCertificate."""
    serial: int
    issuer_name_sha256: bytes
    subject_text: str
    not_before: datetime
    not_after: datetime
    public_key_sha256: bytes
    """Of the subject's SubjectPublicKeyInfo."""
    key_spec: KeySpec
    names: SubjectAlternativeNames
    """As they stand in the certificate."""
    warnings: tuple[Warning, ...]
    lint_certificate: bytes
    """DER of the copy, whose signature no key made."""
    crl_partition: int | None = None
    """Whose CRL it names; None: the complete one's, or none."""
    description: Description | None = None
    """What it says, without a fingerprint; None where a prepare process has described it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that was found about a certificate that is asked for."""

    errors: tuple[CertdError, ...]
    """Each as `prepare` raises the first of them."""
    warnings: tuple[Warning, ...]
    prepared: Prepared | None
    """None when there are errors."""


def prepare(
    *,
    issuer: Issuer,
    request: CertificateRequest,
    profile: Profile,
    validity: Validity,
    serial: int,
    now: datetime,
) -> Prepared:
    """Admits `request` against `profile`, builds the certificate that `issuer` would sign, and lints it.

    NAME_NOT_ALLOWED, PROFILE_FORBIDS, NAME_CONSTRAINT_VIOLATED, LIFETIME_EXCEEDS_AUTHORITY, KEY_TOO_WEAK or
    FIELD_INVALID name what does not fit; LINT_FAILED names the lints that the certificate would break.
    """
    key_spec = _admit_key(request.public_key, profile)
    names = admission.admit_names(request, issuer, profile)
    admission.admit_place(issuer, request, profile, names.subject)
    admission.admit_constraints(issuer, request, profile, names)
    path_length = admission.admit_path_length(issuer, request, profile)
    extensions = admit_extensions(request.extensions, profile, family_of(default_signature_algorithm(key_spec)))
    period = admission.admit_validity(issuer, profile, validity, now)
    lint.check_serial_number(serial)
    _check_name("issuer", issuer.name)
    _check_name("subject", names.subject)
    algorithm = issuer.signature_algorithm
    locations = locations_under(issuer.locations, profile)
    partition = crl_partition(locations, serial)
    tbs = tbs_certificate(
        serial=serial,
        algorithm=algorithm,
        issuer=issuer.name,
        not_before=period.not_before,
        not_after=period.not_after,
        subject=names.subject,
        public_key=request.public_key,
        extensions=(
            *_profile_extensions(
                extensions.key_usages,
                extensions.extended_key_usages,
                authority=profile.authority,
                path_length=path_length,
                policies=profile.policies,
                tls_features=profile.tls_features,
                custom=profile.custom_extensions,
            ),
            extension(SUBJECT_KEY_IDENTIFIER, der.octet_string(_subject_key_identifier(request))),
            _issuer_extension(issuer.subject_key_identifier),
            *location_extensions(locations, partition),
            *_constraint_extensions(request.name_constraints),
            *_name_extensions(names.names, critical=names.subject == distinguished_name.EMPTY),
            *(extension(one.oid, one.value, critical=one.critical) for one in extensions.passed),
        ),
    )
    copy = unsigned(tbs, algorithm)
    read, unwise = lint.check(
        copy,
        issuer_name=issuer.name,
        issuer_key_identifier=issuer.subject_key_identifier,
        public_key=request.public_key,
        signature_algorithm=algorithm,
        self_issued=request.self_issued,
    )
    return Prepared(
        tbs=tbs,
        serial=serial,
        issuer_name_sha256=hashlib.sha256(issuer.name).digest(),
        subject_text=distinguished_name.to_text(names.subject),
        not_before=period.not_before,
        not_after=period.not_after,
        public_key_sha256=hashlib.sha256(request.public_key).digest(),
        key_spec=key_spec,
        names=names.names,
        warnings=(*names.warnings, *extensions.warnings, *period.warnings, *unwise),
        lint_certificate=copy,
        crl_partition=partition,
        description=describe_copy(read, key_spec=key_spec),
    )


def findings(
    *,
    issuer: Issuer,
    request: CertificateRequest,
    profile: Profile,
    validity: Validity,
    serial: int,
    now: datetime,
) -> Findings:
    """As `prepare`, and returns every error instead of raising the first, with the warnings of what was admitted."""
    errors: list[CertdError] = []

    def attempt(step: Callable[[], _Admitted]) -> _Admitted | None:
        try:
            return step()
        except CertdError as error:
            errors.append(error)
            return None

    key = attempt(lambda: _admit_key(request.public_key, profile))
    names = attempt(lambda: admission.admit_names(request, issuer, profile))
    if names is not None:
        attempt(lambda: admission.admit_place(issuer, request, profile, names.subject))
        attempt(lambda: admission.admit_constraints(issuer, request, profile, names))
    attempt(lambda: admission.admit_path_length(issuer, request, profile))
    family = KeyFamily.RSA if key is None else family_of(default_signature_algorithm(key))
    extensions = attempt(lambda: admit_extensions(request.extensions, profile, family))
    period = attempt(lambda: admission.admit_validity(issuer, profile, validity, now))
    if not errors:
        prepared = attempt(
            lambda: prepare(issuer=issuer, request=request, profile=profile, validity=validity, serial=serial, now=now)
        )
        if prepared is not None:
            return Findings(errors=(), warnings=prepared.warnings, prepared=prepared)
    admitted = [one.warnings for one in (names, extensions, period) if one is not None]
    return Findings(errors=tuple(errors), warnings=tuple(chain.from_iterable(admitted)), prepared=None)


_Admitted = TypeVar("_Admitted")


def _admit_key(public_key_der: bytes, profile: Profile) -> KeySpec:
    public_key = load_public_key_der(public_key_der)
    problem = key_problem(public_key)
    spec = key_spec_of(public_key)
    if problem is not None or spec is None:
        problem = problem or "is not accepted"
        violation = Violation("public_key", problem)
        raise CertdError(Reason.KEY_TOO_WEAK, f"the subject's key {problem}", violations=(violation,))
    if spec not in profile.key_specs:
        allowed = ", ".join(sorted(profile.key_specs))
        raise CertdError(
            Reason.PROFILE_FORBIDS,
            f"profile {profile.profile_id} does not allow keys of the kind {spec}; use one of {allowed}",
            metadata={"profile": profile.profile_id},
            violations=(Violation("public_key", f"must be one of {allowed}"),),
        )
    return spec


def _subject_key_identifier(request: CertificateRequest) -> bytes:
    """Returns the one that readers find the key by, also in certificates that others made of it."""
    return request.subject_key_identifier or key_identifier(request.public_key)


@lru_cache(maxsize=256)
def _check_name(field: str, name: bytes) -> None:
    """Raises NAME_NOT_ALLOWED for a name that the library would not write back byte for byte: others misread it too."""
    try:
        parsed = x509.Name.from_bytes(name)
        kept = parsed.public_bytes() == name
    except (ValueError, TypeError) as error:
        # TypeError: a bit string in an attribute other than the one that the library knows it in.
        raise _unkept(field) from error
    if not kept:
        raise _unkept(field)


def _unkept(field: str) -> CertdError:
    problem = "has an attribute whose string does not fit its type, so that it cannot be copied byte for byte"
    message = f"the {field} {problem}; write it with UTF8String"
    return CertdError(Reason.NAME_NOT_ALLOWED, message, violations=(Violation(field, problem),))


@lru_cache(maxsize=256)
def _profile_extensions(
    key_usages: frozenset[KeyUsage],
    extended_key_usages: tuple[str, ...],
    *,
    authority: bool,
    path_length: int | None,
    policies: tuple[str, ...],
    tls_features: tuple[int, ...],
    custom: tuple[CustomExtension, ...],
) -> tuple[bytes, ...]:
    """Returns what profile and kind of key decide.

    Basic constraints are in every certificate, critical: readers that find none look for other signs of an authority.
    """
    found = [_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)]
    if key_usages:
        found.append(_extension(key_usage_extension(key_usages), critical=True))
    if extended_key_usages:
        usages = x509.ExtendedKeyUsage(map(x509.ObjectIdentifier, extended_key_usages))
        found.append(_extension(usages, critical=is_extended_key_usage_critical(extended_key_usages)))
    if policies:
        identifiers = map(x509.ObjectIdentifier, policies)
        found.append(_extension(x509.CertificatePolicies(x509.PolicyInformation(one, None) for one in identifiers)))
    if tls_features:
        found.append(extension(TLS_FEATURE, der.sequence(*map(der.integer, tls_features))))
    return (*found, *(extension(one.oid, one.value, critical=one.critical) for one in custom))


def _extension(value: x509.ExtensionType, *, critical: bool = False) -> bytes:
    return extension(value.oid.dotted_string, value.public_bytes(), critical=critical)


@lru_cache(maxsize=256)
def _issuer_extension(identifier: bytes) -> bytes:
    """Returns what leads to the issuer's key: its identifier alone (RFC 5280, section 4.2.1.1)."""
    return _extension(x509.AuthorityKeyIdentifier(identifier, None, None))


def _constraint_extensions(constraints: NameConstraints | None) -> tuple[bytes, ...]:
    """Returns the name constraints of an authority, critical (RFC 5280, section 4.2.1.10)."""
    if constraints is None:
        return ()
    return (extension(NAME_CONSTRAINTS, name_constraints.encode(constraints), critical=True),)


def _name_extensions(names: SubjectAlternativeNames, *, critical: bool) -> tuple[bytes, ...]:
    """Returns the alternative names, critical when the subject is empty (RFC 5280, section 4.2.1.6)."""
    if not names:
        return ()
    return (extension(SUBJECT_ALTERNATIVE_NAME, subject_alternative_names(names), critical=critical),)
