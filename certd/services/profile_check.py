"""A CSR held against a profile, with every finding; nothing is issued, and nothing is written."""

import functools
import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.authority import Authority
from certd.model.names import AuthorityName, ProfileName
from certd.model.request_limits import RequestLimits
from certd.pki import csr, distinguished_name, preparation
from certd.pki.certificate_request import CertificateRequest, Issuer, Validity, request_of
from certd.pki.certificate_request import Warning as PreparationWarning
from certd.pki.key_spec import KeySpec, default_signature_algorithm, key_identifier
from certd.pki.names import SubjectAlternativeNames, check_count
from certd.pki.profiles import Profile
from certd.services.access import Access
from certd.services.authorities import check_enabled, existing_authority
from certd.services.issuance import new_serial, rehearsal_key
from certd.services.issuing_refusals import key_blocked
from certd.services.profile_changes import GivenProfile, made_of
from certd.services.profiles import existing_profile
from certd.services.signers import Signers
from certd.services.tenants import existing_tenant
from certd.store import blocked_keys
from certd.store.store import Store, Transaction

_FIELDS_OF_REASONS = {
    Reason.AUTHORITY_NOT_ENABLED: "authority",
    Reason.LIFETIME_EXCEEDS_AUTHORITY: "lifetime",
    Reason.LINT_FAILED: "csr",
}
"""What a finding is about when it names no field itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestToCheck:
    """What would be asked for."""

    name: ProfileName
    profile: GivenProfile | None = None
    """To check with in place of the stored one."""
    csr: bytes
    """PEM or DER."""
    lifetime: timedelta | None = None
    subject: bytes | None = None
    """DER; replaces that of the CSR."""
    names: SubjectAlternativeNames | None = None
    """Replace those of the CSR."""
    authority: AuthorityName | None = None
    """Who would sign; None: an authority without bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One reason against the certificate."""

    reason: Reason
    field: str
    """Path of the field that it is about."""
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRequest:
    """What was found. Without findings there is the certificate."""

    profile_name: ProfileName
    findings: tuple[Finding, ...]
    warnings: tuple[PreparationWarning, ...] = ()
    certificate: bytes | None = None
    """DER, with a signature that no key made."""


class ProfileChecks:
    """The use case of checking a CSR against a profile, and against what a request to issue may hold."""

    def __init__(self, *, store: Store, clock: Clock, access: Access, signers: Signers, limits: RequestLimits) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._signers = signers
        self._limits = limits

    def check(self, caller: Caller, asked: RequestToCheck) -> CheckedRequest:
        """Returns every finding, not the first alone.

        Raises FIELD_INVALID for an inline profile that is none, PROFILE_NOT_FOUND, AUTHORITY_NOT_FOUND,
        TENANT_NOT_FOUND. The caller needs to read profile and authority.
        """
        self._access.require(caller, Permission.PROFILE_READ, str(asked.name))
        if asked.authority is not None:
            self._access.require(caller, Permission.AUTHORITY_READ, str(asked.authority))
        now = self._clock.now()
        with self._store.read("profiles.check") as tx:
            existing_tenant(tx, asked.name.tenant)
            profile = _profile(tx, asked)
            authority = None if asked.authority is None else _authority(tx, asked.name.tenant, asked.authority)
        findings = [] if authority is None else _findings_of_state(authority, now)
        try:
            csr.check_length(asked.csr, longest=self._limits.csr_bytes)
            parsed = csr.parse_csr(asked.csr)
        except CertdError as error:
            return CheckedRequest(profile_name=asked.name, findings=(*findings, *_findings(error)))
        try:
            request, warnings, refused = _request(parsed, profile, asked)
        except CertdError as error:
            return CheckedRequest(profile_name=asked.name, findings=(*findings, *_findings(error)))
        found = preparation.findings(
            issuer=self._issuer(authority),
            request=request,
            profile=profile,
            validity=Validity(lifetime=asked.lifetime),
            serial=new_serial(now),
            now=now,
        )
        overridden = frozenset() if refused else _overridden(asked)
        findings += refused
        # A CN may have become a name.
        names = request.names if found.prepared is None else found.prepared.names
        errors = [*found.errors, *_too_many(names, self._limits.names)]
        if self._is_blocked(asked.name.tenant, parsed.public_key):
            errors.append(key_blocked())
        for reason in errors:
            findings += [replace(one, field=_path(one.field, overridden)) for one in _findings(reason)]
        warnings += tuple(replace(one, field=_path(one.field, overridden)) for one in found.warnings)
        prepared = None if findings else found.prepared
        return CheckedRequest(
            profile_name=asked.name,
            findings=tuple(findings),
            warnings=warnings,
            certificate=None if prepared is None else prepared.lint_certificate,
        )

    def _is_blocked(self, tenant: str, public_key: bytes) -> bool:
        key = (tenant, hashlib.sha256(public_key).digest())
        with self._store.read("profiles.check-key") as tx:
            return key in blocked_keys.blocked(tx, [key])

    def _issuer(self, authority: Authority | None) -> Issuer:
        if authority is None or authority.certificate is None:
            return _boundless_issuer(self._signers.trust_domain)
        return self._signers.of(authority).issuer


def _too_many(names: SubjectAlternativeNames, most: int) -> tuple[CertdError, ...]:
    try:
        check_count(names, field="subject_alternative_names", highest=most)
    except CertdError as error:
        return (error,)
    return ()


def _profile(tx: Transaction, asked: RequestToCheck) -> Profile:
    if asked.profile is not None:
        return made_of(asked.profile, profile_id=asked.name.profile)
    return existing_profile(tx, asked.name, asked.name.tenant)


def _authority(tx: Transaction, tenant: str, name: AuthorityName) -> Authority:
    if name.tenant != tenant:
        raise CertdError(
            Reason.AUTHORITY_NOT_FOUND, f"{name} is not an authority of tenants/{tenant}", resource=str(name)
        )
    return existing_authority(tx, name)


def _findings_of_state(authority: Authority, now: datetime) -> list[Finding]:
    try:
        check_enabled(authority, now)
    except CertdError as error:
        return _findings(error)
    return []


@functools.cache
def _boundless_issuer(trust_domain: str) -> Issuer:
    """Returns an authority that nobody has: it forbids nothing of its own, so that the profile decides."""
    spec = KeySpec.EC_P256
    public_key = rehearsal_key(spec)
    return Issuer(
        name=distinguished_name.parse_text("CN=Any authority"),
        public_key=public_key,
        subject_key_identifier=key_identifier(public_key),
        key_spec=spec,
        signature_algorithm=default_signature_algorithm(spec),
        not_after=None,
        path_length=None,
        reserved_trust_domain=trust_domain,
    )


def _request(
    parsed: csr.ParsedCsr, profile: Profile, asked: RequestToCheck
) -> tuple[CertificateRequest, tuple[PreparationWarning, ...], list[Finding]]:
    """Returns what is asked for, what that overrides, and what it may not override, which then stays the CSR's."""
    try:
        return *request_of(parsed, profile=profile, subject=asked.subject, names=asked.names), []
    except CertdError as error:
        return *request_of(parsed, profile=profile, subject=None, names=None), _findings(error)


def _overridden(asked: RequestToCheck) -> frozenset[str]:
    """Returns the fields of the call that stand in place of those of the CSR."""
    given = {"subject": asked.subject is not None, "subject_alternative_names": asked.names is not None}
    return frozenset(field for field, present in given.items() if present)


def _path(field: str, overridden: frozenset[str]) -> str:
    """Returns the path of a field in the call: what the call does not say itself, the CSR says."""
    top = field.replace("[", ".").split(".", 1)[0]
    return field if top in overridden | {"", "csr", "lifetime", "profile", "authority"} else f"csr.{field}"


def _findings(error: CertdError) -> list[Finding]:
    """Returns a finding for every field that an error is about."""
    if not error.violations:
        field = _FIELDS_OF_REASONS.get(error.reason, "")
        return [Finding(reason=error.reason, field=field, description=error.message)]
    return [
        Finding(reason=error.reason, field=violation.field, description=violation.description)
        for violation in error.violations
    ]
