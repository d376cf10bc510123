"""Import: a certificate that was made elsewhere, with its private key.

import.0 read: permission, whether the call is a repeated one; check certificate and chain (pure); read what there is.
         `validate_only` stops here.
import.1 token: verify the private key against the certificate, and seal it.
import.2 write: managed certificate, version, sealed key, request record, event. Commit, answer.

Until the commit nothing of it is there; a key that was sealed and not written is nobody's.
"""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.event import EventType
from certd.model.import_key import ImportKey
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateVersion
from certd.model.names import ManagedCertificateName, TenantName
from certd.model.tenant import Quota, Tenant
from certd.model.wrapping_key import WrappingKey
from certd.pki import imported_certificate
from certd.pki.imported_certificate import ImportedCertificate
from certd.services.access import Access
from certd.services.deployment_checks import check_of
from certd.services.idempotency import RequestKey, record_of, replay
from certd.services.import_keys import ImportKeys, OpeningImportKey, import_context
from certd.services.issuing_refusals import token_unavailable
from certd.services.managed_certificate_records import event_of, seal_context
from certd.services.managed_certificate_views import (
    ManagedCertificateView,
    Material,
    check_etag,
    existing_managed,
    existing_version,
    material_of,
    view_of,
    view_with,
)
from certd.services.managed_import_plan import (
    NewImport,
    PlainPrivateKey,
    SealedPrivateKey,
    changed_meanwhile,
    check_imported,
    check_private_key,
    exists,
    imported_event,
    key_blocked,
    planned,
    version_of,
    with_version,
)
from certd.services.steps import StepHook
from certd.services.tenants import check_quota, existing_tenant
from certd.services.wrapping_keys import WrappingKeys
from certd.store import (
    blocked_keys,
    jobs,
    managed_certificates,
    managed_versions,
    request_records,
    sealed_keys,
    wrapping_keys,
)
from certd.store.store import Store, Transaction
from certd.token.client import ImportedKey, SealedImport, TokenClient

_IMPORT, _ROLL_BACK = "ImportManagedCertificate", "RollBackManagedCertificate"
_TRIES = 3
"""Changes by others, between reading and writing, that one call sees through."""
_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Import:
    """A call, checked as far as it can be without the books."""

    caller: Caller
    new: NewImport
    given: ImportedCertificate
    key: RequestKey | None
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """What the books have before an import."""

    tenant: Tenant
    managed: ManagedCertificate | None
    """The one that gets a new version; None for a new one."""
    number: int
    """Of the version to be."""
    before: bytes | None
    """DER of the current certificate."""
    wrapping_key: WrappingKey | None
    """The tenant's key that seals; None: it has none yet."""
    opening: OpeningImportKey | None
    """What the private key is sealed to."""

    def agrees(self, later: "_Standing", wrapping_key: WrappingKey) -> bool:
        """Returns whether what was sealed for this still fits the books, as they stand later.

        Labels, exports and associations may have come meanwhile: they are no reason to seal anew.
        """
        before, after = (
            None if one.managed is None else (one.managed.uid, one.managed.current_version) for one in (self, later)
        )
        seals = None if later.wrapping_key is None else later.wrapping_key.number
        return before == after and self.number == later.number and seals == wrapping_key.number


