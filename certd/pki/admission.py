"""Admits a request against a profile: names, place, path length, validity. Nothing is left out in silence."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from certd.errors import CertdError, Reason, Violation, field_invalid
from certd.pki import distinguished_name, name_constraints, names
from certd.pki.certificate_request import (
    CertificateRequest,
    Issuer,
    Validity,
    Warning,  # noqa: A004  # The API's word.
)
from certd.pki.names import SubjectAlternativeNames
from certd.pki.profile import CommonNameRule, NameRules, Profile, SubjectPresence
from certd.pki.profile_rules import (
    SPIFFE_PREFIX,
    dns_name_problem,
    email_address_problem,
    ip_address_problem,
    is_in_subtrees,
    normalise_email_address,
    uri_problem,
)
from certd.pki.status_locations import LONGEST_SHORT_LIFETIME

_SECOND = timedelta(seconds=1)
_NAMES_FIELD = "subject_alternative_names"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedNames:
    """Subject and alternative names as they will stand in the certificate."""

    subject: bytes
    names: SubjectAlternativeNames
    warnings: tuple[Warning, ...]


def admit_names(request: CertificateRequest, issuer: Issuer, profile: Profile) -> AdmittedNames:
    """Returns subject and names as the profile allows them.

    NAME_NOT_ALLOWED with every violation: of RFC 5280's bounds, of the profile's rules, of the trust domain that is
    certd's own. FIELD_INVALID when the subject is no name.
    """
    warnings: list[Warning] = []
    found: list[Violation] = []
    admitted = request.names
    try:
        admitted = names.normalise(request.names, field=_NAMES_FIELD)
    except CertdError as error:
        found += error.violations
    subject = request.subject
    if subject != distinguished_name.EMPTY:
        found += distinguished_name.violations(subject, "subject")
        if not found:
            subject, admitted = _admit_subject(subject, admitted, profile, warnings)
    if not found:
        found += _subject_violations(subject, profile)
        found += _forbidden_names(admitted, issuer, profile)
        if not admitted and subject == distinguished_name.EMPTY and not found:
            found.append(Violation(_NAMES_FIELD, "are missing, and there is no subject either; ask for a name"))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        message = f"{found[0].field}: {found[0].description}{more}"
        raise CertdError(Reason.NAME_NOT_ALLOWED, message, violations=tuple(found))
    return AdmittedNames(subject=subject, names=admitted, warnings=tuple(warnings))


def _admit_subject(
    subject: bytes, admitted: SubjectAlternativeNames, profile: Profile, warnings: list[Warning]
) -> tuple[bytes, SubjectAlternativeNames]:
    """Returns the subject less what the profile does not let stand there, and the names with what became one."""
    rules = profile.subject
    if rules.presence is SubjectPresence.DROPPED:
        warnings.append(Warning("subject", f"dropped: profile {profile.profile_id} issues without a subject"))
        return distinguished_name.EMPTY, admitted
    if rules.allowed_attributes:
        subject = _less_attributes(subject, rules.allowed_attributes, profile, warnings)
    common_names = distinguished_name.common_names(subject)
    if rules.common_name is CommonNameRule.NONE:
        dropped = list(common_names)
        why = f"profile {profile.profile_id} issues without one"
    elif rules.common_name is CommonNameRule.AMONG_NAMES:
        if common_names and not admitted:
            admitted = _names_from(common_names, profile.names, warnings)
        dropped = [name for name in common_names if not _is_among(name, admitted)]
        why = "it is not among the alternative names"
    else:
        dropped, why = [], ""
    if dropped:
        warnings += [Warning("subject", f"dropped CN {names.excerpt(name)}: {why}") for name in dropped]
        subject = distinguished_name.without_common_names(subject, dropped)
    if not profile.authority:
        subject = _less_foreign_mailboxes(subject, admitted, warnings)
    return subject, admitted


def _less_attributes(subject: bytes, allowed: tuple[str, ...], profile: Profile, warnings: list[Warning]) -> bytes:
    foreign = [
        distinguished_name.short_name(oid)
        for relative in distinguished_name.decode(subject)
        for oid, _ in relative
        if oid not in allowed
    ]
    if not foreign:
        return subject
    warnings += [
        Warning("subject", f"dropped {attribute}: profile {profile.profile_id} does not allow it")
        for attribute in dict.fromkeys(foreign)
    ]
    return distinguished_name.without_attributes(subject, lambda oid, _: oid not in allowed)


def _less_foreign_mailboxes(subject: bytes, admitted: SubjectAlternativeNames, warnings: list[Warning]) -> bytes:
    """Drops e-mail addresses that are not among the alternative names: readers believe them as if they were."""
    foreign = [
        value
        for value in distinguished_name.values(subject, distinguished_name.EMAIL_ADDRESS)
        if normalise_email_address(value) not in admitted.email_addresses
    ]
    if not foreign:
        return subject
    warnings += [
        Warning("subject", f"dropped emailAddress {names.excerpt(value)}: it is not among the alternative names")
        for value in foreign
    ]
    return distinguished_name.without_attributes(
        subject, lambda oid, value: oid == distinguished_name.EMAIL_ADDRESS and value in foreign
    )


def _is_among(common_name: str, admitted: SubjectAlternativeNames) -> bool:
    """Returns whether a CN, which claims a name, is one of the certificate's."""
    return (
        names.normalise_dns_name(common_name) in admitted.dns_names
        or names.normalise_ip_address(common_name) in admitted.ip_addresses
        or common_name in admitted.uris
        or (bool(admitted.email_addresses) and normalise_email_address(common_name) in admitted.email_addresses)
    )


