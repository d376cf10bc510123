"""Rotation of wrapping keys: a new primary one, and everything sealed anew under it; in the end the old one may go.

Each step may be the last before a crash, and the next one goes on from what is in the books:

0. token: make the new key. One that cannot be made changes nothing; one of which no row comes to know seals nothing.
1. write: the new key gets its row, PRIMARY; the old one becomes DECRYPT_ONLY; a job. Commit. From here on nothing is
   added to what is sealed under the old one.
2. token: seal anew a page of what is sealed under the old key. Secrets of webhooks, which the daemon may read, are
   opened and sealed; keys never leave the token process.
3. write: each blob takes the place of the one that is still under the old key. 2 and 3 again, until nothing is found.
4. write: the old key is RETIRED. It stays in the token for the backups that were made before.

Destroying it: 1. write: DESTROYED, and a job; 2. token: the key goes. No crash leaves a row that promises a key that is
gone.
"""

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.job import Job, JobKind
from certd.model.names import TenantName, WrappingKeyName
from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.pki.preparation import Warning  # noqa: A004  # The API's word.
from certd.services.access import Access
from certd.services.idempotency import RequestKey, is_repeated, record_of, replay
from certd.services.issuing_refusals import token_unavailable
from certd.services.paging import Page, PageRequest, page_of
from certd.services.sealed_contexts import key_context, secret_context
from certd.services.steps import StepHook
from certd.services.tenants import existing_tenant
from certd.services.wrapping_keys import WrappingKeys
from certd.store import jobs, request_records, sealed_under, wrapping_keys
from certd.store.sealed_under import Blob, SecretBlob
from certd.store.store import Store, Transaction
from certd.token.client import ResealItem, TokenClient

PAGE: Final = 200
"""Keys that are sealed anew in one frame and written in one transaction, so that whoever signs waits no longer."""
_LONGEST_FRAME: Final = 0.25
"""Seconds that a page may take in the token process; where it takes longer, a token is slow or busy, it is halved."""
_PAGES_OF_A_RUN: Final = 200
"""After so many a job gives its worker to others, and goes on when it is its turn again."""
_TOLD: Final = 20
"""Names of keys that do not open, told by one run of a job."""
_ROTATE: Final = "RotateWrappingKey"
_DESTROY: Final = "DestroyWrappingKey"

