"""The journey of a managed certificate, one committed step at a time.

Each step may be the last before a crash, and the next one goes on from what is in the books:

1. write: the declaration, PENDING, and a job (`managed_certificates.py`). Commit. The caller has its answer.
2. write: the tenant's wrapping key gets its row and CKA_ID, once; token: it gets its key.
3. token: generate the subscriber key and seal it; write: version and sealed key. Commit.
4. issue its certificate by the five steps of the issuing loop; the completion makes it ACTIVE and ends the job.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from certd.clock import Clock
from certd.errors import CertdError, Reason, Violation
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.model.job import JobKind
from certd.model.managed_certificate import (
    ISSUED,
    ManagedCertificate,
    ManagedCertificateState,
    ManagedCertificateVersion,
)
from certd.model.names import AuthorityName, ProfileName
from certd.model.tenant import Tenant
from certd.model.wrapping_key import WrappingKey
from certd.pki.preparation import CertificateRequest, Validity
from certd.pki.profiles import Profile
from certd.services.issuance import ManagedVersion, Order, issuance_of
from certd.services.issuing import Issuing
from certd.services.issuing_loop import IssuingLoop
from certd.services.managed_certificate_records import event_of, observed, seal_context
from certd.services.profiles import existing_profile
from certd.services.remembered import Remembered
from certd.services.signers import Signers
from certd.services.steps import StepHook
from certd.services.tenants import existing_tenant
from certd.services.wrapping_keys import WrappingKeys
from certd.store import jobs, managed_certificates, managed_versions, profiles, sealed_keys, wrapping_keys
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient

_FINAL = {
    Reason.NAME_NOT_ALLOWED,
    Reason.NAME_CONSTRAINT_VIOLATED,
    Reason.PROFILE_FORBIDS,
    Reason.PROFILE_NOT_FOUND,
    Reason.AUTHORITY_NOT_FOUND,
    Reason.LIFETIME_EXCEEDS_AUTHORITY,
    Reason.KEY_TOO_WEAK,
    Reason.LINT_FAILED,
    Reason.TOKEN_POLICY_FORBIDS,
}
"""What no later attempt can mend."""


class ManagedCertificateSteps:
    """Takes managed certificates further; called by the scheduler."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        loop: IssuingLoop,
        wrapping_keys: WrappingKeys,
        signers: Signers,
        issuing: Issuing,
        step: StepHook,
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._loop = loop
        self._wrapping_keys = wrapping_keys
        self._signers = signers
        self._issuing = issuing
        self._step = step
        self._profiles: Remembered[tuple[ProfileName, str], Profile] = Remembered(
            store, "managed-certificates.profile", lambda tx, key: leaf_profile(tx, key[0], key[1])
        )

    def advance(self, uid: str) -> None:
        """Takes a managed certificate one or more committed steps on; idempotent, called by the scheduler.

        A failure that may pass is raised, for the scheduler to try again; one that cannot makes the resource FAILED.
        """
        with self._store.read("managed-certificates.advance") as tx:
            managed = managed_certificates.get_by_uid(tx, uid)
            standing = None if managed is None else _standing(tx, managed)
        if managed is None or standing is None or managed.state is not ManagedCertificateState.PENDING:
            self._store.write(
                "managed-certificates.settled", lambda tx: jobs.finish(tx, JobKind.ADVANCE_MANAGED_CERTIFICATE, uid)
            )
            return
        try:
            version = standing.version or self._version_with_key(managed, standing)
            self._issue(managed, version)
        except CertdError as error:
            if error.reason not in _FINAL:
                raise
            self._fail(managed, error)

    def blocked(self, uid: str, error: CertdError, next_attempt_time: datetime) -> None:
        """Writes into the resource why its next step waits, and until when."""
        now = self._clock.now()

        def note(tx: Transaction) -> None:
            managed = managed_certificates.get_by_uid(tx, uid)
            if managed is not None and managed.state is ManagedCertificateState.PENDING:
                if error.reason not in {condition.reason for condition in managed.conditions}:
                    # One event for a reason, not one for each attempt.
                    waits = event_of(EventType.MANAGED_CERTIFICATE_BLOCKED, managed, SYSTEM_PRINCIPAL, now)
                    tx.event(replace(waits, details={**waits.details, "reason": error.reason}))
                managed_certificates.update(
                    tx,
                    replace(
                        observed(managed, ISSUED, now, status=False, reason=error.reason, message=error.message),
                        next_attempt_time=next_attempt_time,
                    ),
                    expected_revision=managed.revision,
                )

        self._store.write("managed-certificates.blocked", note)

    def _version_with_key(self, managed: ManagedCertificate, standing: "_Standing") -> ManagedCertificateVersion:
        """Steps 2 and 3: returns the version in the making, with a key that is sealed and durable."""
        number = managed.current_version + 1
        wrapping_key = self._wrapping_keys.primary(managed.tenant, known=standing.wrapping_key)
        self._step("managed.2.wrapping-key")
        try:
            generated = self._token.generate_subscriber_key(
                wrapping_key_id=wrapping_key.key_id,
                key_spec=managed.key_spec,
                context=seal_context(standing.tenant.uid, managed, number, public_key_sha256=b""),
            )
        except CertdError:
            self._wrapping_keys.doubt(wrapping_key)
            raise
        now = self._clock.now()
        version = ManagedCertificateVersion(
            managed_certificate_uid=managed.uid,
            number=number,
            public_key=generated.public_key,
            wrapping_key_number=wrapping_key.number,
            authority_uid=managed.authority_uid,
            serial=None,
            create_time=now,
        )

        def keep(tx: Transaction) -> ManagedCertificateVersion:
            # Two daemons may have come here; the first key is the one that stays.
            earlier = managed_versions.get(tx, managed.uid, number)
            if earlier is not None:
                return earlier
            managed_versions.insert(tx, version)
            sealed_keys.insert(tx, managed.uid, number, wrapping_key.number, generated.sealed_key)
            made = event_of(EventType.MANAGED_CERTIFICATE_KEY_GENERATED, managed, SYSTEM_PRINCIPAL, now)
            tx.event(replace(made, resource=managed.name.version(number)))
            return version

        kept = self._store.write("managed-certificates.key", keep)
        self._step("managed.3.key-sealed")
        return kept

    def _check_asked_for(self, managed: ManagedCertificate) -> None:
        """Raises PROFILE_FORBIDS when a restricted profile has changed since the request, and so who may use it."""
        with self._store.read("managed-certificates.restricted") as tx:
            row = profiles.get(tx, managed.tenant, managed.profile)
        # A built-in profile has no row, and never changes.
        if row is not None and row.update_time > managed.create_time:
            rule = f"the profile {managed.profile} has changed since the request and needs an authority operator"
            violation = Violation("managed_certificate.profile", rule)
            raise CertdError(Reason.PROFILE_FORBIDS, f"{rule}; have one request it again", violations=(violation,))

    def _issue(self, managed: ManagedCertificate, version: ManagedCertificateVersion) -> None:
        """Step 4."""
        # Its newest version: what is renewed follows what was changed.
        profile = self._profiles.get((ProfileName(managed.tenant, managed.profile), managed.tenant))
        if profile.restricted:
            self._check_asked_for(managed)
        now = self._clock.now()
        signer = self._signers.enabled(AuthorityName.parse("authority", managed.authority_name), now)
        order = replace(
            order_of(managed, profile, version.public_key),
            managed_version=ManagedVersion(uid=managed.uid, number=version.number),
        )
        prepared = self._issuing.prepare(signer, order, now=now)
        issuance = issuance_of(prepared, order, signer.authority, principal=SYSTEM_PRINCIPAL, now=now)

        def activate(tx: Transaction, _der: bytes) -> None:
            current = managed_certificates.get_by_uid(tx, managed.uid)
            if current is None or current.current_version >= version.number:
                raise CertdError(Reason.STATE_FORBIDS, f"{managed.name.version(version.number)} is issued already")
            managed_versions.set_issued(
                tx,
                replace(version, not_before=prepared.not_before, not_after=prepared.not_after),
                serial=issuance.intent.serial,
            )
            changed = managed_certificates.update(
                tx,
                replace(
                    observed(
                        current, ISSUED, now, status=True, reason="Issued", message="The first version is issued."
                    ),
                    state=ManagedCertificateState.ACTIVE,
                    current_version=version.number,
                    not_after=prepared.not_after,
                    next_attempt_time=None,
                ),
                expected_revision=current.revision,
            )
            if changed is None:
                raise CertdError(
                    Reason.OWNERSHIP_LOST, f"{managed.name} was changed meanwhile; try again", retry_after=0.5
                )
            jobs.finish(tx, JobKind.ADVANCE_MANAGED_CERTIFICATE, managed.uid)
            made = event_of(EventType.MANAGED_CERTIFICATE_ISSUED, managed, SYSTEM_PRINCIPAL, now)
            tx.event(replace(made, resource=managed.name.version(version.number)))

        self._loop.issue(replace(issuance, also=activate))
        self._step("managed.4.issued")

    def _fail(self, managed: ManagedCertificate, error: CertdError) -> None:
        now = self._clock.now()

        def fail(tx: Transaction) -> None:
            current = managed_certificates.get_by_uid(tx, managed.uid)
            if current is None or current.state is not ManagedCertificateState.PENDING:
                return
            managed_certificates.update(
                tx,
                replace(
                    observed(current, ISSUED, now, status=False, reason=error.reason, message=error.message),
                    state=ManagedCertificateState.FAILED,
                    next_attempt_time=None,
                ),
                expected_revision=current.revision,
            )
            jobs.finish(tx, JobKind.ADVANCE_MANAGED_CERTIFICATE, managed.uid)
            failed = event_of(EventType.MANAGED_CERTIFICATE_FAILED, managed, SYSTEM_PRINCIPAL, now)
            tx.event(replace(failed, details={**failed.details, "reason": error.reason}))

        self._store.write("managed-certificates.fail", fail)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """What the books say about a managed certificate that is to be taken further."""

    tenant: Tenant
    version: ManagedCertificateVersion | None
    """The one in the making, once it has its key."""
    wrapping_key: WrappingKey | None
    """The tenant's key that seals; None: it has none yet."""


def _standing(tx: Transaction, managed: ManagedCertificate) -> _Standing:
    return _Standing(
        tenant=existing_tenant(tx, managed.tenant),
        version=managed_versions.get(tx, managed.uid, managed.current_version + 1),
        wrapping_key=wrapping_keys.primary(tx, managed.tenant),
    )


def leaf_profile(tx: Transaction, name: ProfileName, tenant: str) -> Profile:
    """Returns a profile in its newest version; PROFILE_FORBIDS when it yields authorities, as it may since a change."""
    profile = existing_profile(tx, name, tenant)
    if profile.authority:
        rule = f"the profile {profile.profile_id} yields an authority; use CreateAuthority"
        violation = Violation("managed_certificate.profile", rule)
        raise CertdError(Reason.PROFILE_FORBIDS, rule, violations=(violation,))
    return profile


def order_of(managed: ManagedCertificate, profile: Profile, public_key: bytes) -> Order:
    """Returns what is asked of the authority for a version with this key."""
    return Order(
        origin="managed_certificate",
        source=CertificateRequest(public_key=public_key, subject=managed.subject, names=managed.names),
        profile=profile,
        validity=Validity(lifetime=managed.lifetime, not_after=None),
        labels=managed.labels,
    )
