"""The first step of a key rotation: another key of an authority, with a certificate, that signs nothing yet.

It comes to be one committed step at a time, as an authority does, and whoever finds it unfinished goes on:

    1. write: the row of the key, with CKA_ID and policy, and a job that finishes it should this process die. Commit.
    2. token: generate the key under that CKA_ID; a second time finds the same key.
    3. write: its public key. Commit. With an outside parent that ends the job: the key awaits its certificate.
    4. issue its certificate by the five steps of the issuing loop: a root's new key signs its own.
    5. where it is wanted of a root, issue by the same steps a certificate for each of the two keys by the other.
"""

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.authority import Authority, AuthorityKey, AuthorityKeyState, AuthorityState, AuthorityType
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.model.job import Job, JobKind
from certd.model.names import AuthorityName
from certd.pki import key_spec as key_specs
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.preparation import Warning  # noqa: A004  # The API's word.
from certd.services.access import Access
from certd.services.authorities import check_enabled, existing_authority, may_pass
from certd.services.authority_changes import Change, made_before
from certd.services.authority_plan import order_of, policy_of, rehearsal_parent
from certd.services.authority_views import (
    AuthorityView,
    AuthorityViews,
    authority_with_key,
    chain_above,
    check_etag,
    event_of,
    issuer_in_books,
)
from certd.services.cross_certification import CrossCertifier
from certd.services.idempotency import in_progress, replay
from certd.services.issuance import issuance_of, issuer_of, prepare, rehearsal_key
from certd.services.issuing_loop import IssuingLoop
from certd.services.issuing_refusals import token_unavailable
from certd.services.status_locations import ensure_lists, locations_of
from certd.services.steps import StepHook
from certd.store import authorities, authority_keys, jobs
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient

