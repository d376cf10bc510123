"""Batches of revocations: each item succeeds or fails alone, some tens of them in one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.services.access import Access
from certd.services.certificates import CertificateView
from certd.services.idempotency import RequestKey, record_of, replay
from certd.services.issuance import row_key
from certd.services.revocation import (
    METHOD,
    NewRevocation,
    check_invalidity,
    existing_subject,
    planned_revocation,
    revocation_view,
)
from certd.services.revocation_records import RENEWAL_PAUSE, TOGETHER, Subject, mark_lists, write_one_of_many
from certd.services.steps import StepHook
from certd.store import request_records
from certd.store.store import Store, Transaction

Outcome = CertificateView | CertdError

_NO_STORE = frozenset({Reason.STORE_UNAVAILABLE, Reason.SHUTTING_DOWN})


@dataclass(frozen=True, slots=True)
class RevocationItem:
    """One certificate to revoke."""

    new: NewRevocation
    key: RequestKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What all items of a batch have in common."""

    caller: Caller
    now: datetime
    validate_only: bool


@dataclass(frozen=True, slots=True)
class _Made:
    """What became of some items."""

    outcomes: list[Outcome]
    renewal_time: datetime
    """When the next renewal may begin."""
    no_store: CertdError | None = None
    """Why nothing more can be written."""


class BatchRevocation:
    """The use case of revoking many certificates that are named."""

    def __init__(
        self, *, store: Store, clock: Clock, access: Access, wake_scheduler: Callable[[], None], step: StepHook
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._wake_scheduler = wake_scheduler
        self._step = step

    def revoke(self, caller: Caller, items: Sequence[RevocationItem], *, validate_only: bool) -> list[Outcome]:
        """Revokes certificates; the results keep the order of the items, and have no chains.

        An item fails with what `Revocation.revoke` raises. With `validate_only` each is checked as if it were alone.
        Raises PERMISSION_MISSING for a caller who may revoke none of them.
        """
        call = _Call(caller=caller, now=self._clock.now(), validate_only=validate_only)
        refused = [self._refusal(call, item.new) for item in items]
        if all(refused):
            self._access.require_somewhere(caller, Permission.CERTIFICATE_REVOKE)
            for item in items:
                self._access.require(caller, Permission.CERTIFICATE_REVOKE, str(item.new.name))
        outcomes: list[Outcome | None] = list(refused)
        permitted = [position for position, refusal in enumerate(refused) if refusal is None]
        made = _Made([], call.now)
        for start in range(0, len(permitted), TOGETHER):
            chosen = permitted[start : start + TOGETHER]
            made = self._make(call, [items[position] for position in chosen], made)
            for position, outcome in zip(chosen, made.outcomes, strict=True):
                outcomes[position] = outcome
            if not validate_only:
                self._step("revoke-batch.1.committed")
        if not validate_only:
            self._wake_scheduler()
        return [outcome for outcome in outcomes if outcome is not None]

    def _refusal(self, call: _Call, new: NewRevocation) -> CertdError | None:
        try:
            self._access.require(call.caller, Permission.CERTIFICATE_REVOKE, str(new.name))
        except CertdError as error:
            return error
        return None

    def _make(self, call: _Call, items: Sequence[RevocationItem], before: _Made) -> _Made:
        """Revokes in one transaction, or when that fails in one for each."""
        if before.no_store is not None:
            return replace(before, outcomes=[before.no_store.another() for _ in items])
        try:
            return self._together(call, items, before)
        except CertdError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  # A defect in one item takes nothing from the others.
            failure = CertdError(Reason.INTERNAL, "revoking failed by a defect")
            failure.__cause__ = error
        if failure.reason in _NO_STORE:
            return replace(before, outcomes=[failure.another() for _ in items], no_store=failure)
        if len(items) == 1:
            return replace(before, outcomes=[failure])
        # One of them has the others fail; alone it fails alone.
        outcomes: list[Outcome] = []
        for item in items:
            before = self._make(call, [item], before)
            outcomes += before.outcomes
        return replace(before, outcomes=outcomes)

    def _together(self, call: _Call, items: Sequence[RevocationItem], before: _Made) -> _Made:
        refused = self._refused_authorities(call, items)
        if call.validate_only:
            with self._store.read("certificates.revoke-batch") as tx:
                return replace(before, outcomes=_rehearsed(tx, call, items, refused))
        return self._store.write(
            "certificates.revoke-batch",
            lambda tx: _written(tx, call, items, refused, renewal_time=before.renewal_time),
        )

    def _refused_authorities(self, call: _Call, items: Sequence[RevocationItem]) -> dict[str, CertdError]:
        """Returns why certificates of authorities may not be revoked by this caller, by their names.

        What stops an authority from issuing is for those who may stop it.
        """
        with self._store.read("certificates.revoke-batch") as tx:
            subjects = [_subject_or_none(tx, item.new) for item in items]
        refused = {}
        for subject in subjects:
            if subject is not None and subject.authority:
                try:
                    self._access.require(call.caller, Permission.AUTHORITY_ENABLE, subject.issuer.name)
                except CertdError as error:
                    refused[subject.name] = error
        return refused


def _subject_or_none(tx: Transaction, new: NewRevocation) -> Subject | None:
    try:
        return existing_subject(tx, new.name)
    except CertdError:
        # The transaction that revokes tells of it.
        return None


def _rehearsed(
    tx: Transaction, call: _Call, items: Sequence[RevocationItem], refused: dict[str, CertdError]
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for item in items:
        try:
            subject = _permitted(tx, call, item.new, refused)
            outcomes.append(_view(tx, planned_revocation(subject, item.new, call.now), item.new))
        except CertdError as error:
            outcomes.append(error)
    return outcomes


def _written(
    tx: Transaction,
    call: _Call,
    items: Sequence[RevocationItem],
    refused: dict[str, CertdError],
    *,
    renewal_time: datetime,
) -> _Made:
    outcomes: list[Outcome] = []
    rows = []
    for item in items:
        try:
            subject = _permitted(tx, call, item.new, refused)
            repeated = replay(tx, call.caller, METHOD, item.key) is not None
            planned = subject if repeated else planned_revocation(subject, item.new, call.now)
        except CertdError as error:
            # Nothing of it is written yet.
            outcomes.append(error)
            continue
        row = planned.row
        if not repeated:
            if write_one_of_many(tx, call.caller.principal, subject, row, call.now, renewal_time=renewal_time):
                renewal_time += RENEWAL_PAUSE
            if item.key is not None:
                resource = row_key(row.authority_uid, row.serial)
                record = record_of(call.caller, METHOD, item.key, resource=resource, now=call.now)
                request_records.claim(tx, record)
            rows.append(row)
        outcomes.append(_view(tx, planned, item.new))
    mark_lists(tx, rows, call.now)
    return _Made(outcomes, renewal_time)


def _permitted(tx: Transaction, call: _Call, new: NewRevocation, refused: dict[str, CertdError]) -> Subject:
    subject = existing_subject(tx, new.name)
    if subject.name in refused:
        raise refused[subject.name].another()
    check_invalidity("invalidity_time", new.invalidity_time, call.now)
    return subject


def _view(tx: Transaction, subject: Subject, new: NewRevocation) -> CertificateView:
    return replace(revocation_view(tx, subject, new), chain=())