_log = logging.getLogger("certd.wrapping-keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappingKeyView:
    """A wrapping key as a caller sees it."""

    wrapping_key: WrappingKey
    warnings: tuple[Warning, ...] = ()


class WrappingKeyRotation:
    """The use cases of wrapping keys."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        access: Access,
        wrapping_keys: WrappingKeys,
        wake_scheduler: Callable[[], None],
        step: StepHook,
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._access = access
        self._wrapping_keys = wrapping_keys
        self._wake_scheduler = wake_scheduler
        self._step = step

    def get(self, caller: Caller, name: WrappingKeyName) -> WrappingKeyView:
        """Returns a wrapping key; raises WRAPPING_KEY_NOT_FOUND."""
        self._access.require(caller, Permission.WRAPPING_KEY_READ, str(name))
        with self._store.read("wrapping-keys.get") as tx:
            return WrappingKeyView(wrapping_key=_existing(tx, name))

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[WrappingKeyView]:
        """Returns a page of a tenant's wrapping keys, the newest first. Raises TENANT_NOT_FOUND."""
        self._access.require(caller, Permission.WRAPPING_KEY_READ, f"{parent}/wrappingKeys")
        query = f"wrappingKeys {parent}"
        after = request.after(query)
        below = None if after is None else _number("page_token", parent, after[0])
        with self._store.read("wrapping-keys.page") as tx:
            existing_tenant(tx, parent.tenant)
            found = wrapping_keys.page(tx, parent.tenant, below=below, limit=request.size + 1)
        views = [WrappingKeyView(wrapping_key=key) for key in found]
        return page_of(views, request, query, key=lambda view: [str(view.wrapping_key.number)])

    def rotate(self, caller: Caller, parent: TenantName, *, key: RequestKey | None) -> WrappingKeyView:
        """Makes a new primary key, and has everything that is sealed under the one before sealed anew.

        Raises TENANT_NOT_FOUND, TOKEN_UNAVAILABLE, REQUEST_ID_REUSED, and STATE_FORBIDS when the tenant has no wrapping
        key yet, or while an earlier rotation goes on.
        """
        self._access.require(caller, Permission.WRAPPING_KEY_ROTATE, f"{parent}/wrappingKeys")
        if not self._token.ready:
            # Nothing could be sealed before the new key is made.
            raise token_unavailable(self._token.problem)
        now = self._clock.now()
        with self._store.read("wrapping-keys.rotatable") as tx:
            found = _rotatable(tx, caller, parent, key)
        if isinstance(found, WrappingKeyView):
            return found
        # Before any row says that it seals: a token that cannot make it leaves the old one primary.
        key_id = secrets.token_bytes(16)
        escrows: list[bytes] = []
        self._token.ensure_wrapping_key(key_id=key_id, tenant=parent.tenant, keep_escrow=escrows.append)
        self._step("rotation.0.made")

        def rotate(tx: Transaction) -> WrappingKeyView:
            view = _rotate(tx, caller, found, key_id, key=key, now=now)
            if escrows and view.wrapping_key.key_id == key_id:
                return replace(view, wrapping_key=wrapping_keys.set_escrow(tx, view.wrapping_key, escrows[-1]))
            return view

        try:
            view = self._store.write("wrapping-keys.rotate", rotate)
        except CertdError as error:
            if error.reason is not Reason.STORE_UNAVAILABLE:
                # Where the commit itself failed it may have been done all the same.
                self._unmake(key_id)
            raise
        if view.wrapping_key.key_id != key_id:
            self._unmake(key_id)
        self._step("rotation.1.rotated")
        self._wake_scheduler()
        return view

    def destroy(
        self, caller: Caller, name: WrappingKeyName, *, etag: str, key: RequestKey | None, validate_only: bool
    ) -> WrappingKeyView:
        """Destroys a RETIRED key in the token, for ever; the answer names the backups that it leaves behind.

        Raises WRAPPING_KEY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, and STATE_FORBIDS unless it is RETIRED. While
        the token is away, the key goes as soon as it is back.
        """
        self._access.require(caller, Permission.WRAPPING_KEY_DESTROY, str(name))
        now = self._clock.now()
        if validate_only:
            with self._store.read("wrapping-keys.validate") as tx:
                found = _destructible(tx, name, etag)
            return _destroyed_view(replace(found, state=WrappingKeyState.DESTROYED, destroy_time=now))
        destroyed = self._store.write(
            "wrapping-keys.destroy", lambda tx: _destroy(tx, caller, name, etag, key=key, now=now)
        )
        self._step("destroy.1.recorded")
        self._wake_scheduler()
        return _destroyed_view(destroyed)

    def reseal(self, name: str) -> None:
        """Does what is left to do about a key that is no longer primary; idempotent, called by the scheduler.

        Raises what an attempt of later may overcome. As long as anything is sealed under the key, it is not RETIRED.
        """
        parsed = WrappingKeyName.parse("name", name)
        with self._store.read("wrapping-keys.reseal") as tx:
            old = wrapping_keys.get(tx, parsed.tenant, parsed.number)
        if old is not None and old.state is WrappingKeyState.DESTROYED:
            self._token.destroy_wrapping_key(key_id=old.key_id)
            self._step("destroy.2.destroyed")
        if old is None or old.state is not WrappingKeyState.DECRYPT_ONLY:
            self._store.write("wrapping-keys.settled", lambda tx: jobs.finish(tx, JobKind.RESEAL_KEYS, name))
            return
        self._count(old)
        run = _Run(store=self._store, token=self._token, wrapping_keys=self._wrapping_keys, step=self._step, old=old)
        while run.whole_pass():
            if run.failed:
                raise _does_not_open(old, run.failed)
            if not run.found:
                self._retire(old)
                return
        # Others wait for the worker.
        again = Job(kind=JobKind.RESEAL_KEYS, subject=name, due_time=self._clock.now())
        self._store.write("wrapping-keys.go-on", lambda tx: jobs.put(tx, again))

    def _unmake(self, key_id: bytes) -> None:
        """Destroys a key of which no row knows."""
        try:
            self._token.destroy_wrapping_key(key_id=key_id)
        except CertdError as error:
            _log.warning("the wrapping key %s, which seals nothing, stays in the token: %s", key_id.hex(), error)

    def _retire(self, old: WrappingKey) -> None:
        now = self._clock.now()
        self._store.write("wrapping-keys.retire", lambda tx: _retire(tx, old, now))
        self._step("rotation.4.retired")

    def _count(self, old: WrappingKey) -> None:
        """Says how much there is to do, for those who ask how far it is."""
        with self._store.read("wrapping-keys.count") as tx:
            left = sealed_under.count(tx, old)

        def note(tx: Transaction) -> None:
            current = wrapping_keys.get(tx, old.tenant, old.number)
            if current is not None and current.reseal_count != current.resealed_count + left:
                counted = replace(current, reseal_count=current.resealed_count + left)
                wrapping_keys.update(tx, counted, current.revision)

        self._store.write("wrapping-keys.counted", note)


class _Run:
    """One attempt at sealing anew what is sealed under a key."""

    def __init__(
        self, *, store: Store, token: TokenClient, wrapping_keys: WrappingKeys, step: StepHook, old: WrappingKey
    ) -> None:
        self._store = store
        self._token = token
        self._wrapping_keys = wrapping_keys
        self._step = step
        self._old = old
        self._pages_left = _PAGES_OF_A_RUN
        self._size = PAGE
        self.found = 0
        """Keys that the last pass found."""
        self.failed: list[tuple[Blob, CertdError]] = []
        """Those of them that could not be sealed anew."""

    def whole_pass(self) -> bool:
        """Goes once over everything; returns False when the run has done its part before the end."""
        self.found, self.failed = 0, []
        after: Blob | None = None
        while True:
            with self._store.read("wrapping-keys.page-under") as tx:
                page = sealed_under.page(tx, self._old, after, self._size)
                new = wrapping_keys.primary(tx, self._old.tenant)
                tenant_uid = existing_tenant(tx, self._old.tenant).uid
            if not page:
                return True
            if not self._pages_left:
                return False
            self._pages_left -= 1
            self.found += len(page)
            after = page[-1]
            self._reseal(page, tenant_uid, new)

    def _reseal(self, page: Sequence[Blob], tenant_uid: str, known: WrappingKey | None) -> None:
        new = self._wrapping_keys.primary(self._old.tenant, known=known)
        began = time.monotonic()
        outcomes = self._sealed_anew(page, tenant_uid, new)
        if time.monotonic() - began > _LONGEST_FRAME:
            self._size = max(1, self._size // 2)
        self._step("rotation.2.resealed")
        resealed = []
        for one, outcome in zip(page, outcomes, strict=True):
            if isinstance(outcome, CertdError):
                self._fail(one, outcome)
            else:
                resealed.append((one, outcome))
        if len(resealed) < len(page):
            # It may be the new key that is not there.
            self._wrapping_keys.doubt(new)
        self._store.write("wrapping-keys.resealed", lambda tx: self._keep(tx, resealed, new))
        self._step("rotation.3.written")

    def _sealed_anew(self, page: Sequence[Blob], tenant_uid: str, new: WrappingKey) -> Sequence[bytes | CertdError]:
        """Returns a blob or a failure for each of a page, which is of one kind."""
        keys: list[ResealItem] = []
        secrets_: list[bytes | CertdError] = []
        for one in page:
            if isinstance(one, SecretBlob):
                secrets_.append(self._secret_sealed_anew(one, tenant_uid, new))
                continue
            context = key_context(one, tenant_uid)
            keys.append(
                ResealItem(
                    wrapping_key_id=self._old.key_id,
                    sealed_key=one.blob,
                    context=context,
                    new_wrapping_key_id=new.key_id,
                    new_context=context,
                )
            )
        return secrets_ or self._token.reseal(keys)

    def _secret_sealed_anew(self, one: SecretBlob, tenant_uid: str, new: WrappingKey) -> bytes | CertdError:
        context = secret_context(one, tenant_uid)
        try:
            secret = self._token.open_secret(one.blob, wrapping_key_id=self._old.key_id, context=context)
            return self._token.seal_secret(secret, wrapping_key_id=new.key_id, context=context)
        except CertdError as error:
            if not self._token.ready:
                # It says nothing of this secret.
                raise
            return error

    def _fail(self, one: Blob, error: CertdError) -> None:
        if len(self.failed) < _TOLD:
            _log.error("the key of %s under %s is not sealed anew: %s", one.name, self._old.name, error)
        self.failed.append((one, error))

    def _keep(self, tx: Transaction, resealed: Sequence[tuple[Blob, bytes]], new: WrappingKey) -> None:
        if not wrapping_keys.seals(tx, new.tenant, new.number):
            raise CertdError(
                Reason.STATE_FORBIDS, f"{new.name} was rotated itself; what is sealed anew goes under the next"
            )
        replaced = sealed_under.replace_blobs(tx, resealed, old=self._old, new=new)
        current = wrapping_keys.get(tx, self._old.tenant, self._old.number)
        if current is not None and replaced:
            told = replace(current, resealed_count=current.resealed_count + replaced)
            wrapping_keys.update(tx, told, current.revision)


def _rotatable(
    tx: Transaction, caller: Caller, parent: TenantName, key: RequestKey | None
) -> WrappingKey | WrappingKeyView:
    """Returns the key that is to be followed by another, or what an earlier call made; raises why neither is."""
    made = replay(tx, caller, _ROTATE, key)
    if made is not None:
        return WrappingKeyView(wrapping_key=_existing(tx, WrappingKeyName.parse("name", made)))
    existing_tenant(tx, parent.tenant)
    old = wrapping_keys.primary(tx, parent.tenant)
    if old is None:
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{parent} has no wrapping key yet; the first comes with its first managed certificate or webhook",
            resource=str(parent),
        )
    going_on = wrapping_keys.decrypt_only(tx, parent.tenant)
    if going_on is not None:
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"an earlier rotation of {parent} goes on: {going_on.resealed_count} of {going_on.reseal_count} keys under"
            f" {going_on.name} are sealed anew; wait until it is {WrappingKeyState.RETIRED}",
            metadata={"wrapping_key": going_on.name},
            resource=going_on.name,
        )
    return old


