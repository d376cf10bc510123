"""What is to be certified, by whom, and for how long."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from certd.errors import CertdError, Reason, Violation
from certd.pki import distinguished_name
from certd.pki import names as alternative_names
from certd.pki.csr import ParsedCsr, RequestedExtension
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.name_constraints import NameConstraints
from certd.pki.names import SubjectAlternativeNames
from certd.pki.profile import Profile
from certd.pki.status_locations import NOWHERE, StatusLocations


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """The authority that will sign."""

    name: bytes
    """DER of its subject, copied byte for byte."""
    public_key: bytes
    """DER of the SubjectPublicKeyInfo of the key that will sign."""
    subject_key_identifier: bytes
    """As its certificate has it; for a root in the making `key_identifier` of its key."""
    key_spec: KeySpec
    signature_algorithm: SignatureAlgorithm
    not_after: datetime | None
    """End of its certificate; None for a root in the making."""
    path_length: int | None
    """Of its certificate; None when that has no constraint."""
    locations: StatusLocations = NOWHERE
    """What its certificates say of where their status and their issuer are found."""
    name_constraints: tuple[NameConstraints, ...] = ()
    """Its own and those of every authority above it."""
    reserved_trust_domain: str | None = None
    """The trust domain of certd's own identities, in which this authority issues no SPIFFE id; None for the one that
    issues them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """What is to be certified."""

    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    subject: bytes
    """DER of the distinguished name; EMPTY when there is none."""
    names: SubjectAlternativeNames
    extensions: tuple[RequestedExtension, ...] = ()
    """What the CSR asks for besides the alternative names; the profile says what passes."""
    path_length: int | None = None
    """Of an authority."""
    name_constraints: NameConstraints | None = None
    """Of an authority, in their normal form."""
    subject_key_identifier: bytes | None = None
    """As other certificates of the key have it; None: `key_identifier` of the key."""
    self_issued: bool = False
    """Whether it is another key of the issuer, under the issuer's own name (RFC 5280, section 3.2)."""


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001  # The API's word.
    """Something that was dropped, overridden or truncated."""

    field: str
    """Path of the request's field, or of a part of the CSR such as `csr.extensions`."""
    message: str
    """What happened, and why, in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """How long a certificate shall live; with neither, as long as the profile says."""

    lifetime: timedelta | None = None
    """From now, in whole seconds; the certificate ends one second early, for both ends count."""
    not_after: datetime | None = None
    """Exact end, inclusive, aware, to the second."""


_SUBJECT = "subject"
_NAMES = "subject_alternative_names"


def request_of(
    parsed: ParsedCsr, *, profile: Profile, subject: bytes | None, names: SubjectAlternativeNames | None
) -> tuple[CertificateRequest, tuple[Warning, ...]]:
    """Returns what a CSR asks for with subject (DER) and names replaced by the request's, and what that overrides.

    PROFILE_FORBIDS when the profile allows no such override or is for self-signed certificates, NAME_NOT_ALLOWED with
    every name that is none. The fields are `subject`, `subject_alternative_names` and `profile`.
    """
    if profile.self_signed:
        # A root's own CSR would do, and says less than the root is bound to: its name constraints would be gone.
        problem = "is for an authority's own self-signed certificate only, which no CSR asks for"
        raise CertdError(
            Reason.PROFILE_FORBIDS,
            f"profile {profile.profile_id} {problem}; create a ROOT instead",
            metadata={"profile": profile.profile_id},
            violations=(Violation("profile", problem),),
        )
    if subject is None and names is None:
        return _request(parsed, parsed.subject, parsed.names), ()
    violations = []
    if subject is not None and not profile.allow_subject_override:
        violations.append(Violation(_SUBJECT, "cannot replace that of the CSR under this profile; leave it out"))
    if names is not None and not profile.allow_names_override:
        violations.append(Violation(_NAMES, "cannot replace those of the CSR under this profile; leave them out"))
    if violations:
        raise CertdError(
            Reason.PROFILE_FORBIDS,
            f"profile {profile.profile_id}: {violations[0].field} {violations[0].description}",
            metadata={"profile": profile.profile_id},
            violations=tuple(violations),
        )
    warnings = []
    if subject is None:
        subject = parsed.subject
    elif parsed.subject not in {subject, distinguished_name.EMPTY}:
        warnings.append(Warning(_SUBJECT, f"overrides that of the CSR, {_text(parsed.subject)}"))
    if names is None:
        names = parsed.names
    else:
        names = alternative_names.normalise(names, field=_NAMES)
        if parsed.names and parsed.names != names:
            count = len(parsed.names)
            warnings.append(Warning(_NAMES, f"overrides those of the CSR, {count} name{'s' if count > 1 else ''}"))
    return _request(parsed, subject, names), tuple(warnings)


def _request(parsed: ParsedCsr, subject: bytes, names: SubjectAlternativeNames) -> CertificateRequest:
    return CertificateRequest(public_key=parsed.public_key, subject=subject, names=names, extensions=parsed.extensions)


def _text(subject: bytes) -> str:
    try:
        return alternative_names.excerpt(distinguished_name.to_text(subject))
    except CertdError:
        return "which is no name"
