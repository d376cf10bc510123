"""An authority is deleted, and brought back within its window. Each is one transaction; what ends it is the purge.

One that is deleted issues nothing. It revokes, and has CRLs and OCSP answers signed, until its window ends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from certd.clock import rfc3339
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.authority import Authority, AuthorityState
from certd.model.certificate import CertificateState
from certd.model.event import EventType
from certd.model.job import Job, JobKind
from certd.model.names import normalise_serial
from certd.pki.description import describe
from certd.services.authority_changes import Apply, AuthorityChanges, Change, check_not_deleted, state_forbids
from certd.services.authority_keys import is_in_the_making
from certd.services.authority_views import AuthorityView, event_of
from certd.store import authorities, authority_deletion, certificates, jobs, live_certificates
from certd.store.store import Transaction

SHORTEST_WINDOW: Final = timedelta(days=7)
LONGEST_WINDOW: Final = timedelta(days=30)
_LIVE_TOLD: Final = 3
_MAKING_ENDS: Final = 1.0
"""Seconds after which what is being made of an authority should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """How an authority is deleted."""

    window: timedelta = LONGEST_WINDOW
    """For how long it can be undeleted."""
    allow_live_certificates: bool = False


class AuthorityDeletion:
    """The use cases of deletion.

    Args:
        changes: makes changes of authorities.
        wake_scheduler: says that a job was put.
    """

    def __init__(self, *, changes: AuthorityChanges, wake_scheduler: Callable[[], None]) -> None:
        self._changes = changes
        self._wake_scheduler = wake_scheduler

    def delete(self, caller: Caller, change: Change, deletion: Deletion) -> AuthorityView:
        """Deletes an authority that is DISABLED or EXPIRED, or awaits its certificate.

        Raises AUTHORITY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, FIELD_INVALID for another window than one of 7 to
        30 days, STATE_FORBIDS when it is deleted, REQUEST_IN_PROGRESS while it or a key of it is being made,
        DELETION_PROTECTED, AUTHORITY_ENABLED, and CERTIFICATE_IN_USE while something that it issued is alive, unless
        the deletion allows that.
        """
        if not SHORTEST_WINDOW <= deletion.window <= LONGEST_WINDOW:
            raise field_invalid("window", "must be from 7 to 30 days")

        def plan(tx: Transaction, authority: Authority, now: datetime) -> tuple[Authority, Apply]:
            _check_deletable(tx, authority, now)
            if not deletion.allow_live_certificates:
                _check_nothing_lives(tx, authority, now)
            awaiting = authority.state is AuthorityState.AWAITING_CERTIFICATE
            planned = replace(
                authority,
                state=authority.state if awaiting else AuthorityState.DISABLED,
                delete_time=now,
                purge_time=now + deletion.window,
            )

            def apply(tx: Transaction, authority: Authority, now: datetime) -> None:
                authority_deletion.set_deleted(tx, planned, now)
                due_time = now + deletion.window
                jobs.put(tx, Job(kind=JobKind.PURGE_AUTHORITY, subject=authority.uid, due_time=due_time))
                allowed = "true" if deletion.allow_live_certificates else "false"
                told = {"purge_time": rfc3339(due_time), "allow_live_certificates": allowed}
                tx.event(event_of(EventType.AUTHORITY_DELETED, authority, caller.principal, now, **told))

            return planned, apply

        view = self._changes.change(caller, Permission.AUTHORITY_DELETE, "DeleteAuthority", change, plan)
        self._wake_scheduler()
        return view

    def undelete(self, caller: Caller, change: Change) -> AuthorityView:
        """Brings a DELETED authority back, DISABLED, or to await its certificate as it did.

        Raises AUTHORITY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, and STATE_FORBIDS when it is not deleted, and when
        it is purged.
        """

        def plan(_tx: Transaction, authority: Authority, now: datetime) -> tuple[Authority, Apply]:
            if authority.delete_time is None:
                raise state_forbids(authority, authority.state_at(now), "it is not deleted; nothing is left to do")

            def apply(tx: Transaction, authority: Authority, now: datetime) -> None:
                authority_deletion.set_deleted(tx, planned, now)
                jobs.finish(tx, JobKind.PURGE_AUTHORITY, authority.uid)
                tx.event(event_of(EventType.AUTHORITY_UNDELETED, authority, caller.principal, now))

            planned = replace(authority, delete_time=None, purge_time=None)
            return planned, apply

        return self._changes.change(caller, Permission.AUTHORITY_DELETE, "UndeleteAuthority", change, plan)


def _check_deletable(tx: Transaction, authority: Authority, now: datetime) -> None:
    check_not_deleted(authority)
    if not authority.finished or any(is_in_the_making(authority, key) for key in authorities.keys(tx, authority.uid)):
        raise CertdError(
            Reason.REQUEST_IN_PROGRESS,
            f"{authority.name}, or a key of it, is still being made; try again",
            retry_after=_MAKING_ENDS,
            resource=authority.name,
        )
    if authority.deletion_protection:
        raise CertdError(
            Reason.DELETION_PROTECTED,
            f"{authority.name} is protected from deletion; take that back first (UpdateAuthority, deletion_protection)",
            resource=authority.name,
        )
    state = authority.state_at(now)
    if state is AuthorityState.ENABLED:
        raise CertdError(
            Reason.AUTHORITY_ENABLED,
            f"{authority.name} is ENABLED and issues certificates; disable it first (DisableAuthority)",
            metadata={"state": state},
            resource=authority.name,
        )


def _check_nothing_lives(tx: Transaction, authority: Authority, now: datetime) -> None:
    """Raises CERTIFICATE_IN_USE, naming the first few of what relying parties would still accept."""
    found = list(islice(_alive(tx, authority, now), _LIVE_TOLD + 1))
    if not found:
        return
    told = ", ".join(found[:_LIVE_TOLD]) + (" and more" if len(found) > _LIVE_TOLD else "")
    raise CertdError(
        Reason.CERTIFICATE_IN_USE,
        f"{authority.name} issued what is alive: {told}; replace or revoke that, wait until it ends, or set"
        " allow_live_certificates. Nobody will be able to revoke it once the authority is purged",
        metadata={"alive": told},
        resource=authority.name,
    )


def _alive(tx: Transaction, authority: Authority, now: datetime) -> Iterator[str]:
    """Yields names: of authorities below it, then of certificates, those that live longest first."""
    below = [one for one in authorities.below(tx, authority.uid) if _is_alive(tx, one, now)]
    yield from (one.name for one in below)
    known = live_certificates.own_keys(tx, authority.uid)
    for one in below:
        known |= live_certificates.own_keys(tx, one.uid)
    for key in authorities.keys(tx, authority.uid):
        for serial in live_certificates.of_key(tx, authority.uid, key.number, now, own=known, limit=_LIVE_TOLD + 1):
            yield f"{authority.name}/certificates/{serial}"


def _is_alive(tx: Transaction, below: Authority, now: datetime) -> bool:
    """Returns whether relying parties accept the certificate of an authority that another one of ours signed."""
    if below.certificate is None or below.issuer_uid is None:
        return False
    described = describe(below.certificate)
    if now > described.not_after_time:
        return False
    row = certificates.get(tx, below.issuer_uid, normalise_serial("serial_number", described.serial_number))
    return row is None or row.state is CertificateState.ISSUED
