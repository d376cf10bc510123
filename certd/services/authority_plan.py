"""An authority that is asked for: its bounds, its defaults, the policy of its key, and what is asked of its issuer."""

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from certd.errors import CertdError, Reason, Violation, field_invalid
from certd.model.authority import (
    HIGHEST_PATH_LENGTH,
    Authority,
    AuthorityKey,
    AuthorityState,
    AuthorityType,
    UsageMode,
)
from certd.model.names import AuthorityName
from certd.model.revocation_settings import NO_CHANGE, RevocationSettings, SettingsChange, changed_settings
from certd.pki import distinguished_name, name_constraints
from certd.pki import key_spec as key_specs
from certd.pki.authority_certificate import standing_of
from certd.pki.certificate_request import (
    CertificateRequest,
    Issuer,
    Validity,
    Warning,  # noqa: A004  # The API's word.
)
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.name_constraints import NameConstraints
from certd.pki.names import SubjectAlternativeNames
from certd.pki.profile_violations import LONGEST_BACKDATE
from certd.pki.profiles import BUILT_IN, SYSTEM, Profile
from certd.services.issuance import Order, rehearsal_key
from certd.token.policy import SignatureKind, authority_key_policy

_SHORTEST = timedelta(hours=1)
_LONGEST = timedelta(days=40 * 365)
BACKDATE = LONGEST_BACKDATE
"""How much earlier than now what an authority signs may begin: as much as a tenant's profile may say."""
LIFETIME_RULE = "must be from one hour to 40 years of 365 days"
"""What a caller is told whose lifetime is out of these bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAuthority:
    """What a caller asks for."""

    name: AuthorityName
    type: AuthorityType
    key_spec: KeySpec | None = None
    signature_algorithm: SignatureAlgorithm | None = None
    subject: bytes
    """DER of the distinguished name."""
    lifetime: timedelta | None = None
    path_length: int | None = None
    issuer: AuthorityName | None = None
    """None for a root, and for a subordinate whose parent is an outside one."""
    name_constraints: NameConstraints | None = None
    """In their normal form."""
    labels: Mapping[str, str] = field(default_factory=dict)
    usage_mode: UsageMode = UsageMode.GENERAL_PURPOSE
    revocation: SettingsChange | None = None
    """Of the defaults; None: those are what is wanted."""
    deletion_protection: bool = False


def profile_of(authority: Authority) -> Profile:
    """Returns the profile of an authority's own certificate."""
    if authority.tenant is None:
        return SYSTEM["system-root"]
    return BUILT_IN["root-ca" if authority.type is AuthorityType.ROOT else "subordinate-ca"]


def order_of(authority: Authority, public_key: bytes) -> Order:
    """Returns what is asked of the issuer of an authority with this key (DER)."""
    return Order(
        origin="authority",
        source=CertificateRequest(
            public_key=public_key,
            subject=authority.subject,
            names=SubjectAlternativeNames(),
            path_length=authority.path_length,
            name_constraints=_constraints_of(authority),
        ),
        profile=profile_of(authority),
        validity=Validity(lifetime=authority.lifetime, not_after=None),
    )


def _constraints_of(authority: Authority) -> NameConstraints | None:
    asked = authority.name_constraints
    return None if asked is None else name_constraints.decode(asked)


def rehearsal_parent(planned: Authority) -> Issuer:
    """Returns an issuer that does not exist, for an authority whose outside parent is yet unknown."""
    spec = KeySpec.EC_P256 if planned.key_spec is not KeySpec.EC_P256 else KeySpec.EC_P384
    public_key = rehearsal_key(spec)
    return Issuer(
        name=distinguished_name.parse_text(f"CN=outside parent of {planned.uid}"),
        public_key=public_key,
        subject_key_identifier=key_specs.key_identifier(public_key),
        key_spec=spec,
        signature_algorithm=key_specs.default_signature_algorithm(spec),
        not_after=None,
        path_length=None,
    )