def _rotate(
    tx: Transaction, caller: Caller, wanted: WrappingKey, key_id: bytes, *, key: RequestKey | None, now: datetime
) -> WrappingKeyView:
    old = _rotatable(tx, caller, TenantName(wanted.tenant), key)
    if isinstance(old, WrappingKeyView):
        return old
    if old.number != wanted.number:
        message = f"{wanted.name} was followed by {old.name} meanwhile; rotate that, if it is what you want"
        raise CertdError(Reason.STATE_FORBIDS, message, metadata={"wrapping_key": old.name}, resource=old.name)
    new = wrapping_keys.rotate(tx, old, key_id=key_id, now=now)
    if new is None:
        raise CertdError(Reason.OWNERSHIP_LOST, f"{old.name} was changed meanwhile; try again", retry_after=0.5)
    if key is not None:
        request_records.claim(tx, record_of(caller, _ROTATE, key, resource=new.name, now=now))
    jobs.put(tx, Job(kind=JobKind.RESEAL_KEYS, subject=old.name, due_time=now))
    tx.event(_event(EventType.WRAPPING_KEY_ROTATED, new, caller.principal, now, previous=old.name))
    return WrappingKeyView(wrapping_key=new)


def _retire(tx: Transaction, old: WrappingKey, now: datetime) -> None:
    """Step 4, once a pass found nothing; nothing can have come since."""
    jobs.finish(tx, JobKind.RESEAL_KEYS, old.name)
    current = wrapping_keys.get(tx, old.tenant, old.number)
    if current is None or current.state is not WrappingKeyState.DECRYPT_ONLY:
        return
    # What was deleted meanwhile needs no sealing.
    retired = replace(current, state=WrappingKeyState.RETIRED, reseal_count=current.resealed_count, retire_time=now)
    wrapping_keys.update(tx, retired, current.revision)
    tx.event(
        _event(
            EventType.WRAPPING_KEY_RETIRED, retired, SYSTEM_PRINCIPAL, now, resealed_count=str(retired.resealed_count)
        )
    )


