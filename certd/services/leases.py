"""Leases: a consumer gets certificate, chain and key of what it is associated with."""

import hashlib
import threading
from dataclasses import dataclass, replace
from datetime import datetime

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.association import Association, Deployment, DeploymentState
from certd.model.event import EventType
from certd.model.identity import IdentityState
from certd.model.managed_certificate import ManagedCertificate
from certd.model.names import AssociationName
from certd.pki.sealing import SealContext, decode_blob
from certd.services.access import Access
from certd.services.association_keys import (
    TRIES,
    AssociationKeys,
    ConsumerKey,
    Custody,
    custody_of,
    keep,
    may_be_kept,
    rotated_meanwhile,
)
from certd.services.association_views import AssociationView, own_association, view_of
from certd.services.deployment_checks import reported
from certd.services.issuing_refusals import token_unavailable
from certd.services.lease_refusals import LeaseRefusals
from certd.services.managed_certificate_records import event_of
from certd.services.managed_certificate_views import Material, existing_managed, existing_version, material_of
from certd.services.steps import StepHook
from certd.services.tenants import existing_tenant
from certd.services.wrapping_keys import WrappingKeys
from certd.store import association_keys, associations, identities, managed_versions
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient
from certd.token.rate import BucketOfEach
from certd.token.settings import LEASES_OF_ONE_CONSUMER, MOST_CONSUMERS


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedLease:
    """What a consumer asks for, with its signature over that; only the token process looks at the signature."""

    version: int
    public_key: bytes
    """Raw X25519, to which the private key is to be encrypted."""
    sign_time: datetime
    certificate: bytes
    """DER of the consumer's identity certificate."""
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenDeployment:
    """What a consumer says it serves. The names are those of `Deployment`."""

    state: DeploymentState
    version: int
    certificate_sha256: bytes = b""
    message: str = ""

    def at(self, now: datetime) -> Deployment:
        """Returns it as reported at `now`."""
        return Deployment(
            state=self.state,
            version=self.version,
            certificate_sha256=self.certificate_sha256,
            message=self.message,
            report_time=now,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A version that a consumer gets."""

    version: int
    certificate: bytes
    """DER."""
    chain: tuple[bytes, ...]
    encrypted_key: bytes
    """The HPKE message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leasable:
    """A version that may be leased, as the books have it."""

    managed: ManagedCertificate
    association: Association
    material: Material
    custody: Custody
    blob: bytes | None
    """The key, sealed for the consumer; None before its first lease."""

    @property
    def context(self) -> SealContext:
        """What the blob is bound to."""
        return self.custody.context_for(self.association.consumer_spiffe_id)


class Leases:
    """The use cases of consumers."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        access: Access,
        wrapping_keys: WrappingKeys,
        refusals: LeaseRefusals,
        step: StepHook,
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._access = access
        self._keys = AssociationKeys(token=token, wrapping_keys=wrapping_keys)
        self._refusals = refusals
        self._step = step
        # As the token process has it, which is asked only after the event: so that nobody fills the books with leases
        # that it refuses.
        self._rates = BucketOfEach(LEASES_OF_ONE_CONSUMER, most=MOST_CONSUMERS)
        self._rates_lock = threading.Lock()

    def lease(self, caller: Caller, name: AssociationName, signed: SignedLease) -> Leased:
        """Returns a version with its private key, encrypted to the one-time key of the consumer who signed for it.

        The event is committed before the token process opens anything; the answer is kept nowhere. A refusal has its
        event too. Raises ASSOCIATION_NOT_FOUND for what is not the caller's own, MANAGED_CERTIFICATE_NOT_FOUND for a
        version that is none, STATE_FORBIDS for one that is not issued, revoked, or at its end, LEASE_REFUSED,
        RATE_LIMITED, TOKEN_UNAVAILABLE.
        """
        self._access.require(caller, Permission.KEY_LEASE, str(name))
        try:
            return self._lease(caller, name, signed)
        except CertdError as error:
            self._refusals.note(caller, name, signed.version, error)
            raise

    def report(self, caller: Caller, name: AssociationName, given: GivenDeployment) -> AssociationView:
        """Takes what a consumer says it serves; an event tells of what changed by it.

        Raises ASSOCIATION_NOT_FOUND for what is not the caller's own, FIELD_INVALID for a version that is none.
        """
        self._access.require(caller, Permission.KEY_LEASE, str(name))
        now = self._clock.now()
        deployment = given.at(now)

        def report(tx: Transaction) -> AssociationView:
            association = own_association(tx, caller, name)
            version = managed_versions.get(tx, association.managed_certificate_uid, deployment.version)
            if version is None or not version.issued:
                raise field_invalid("deployment.version", "must be the number of a version that was issued")
            associations.set_deployment(tx, association, deployment)
            reported(tx, association, deployment, now)
            if _differs(association.deployment, deployment):
                managed = existing_managed(tx, name.managed_certificate)
                tx.event(
                    event_of(
                        EventType.DEPLOYMENT_REPORTED,
                        managed,
                        caller.principal,
                        now,
                        version=deployment.version,
                        association=name.association,
                        state=deployment.state,
                        certificate_sha256=deployment.certificate_sha256.hex(),
                        message=deployment.message,
                    )
                )
            return view_of(tx, replace(association, deployment=deployment), now)

        return self._store.write("leases.report", report)

    def _lease(self, caller: Caller, name: AssociationName, signed: SignedLease) -> Leased:
        leasable, now = self._recorded(caller, name, signed)
        self._step("lease.1.recorded")
        blob = leasable.blob or b""
        encrypted = self._token.lease(
            # What it is sealed under stands in it, whatever was rotated meanwhile.
            wrapping_key_id=decode_blob(blob).wrapping_key_id,
            sealed_key=blob,
            context=leasable.context,
            certificate=signed.certificate,
            recipient_public_key=signed.public_key,
            sign_time=signed.sign_time,
            signature=signed.signature,
        )
        # Only what leaves is shown as leased; and nothing leaves for an association that has ended meanwhile.
        self._store.write("leases.leased", lambda tx: _note(tx, caller, name, signed.version, now))
        self._step("lease.2.noted")
        return Leased(
            version=signed.version,
            certificate=leasable.material.certificate,
            chain=leasable.material.chain,
            encrypted_key=encrypted,
        )

    def _recorded(self, caller: Caller, name: AssociationName, signed: SignedLease) -> tuple[_Leasable, datetime]:
        """Returns what is to be leased, and since when its event is durable.

        The first lease of a version seals it for the consumer.
        """
        for number in range(TRIES):
            with self._store.read("leases.read") as tx:
                found = _leasable(tx, caller, name, signed.version)
            if not self._token.ready:
                # No event of a lease that cannot be.
                raise token_unavailable(self._token.problem)
            if number == 0:
                self._take_place(caller)
            sealed = None
            if found.blob is None:
                sealed = self._keys.seal(found.custody, found.association.consumer_spiffe_id)
            now = self._clock.now()
            recorded = self._store.write(
                "leases.record",
                lambda tx, sealed=sealed, now=now: _record(tx, caller, name, signed, sealed, now),  # type: ignore[misc]  # mypy infers no type for a default.
            )
            if recorded is not None:
                return recorded, now
        raise rotated_meanwhile()

    def _take_place(self, caller: Caller) -> None:
        with self._rates_lock:
            retry_after = self._rates.take(caller.principal)
        if retry_after:
            most = f"{LEASES_OF_ONE_CONSUMER} keys a minute"
            raise CertdError(
                Reason.RATE_LIMITED,
                f"{caller.principal} asks for more than {most}; try again in {retry_after:.1f} s",
                retry_after=retry_after,
            )


def _record(
    tx: Transaction,
    caller: Caller,
    name: AssociationName,
    signed: SignedLease,
    sealed: ConsumerKey | None,
    now: datetime,
) -> _Leasable | None:
    """Writes the event of a lease; returns None, with nothing written, when the key must be sealed once more."""
    # What held when it was read may be over.
    found = _leasable(tx, caller, name, signed.version)
    if found.blob is None:
        if sealed is None or not may_be_kept(tx, found.managed.uid, sealed):
            return None
        keep(tx, found.managed.uid, name.association, sealed)
        found = replace(found, blob=sealed.blob)
    tx.event(
        event_of(
            EventType.MANAGED_CERTIFICATE_LEASED,
            found.managed,
            caller.principal,
            now,
            version=signed.version,
            association=name.association,
            consumer=found.association.consumer_spiffe_id,
            recipient_sha256=hashlib.sha256(signed.public_key).hexdigest(),
        )
    )
    return found


def _note(tx: Transaction, caller: Caller, name: AssociationName, version: int, now: datetime) -> None:
    """Has the association show what its consumer gets; raises ASSOCIATION_NOT_FOUND when it has ended."""
    associations.set_leased(tx, own_association(tx, caller, name), version, now)


def _leasable(tx: Transaction, caller: Caller, name: AssociationName, number: int) -> _Leasable:
    association = own_association(tx, caller, name)
    identity = identities.of_spiffe_id(tx, caller.principal)
    if identity is None or identity.state is IdentityState.REVOKED:
        # Another daemon may have revoked it within the second for which its certificate is remembered here.
        raise CertdError(Reason.CREDENTIAL_REVOKED, f"{association.consumer} was revoked; enroll again")
    managed = existing_managed(tx, name.managed_certificate)
    version = existing_version(tx, managed, number)
    if version.revoke_time is not None:
        raise _not_leasable(managed, number, "is revoked; lease the current version")
    material = material_of(tx, version)
    if material is None:
        raise _not_leasable(managed, number, "has no certificate yet; wait until it is issued")
    custody = custody_of(tx, existing_tenant(tx, managed.tenant), managed, version)
    if custody is None:
        raise _not_leasable(managed, number, "is at its end, and its key is deleted; lease the current version")
    return _Leasable(
        managed=managed,
        association=association,
        material=material,
        custody=custody,
        blob=association_keys.get(tx, managed.uid, name.association, number),
    )


def _not_leasable(managed: ManagedCertificate, number: int, why: str) -> CertdError:
    name = managed.name.version(number)
    return CertdError(
        Reason.STATE_FORBIDS,
        f"{name} {why}",
        metadata={"current_version": str(managed.current_version)},
        resource=name,
    )


def _differs(before: Deployment | None, after: Deployment) -> bool:
    return before is None or (before.state, before.version) != (after.state, after.version)