def constraint_warnings(new: NewAuthority, issuer: Authority | None) -> tuple[Warning, ...]:
    """Returns what of the name constraints of a new authority does not do what one might think."""
    if new.name_constraints is None:
        return ()
    field = "authority.name_constraints"
    if new.type is AuthorityType.ROOT:
        return (
            Warning(
                field, "many readers do not look at a root's own name constraints; constrain the authorities below"
            ),
        )
    if issuer is None or issuer.certificate is None:
        return ()
    held = standing_of(issuer.certificate, issuer.chain).name_constraints
    return tuple(
        Warning(
            f"{field}.permitted.dns_names[{index}]",
            f"{name!r} is not within what {issuer.name} or an authority above it permits, and stays forbidden there",
        )
        for index, name in enumerate(new.name_constraints.permitted.dns_names)
        if name and _forbidden(held, name)
    )


def _forbidden(held: tuple[NameConstraints, ...], dns_name: str) -> bool:
    names = SubjectAlternativeNames(dns_names=(dns_name,))
    return bool(name_constraints.check(held, subject=distinguished_name.EMPTY, names=names))


def policy_of(subject: bytes, *, path_length: int, lifetime: timedelta, root: bool) -> bytes:
    """Returns the policy of the key of an authority whose certificate lives so long."""
    return authority_key_policy(
        kinds={
            SignatureKind.CERTIFICATE,
            SignatureKind.CERTIFICATION_REQUEST,
            SignatureKind.REVOCATION_LIST,
            SignatureKind.OCSP_RESPONSE,
        },
        issuer_name=subject,
        path_length=path_length,
        # What it signs ends with it at the latest, and may begin as much earlier as the backdate goes.
        longest_lifetime=lifetime + BACKDATE,
        self_signed=root,
    )


def check_lifetime(field: str, lifetime: timedelta) -> None:
    """Raises FIELD_INVALID for what no certificate of an authority may live."""
    if not _SHORTEST <= lifetime <= _LONGEST:
        raise field_invalid(field, LIFETIME_RULE)


def plan_of(new: NewAuthority, issuer: Authority | None, now: datetime) -> Authority:
    """Fills in the defaults, checks the bounds, and allocates uid and CKA_ID."""
    root = new.type is AuthorityType.ROOT
    spec = new.key_spec or (KeySpec.EC_P384 if root else KeySpec.EC_P256)
    algorithm = new.signature_algorithm or key_specs.default_signature_algorithm(spec)
    lifetime = new.lifetime or timedelta(days=(10 if root else 5) * 365)
    path_length = new.path_length if new.path_length is not None else (1 if root else 0)
    violations = []
    if not key_specs.fits(algorithm, spec):
        violations.append(Violation("authority.signature_algorithm", f"{algorithm} does not fit a key of {spec}"))
    if not _SHORTEST <= lifetime <= _LONGEST:
        violations.append(Violation("authority.lifetime", LIFETIME_RULE))
    if not 0 <= path_length <= HIGHEST_PATH_LENGTH:
        violations.append(Violation("authority.path_length", f"must be from 0 to {HIGHEST_PATH_LENGTH}"))
    if violations:
        raise CertdError(
            Reason.FIELD_INVALID,
            "; ".join(f"{violation.field}: {violation.description}" for violation in violations),
            violations=tuple(violations),
        )
    revocation = changed_settings(
        RevocationSettings(),
        new.revocation or NO_CHANGE,
        short_lived=new.usage_mode is UsageMode.SHORT_LIVED,
        field="authority.revocation",
    )
    uid = uuid.uuid4().hex
    policy = policy_of(new.subject, path_length=path_length, lifetime=lifetime, root=root)
    return Authority(
        uid=uid,
        tenant=new.name.tenant,
        authority_id=new.name.authority,
        type=new.type,
        state=AuthorityState.AWAITING_CERTIFICATE,
        key_spec=spec,
        signature_algorithm=algorithm,
        subject=new.subject,
        lifetime=lifetime,
        path_length=path_length,
        issuer_uid=uid if root else None if issuer is None else issuer.uid,
        key=AuthorityKey(number=1, key_id=secrets.token_bytes(16), policy=policy, public_key=None),
        name_constraints=None if new.name_constraints is None else name_constraints.encode(new.name_constraints),
        labels=new.labels,
        usage_mode=new.usage_mode,
        revocation=revocation,
        deletion_protection=new.deletion_protection,
        create_time=now,
        update_time=now,
    )