_METHOD = "PrepareAuthorityKey"
MOST_KEYS = 100
"""Of an authority; all of them stay in the token."""
_LEASE = timedelta(minutes=10)
"""How long the call that prepares a key has before another daemon takes over, should this one hang and live."""
_HAND_OVER_DELAY = timedelta(seconds=1)
"""After this the scheduler takes over from a call that failed for a while."""
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What a caller wants of a new key."""

    key_spec: KeySpec | None = None
    """None: that of the key that signs."""
    signature_algorithm: SignatureAlgorithm | None = None
    """None: as the key spec says."""
    lifetime: timedelta | None = None
    """Of its certificate; None: that of the authority, cut to the end of its issuer."""
    cross_certify: bool = False


class AuthorityKeys:
    """Prepares keys of authorities that exist."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        access: Access,
        loop: IssuingLoop,
        epoch: Callable[[], int],
        views: AuthorityViews,
        certifier: CrossCertifier,
        base_url: str | None,
        step: StepHook,
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._access = access
        self._loop = loop
        self._epoch = epoch
        self._views = views
        self._certifier = certifier
        self._base_url = base_url
        self._step = step

    def prepare(self, caller: Caller, change: Change, new: NewKey) -> AuthorityView:
        """Makes a new key of an authority and a certificate for it, published and signing nothing.

        Below an outside parent it awaits that: see `AuthorityActivation`. Raises AUTHORITY_NOT_FOUND, ETAG_MISMATCH,
        FIELD_INVALID, STATE_FORBIDS while it awaits its first certificate or has a PREPARED key, AUTHORITY_NOT_ENABLED
        for its issuer, LIFETIME_EXCEEDS_AUTHORITY, LINT_FAILED, and what the issuing loop raises.
        """
        self._access.require(caller, Permission.AUTHORITY_ROTATE, str(change.name))
        now = self._clock.now()
        with self._store.read("authority-keys.prepare") as tx:
            authority = existing_authority(tx, change.name)
            made = None if change.validate_only else replay(tx, caller, _METHOD, change.key)
            keys = authorities.keys(tx, authority.uid)
            issuer = issuer_in_books(tx, authority)
        if made is not None:
            return self._replayed(change.name)
        check_etag(authority, change.etag)
        _check_rotatable(authority, keys)
        if issuer is not None:
            check_enabled(issuer, now)
        planned = _plan(authority, keys, new, now)
        warnings = self._rehearse(authority.with_key(planned), issuer, now)
        if planned.cross_certify:
            warnings += self._certifier.rehearse(authority, authority.with_key(planned), now)
        if change.validate_only:
            return self._views.of(authority, issuer, now, keys=[planned, *keys], warnings=warnings)
        if not self._token.ready:
            raise token_unavailable(self._token.problem)
        begun = self._store.write("authority-keys.prepare", lambda tx: self._begin(tx, caller, change, planned, now))
        if not begun:
            return self._replayed(change.name)
        self._step("key.1.requested")
        try:
            self.finish(authority.uid, planned.number, principal=caller.principal)
        except CertdError as error:
            if may_pass(error):
                self._hand_over(authority.uid, planned.number)
            raise
        with self._store.read("authority-keys.prepared") as tx:
            return self._views.read(tx, existing_authority(tx, change.name), self._clock.now(), warnings=warnings)

    def resume(self, subject: str) -> None:
        """Finishes a key whose preparation was interrupted; called by the scheduler."""
        uid, number = parse_subject(subject)
        try:
            self.finish(uid, number, principal=SYSTEM_PRINCIPAL)
        except CertdError as error:
            if may_pass(error):
                raise
        self._store.write("authority-keys.settled", lambda tx: jobs.finish(tx, JobKind.ADVANCE_AUTHORITY_KEY, subject))

    def finish(self, uid: str, number: int, *, principal: str) -> None:
        """Takes a key from wherever it stands to the end of its preparation; idempotent.

        An error that can never pass removes a key that has no certificate; after any other the scheduler tries again.
        """
        with self._store.read("authority-keys.finish") as tx:
            found = _in_the_making(tx, uid, number)
            issuer = None if found is None else issuer_in_books(tx, found)
        if found is None:
            return
        try:
            public_key = found.key.public_key or self._make_key(found, principal)
            if found.issuer_uid is None:
                return
            if found.certificate is None:
                self._certify(found, public_key, issuer, principal)
            if found.key.cross_certify:
                self._certifier.certify_each_other(uid, number, principal=principal)
        except CertdError as error:
            if not may_pass(error):
                self._abandon(found, error, principal)
            raise

    def _begin(self, tx: Transaction, caller: Caller, change: Change, planned: AuthorityKey, now: datetime) -> bool:
        """Step 1. Returns False, with nothing written, when an earlier call with the same request id did it."""
        authority = existing_authority(tx, change.name)
        if made_before(tx, caller, _METHOD, change.key, authority, now):
            return False
        check_etag(authority, change.etag)
        # Whoever prepares another at the same time waits here, and then sees this one.
        authority_keys.lock(tx, authority.uid)
        keys = authorities.keys(tx, authority.uid)
        _check_rotatable(authority, keys)
        if planned.number != keys[0].number + 1:
            raise CertdError(
                Reason.ETAG_MISMATCH, f"{authority.name} changed meanwhile; read it and try again", retry_after=0.5
            )
        authority_keys.insert(tx, authority, planned)
        authority_keys.touch(tx, authority.uid, now)
        job = _job(authority.uid, planned.number, now)
        jobs.put_claimed(tx, job, lease_until=now + _LEASE, owner_epoch=self._epoch())
        return True

    def _hand_over(self, uid: str, number: int) -> None:
        """Leaves the rest to the scheduler; when that cannot be written, to whoever comes when the lease has ended."""
        due = self._clock.now() + _HAND_OVER_DELAY
        with contextlib.suppress(CertdError):
            self._store.write("authority-keys.hand-over", lambda tx: jobs.put(tx, _job(uid, number, due)))

    def _make_key(self, found: Authority, principal: str) -> bytes:
        """Steps 2 and 3."""
        key = found.key
        public_key = self._token.create_authority_key(key_id=key.key_id, key_spec=found.key_spec, policy=key.policy)
        self._step("key.2.made")
        now = self._clock.now()

        def record(tx: Transaction) -> None:
            authority_keys.set_public_key(tx, found.uid, key.number, public_key, now)
            tx.event(event_of(EventType.AUTHORITY_KEY_GENERATED, found, principal, now))
            if found.issuer_uid is None:
                # The rest is for people to do: the CSR, the outside parent, the activation.
                jobs.finish(tx, JobKind.ADVANCE_AUTHORITY_KEY, subject_of(found.uid, key.number))

        self._store.write("authority-keys.key", record)
        self._step("key.3.recorded")
        return public_key

    def _certify(self, found: Authority, public_key: bytes, issuer: Authority | None, principal: str) -> None:
        """Step 4."""
        now = self._clock.now()
        wanted = _with_lifetime(replace(found, key=replace(found.key, public_key=public_key)), issuer, now)
        signer = issuer or wanted
        order = order_of(wanted, public_key)
        prepared = prepare(
            order,
            issuer_of(
                signer,
                public_key=signer.key.public_key or public_key,
                locations=locations_of(signer, self._base_url),
            ),
            now=now,
        )

        def install(tx: Transaction, der: bytes) -> None:
            current = _in_the_making(tx, found.uid, found.key.number)
            if current is None or current.certificate is not None:
                raise CertdError(Reason.STATE_FORBIDS, f"key {found.key.number} of {found.name} is prepared already")
            install_certificate(
                tx,
                current,
                certificate=der,
                chain=chain_above(tx, current, signer.key.number),
                not_after=prepared.not_after,
                path_length=wanted.path_length,
                base_url=self._base_url,
                principal=principal,
                now=now,
            )
            if not current.key.cross_certify:
                jobs.finish(tx, JobKind.ADVANCE_AUTHORITY_KEY, subject_of(found.uid, found.key.number))

        self._loop.issue(
            issuance_of(
                prepared,
                order,
                signer,
                principal=principal,
                now=now,
                by_enabled_authority=issuer is not None,
                by_current_key=issuer is not None,
                also=install,
            )
        )
        self._step("key.4.certified")

    def _abandon(self, found: Authority, error: CertdError, principal: str) -> None:
        """Removes a key that can never be finished; one that has its certificate stays, without what is missing."""
        now = self._clock.now()

        def remove(tx: Transaction) -> None:
            jobs.finish(tx, JobKind.ADVANCE_AUTHORITY_KEY, subject_of(found.uid, found.key.number))
            if not authority_keys.delete_unfinished(tx, found.uid, found.key.number, now):
                authority_keys.set_cross_certified(tx, found.uid, found.key.number, now)
            tx.event(event_of(EventType.AUTHORITY_KEY_FAILED, found, principal, now, reason=error.reason))

        self._store.write("authority-keys.abandon", remove)

    def _rehearse(self, planned: Authority, issuer: Authority | None, now: datetime) -> tuple[Warning, ...]:
        """Runs every check of the certificate with a throw-away key, before anything is written."""
        public_key = rehearsal_key(planned.key_spec)
        if planned.issuer_uid is None:
            return prepare(order_of(planned, public_key), rehearsal_parent(planned), now=now).warnings
        wanted = _with_lifetime(planned, issuer, now)
        signer = issuer or wanted
        view = issuer_of(
            signer, public_key=signer.key.public_key or public_key, locations=locations_of(signer, self._base_url)
        )
        return prepare(order_of(wanted, public_key), view, now=now).warnings

    def _replayed(self, name: AuthorityName) -> AuthorityView:
        with self._store.read("authority-keys.replay") as tx:
            authority = existing_authority(tx, name)
            if any(_in_the_making(tx, authority.uid, key.number) for key in authorities.keys(tx, authority.uid)[:1]):
                raise in_progress("the key of the authority")
            return self._views.read(tx, authority, self._clock.now())