def _names_from(common_names: tuple[str, ...], rules: NameRules, warnings: list[Warning]) -> SubjectAlternativeNames:
    """Returns the names that CNs become, of the kinds that the profile has rules for."""
    admitted = SubjectAlternativeNames()
    for common_name in common_names:
        if (address := names.normalise_ip_address(common_name)) is not None and rules.ip_addresses is not None:
            admitted = replace(admitted, ip_addresses=(*admitted.ip_addresses, address))
        elif (dns_name := names.normalise_dns_name(common_name)) is not None and rules.dns_names is not None:
            admitted = replace(admitted, dns_names=(*admitted.dns_names, dns_name))
        else:
            continue
        message = f"added {names.excerpt(common_name)} from the CN, for there were no alternative names"
        warnings.append(Warning(_NAMES_FIELD, message))
    return admitted


def _subject_violations(subject: bytes, profile: Profile) -> tuple[Violation, ...]:
    rules = profile.subject
    if subject == distinguished_name.EMPTY:
        if rules.presence is not SubjectPresence.REQUIRED:
            return ()
        what = "it is the name of the authority" if profile.authority else f"profile {profile.profile_id} wants one"
        return (Violation("subject", f"must not be empty: {what}"),)
    found: list[Violation] = []
    if rules.required_attributes:
        present = {oid for relative in distinguished_name.decode(subject) for oid, _ in relative}
        missing = [distinguished_name.short_name(oid) for oid in rules.required_attributes if oid not in present]
        found += [Violation("subject", f"must have {one}: profile {profile.profile_id} wants it") for one in missing]
    if rules.directory_subtrees and not is_in_subtrees(subject, rules.directory_subtrees):
        rule = f"begins with none of the names that profile {profile.profile_id} allows subjects under"
        found.append(Violation("subject", rule))
    return tuple(found)


