"""How a CRL comes to be: claimed in one transaction, read and signed outside of any, published in another."""

import hashlib
import logging
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.authority import Authority, AuthorityKey, AuthorityKeyState
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.job import Job, JobKind
from certd.model.revocation_list import RevocationList, RevocationListKey
from certd.pki import revocation_list
from certd.pki.assembly import assemble
from certd.pki.description import describe
from certd.services.issuance import issuer_of
from certd.services.steps import StepHook
from certd.store import authorities, jobs, live_certificates, revocation_lists, revoked_certificates
from certd.store.revoked_certificates import Scope
from certd.store.store import Store, Transaction
from certd.token.client import SignItem, TokenClient
from certd.token.policy import LONGEST_REVOCATION_LIST, SignatureKind, parse_policy

_log = logging.getLogger("certd.revocation_lists")

_REFRESHED_AFTER: Final = 2 / 3
"""Of its lifetime; up to a thirtieth more, so that those which were made together do not stay together."""
_GRACE: Final = timedelta(minutes=10)
"""How much longer an entry stays than it must: what was revoked just before the end may be written just after."""
_AFTER_THE_LAST: Final = timedelta(days=1)
"""How much longer than all that its key signed the last CRL holds."""
_LATEST: Final = timedelta(minutes=1)
"""When the job is due of a CRL that somebody makes now, should they die."""
_SIGNING_SECONDS: Final = 60.0
_AT_ONCE: Final = 2
"""CRLs that are made at a time: each may have a million entries."""
_ATTEMPTS: Final = 3
_LONGEST_ERROR: Final = 500
_OVER: Final = frozenset({AuthorityKeyState.SUPERSEDED, AuthorityKeyState.TAINTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A CRL that is claimed."""

    found: RevocationList
    """As it was before."""
    authority: Authority
    key: AuthorityKey
    number: int
    this_update: datetime
    next_update: datetime
    final: bool

    @property
    def scope(self) -> Scope:
        return Scope(*self.found.key)

    @property
    def since(self) -> datetime:
        """The earliest end of what stands on it: it stood on no CRL that was made after its end.

        A clock that was set back has not brought to its end what ends after it, whatever the CRL before says.
        """
        return min(self.found.this_update or self.this_update, self.this_update) - _GRACE


class RevocationListSigning:
    """Signs CRLs.

    Args:
        store: the books.
        token: signs.
        clock: the time.
        step: is called with the name of each step when it is done.
    """

    def __init__(self, *, store: Store, token: TokenClient, clock: Clock, step: StepHook) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._step = step
        self._places = threading.BoundedSemaphore(_AT_ONCE)

    def run(self, subject: str) -> None:
        """Does the job of a CRL: signs it, and puts the job for the next one."""
        key = RevocationListKey(*revocation_lists.parse_subject(subject))
        with self._places:
            plan = self._claim(key, last=False)
            if plan is not None and not self._make(plan, SYSTEM_PRINCIPAL):
                self._store.write("revocation-list.overtaken", partial(self._look_again, plan=plan))

    def sign(self, key: RevocationListKey, principal: str, *, last: bool = False) -> RevocationList:
        """Signs a CRL now, and returns what is published then.

        Args:
            key: which one.
            principal: who asked for it.
            last: whether its key is to sign no other: it holds for longer than all that the key signed.

        Raises:
            CertdError: REVOCATION_LIST_NOT_FOUND when none is signed; TOKEN_UNAVAILABLE, and what else signing fails
                by.
        """
        for _ in range(_ATTEMPTS):
            try:
                with self._places:
                    plan = self._claim(key, last=last)
                    made = plan is None or self._make(plan, principal)
                with self._store.read("revocation-list.published") as tx:
                    found = revocation_lists.get(tx, key)
                if made and (found is None or not found.number):
                    raise not_found(key)
                # One that was begun after this one says as much.
                overtaken = found is not None and plan is not None and found.number > plan.number
                if found is not None and (made or overtaken) and (found.final or not last):
                    return found
            except CertdError as error:
                self._store.write("revocation-list.fail", partial(self.blocked_key, key=key, error=error))
                raise
        raise _overtaken(key)

    def sign_last(self, authority_uid: str, key_number: int, principal: str) -> None:
        """Signs the last CRLs of a key, which hold until all that it signed has ended; raises as `sign` does."""
        with self._store.read("revocation-lists.of-key") as tx:
            found = revocation_lists.of_key(tx, authority_uid, key_number)
        for one in found:
            if not one.final:
                self.sign(one.key, principal, last=True)

    def blocked(self, tx: Transaction, subject: str, error: CertdError, _retry_time: datetime) -> None:
        """Writes into a CRL why it could not be signed; there is an event the first time since one could."""
        self.blocked_key(tx, RevocationListKey(*revocation_lists.parse_subject(subject)), error)

    def blocked_key(self, tx: Transaction, key: RevocationListKey, error: CertdError) -> None:
        """As `blocked`."""
        found = revocation_lists.get(tx, key)
        if found is None:
            return
        now = self._clock.now()
        told = error.message[:_LONGEST_ERROR]
        if revocation_lists.fail(tx, found, told, now):
            authority = authorities.get_by_uid(tx, key.authority_uid)
            tx.event(_event(EventType.REVOCATION_LIST_FAILED, authority, found, SYSTEM_PRINCIPAL, now, error=told))

    def _look_again(self, tx: Transaction, plan: _Plan) -> None:
        """Has the job looked at again, should they die who overtook it; whoever publishes puts it off."""
        key = plan.found.key
        found = revocation_lists.get(tx, key)
        if found is not None and found.number < plan.number:
            due_time = self._clock.now() + _LATEST
            subject = revocation_lists.subject_of(*key)
            jobs.put(tx, Job(kind=JobKind.GENERATE_REVOCATION_LIST, subject=subject, due_time=due_time))

    def _claim(self, key: RevocationListKey, *, last: bool) -> _Plan | None:
        """Returns what is to be signed; None, with the job ended, when nothing is any more."""
        return self._store.write("revocation-list.claim", lambda tx: self._claimed(tx, key, last=last))

    def _claimed(self, tx: Transaction, key: RevocationListKey, *, last: bool) -> _Plan | None:
        now = self._clock.now()
        found = revocation_lists.get(tx, key)
        authority = authorities.get_by_uid(tx, key.authority_uid)
        keys = [] if authority is None else authorities.keys(tx, key.authority_uid)
        signing = next((one for one in keys if one.number == key.key_number), None)
        if found is None or found.final or authority is None or signing is None:
            # What was published last stays published.
            jobs.finish(tx, JobKind.GENERATE_REVOCATION_LIST, revocation_lists.subject_of(*key))
            return None
        if signing.certificate is None or signing.public_key is None:
            raise CertdError(
                Reason.STATE_FORBIDS, f"the key {signing.number} of {authority.name} has no certificate yet"
            )
        if key.partition and not found.urls:
            raise CertdError(
                Reason.STATE_FORBIDS,
                f"no URL is known of the CRL of the partition {key.partition} of {authority.name}, by which readers"
                " tell it from the complete one: set [web] base_url, or the base_urls of its CRLs",
            )
        jobs.hasten(tx, JobKind.GENERATE_REVOCATION_LIST, revocation_lists.subject_of(*key), now + _LATEST)
        end = revoked_certificates.last_end(tx, key.authority_uid, key.key_number)
        final = last or _is_over(tx, key.authority_uid, signing, end, now)
        this_update = now.replace(microsecond=0)
        next_update = this_update + authority.revocation.crl.lifetime
        if final and end is not None:
            # What another CA issued under the key may end later than what the key was made to sign.
            longest = max(LONGEST_REVOCATION_LIST, parse_policy(signing.policy).longest_lifetime)
            next_update = max(next_update, min(end + _AFTER_THE_LAST, this_update + longest))
        return _Plan(
            found=found,
            authority=authority.with_key(signing),
            key=signing,
            number=revocation_lists.claim(tx, found, now),
            this_update=this_update,
            next_update=next_update,
            final=final,
        )

    def _make(self, plan: _Plan, principal: str) -> bool:
        """Signs and publishes; returns False when another was begun meanwhile, which may say more than this one."""
        self._step("revocation-list.claimed")
        entries, count = self._entries(plan)
        authority, algorithm = plan.authority, plan.authority.signature_algorithm
        to_be_signed = revocation_list.tbs_revocation_list(
            algorithm=algorithm,
            issuer=authority.subject,
            this_update=plan.this_update,
            next_update=plan.next_update,
            entries=entries,
            extensions=list(self._extensions(plan)),
        )
        item = SignItem(
            key_id=plan.key.key_id,
            policy=plan.key.policy,
            kind=SignatureKind.REVOCATION_LIST,
            signature_algorithm=algorithm,
            to_be_signed=to_be_signed,
        )
        signature = self._token.sign_large(item, timeout=_SIGNING_SECONDS)
        der = assemble(to_be_signed, algorithm, signature)
        del entries, item, to_be_signed
        self._step("revocation-list.signed")
        made = replace(
            plan.found,
            number=plan.number,
            this_update=plan.this_update,
            next_update=plan.next_update,
            entry_count=count,
            size_bytes=len(der),
            sha256=hashlib.sha256(der).digest(),
            final=plan.final,
        )
        published = self._store.write(
            "revocation-list.publish", lambda tx: self._publish(tx, plan.authority, made, der, principal)
        )
        if published:
            self._step("revocation-list.published")
            _log.info("CRL %d of %s: %d entries", made.number, authority.name, count)
        return published

    def _entries(self, plan: _Plan) -> tuple[list[bytes], int]:
        """Returns the entries, many to a piece, and how many there are."""
        pieces, count = [], 0
        for page in revoked_certificates.pages(self._store, plan.scope, plan.since):
            pieces.append(
                b"".join(
                    revocation_list.entry(
                        one.serial,
                        revoke_time=one.revoke_time,
                        reason=one.reason,
                        invalidity_time=one.invalidity_time,
                    )
                    for one in page
                )
            )
            count += len(page)
        return pieces, count

    def _extensions(self, plan: _Plan) -> Iterator[bytes]:
        issuer = issuer_of(plan.authority, public_key=plan.key.public_key or b"")
        yield revocation_list.authority_key_identifier(issuer.subject_key_identifier)
        yield revocation_list.crl_number(plan.number)
        if plan.found.key.partition:
            yield revocation_list.issuing_distribution_point(plan.found.urls)
        with self._store.read("revocation-list.code") as tx:
            if not revoked_certificates.any_code(tx, plan.scope):
                return
            left = revoked_certificates.left_until(tx, plan.scope, plan.since)
            imported = revoked_certificates.last_import(tx, plan.scope.authority_uid, plan.scope.key_number)
        # Nothing may be said of a time from which an entry is gone: whoever looked for it would take it for good. Nor
        # of one before the authority was here, or was told of by an old CA: what that issued under the key, and had
        # ended, may be in no book.
        unknown = max(moment for moment in (left, imported, plan.authority.create_time) if moment is not None)
        begin = describe(plan.key.certificate or b"").not_before_time
        yield revocation_list.expired_certificates_on_crl(max(begin, _after(unknown)))

    def _publish(self, tx: Transaction, authority: Authority, made: RevocationList, der: bytes, principal: str) -> bool:
        now = self._clock.now()
        current = revocation_lists.get(tx, made.key)
        changed = current is not None and current.changed_time is not None
        # What was to be the last is not, where what it says changed while it was signed.
        made = replace(made, final=made.final and not changed)
        if not revocation_lists.publish(tx, made, der):
            return False
        subject = revocation_lists.subject_of(*made.key)
        if made.final:
            jobs.finish(tx, JobKind.GENERATE_REVOCATION_LIST, subject)
        else:
            due_time = now + revocation_lists.GATHERING if changed else _refresh_time(made)
            jobs.put(tx, Job(kind=JobKind.GENERATE_REVOCATION_LIST, subject=subject, due_time=due_time))
        tx.event(_event(EventType.REVOCATION_LIST_GENERATED, authority, made, principal, now))
        return True


def _after(moment: datetime) -> datetime:
    """Returns the first whole second after a moment."""
    return moment.replace(microsecond=0) + timedelta(seconds=1)


def not_found(key: RevocationListKey) -> CertdError:
    """Returns the error of a CRL that is not there."""
    which = f"partition {key.partition} of key {key.key_number}" if key.partition else f"key {key.key_number}"
    return CertdError(
        Reason.REVOCATION_LIST_NOT_FOUND,
        f"there is no CRL of {which} of this authority: there is no such key or partition, no certificate can name the"
        " partition for want of a URL ([web] base_url, or crl.base_urls), the key awaits its certificate, or the"
        " authority has no CRLs (revocation.crl.enabled; SHORT_LIVED ones never have)",
    )


def _overtaken(key: RevocationListKey) -> CertdError:
    return CertdError(
        Reason.REQUEST_IN_PROGRESS,
        f"another CRL of the key {key.key_number} was begun while this one was made, and will say as much; look again"
        " in a moment",
        retry_after=1.0,
    )


def _is_over(tx: Transaction, authority_uid: str, key: AuthorityKey, end: datetime | None, now: datetime) -> bool:
    """Returns whether the CRL that a key signs now is its last: nothing of it is alive, and nothing follows."""
    if key.not_after is not None and now > key.not_after:
        return True
    if key.state is AuthorityKeyState.RETIRED:
        # It may have been retired although something of it was alive, which can be revoked yet; and what is revoked
        # can be revoked once more, for the compromise of its key.
        own = live_certificates.own_keys(tx, authority_uid)
        return not live_certificates.any_unended(tx, authority_uid, key.number, now, own=own)
    return key.state in _OVER and (end is None or now > end)


def _refresh_time(made: RevocationList) -> datetime:
    if made.this_update is None or made.next_update is None:
        raise ValueError("a CRL that is made has its times")
    part = _REFRESHED_AFTER + random.uniform(0, 1 / 30)  # noqa: S311  # Jitter is no secret.
    return made.this_update + (made.next_update - made.this_update) * part


def _event(
    type_: EventType,
    authority: Authority | None,
    made: RevocationList,
    principal: str,
    now: datetime,
    *,
    error: str = "",
) -> Event:
    details = {
        "uid": made.key.authority_uid,
        "key_number": str(made.key.key_number),
        "partition": str(made.key.partition),
        "number": str(made.number),
    }
    if error:
        details["error"] = error
    elif made.sha256 is not None and made.this_update is not None and made.next_update is not None:
        details |= {
            "entry_count": str(made.entry_count),
            "size_bytes": str(made.size_bytes),
            "sha256": made.sha256.hex(),
            "this_update": made.this_update.isoformat(),
            "next_update": made.next_update.isoformat(),
        }
    return Event(
        time=now,
        type=type_,
        tenant=None if authority is None else authority.tenant,
        principal=principal,
        resource=made.key.authority_uid if authority is None else authority.name,
        details=details,
    )
