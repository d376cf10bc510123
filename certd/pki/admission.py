"""Admits a request against a profile: names, place, path length, validity. Nothing is left out in silence."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from certd.errors import CertdError, Reason, Violation, field_invalid
from certd.pki import distinguished_name, names
from certd.pki.certificate_request import (
    CertificateRequest,
    Issuer,
    Validity,
    Warning,  # noqa: A004  # The API's word.
)
from certd.pki.extensions import extension_text
from certd.pki.names import SubjectAlternativeNames
from certd.pki.profiles import NameKind, Profile, SubjectRule

_SECOND = timedelta(seconds=1)
_NAMES_FIELD = "subject_alternative_names"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedNames:
    """Subject and alternative names as they will stand in the certificate."""

    subject: bytes
    names: SubjectAlternativeNames
    warnings: tuple[Warning, ...]


def admit_names(request: CertificateRequest, profile: Profile) -> AdmittedNames:
    """Returns subject and names as the profile allows them.

    NAME_NOT_ALLOWED with every violation: of RFC 5280's bounds, of the kinds of names that the profile allows, of
    their count.
    """
    subject = request.subject
    warnings: list[Warning] = []
    admitted = names.normalise(request.names, field=_NAMES_FIELD)
    if profile.subject is SubjectRule.DROPPED and subject != distinguished_name.EMPTY:
        subject = distinguished_name.EMPTY
        warnings.append(Warning("subject", f"dropped: profile {profile.profile_id} issues without a subject"))
    if subject != distinguished_name.EMPTY:
        _refuse("subject", distinguished_name.violations(subject, "subject"))
        if profile.subject is SubjectRule.COMMON_NAMES_CHECKED:
            subject, admitted = _check_common_names(subject, admitted, warnings)
    elif profile.subject is SubjectRule.REQUIRED:
        _refuse("subject", (Violation("subject", "must not be empty: it is the name of the authority"),))
    _refuse(_NAMES_FIELD, _forbidden_names(admitted, profile))
    warnings += [
        Warning("csr.extensions", f"dropped {extension_text(oid)}: profile {profile.profile_id} decides on extensions")
        for oid in request.ignored_extension_oids
    ]
    return AdmittedNames(subject=subject, names=admitted, warnings=tuple(warnings))


def _refuse(what: str, violations: tuple[Violation, ...]) -> None:
    if violations:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        message = f"{what}: {violations[0].description}{more}"
        raise CertdError(Reason.NAME_NOT_ALLOWED, message, violations=violations)


def _check_common_names(
    subject: bytes, admitted: SubjectAlternativeNames, warnings: list[Warning]
) -> tuple[bytes, SubjectAlternativeNames]:
    """Applies the rule of COMMON_NAMES_CHECKED.

    A CN claims a name, so it must be one of the certificate's. Without alternative names it becomes one, when it is a
    DNS name or an IP address: requests from before alternative names still look like that. Else it is dropped.
    """
    common_names = distinguished_name.common_names(subject)
    if common_names and not admitted:
        admitted = _names_from(common_names, warnings)
    known = {*admitted.dns_names, *admitted.ip_addresses}
    dropped = [
        name
        for name in common_names
        if names.normalise_dns_name(name) not in known and names.normalise_ip_address(name) not in known
    ]
    if not dropped:
        return subject, admitted
    warnings += [
        Warning("subject", f"dropped CN {names.excerpt(name)}: it is not among the alternative names")
        for name in dropped
    ]
    return distinguished_name.without_common_names(subject, dropped), admitted


def _names_from(common_names: tuple[str, ...], warnings: list[Warning]) -> SubjectAlternativeNames:
    admitted = SubjectAlternativeNames()
    for common_name in common_names:
        if (address := names.normalise_ip_address(common_name)) is not None:
            admitted = replace(admitted, ip_addresses=(*admitted.ip_addresses, address))
        elif (dns_name := names.normalise_dns_name(common_name)) is not None:
            admitted = replace(admitted, dns_names=(*admitted.dns_names, dns_name))
        else:
            continue
        message = f"added {names.excerpt(common_name)} from the CN, for there were no alternative names"
        warnings.append(Warning(_NAMES_FIELD, message))
    return admitted


def _forbidden_names(admitted: SubjectAlternativeNames, profile: Profile) -> tuple[Violation, ...]:
    """Returns every name of a kind that the profile does not allow, and whether there are too few or too many."""
    found: list[Violation] = []

    def check(field: str, values: tuple[str, ...], kind_of: dict[bool, NameKind], marks: tuple[bool, ...]) -> None:
        for index, (value, mark) in enumerate(zip(values, marks, strict=True)):
            kind = kind_of[mark]
            if kind not in profile.name_kinds:
                rule = f"{names.excerpt(value)}: profile {profile.profile_id} allows no {kind.value}"
                found.append(Violation(f"{_NAMES_FIELD}.{field}[{index}]", rule))

    dns_kinds = {False: NameKind.DNS, True: NameKind.WILDCARD}
    check("dns_names", admitted.dns_names, dns_kinds, tuple(map(names.is_wildcard, admitted.dns_names)))
    check("ip_addresses", admitted.ip_addresses, {False: NameKind.IP}, (False,) * len(admitted.ip_addresses))
    uri_kinds = {False: NameKind.URI, True: NameKind.SPIFFE}
    check("uris", admitted.uris, uri_kinds, tuple(map(names.is_spiffe_id, admitted.uris)))
    check(
        "email_addresses", admitted.email_addresses, {False: NameKind.EMAIL}, (False,) * len(admitted.email_addresses)
    )
    count = len(admitted)
    if count < profile.fewest_names:
        rule = f"profile {profile.profile_id} needs a name: ask for a DNS name or another kind that it allows"
        found.append(Violation(_NAMES_FIELD, rule))
    elif count > profile.most_names and not found:
        rule = f"profile {profile.profile_id} allows at most {profile.most_names} names, and there are {count}"
        found.append(Violation(_NAMES_FIELD, rule))
    return tuple(found)


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
    """
    if profile.self_signed:
        if issuer.name != subject or issuer.public_key != request.public_key:
            raise _forbidden(profile, "it is for an authority's own self-signed certificate only", field="profile")
        return
    if issuer.public_key == request.public_key:
        raise _forbidden(profile, "the key is the authority's own; make one for the subject", field="csr.public_key")
    if subject != distinguished_name.EMPTY and distinguished_name.comparable(
        issuer.name
    ) == distinguished_name.comparable(subject):
        raise _forbidden(profile, "the subject is the authority's own name; choose another", field="subject")


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
    if not profile.self_signed and issuer.path_length is not None and path_length >= issuer.path_length:
        problem = (
            f"the issuing authority has path length {issuer.path_length}, so that no authority may stand below it"
            if issuer.path_length == 0
            else f"the path length must be less than the {issuer.path_length} of the issuing authority"
        )
        raise _forbidden(profile, problem, field="path_length")
    return path_length