def _forbidden_names(admitted: SubjectAlternativeNames, issuer: Issuer, profile: Profile) -> tuple[Violation, ...]:
    """Returns every name that the profile does not allow, and whether there are too few or too many."""
    rules = profile.names
    profile_id = profile.profile_id
    found = [
        *_forbidden_of(
            "dns_names",
            admitted.dns_names,
            kind="DNS name",
            rules=rules.dns_names,
            problem_of=dns_name_problem,
            profile_id=profile_id,
        ),
        *_forbidden_of(
            "ip_addresses",
            admitted.ip_addresses,
            kind="IP address",
            rules=rules.ip_addresses,
            problem_of=ip_address_problem,
            profile_id=profile_id,
        ),
        *_forbidden_of(
            "uris", admitted.uris, kind="URI", rules=rules.uris, problem_of=uri_problem, profile_id=profile_id
        ),
        *_forbidden_of(
            "email_addresses",
            admitted.email_addresses,
            kind="e-mail address",
            rules=rules.email_addresses,
            problem_of=email_address_problem,
            profile_id=profile_id,
        ),
    ]
    # One finding for a name: what the profile does not allow anyway needs no second reason.
    told = {violation.field for violation in found}
    found += [violation for violation in _reserved_names(admitted, issuer) if violation.field not in told]
    count = len(admitted)
    if count < rules.fewest:
        what = "a name" if rules.fewest == 1 else f"{rules.fewest} names"
        kinds = {
            "DNS names": rules.dns_names,
            "IP addresses": rules.ip_addresses,
            "URIs": rules.uris,
            "e-mail addresses": rules.email_addresses,
        }
        allowed = ", ".join(kind for kind, one in kinds.items() if one is not None)
        found.append(Violation(_NAMES_FIELD, f"profile {profile_id} needs {what}; it allows {allowed}"))
    elif count > rules.most and not found:
        rule = f"profile {profile_id} allows at most {rules.most} names, and there are {count}"
        found.append(Violation(_NAMES_FIELD, rule))
    return tuple(found)


_Rules = TypeVar("_Rules")


def _forbidden_of(
    field: str,
    values: tuple[str, ...],
    *,
    kind: str,
    rules: _Rules | None,
    problem_of: Callable[[str, _Rules], str | None],
    profile_id: str,
) -> list[Violation]:
    found: list[Violation] = []
    for index, value in enumerate(values):
        if rules is None:
            problem = f"profile {profile_id} allows no {kind}"
        elif (why := problem_of(value, rules)) is not None:
            problem = f"profile {profile_id} does not allow it: it {why}"
        else:
            continue
        found.append(Violation(f"{_NAMES_FIELD}.{field}[{index}]", f"{names.excerpt(value)}: {problem}"))
    return found


def _reserved_names(admitted: SubjectAlternativeNames, issuer: Issuer) -> list[Violation]:
    """Returns the SPIFFE ids in the trust domain of certd's own identities, whatever the profile allows."""
    if issuer.reserved_trust_domain is None:
        return []
    reserved = f"{SPIFFE_PREFIX}{issuer.reserved_trust_domain}"
    return [
        Violation(
            f"{_NAMES_FIELD}.uris[{index}]",
            f"{names.excerpt(uri)}: the trust domain {issuer.reserved_trust_domain} is that of certd's own identities",
        )
        for index, uri in enumerate(admitted.uris)
        if uri == reserved or uri.startswith(f"{reserved}/")
    ]


def _forbidden(profile: Profile, problem: str, *, field: str) -> CertdError:
    return CertdError(
        Reason.PROFILE_FORBIDS,
        f"profile {profile.profile_id}: {problem}",
        metadata={"profile": profile.profile_id},
        violations=(Violation(field, problem),),
    )