def _destroy(
    tx: Transaction, caller: Caller, name: WrappingKeyName, etag: str, *, key: RequestKey | None, now: datetime
) -> WrappingKey:
    if is_repeated(tx, caller, _DESTROY, key, resource=str(name), now=now):
        return _existing(tx, name)
    retired = _destructible(tx, name, etag)
    sealed_under.delete_import_keys(tx, retired)
    changed = wrapping_keys.update(
        tx, replace(retired, state=WrappingKeyState.DESTROYED, destroy_time=now), retired.revision
    )
    if changed is None:
        raise _etag_mismatch(retired)
    jobs.put(tx, Job(kind=JobKind.RESEAL_KEYS, subject=changed.name, due_time=now))
    tx.event(_event(EventType.WRAPPING_KEY_DESTROYED, changed, caller.principal, now))
    return changed


def _destructible(tx: Transaction, name: WrappingKeyName, etag: str) -> WrappingKey:
    """Returns a key that may be destroyed; raises ETAG_MISMATCH or STATE_FORBIDS."""
    key = _existing(tx, name)
    if etag not in {"", key.etag}:
        raise _etag_mismatch(key)
    why = {
        WrappingKeyState.PRIMARY: "it seals what is made now; rotate it first (RotateWrappingKey)",
        WrappingKeyState.DECRYPT_ONLY: "keys under it are being sealed anew; wait until it is RETIRED",
        WrappingKeyState.DESTROYED: "it is gone already",
    }.get(key.state)
    if why is None and sealed_under.is_needed(tx, key):
        named = next((one.name for one in sealed_under.page(tx, key, None, 1)), "something")
        why = f"{named} is sealed under it all the same, which would never open again"
    if why is not None:
        raise CertdError(
            Reason.STATE_FORBIDS, f"{name} is {key.state}: {why}", metadata={"state": key.state}, resource=str(name)
        )
    return key


