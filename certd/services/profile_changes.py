"""What a caller says of a profile, and the whole profile that it makes, alone or over an earlier version."""

from dataclasses import dataclass, fields, replace
from datetime import timedelta

from certd.errors import CertdError, Reason, field_invalid
from certd.pki.extensions import KEY_USAGE, KeyUsage
from certd.pki.key_spec import KeySpec
from certd.pki.profile import (
    CommonNameRule,
    CustomExtension,
    NameRules,
    Profile,
    SubjectPresence,
    SubjectRules,
    lets_pass,
)
from certd.pki.profile_violations import profile_violations

DEFAULT_LIFETIME = timedelta(days=90)
"""As public authorities now teach everybody's automation."""
_SHORTEST_LIFETIME = timedelta(minutes=1)
_BACKDATE = timedelta(minutes=5)
_KEY_USAGES = frozenset({KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_ENCIPHERMENT})
_AUTHORITY_KEY_USAGES = frozenset({KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN})
_TOLD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenSubject:
    """What a caller says of the subject; None: the default."""

    presence: SubjectPresence | None = None
    common_name: CommonNameRule | None = None
    allowed_attributes: tuple[str, ...] = ()
    required_attributes: tuple[str, ...] = ()
    directory_subtrees: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenProfile:
    """What a caller says of a profile; None: nothing, which leaves the default. The names are those of `Profile`."""

    description: str | None = None
    default_lifetime: timedelta | None = None
    shortest_lifetime: timedelta | None = None
    longest_lifetime: timedelta | None = None
    backdate: timedelta | None = None
    authority: bool | None = None
    highest_path_length: int | None = None
    key_specs: frozenset[KeySpec] | None = None
    key_usages: frozenset[KeyUsage] | None = None
    extended_key_usages: tuple[str, ...] | None = None
    names: NameRules | None = None
    subject: GivenSubject | None = None
    passed_extensions: tuple[str, ...] | None = None
    policies: tuple[str, ...] | None = None
    tls_features: tuple[int, ...] | None = None
    custom_extensions: tuple[CustomExtension, ...] | None = None
    allow_subject_override: bool | None = None
    allow_names_override: bool | None = None


FIELDS = frozenset(field.name for field in fields(GivenProfile))
"""What can be said of a profile."""


def made_of(given: GivenProfile, *, profile_id: str, version: int = 1) -> Profile:
    """Returns the profile that a caller's words make; raises FIELD_INVALID with every rule that it breaks."""
    if given.longest_lifetime is None:
        raise field_invalid("profile.longest_lifetime", "is required")
    authority = given.authority or False
    subject = given.subject or GivenSubject()
    made = Profile(
        profile_id=profile_id,
        version=version,
        description=given.description or "",
        default_lifetime=_or(given.default_lifetime, min(DEFAULT_LIFETIME, given.longest_lifetime)),
        shortest_lifetime=_or(given.shortest_lifetime, _SHORTEST_LIFETIME),
        longest_lifetime=given.longest_lifetime,
        backdate=_or(given.backdate, _BACKDATE),
        authority=authority,
        highest_path_length=given.highest_path_length or 0,
        key_specs=given.key_specs or frozenset(KeySpec),
        key_usages=given.key_usages or _default_key_usages(given),
        extended_key_usages=given.extended_key_usages or (),
        names=given.names or NameRules(),
        subject=SubjectRules(
            presence=subject.presence or (SubjectPresence.REQUIRED if authority else SubjectPresence.OPTIONAL),
            common_name=subject.common_name or (CommonNameRule.ANY if authority else CommonNameRule.AMONG_NAMES),
            allowed_attributes=subject.allowed_attributes,
            required_attributes=subject.required_attributes,
            directory_subtrees=subject.directory_subtrees,
        ),
        passed_extensions=given.passed_extensions or (),
        policies=given.policies or (),
        tls_features=given.tls_features or (),
        custom_extensions=given.custom_extensions or (),
        allow_subject_override=given.allow_subject_override or False,
        allow_names_override=given.allow_names_override or False,
    )
    violations = profile_violations(made)
    if violations:
        told = "; ".join(f"{violation.field}: {violation.description}" for violation in violations[:_TOLD])
        more = f"; and {len(violations) - _TOLD} more" if len(violations) > _TOLD else ""
        raise CertdError(Reason.FIELD_INVALID, told + more, violations=violations)
    return made


def _default_key_usages(given: GivenProfile) -> frozenset[KeyUsage]:
    if given.authority:
        return _AUTHORITY_KEY_USAGES
    # Where they pass, they are the CSR's to say.
    return frozenset() if lets_pass(given.passed_extensions or (), KEY_USAGE) else _KEY_USAGES


def changed(current: Profile, given: GivenProfile, changes: frozenset[str]) -> Profile:
    """Returns a profile with the fields `changes` as given, those that are not given at their default.

    Raises FIELD_INVALID with every rule that the result breaks. The version stays that of `current`.
    """
    merged = replace(_given(current), **{field: getattr(given, field) for field in changes})
    return made_of(merged, profile_id=current.profile_id, version=current.version)


def _given(profile: Profile) -> GivenProfile:
    """Returns the words that make a profile."""
    said = {field: getattr(profile, field) for field in FIELDS - {"subject"}}
    subject = profile.subject
    return GivenProfile(
        **said,
        subject=GivenSubject(
            presence=subject.presence,
            common_name=subject.common_name,
            allowed_attributes=subject.allowed_attributes,
            required_attributes=subject.required_attributes,
            directory_subtrees=subject.directory_subtrees,
        ),
    )


def _or(given: timedelta | None, default: timedelta) -> timedelta:
    """Returns what is given, which may be no time at all."""
    return default if given is None else given