def admit_place(issuer: Issuer, request: CertificateRequest, profile: Profile, subject: bytes) -> None:
    """Checks who would stand below whom. PROFILE_FORBIDS when the profile is not for that.

    A self-signed profile certifies the issuer's own key under the issuer's own name. Any other one never does: a
    certificate with its issuer's name would be self-issued, which RFC 5280, section 6.1, treats as the issuer's own.
    It is asked for with `self_issued` then, for another of the issuer's keys.
    """
    if profile.self_signed:
        if issuer.name != subject or issuer.public_key != request.public_key:
            raise _forbidden(profile, "it is for an authority's own self-signed certificate only", field="profile")
        return
    if issuer.public_key == request.public_key:
        raise _forbidden(profile, "the key is the authority's own; make one for the subject", field="csr.public_key")
    if request.self_issued:
        if issuer.name != subject or not profile.authority:
            raise _forbidden(profile, "another key of the authority is certified under its own name", field="subject")
        return
    if subject != distinguished_name.EMPTY and distinguished_name.comparable(
        issuer.name
    ) == distinguished_name.comparable(subject):
        raise _forbidden(profile, "the subject is the authority's own name; choose another", field="subject")


def admit_constraints(issuer: Issuer, request: CertificateRequest, profile: Profile, admitted: AdmittedNames) -> None:
    """Holds the names against the name constraints of every authority above.

    NAME_CONSTRAINT_VIOLATED with every violation; PROFILE_FORBIDS when the certificate would have constraints of
    its own and is no authority's.
    """
    if request.name_constraints is not None and not profile.authority:
        raise _forbidden(profile, "only an authority has name constraints", field="name_constraints")
    if not issuer.name_constraints:
        return
    found = name_constraints.check(issuer.name_constraints, subject=admitted.subject, names=admitted.names)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise CertdError(
            Reason.NAME_CONSTRAINT_VIOLATED,
            f"{found[0].field}: {found[0].description}{more}; ask another authority, or for other names",
            violations=found,
        )


def admit_path_length(issuer: Issuer, request: CertificateRequest, profile: Profile) -> int | None:
    """Returns the path length of the certificate, None for one that is no authority's.

    An authority that asked for none gets 0: none may stand below it. PROFILE_FORBIDS when the certificate is no
    authority's, when the profile's bound is passed, or when the issuer's path length leaves no room.
    """
    wanted = request.path_length
    if not profile.authority:
        if wanted is not None:
            raise _forbidden(profile, "only an authority has a path length", field="path_length")
        return None
    path_length = 0 if wanted is None else wanted
    if not 0 <= path_length <= profile.highest_path_length:
        raise _forbidden(profile, f"the path length must be 0 to {profile.highest_path_length}", field="path_length")
    if request.self_issued:
        # RFC 5280, section 6.1.4: what is self-issued is not counted.
        if issuer.path_length is not None and path_length > issuer.path_length:
            problem = f"the path length must be at most the {issuer.path_length} of the issuing key"
            raise _forbidden(profile, problem, field="path_length")
        return path_length
    if not profile.self_signed and issuer.path_length is not None and path_length >= issuer.path_length:
        problem = (
            f"the issuing authority has path length {issuer.path_length}, so that no authority may stand below it"
            if issuer.path_length == 0
            else f"the path length must be less than the {issuer.path_length} of the issuing authority"
        )
        raise _forbidden(profile, problem, field="path_length")
    return path_length


@dataclass(frozen=True, slots=True)
class AdmittedPeriod:
    """From when to when, both inclusive."""

    not_before: datetime
    not_after: datetime
    warnings: tuple[Warning, ...]