def _destroyed_view(key: WrappingKey) -> WrappingKeyView:
    """Returns a destroyed key with what it leaves behind."""
    ends = key.retire_time or key.destroy_time or key.create_time
    message = (
        f"backups of the database that were made from {rfc3339(key.create_time)} to {rfc3339(ends)} hold private keys"
        " and secrets of subscriptions that nothing opens any more, one made right before the rotation"
        f" {key.resealed_count} of them; do not count on these backups"
    )
    return WrappingKeyView(wrapping_key=key, warnings=(Warning(field="name", message=message),))


def _existing(tx: Transaction, name: WrappingKeyName) -> WrappingKey:
    found = wrapping_keys.get(tx, name.tenant, name.number)
    if found is None:
        raise CertdError(
            Reason.WRAPPING_KEY_NOT_FOUND,
            f"{name} does not exist; ListWrappingKeys shows those that do",
            resource=str(name),
        )
    return found


def _etag_mismatch(key: WrappingKey) -> CertdError:
    return CertdError(
        Reason.ETAG_MISMATCH,
        f"{key.name} has changed since it was read; read it again and repeat the change with its etag",
        metadata={"etag": key.etag},
        resource=key.name,
    )


def _does_not_open(old: WrappingKey, failed: Sequence[tuple[Blob, CertdError]]) -> CertdError:
    one, error = failed[0]
    return CertdError(
        error.reason,
        f"{old.name} stays {old.state}: {len(failed)} of the keys under it could not be sealed anew, the first of them"
        f" that of {one.name}: {error.message}",
        resource=old.name,
    )


def _event(type_: EventType, key: WrappingKey, principal: str, now: datetime, **details: str) -> Event:
    return Event(
        time=now,
        type=type_,
        tenant=key.tenant,
        principal=principal,
        resource=key.name,
        details={"key_id": key.key_id.hex(), **details},
    )


def _number(field: str, parent: TenantName, text: str) -> int:
    """Returns the number of a page token."""
    return WrappingKeyName.parse(field, f"{parent}/wrappingKeys/{text}").number