class ManagedImport:
    """The use cases of importing."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        access: Access,
        wrapping_keys: WrappingKeys,
        import_keys: ImportKeys,
        time_to_deploy: timedelta,
        step: StepHook,
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._access = access
        self._wrapping_keys = wrapping_keys
        self._import_keys = import_keys
        self._time_to_deploy = time_to_deploy
        self._step = step

    def import_key(self, caller: Caller, tenant: TenantName) -> ImportKey:
        """Returns the key to which the caller seals what is imported into a tenant.

        Whoever may import anything there gets it, for it opens nothing. Raises as `ImportKeys.current` does.
        """
        everything = f"{tenant}/managedCertificates"
        if not any(
            grant.allows(Permission.MANAGED_CERTIFICATE_IMPORT, grant.scope)
            and grant.scope.startswith(f"{everything}/")
            for grant in self._access.held(caller)
        ):
            self._access.require(caller, Permission.MANAGED_CERTIFICATE_IMPORT, everything)
        return self._import_keys.current(tenant.tenant, self._clock.now())

    def import_(
        self, caller: Caller, new: NewImport, *, key: RequestKey | None, validate_only: bool
    ) -> ManagedCertificateView:
        """Imports a certificate with its private key, as a new managed certificate or a new version of one.

        Raises what `pki.imported_certificate` raises, IMPORT_KEY_MISMATCH, MANAGED_CERTIFICATE_EXISTS,
        MANAGED_CERTIFICATE_NOT_FOUND, STATE_FORBIDS for one that was not imported, FIELD_INVALID for an import key that
        has ended, another export policy, or a private key that was sealed for something else, KEY_TOO_WEAK,
        QUOTA_EXCEEDED, REQUEST_ID_REUSED, TOKEN_UNAVAILABLE.
        """
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_IMPORT, str(new.name))
        now = self._clock.now()
        with self._store.read("managed-import.replay") as tx:
            existing_tenant(tx, new.name.tenant)
            made = None if validate_only else replay(tx, caller, _IMPORT, key)
            if made is not None:
                return _replayed(tx, made, now)
        given = imported_certificate.check(new.certificate, new.chain, now=now)
        call = _Import(caller=caller, new=new, given=given, key=key, now=now)
        for _ in range(_TRIES):
            with self._store.read("managed-import.check") as tx:
                standing = self._standing(tx, call)
            managed = planned(new, given, before=standing.managed, number=standing.number, now=now)
            warnings = given.warnings
            if standing.before is not None:
                warnings += imported_certificate.check_reimport(standing.before, given)
            if validate_only:
                warnings += check_private_key(new.private_key, given)
                return replace(view_with(managed, _material(given), now), warnings=warnings)
            view = self._seal_and_write(call, managed, standing)
            if view is not None:
                return replace(view, warnings=warnings)
        raise changed_meanwhile(new.name)

    def roll_back(
        self,
        caller: Caller,
        name: ManagedCertificateName,
        *,
        version: int | None,
        etag: str,
        key: RequestKey | None,
    ) -> ManagedCertificateView:
        """Makes another version of an imported one current that has not ended; None: the last one before the current.

        Raises MANAGED_CERTIFICATE_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, and STATE_FORBIDS for one that was not
        imported, and when there is no such version, or it has ended, is revoked, or its key is gone.
        """
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_IMPORT, str(name))
        now = self._clock.now()

        def roll_back(tx: Transaction) -> ManagedCertificateView:
            made = replay(tx, caller, _ROLL_BACK, key)
            if made is not None:
                return _replayed(tx, made, now)
            managed = existing_managed(tx, name)
            check_etag(managed, etag)
            check_imported(managed, "cannot be rolled back, for an authority issues its versions: have it renewed")
            if key is not None:
                request_records.claim(tx, record_of(caller, _ROLL_BACK, key, resource=managed.uid, now=now))
            left = existing_version(tx, managed, managed.current_version)
            target = _version_before(tx, managed, now) if version is None else existing_version(tx, managed, version)
            problem = _problem(tx, managed, target, now)
            if problem:
                raise _not_returnable(managed, target.number, problem)
            if target.number == left.number:
                return view_of(tx, managed, now)
            changed = managed_certificates.update(
                tx, with_version(managed, target, now), expected_revision=managed.revision
            )
            if changed is None:
                raise changed_meanwhile(name)
            _replace_current(tx, managed, left=left, entered=target.number)
            jobs.put_all(tx, list(check_of(changed, target, self._time_to_deploy, now)))
            rolled_back = event_of(
                EventType.MANAGED_CERTIFICATE_ROLLED_BACK,
                managed,
                caller.principal,
                now,
                version=target.number,
                from_version=str(left.number),
            )
            tx.event(rolled_back)
            return view_of(tx, changed, now)

        view = self._store.write("managed-import.roll-back", roll_back)
        self._step("roll-back.1.committed")
        return view

    def _standing(self, tx: Transaction, call: _Import) -> _Standing:
        """Returns what there is; raises when that forbids the import."""
        name, private_key = call.new.name, call.new.private_key
        tenant = existing_tenant(tx, name.tenant)
        if _is_blocked(tx, name.tenant, call.given.public_key):
            raise key_blocked()
        managed = managed_certificates.get(tx, name.tenant, name.managed_certificate)
        number, before = 1, None
        if call.new.replace:
            managed = existing_managed(tx, name)
            check_imported(managed, "gets no version by import, for an authority issues them: import under another id")
            latest = managed_versions.latest(tx, managed.uid)
            number = 1 if latest is None else latest.number + 1
            current = material_of(tx, existing_version(tx, managed, managed.current_version))
            before = None if current is None else current.certificate
        elif managed is not None:
            raise exists(managed)
        else:
            check_quota(tx, name.tenant, Quota.MANAGED_CERTIFICATES)
        return _Standing(
            tenant=tenant,
            managed=managed,
            number=number,
            before=before,
            wrapping_key=wrapping_keys.primary(tx, name.tenant),
            opening=(
                self._import_keys.opening(tx, private_key.import_key, call.now)
                if isinstance(private_key, SealedPrivateKey)
                else None
            ),
        )

    def _seal_and_write(
        self, call: _Import, managed: ManagedCertificate, standing: _Standing
    ) -> ManagedCertificateView | None:
        """Steps 1 and 2; returns None, with nothing written, when what was read has changed meanwhile."""
        caller, key, now = call.caller, call.key, call.now
        if not self._token.ready:
            raise token_unavailable(self._token.problem)
        wrapping_key = self._wrapping_keys.primary(managed.tenant, known=standing.wrapping_key)
        sealed = self._seal(call, managed, standing, wrapping_key)
        self._step("import.1.sealed")
        version = version_of(managed, call.given, wrapping_key_number=wrapping_key.number)

        def write(tx: Transaction) -> ManagedCertificateView | None:
            made = replay(tx, caller, _IMPORT, key)
            if made is not None:
                return _replayed(tx, made, now)
            found = self._standing(tx, call)
            if not standing.agrees(found, wrapping_key):
                # It was sealed for a version that is another's by now, or under a wrapping key that seals no more.
                return None
            if key is not None:
                request_records.claim(tx, record_of(caller, _IMPORT, key, resource=managed.uid, now=now))
            kept = managed
            if found.managed is None:
                managed_certificates.insert(tx, managed)
            else:
                now_planned = planned(call.new, call.given, before=found.managed, number=standing.number, now=now)
                changed = managed_certificates.update(tx, now_planned, expected_revision=found.managed.revision)
                if changed is None:
                    raise changed_meanwhile(managed.name)
                kept = changed
            managed_versions.insert(tx, version)
            sealed_keys.insert(tx, managed.uid, version.number, wrapping_key.number, sealed.sealed_key)
            if found.managed is not None:
                left = existing_version(tx, found.managed, found.managed.current_version)
                _replace_current(tx, managed, left=left, entered=version.number)
                jobs.put_all(tx, list(check_of(kept, version, self._time_to_deploy, now)))
            tx.event(imported_event(kept, version, sealed=standing.opening is not None, caller=caller, now=now))
            return view_of(tx, kept, now)

        view = self._store.write("managed-import.import", write)
        if view is not None:
            self._step("import.2.committed")
        return view

    def _seal(
        self, call: _Import, managed: ManagedCertificate, standing: _Standing, wrapping_key: WrappingKey
    ) -> ImportedKey:
        """Step 1: only what passed every other check gets here."""
        try:
            return self._token.import_key(
                wrapping_key_id=wrapping_key.key_id,
                context=seal_context(standing.tenant.uid, managed, standing.number, public_key_sha256=b""),
                public_key=call.given.public_key,
                private_key=_handed(standing, call.new.private_key),
            )
        except CertdError as error:
            if error.reason is Reason.TOKEN_UNAVAILABLE:
                self._wrapping_keys.doubt(wrapping_key)
            raise


def _handed(standing: _Standing, private_key: PlainPrivateKey | SealedPrivateKey) -> bytes | SealedImport:
    """Returns a private key as the token process takes it."""
    if isinstance(private_key, PlainPrivateKey):
        return private_key.data
    opening = standing.opening
    if opening is None:
        message = "a key that is sealed to an import key is opened by that"
        raise ValueError(message)
    return SealedImport(
        wrapping_key_id=opening.wrapping_key.key_id,
        sealed_import_key=opening.key.sealed_key,
        context=import_context(standing.tenant.uid, opening.key.import_key_id),
        statement=opening.key.statement,
        ciphertext=private_key.ciphertext,
    )


def _material(given: ImportedCertificate) -> Material:
    return Material(certificate=given.certificate, chain=given.chain)


def _replayed(tx: Transaction, uid: str, now: datetime) -> ManagedCertificateView:
    managed = managed_certificates.get_by_uid(tx, uid)
    if managed is None:
        raise CertdError(
            Reason.MANAGED_CERTIFICATE_NOT_FOUND, "what this request_id was about is deleted; send a new one"
        )
    return view_of(tx, managed, now)


def _is_blocked(tx: Transaction, tenant: str, public_key: bytes) -> bool:
    key = (tenant, hashlib.sha256(public_key).digest())
    return key in blocked_keys.blocked(tx, [key])


def _replace_current(
    tx: Transaction, managed: ManagedCertificate, *, left: ManagedCertificateVersion, entered: int
) -> None:
    """Keeps the key of the version that is current from now on, and that of the one before only until that ends."""
    sealed_keys.set_expiry(tx, managed.uid, entered, None)
    sealed_keys.set_expiry(tx, managed.uid, left.number, left.not_after)


def _version_before(tx: Transaction, managed: ManagedCertificate, now: datetime) -> ManagedCertificateVersion:
    """Returns the last version before the current one that can be returned to; raises STATE_FORBIDS without one."""
    below = managed.current_version
    while found := managed_versions.page(tx, managed.uid, below=below, limit=_PAGE):
        for version in found:
            if not _problem(tx, managed, version, now):
                return version
        below = found[-1].number
    raise CertdError(
        Reason.STATE_FORBIDS,
        f"{managed.name} has no version before {managed.current_version} that lives and whose key is there: import"
        " one again, or name another version",
        metadata={"state": managed.state_at(now)},
        resource=str(managed.name),
    )


def _problem(tx: Transaction, managed: ManagedCertificate, version: ManagedCertificateVersion, now: datetime) -> str:
    """Returns why a version cannot be current; empty when it can."""
    if version.revoke_time is not None:
        return "is revoked"
    if not version.lives(now):
        return "has ended"
    if _is_blocked(tx, managed.tenant, version.public_key):
        return "has a key that was reported as compromised"
    return "" if sealed_keys.get(tx, managed.uid, version.number) else "has no key any more"


def _not_returnable(managed: ManagedCertificate, number: int, problem: str) -> CertdError:
    name = managed.name.version(number)
    return CertdError(
        Reason.STATE_FORBIDS,
        f"{name} {problem}, so {managed.name} cannot return to it: choose another version, or import it again",
        metadata={"version": str(number)},
        resource=name,
    )