def install_certificate(
    tx: Transaction,
    found: Authority,
    *,
    certificate: bytes,
    chain: Sequence[bytes],
    not_after: datetime,
    path_length: int,
    base_url: str | None,
    principal: str,
    now: datetime,
) -> None:
    """Gives a PREPARED key its first certificate, has its CRLs signed from now on, and tells of it.

    `found` is the authority as it is where that key signs, see `authority_with_key`.
    """
    authority_keys.set_certificate(
        tx,
        found.uid,
        found.key.number,
        certificate=certificate,
        chain=chain,
        not_after=not_after,
        path_length=path_length,
        now=now,
    )
    ensure_lists(tx, found, base_url, now)
    tx.configuration_changed()
    tx.event(event_of(EventType.AUTHORITY_KEY_PREPARED, found, principal, now, not_after=not_after.isoformat()))


def subject_of(uid: str, number: int) -> str:
    """Returns the subject of the job that finishes a key."""
    return f"{uid}/{number}"


def parse_subject(subject: str) -> tuple[str, int]:
    """Returns what `subject_of` was given."""
    uid, _, number = subject.partition("/")
    return uid, int(number)


def is_in_the_making(authority: Authority, key: AuthorityKey) -> bool:
    """Returns whether a key of an authority is still being prepared here; what awaits an outside parent is not."""
    if key.state is not AuthorityKeyState.PREPARED:
        return False
    if key.public_key is None or key.cross_certify:
        return True
    return key.certificate is None and authority.issuer_uid is not None