def admit_validity(
    issuer: Issuer, profile: Profile, validity: Validity, now: datetime
) -> tuple[datetime, datetime, tuple[Warning, ...]]:
    """Returns not_before, not_after and warnings. `now` is truncated to the second.

    FIELD_INVALID when it is not in whole seconds, or said twice; PROFILE_FORBIDS when it is out of the
    profile's bounds; LIFETIME_EXCEEDS_AUTHORITY when the certificate would outlive its issuer. A default lifetime is
    cut instead.
    """
    moment = now.astimezone(UTC).replace(microsecond=0)
    lifetime, is_default = _lifetime(profile, validity, moment)
    if not is_default:
        _check_lifetime(profile, lifetime)
    not_after = moment + lifetime - _SECOND
    warnings: tuple[Warning, ...] = ()
    if issuer.not_after is not None and not_after > issuer.not_after:
        if not is_default or issuer.not_after < moment:
            raise CertdError(
                Reason.LIFETIME_EXCEEDS_AUTHORITY,
                f"the certificate would end at {_text(not_after)}, after its authority, which ends at"
                f" {_text(issuer.not_after)}; ask for a shorter lifetime, or renew the authority",
                metadata={"not_after": _text(not_after), "authority_not_after": _text(issuer.not_after)},
            )
        not_after = issuer.not_after
        message = f"cut the profile's default to the end of the authority, {_text(not_after)}"
        warnings = (Warning("lifetime", message),)
    return moment - profile.backdate, not_after, warnings


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