def admit_validity(issuer: Issuer, profile: Profile, validity: Validity, now: datetime) -> AdmittedPeriod:
    """Returns the validity. `now` is truncated to the second.

    FIELD_INVALID when it is not in whole seconds, or said twice; PROFILE_FORBIDS when it is out of the
    profile's bounds; LIFETIME_EXCEEDS_AUTHORITY when the certificate would outlive its issuer, or what an authority may
    issue that is SHORT_LIVED. A default lifetime is cut instead.
    """
    moment = now.astimezone(UTC).replace(microsecond=0)
    lifetime, is_default = _lifetime(profile, validity, moment)
    warnings: tuple[Warning, ...] = ()
    if not is_default:
        _check_lifetime(profile, lifetime)
        _check_short_lifetime(issuer, profile, validity, lifetime)
    elif lifetime > (longest := default_lifetime(issuer, profile)):
        lifetime = longest
        message = f"cut the profile's default to {longest.days} days: the authority is SHORT_LIVED"
        warnings = (Warning("lifetime", message),)
    not_after = moment + lifetime - _SECOND
    if issuer.not_after is not None and not_after > issuer.not_after:
        if not is_default or issuer.not_after < moment:
            field = "lifetime" if validity.not_after is None else "not_after_time"
            problem = f"after its authority, which ends at {_text(issuer.not_after)}"
            remedy = "ask for a shorter lifetime, or renew the authority"
            violation = Violation(field, f"leads to {_text(not_after)}, {problem}; {remedy}")
            raise CertdError(
                Reason.LIFETIME_EXCEEDS_AUTHORITY,
                f"the certificate would end at {_text(not_after)}, {problem}; {remedy}",
                metadata={"not_after": _text(not_after), "authority_not_after": _text(issuer.not_after)},
                violations=() if is_default else (violation,),
            )
        not_after = issuer.not_after
        message = f"cut the profile's default to the end of the authority, {_text(not_after)}"
        warnings = (Warning("lifetime", message),)
    return AdmittedPeriod(moment - profile.backdate, not_after, warnings)


def default_lifetime(issuer: Issuer, profile: Profile) -> timedelta:
    """Returns how long a certificate lives when nobody says, unless its issuer ends before."""
    longest = profile.default_lifetime
    return min(longest, LONGEST_SHORT_LIFETIME) if _is_short_lived(issuer, profile) else longest


def _is_short_lived(issuer: Issuer, profile: Profile) -> bool:
    return issuer.locations.short_lived and not profile.authority


def _check_short_lifetime(issuer: Issuer, profile: Profile, validity: Validity, lifetime: timedelta) -> None:
    """Raises LIFETIME_EXCEEDS_AUTHORITY for what is too long where nobody asks whether a certificate is revoked."""
    if lifetime <= LONGEST_SHORT_LIFETIME or not _is_short_lived(issuer, profile):
        return
    field = "lifetime" if validity.not_after is None else "not_after_time"
    days = LONGEST_SHORT_LIFETIME.days
    problem = f"leads to {lifetime}, and the authority is SHORT_LIVED: what it issues lives at most {days} days"
    remedy = "ask for less, or have a GENERAL_PURPOSE authority issue it"
    raise CertdError(
        Reason.LIFETIME_EXCEEDS_AUTHORITY,
        f"the {field} {problem}; {remedy}",
        metadata={"longest_lifetime_seconds": str(int(LONGEST_SHORT_LIFETIME.total_seconds()))},
        violations=(Violation(field, f"{problem}; {remedy}"),),
    )


def _text(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def _lifetime(profile: Profile, validity: Validity, moment: datetime) -> tuple[timedelta, bool]:
    """Returns the lifetime, and whether it is the profile's default."""
    if validity.not_after is not None:
        if validity.lifetime is not None:
            raise field_invalid("lifetime", "cannot be given together with not_after_time")
        if validity.not_after.tzinfo is None or validity.not_after.microsecond:
            raise field_invalid("not_after_time", "must be a time in UTC to the second")
        return validity.not_after.astimezone(UTC) - moment + _SECOND, False
    if validity.lifetime is None:
        return profile.default_lifetime, True
    if validity.lifetime.microseconds:
        raise field_invalid("lifetime", "must be in whole seconds")
    return validity.lifetime, False


def _check_lifetime(profile: Profile, lifetime: timedelta) -> None:
    if lifetime < profile.shortest_lifetime:
        shortest = int(profile.shortest_lifetime.total_seconds())
        raise _forbidden(profile, f"the lifetime must be at least {shortest} seconds", field="lifetime")
    if lifetime > profile.longest_lifetime:
        raise _forbidden(
            profile, f"the lifetime must be at most {profile.longest_lifetime.days} days", field="lifetime"
        )