def _in_the_making(tx: Transaction, uid: str, number: int) -> Authority | None:
    """Returns an authority as it is where a key signs that is still being prepared; None for any other key."""
    authority = authorities.get_by_uid(tx, uid)
    if authority is None:
        return None
    key = authority_keys.get(tx, uid, number)
    if key is None or not is_in_the_making(authority, key):
        return None
    return authority_with_key(tx, authority, number)


def _check_rotatable(authority: Authority, keys: Sequence[AuthorityKey]) -> None:
    if authority.certificate is None:
        why = "it has no certificate for its first key yet; install that (ActivateAuthority), or wait while it is made"
        raise _state_forbids(authority, authority.state, why)
    if authority.delete_time is not None:
        raise _state_forbids(authority, AuthorityState.DELETED, "undelete it first (UndeleteAuthority)")
    for key in keys:
        if key.state is AuthorityKeyState.PREPARED:
            why = (
                f"its key {key.number} is PREPARED; activate that (ActivateAuthorityKey), or retire it"
                " (RetireAuthorityKey)"
            )
            raise _state_forbids(authority, authority.state, why)
    if len(keys) >= MOST_KEYS:
        raise _state_forbids(authority, authority.state, f"it has {MOST_KEYS} keys, the most; create another authority")


def _plan(authority: Authority, keys: Sequence[AuthorityKey], new: NewKey, now: datetime) -> AuthorityKey:
    root = authority.type is AuthorityType.ROOT
    if new.cross_certify and not root:
        raise field_invalid(
            "cross_certify", "is for a ROOT; the new certificate of a SUBORDINATE leads to the same root anyway"
        )
    spec = new.key_spec or authority.key_spec
    algorithm = new.signature_algorithm or key_specs.default_signature_algorithm(spec)
    if not key_specs.fits(algorithm, spec):
        raise field_invalid("signature_algorithm", f"{algorithm} does not fit a key of {spec}")
    lifetime = new.lifetime or authority.lifetime
    policy = policy_of(authority.subject, path_length=authority.path_length, lifetime=lifetime, root=root)
    return AuthorityKey(
        number=keys[0].number + 1,
        key_id=secrets.token_bytes(16),
        policy=policy,
        public_key=None,
        state=AuthorityKeyState.PREPARED,
        state_time=now,
        key_spec=spec,
        signature_algorithm=algorithm,
        path_length=authority.path_length,
        lifetime=new.lifetime,
        cross_certify=new.cross_certify,
    )


def _with_lifetime(planned: Authority, issuer: Authority | None, now: datetime) -> Authority:
    """Returns an authority whose lifetime, unless somebody chose it, ends with its issuer at the latest."""
    if planned.key.lifetime is not None or issuer is None or issuer.not_after is None:
        return planned
    # Both ends of a validity count, so that it ends one second early.
    left = issuer.not_after - now.replace(microsecond=0) + _SECOND
    return replace(planned, lifetime=min(planned.lifetime, left))


def _state_forbids(authority: Authority, state: AuthorityState, why: str) -> CertdError:
    return CertdError(
        Reason.STATE_FORBIDS,
        f"{authority.name} gets no other key: {why}",
        metadata={"state": state},
        resource=authority.name,
    )


def _job(uid: str, number: int, due_time: datetime) -> Job:
    return Job(kind=JobKind.ADVANCE_AUTHORITY_KEY, subject=subject_of(uid, number), due_time=due_time)
